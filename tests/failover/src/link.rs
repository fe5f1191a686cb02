//! A link between two processes, in this one: a TCP proxy that can be cut, stalled without closing anything, and slowed down.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{mpsc, Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const HOST: &str = "127.0.0.1";
const CHUNK_BYTES: usize = 16 << 10;
/// Read from a far end, and not passed on yet.
const CHUNKS_ON_THE_WAY: usize = 1024;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who connected.
    There,
    /// To who connected.
    Back,
}

/// What becomes of bytes that go one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    /// They wait, and so does the end of the connection.
    Stalled,
    /// Each chunk takes so long, one after the other.
    Slow(Duration),
}

#[derive(Debug)]
struct State {
    /// Nobody gets through, and whoever connects is turned away.
    is_cut: bool,
    is_over: bool,
    there: Flow,
    back: Flow,
    /// Both ends of what is connected now.
    connections: HashMap<u64, [TcpStream; 2]>,
    accepted: u64,
}

#[derive(Debug)]
struct Shared {
    to: u16,
    /// What everything takes, each way.
    distance: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

/// Passes connections to `port` on, until it is dropped.
#[derive(Debug)]
pub struct Link {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// Listens on `port`, and passes on to `to`.
    ///
    /// # Errors
    /// The port is not free.
    pub fn open(port: u16, to: u16) -> Result<Self> {
        Link::open_over(port, to, Duration::ZERO)
    }

    /// As [`Link::open`], to something far away: what is passed on arrives that much later, however much is on its way.
    ///
    /// # Errors
    /// The port is not free.
    pub fn open_over(port: u16, to: u16, distance: Duration) -> Result<Self> {
        let listener = TcpListener::bind((HOST, port)).with_context(|| format!("port {port}"))?;
        let state = State {
            is_cut: false,
            is_over: false,
            there: Flow::Open,
            back: Flow::Open,
            connections: HashMap::new(),
            accepted: 0,
        };
        let shared = Arc::new(Shared { to, distance, state: Mutex::new(state), changed: Condvar::new() });
        let thread = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.accept(&listener))
        };
        Ok(Link { port, shared, thread: Some(thread) })
    }

    /// Closes all connections, and takes no others.
    pub fn cut(&self) {
        self.shared.change(|state| {
            state.is_cut = true;
            state.close_all();
        });
    }

    /// Nothing goes these ways any more, and nothing is closed.
    pub fn stall(&self, ways: &[Way]) {
        self.set(ways, Flow::Stalled);
    }

    /// What goes these ways comes late.
    pub fn slow(&self, ways: &[Way], delay: Duration) {
        self.set(ways, Flow::Slow(delay));
    }

    /// Everything gets through again.
    pub fn heal(&self) {
        self.shared.change(|state| (state.is_cut, state.there, state.back) = (false, Flow::Open, Flow::Open));
    }

    fn set(&self, ways: &[Way], flow: Flow) {
        self.shared.change(|state| {
            for way in ways {
                match way {
                    Way::There => state.there = flow,
                    Way::Back => state.back = flow,
                }
            }
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.is_over = true;
            (state.there, state.back) = (Flow::Open, Flow::Open);
            state.close_all();
        });
        // The thread waits for somebody to connect.
        let _ = TcpStream::connect((HOST, self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn close_all(&mut self) {
        for (_, ends) in self.connections.drain() {
            ends.iter().for_each(close);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.lock().is_over {
                break;
            }
            // A connection that cannot be made is one that nobody accepted.
            let _ = client.and_then(|client| self.connect(client));
        }
    }

    fn connect(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        if self.lock().is_cut {
            return Ok(());
        }
        let server = TcpStream::connect((HOST, self.to))?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let ends = [client.try_clone()?, server.try_clone()?];
        let number = {
            let mut state = self.lock();
            if state.is_cut || state.is_over {
                return Ok(());
            }
            state.accepted += 1;
            let number = state.accepted;
            state.connections.insert(number, ends);
            number
        };
        let pump = |way, from: &TcpStream, to: &TcpStream| {
            let (shared, from, to) = (Arc::clone(self), from.try_clone()?, to.try_clone()?);
            thread::spawn(move || shared.pump(number, way, from, to));
            Ok::<_, std::io::Error>(())
        };
        pump(Way::There, &client, &server)?;
        pump(Way::Back, &server, &client)
    }

    /// Passes on until either end closes.
    fn pump(&self, number: u64, way: Way, mut from: TcpStream, mut to: TcpStream) {
        let mut chunk = vec![0; CHUNK_BYTES];
        if self.distance.is_zero() {
            loop {
                let count = from.read(&mut chunk).unwrap_or(0);
                if !self.pass(way, &chunk[..count], &mut to) {
                    break;
                }
            }
        } else if let Ok(mut reader) = from.try_clone() {
            let (sender, on_the_way) = mpsc::sync_channel(CHUNKS_ON_THE_WAY);
            thread::spawn(move || loop {
                let count = reader.read(&mut chunk).unwrap_or(0);
                if sender.send((Instant::now(), chunk[..count].to_vec())).is_err() || count == 0 {
                    break;
                }
            });
            for (sent, chunk) in on_the_way {
                thread::sleep((sent + self.distance).saturating_duration_since(Instant::now()));
                if !self.pass(way, &chunk, &mut to) {
                    break;
                }
            }
        }
        close(&from);
        close(&to);
        self.lock().connections.remove(&number);
    }

    /// Whether the connection goes on. It ends with an empty chunk.
    fn pass(&self, way: Way, chunk: &[u8], to: &mut TcpStream) -> bool {
        self.wait_to_pass(way);
        !chunk.is_empty() && to.write_all(chunk).is_ok()
    }

    fn wait_to_pass(&self, way: Way) {
        let flow = |state: &State| if way == Way::There { state.there } else { state.back };
        let state = self.changed.wait_while(self.lock(), |state| flow(state) == Flow::Stalled && !state.is_cut);
        let flow = flow(&state.unwrap_or_else(PoisonError::into_inner));
        if let Flow::Slow(delay) = flow {
            thread::sleep(delay);
        }
    }
}

fn close(end: &TcpStream) {
    // It may be closed already.
    let _ = end.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    const PATIENCE: Duration = Duration::from_millis(50);

    fn free_port() -> u16 {
        let listener = TcpListener::bind((HOST, 0)).expect("a free port");
        listener.local_addr().expect("its address").port()
    }

    /// A link, a client, and the end that the client is connected to.
    fn connected() -> (Link, TcpListener, TcpStream, TcpStream) {
        connected_over(Duration::ZERO)
    }

    fn connected_over(distance: Duration) -> (Link, TcpListener, TcpStream, TcpStream) {
        let server = TcpListener::bind((HOST, 0)).expect("a free port");
        let to = server.local_addr().expect("an address").port();
        let link = Link::open_over(free_port(), to, distance).expect("a link");
        let client = TcpStream::connect((HOST, link.port)).expect("a connection");
        let (end, _) = server.accept().expect("the link connects");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        end.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        (link, server, client, end)
    }

    fn read(from: &mut TcpStream) -> Result<u8, ErrorKind> {
        let mut byte = [0];
        from.read_exact(&mut byte).map(|()| byte[0]).map_err(|error| error.kind())
    }

    #[test]
    fn a_stalled_link_passes_nothing_and_closes_nothing() {
        let (link, _server, mut client, mut end) = connected();
        client.write_all(b"a").expect("it is written");
        assert_eq!(read(&mut end), Ok(b'a'));
        link.stall(&[Way::There]);
        client.write_all(b"b").expect("it is written");
        assert_eq!(read(&mut end), Err(ErrorKind::WouldBlock));
        end.write_all(b"c").expect("it is written");
        assert_eq!(read(&mut client), Ok(b'c'));
        link.heal();
        assert_eq!(read(&mut end), Ok(b'b'));
    }

    #[test]
    fn over_a_distance_everything_comes_later_and_nothing_waits_for_what_is_before_it() {
        let distance = PATIENCE / 2;
        let (_link, _server, mut client, mut end) = connected_over(distance);
        let began = Instant::now();
        for byte in 0..20 {
            client.write_all(&[byte]).expect("it is written");
            thread::sleep(Duration::from_millis(1));
        }
        let written = began.elapsed();
        end.set_read_timeout(None).expect("no timeout");
        assert_eq!((0..20).map(|_| read(&mut end).expect("a byte")).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
        let all = began.elapsed();
        assert!(all >= distance && all < written + 10 * distance, "{all:?} for what was written within {written:?}");
        drop(client);
        assert_eq!(read(&mut end), Err(ErrorKind::UnexpectedEof));
    }

    #[test]
    fn a_cut_link_closes_everything_and_turns_away_who_comes() {
        let (link, _server, mut client, mut end) = connected();
        link.cut();
        assert_eq!((read(&mut client), read(&mut end)), (Err(ErrorKind::UnexpectedEof), Err(ErrorKind::UnexpectedEof)));
        let mut late = TcpStream::connect((HOST, link.port)).expect("a connection");
        late.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        assert!(matches!(read(&mut late), Err(ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)));
    }
}
