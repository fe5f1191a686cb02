//! The tap: the module's connection to its own server, as a replica that receives the replication stream. Agent's thread.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durability_protocol::is_valid_replid;
use rustix::event::{poll, PollFd, PollFlags, Timespec};

use crate::agent::control::Control;
use crate::agent::interrupt::Interrupt;
use crate::agent::own_server::{self, Stream, ANSWER_TIMEOUT};
use crate::exchange::mailbox::Task;
use crate::exchange::own_logins;
use crate::exchange::pipe::Pipe;
use crate::exchange::waker::Waker;
use crate::exchange::Shared;
use crate::log::request::encode;

/// While the server prepares a full sync, it sends a newline every few seconds. After a longer silence it counts as gone.
const FULL_SYNC_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest line of the server's answers, in bytes.
const MAX_LINE_BYTES: usize = 1024;

/// Where in the stream a tap begins.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    /// With the requested byte.
    Continue,
    /// With a snapshot that is still being made: see [`Tap::snapshot_bytes`]. The stream from `offset` on follows it.
    Snapshot {
        /// The server's replication id.
        replid: String,
        /// Up to where the snapshot contains the stream (exclusive).
        offset: u64,
    },
}

/// Why there is no tap.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The connection failed.
    #[error("the module's connection to its own server failed: {0}")]
    Io(#[from] io::Error),
    /// The server gave an unexpected answer.
    #[error("the server answered '{answer}' to the module's {step}")]
    Answer {
        /// The request.
        step: &'static str,
        /// The answer.
        answer: String,
    },
}

/// An open tap.
pub struct Tap {
    /// The connection. The stream arrives on it, unless there is a pipe.
    pub stream: Stream,
    /// Where the stream arrives, if the server's writes can be diverted.
    pub pipe: Option<Arc<Pipe>>,
    /// The beginning of the stream, as far as it arrived with the server's answer.
    pub first: Vec<u8>,
}

impl Tap {
    /// Waits until the first byte of the snapshot with which the tap begins is next. Returns the snapshot's length.
    ///
    /// # Errors
    /// The server breaks off.
    pub fn snapshot_bytes(&self, shared: &Shared) -> Result<u64, TapError> {
        let length = read_answer(&self.stream, shared)?;
        parse_snapshot_bytes(&length).ok_or(TapError::Answer { step: "request for a snapshot", answer: length })
    }
}

/// Opens the tap. With `position` (replication id and offset), the stream goes on from there if the server still has the next byte.
/// Otherwise the tap begins with a snapshot, which is to be read from the connection next.
///
/// # Errors
/// The server cannot be reached or does not serve replicas now, or something else is to be done first.
pub fn open(control: &mut Control, position: Option<(&str, u64)>) -> Result<(Tap, Start), Interrupt> {
    open_behind(control, position, 0)
}

/// As [`open`], after a command without effect was put into the stream. So a snapshot with which the tap begins stands behind everything
/// that the log holds, and no follower of the log takes it for the continuation of its own data, which may lack what was written past the
/// stream.
///
/// # Errors
/// As [`open`].
pub fn open_anew(control: &mut Control, position: Option<(&str, u64)>) -> Result<(Tap, Start), Interrupt> {
    // This comes before the request for the stream: a server that does not have the stream any more begins with the snapshot at once.
    let mark = control.ask(Task::MarkStream)?.map_err(Interrupt::Failed)?;
    open_behind(control, position, mark)
}

fn open_behind(control: &mut Control, position: Option<(&str, u64)>, mark: u64) -> Result<(Tap, Start), Interrupt> {
    if let Some(position) = position {
        if let Some(tap) = resume(control, position)? {
            return Ok((tap, Start::Continue));
        }
    }
    // A snapshot comes through the socket, where its bytes can wait.
    let stream = introduce(control)?;
    (&stream).write_all(&encode(&["PSYNC", "?", "-1"]))?;
    // A server that is busy with another snapshot finishes that one first.
    let answer = read_answer(&stream, &control.shared)?;
    let Some((replid, offset)) = parse_full_sync(&answer) else {
        return Err(TapError::Answer { step: "PSYNC", answer }.into());
    };
    if offset < mark {
        // The server was already making this snapshot for another replica.
        return Err(Interrupt::Failed(format!(
            "the server sends a snapshot of offset {offset}, from before offset {mark}"
        )));
    }
    stream.set_read_timeout(Some(FULL_SYNC_TIMEOUT))?;
    Ok((Tap { stream, pipe: None, first: Vec::new() }, Start::Snapshot { replid, offset }))
}

/// Logs in, and introduces the connection as a replica's.
fn introduce(control: &mut Control) -> Result<Stream, Interrupt> {
    let stream = own_server::log_in(control, own_logins::TAP, 1)?;
    expect(&stream, "AUTH", "+OK")?;
    // Without "eof", a snapshot comes with its length, and without the delay with which diskless syncs begin.
    (&stream).write_all(&encode(&["REPLCONF", "capa", "psync2"]))?;
    expect(&stream, "REPLCONF", "+OK")?;
    Ok(stream)
}

/// Asks for the stream from `position` on. `None` if the server does not have it any more.
fn resume(control: &mut Control, (replid, offset): (&str, u64)) -> Result<Option<Tap>, Interrupt> {
    let stream = introduce(control)?;
    let pipe = Arc::new(Pipe::default());
    // Every answer so far was read, so the next byte that the server writes begins its answer to PSYNC.
    let is_diverted = control.ask(|reply| Task::Divert(Arc::clone(&pipe), reply))?;
    // PSYNC counts from one and asks for the next byte.
    (&stream).write_all(&encode(&["PSYNC", replid, &(offset + 1).to_string()]))?;
    let (answer, first) = if is_diverted {
        read_line_from(&pipe, &control.shared.agent_waker)?
    } else {
        (read_line(&stream)?, Vec::new())
    };
    if parse_full_sync(&answer).is_some() {
        return Ok(None);
    }
    if !answer.starts_with("+CONTINUE") {
        return Err(TapError::Answer { step: "PSYNC", answer }.into());
    }
    stream.set_read_timeout(None)?;
    Ok(Some(Tap { stream, pipe: is_diverted.then_some(pipe), first }))
}

/// Reads a line from the pipe. Returns the line, and what came after it.
fn read_line_from(pipe: &Pipe, waker: &Waker) -> Result<(String, Vec<u8>), TapError> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let (mut all, mut taken) = (Vec::new(), Vec::new());
    loop {
        pipe.take(&mut taken);
        all.append(&mut taken);
        if let Some(end) = memchr::memchr(b'\n', &all) {
            let rest = all.split_off(end + 1);
            return Ok((String::from_utf8_lossy(&all).trim_end().to_owned(), rest));
        }
        if all.len() > MAX_LINE_BYTES {
            return Err(io::Error::from(ErrorKind::InvalidData).into());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(ErrorKind::TimedOut).into());
        }
        if pipe.await_push() {
            waker.wait(left)?;
        }
    }
}

fn parse_snapshot_bytes(answer: &str) -> Option<u64> {
    answer.strip_prefix('$')?.parse().ok()
}

fn parse_full_sync(answer: &str) -> Option<(String, u64)> {
    let (replid, offset) = answer.strip_prefix("+FULLRESYNC ")?.split_once(' ')?;
    is_valid_replid(replid).then_some((replid.to_owned(), offset.parse().ok()?))
}

fn expect(stream: &Stream, step: &'static str, wanted: &str) -> Result<(), TapError> {
    let answer = read_line(stream)?;
    if answer == wanted {
        Ok(())
    } else {
        Err(TapError::Answer { step, answer })
    }
}

/// Reads a line that is not empty: empty lines keep the connection alive while the server makes a snapshot.
fn read_answer(stream: &Stream, shared: &Shared) -> io::Result<String> {
    loop {
        await_input(stream, shared)?;
        let line = read_line(stream)?;
        if !line.is_empty() {
            return Ok(line);
        }
    }
}

/// Waits until the server sends anything. A server that shuts down sends nothing: it waits for this thread.
fn await_input(stream: &Stream, shared: &Shared) -> io::Result<()> {
    const LOOK_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    let deadline = Instant::now() + FULL_SYNC_TIMEOUT;
    while !matches!(poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&LOOK_INTERVAL)), Ok(1..)) {
        if shared.is_stopping.load(Ordering::Relaxed) {
            return Err(io::Error::other("the module ends"));
        }
        if Instant::now() > deadline {
            return Err(ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

/// Reads a line byte by byte, so that what follows it stays in the socket.
fn read_line(mut stream: impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) if line.len() == MAX_LINE_BYTES => return Err(ErrorKind::InvalidData.into()),
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_is_a_full_sync() {
        let replid = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(parse_full_sync(&format!("+FULLRESYNC {replid} 42")), Some((replid.to_owned(), 42)));
        for bad in ["+CONTINUE", "+FULLRESYNC", "+FULLRESYNC x 1", &format!("+FULLRESYNC {replid} -1")] {
            assert_eq!(parse_full_sync(bad), None, "{bad}");
        }
    }

    #[test]
    fn any_bytes_are_lines_that_end_or_an_error() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            allocation::within(8 * MAX_LINE_BYTES, || {
                let mut rest = &bytes[..];
                while let Ok(line) = read_line(&mut rest) {
                    // Bytes that are not text become longer.
                    assert!(line.len() <= 3 * MAX_LINE_BYTES);
                    if let Some((replid, _)) = parse_full_sync(&line) {
                        assert!(is_valid_replid(&replid));
                    }
                    let _ = parse_snapshot_bytes(&line);
                }
            });
        });
    }
}
