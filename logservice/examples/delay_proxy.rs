//! Passes connections on to another address, and each byte later by a fixed time: a network that is as far as another zone.
//!
//! ```text
//! delay_proxy DELAY_US LISTEN=TO...
//! ```

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{sync_channel, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// What one read takes at most.
const READ_BYTES: usize = 64 << 10;
/// Reads on their way in one direction.
const ON_THE_WAY: usize = 1024;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [delay_us, links @ ..] = &arguments[..] else { panic!("usage: delay_proxy DELAY_US LISTEN=TO...") };
    let delay = Duration::from_micros(delay_us.parse().expect("DELAY_US is a number"));
    let serve = |link: &String| {
        let (listen, to) = link.split_once('=').expect("LISTEN=TO");
        let (listener, to) = (TcpListener::bind(listen).expect("a free address"), to.to_owned());
        thread::spawn(move || listener.incoming().flatten().for_each(|from| pass_on(from, &to, delay)))
    };
    let serving: Vec<_> = links.iter().map(serve).collect();
    serving.into_iter().for_each(|thread| thread.join().expect("it serves for ever"));
}

fn pass_on(from: TcpStream, to: &str, delay: Duration) {
    // Whoever connects learns by the end of the connection that nobody is there.
    let Ok(to) = TcpStream::connect(to) else { return };
    for (source, sink) in [(&from, &to), (&to, &from)] {
        source.set_nodelay(true).expect("an open socket");
        let (source, sink) = (source.try_clone().expect("a descriptor"), sink.try_clone().expect("a descriptor"));
        let (sender, on_the_way) = sync_channel(ON_THE_WAY);
        thread::spawn(move || deliver(&on_the_way, sink));
        thread::spawn(move || {
            let mut source = source;
            loop {
                let mut bytes = vec![0; READ_BYTES];
                let Ok(count @ 1..) = source.read(&mut bytes) else { return };
                bytes.truncate(count);
                if sender.send((Instant::now() + delay, bytes)).is_err() {
                    return;
                }
            }
        });
    }
}

fn deliver(on_the_way: &Receiver<(Instant, Vec<u8>)>, mut sink: TcpStream) {
    for (due, bytes) in on_the_way {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if sink.write_all(&bytes).is_err() {
            break;
        }
    }
    // The other direction ends by itself.
    let _ = sink.shutdown(Shutdown::Both);
}
