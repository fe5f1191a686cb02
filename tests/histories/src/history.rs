//! What clients asked and what they were told, in the order in which it happened.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;

use crate::operation::Operation;

/// A client from its start to an operation whose outcome it never learned.
pub type Session = u32;

/// What is known of an operation's outcome.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The server answered.
    Answered(Value),
    /// The server refused it: it never takes effect.
    Refused,
    /// It takes effect some time, or never. All are until they are answered or refused.
    Unknown,
}

/// One operation of one client.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who asked.
    pub session: Session,
    /// What it asked.
    pub operation: Operation,
    /// What came of it.
    pub outcome: Outcome,
}

/// A moment in a history. Calls are named by their place in [`History::calls`].
#[derive(Debug, Clone)]
pub enum Event {
    /// An operation is about to be sent.
    Invoked(usize),
    /// Its answer has arrived.
    Answered(usize),
    /// Something was done to a server.
    Note(String),
}

/// All that happened in one round.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// All operations.
    pub calls: Vec<Call>,
    /// What happened, in order.
    pub events: Vec<Event>,
    sessions: Session,
    answered: usize,
}

impl History {
    /// How many operations were not refused.
    pub fn operations(&self) -> usize {
        self.calls.iter().filter(|call| call.outcome != Outcome::Refused).count()
    }

    /// How many operations have no known outcome.
    pub fn unknown(&self) -> usize {
        self.calls.iter().filter(|call| call.outcome == Outcome::Unknown).count()
    }

    /// The history for people to read, one event a line. Calls in `marked` are marked with an asterisk.
    pub fn describe(&self, marked: &[usize]) -> String {
        let mut lines = String::new();
        for event in &self.events {
            let line = match event {
                Event::Note(what) => format!("    ---- {what}"),
                Event::Invoked(call) | Event::Answered(call) if self.calls[*call].outcome == Outcome::Refused => {
                    continue
                }
                Event::Invoked(call) => {
                    let Call { session, operation, outcome } = &self.calls[*call];
                    let mark = if marked.contains(call) { '*' } else { ' ' };
                    let doubt = if *outcome == Outcome::Unknown { "   (never answered)" } else { "" };
                    format!("  {mark} s{session:<3} #{call:<4} {operation}{doubt}")
                }
                Event::Answered(call) => {
                    let Call { session, outcome, .. } = &self.calls[*call];
                    format!("    s{session:<3} #{call:<4}    -> {outcome}")
                }
            };
            lines.push_str(&line);
            lines.push('\n');
        }
        lines
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Answered(value) => f.write_str(&readable(value)),
            Outcome::Refused => f.write_str("refused"),
            Outcome::Unknown => f.write_str("unknown"),
        }
    }
}

fn readable(value: &Value) -> String {
    match value {
        Value::Nil => "nil".to_owned(),
        Value::Okay => "OK".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::BulkString(bytes) => format!("\"{}\"", bytes.escape_ascii()),
        Value::Array(values) => format!("[{}]", values.iter().map(readable).collect::<Vec<_>>().join(", ")),
        other => format!("{other:?}"),
    }
}

/// A history that many threads write. One lock orders all events: an operation is recorded before it is sent, and its answer
/// after it has arrived.
#[derive(Debug, Default)]
pub struct Recorder {
    history: Mutex<History>,
    answered: Condvar,
}

impl Recorder {
    /// A name for a client that has no operation without an outcome.
    pub fn begin_session(&self) -> Session {
        let mut history = self.lock();
        history.sessions += 1;
        history.sessions
    }

    /// The session is about to send `operation`. Returns the name of the call.
    pub fn invoked(&self, session: Session, operation: &Operation) -> usize {
        let mut history = self.lock();
        let call = history.calls.len();
        history.calls.push(Call { session, operation: operation.clone(), outcome: Outcome::Unknown });
        history.events.push(Event::Invoked(call));
        call
    }

    /// The call has been answered.
    pub fn answered(&self, call: usize, value: Value) {
        let mut history = self.lock();
        history.calls[call].outcome = Outcome::Answered(value);
        history.events.push(Event::Answered(call));
        history.answered += 1;
        self.answered.notify_all();
    }

    /// The call has been refused.
    pub fn refused(&self, call: usize) {
        self.lock().calls[call].outcome = Outcome::Refused;
    }

    /// Something else happened that a reader of the history wants to know.
    pub fn note(&self, what: impl Into<String>) {
        self.lock().events.push(Event::Note(what.into()));
    }

    /// Waits until so many calls have been answered, or for `timeout`.
    pub fn wait_for_answers(&self, count: usize, timeout: Duration) {
        let waited = self.answered.wait_timeout_while(self.lock(), timeout, |history| history.answered < count);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// What was recorded until now.
    pub fn history(&self) -> History {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
