//! A reader that does not wait for answers: it goes on sending reads to the node that told it that it leads, whatever becomes
//! of that node. So there are always reads on the way that were sent after another node took over. The node must not answer them.

use std::collections::VecDeque;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Result};
use durability_histories::draw::keys;
use durability_histories::operation::Operation;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use redis::{cmd, Cmd, Parser, Value};

use crate::laps::Course;
use crate::leader::{Address, Term};
use crate::node::NodeState;

/// Answered or not, in a lap.
pub const MOST_READS: usize = 40;
/// The least time between two reads.
const LEAST_PACE: Duration = Duration::from_millis(10);
/// After this without a leader it is asked again.
const RETRY: Duration = Duration::from_millis(30);
/// For the first answer.
const ASK_TIME: Duration = Duration::from_millis(300);

struct Pipeline {
    socket: TcpStream,
    input: BufReader<TcpStream>,
    parser: Parser,
    term: Term,
    /// Calls that are not answered, and when they were sent.
    waiting: VecDeque<(usize, Instant)>,
}

/// Reads until the lap is over.
///
/// # Errors
/// A read is answered by an error.
pub(crate) fn read(course: &Course, mut random: StdRng) -> Result<()> {
    let pace = course.pace.max(LEAST_PACE);
    let mut pipeline = None;
    let mut sent = 0;
    while !course.is_over.load(Ordering::Relaxed) {
        let Some(open) = &mut pipeline else {
            match Pipeline::open(course.world.finder.last_address(&course.tag())) {
                Some(opened) => pipeline = Some(opened),
                None => thread::sleep(RETRY),
            }
            continue;
        };
        let key = *keys(course.round).choose(&mut random).expect("a lap has keys");
        let goes_on = (sent == MOST_READS || open.send(course, key_read(key))) && open.receive(course, pace)?;
        sent = (sent + 1).min(MOST_READS);
        if !goes_on {
            pipeline = None;
        }
    }
    Ok(())
}

fn key_read(key: durability_histories::operation::Key) -> Operation {
    Operation::Get(key)
}

impl Pipeline {
    /// `None` if that node does not lead.
    fn open(address: &Address) -> Option<Self> {
        let socket = TcpStream::connect(address.url.strip_prefix("redis://")?).ok()?;
        socket.set_nodelay(true).ok()?;
        let input = BufReader::new(socket.try_clone().ok()?);
        let term = Term { shard: address.shard, epoch: 0 };
        let mut pipeline = Pipeline { socket, input, parser: Parser::new(), term, waiting: VecDeque::new() };
        pipeline.write(cmd("INFO").arg("durability")).ok()?;
        let state = NodeState::read(&pipeline.next(ASK_TIME).ok()??);
        pipeline.term.epoch = state.epoch();
        (state.role() == "leader" && pipeline.term.epoch > 0).then_some(pipeline)
    }

    fn write(&mut self, command: &Cmd) -> std::io::Result<()> {
        self.socket.write_all(&command.get_packed_command())
    }

    /// The next answer, if there is one in that time.
    fn next(&mut self, time: Duration) -> std::io::Result<Option<Value>> {
        self.socket.set_read_timeout(Some(time))?;
        match self.parser.parse_value(&mut self.input) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_timeout() => Ok(None),
            Err(error) => Err(std::io::Error::other(error)),
        }
    }

    /// Each read is a client of its own: it does not wait for the one before. Returns whether the connection goes on.
    fn send(&mut self, course: &Course, read: Operation) -> bool {
        let session = course.recorder.begin_session();
        let sent = Instant::now();
        let call = course.recorder.invoked(session, &read);
        self.waiting.push_back((call, sent));
        read.commands().iter().all(|command| self.write(command).is_ok())
    }

    /// Takes what is answered in that time. Returns whether the connection goes on.
    fn receive(&mut self, course: &Course, time: Duration) -> Result<bool> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            let Ok(answer) = self.next(left) else { return Ok(false) };
            let Some(answer) = answer else { break };
            let Some((call, sent)) = self.waiting.pop_front() else { bail!("{answer:?} answers nothing") };
            match answer {
                // It leads no more, or another shard has the slot, and it says so.
                Value::ServerError(error) => {
                    course.recorder.refused(call);
                    if !["LOADING", "CLUSTERDOWN", "MOVED"].contains(&error.code()) {
                        bail!("a read was answered by {error:?}");
                    }
                    return Ok(false);
                }
                value => {
                    course.recorder.answered(call, value);
                    course.world.ledger.add(self.term, sent, false);
                }
            }
        }
        Ok(true)
    }
}
