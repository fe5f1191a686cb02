//! Clients that read the journal from one node, whatever its role is.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use durability_histories::connection::{Connection, Reply};
use redis::{cmd, Value};

use crate::journal::{entry, journal, Place};
use crate::leader::Finder;
use crate::node::NodeState;

const INTERVAL: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(500);
/// Entries at the end of the journal that are looked at.
const TAIL: usize = 8;

/// What a node showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The place whose journal it is.
    pub place: usize,
    /// The node.
    pub node: usize,
    /// As which it showed it.
    pub role: String,
    /// The length of the journal.
    pub length: usize,
    /// Its last entries.
    pub tail: Vec<String>,
}

/// Looks at node `node` until all is over, at one journal after the other, and returns what differs from the look before.
///
/// # Errors
/// It answers what it should not.
pub fn watch(finder: &Finder, places: &[Place], node: usize) -> Result<Vec<View>> {
    let mut views: Vec<View> = Vec::new();
    let mut connection = None;
    let mut place = 0;
    while !finder.is_over() {
        thread::sleep(INTERVAL);
        let Some(open) = &mut connection else {
            connection = connect(finder, node).ok();
            continue;
        };
        place = (place + 1) % places.len();
        match look(open, finder, node, place, &places[place].tag)? {
            Looked::Shown(view) => {
                if views.iter().rfind(|before| before.place == place) != Some(&view) {
                    views.push(view);
                }
            }
            Looked::IsElsewhere => {}
            Looked::NotServed => connection = None,
        }
    }
    Ok(views)
}

fn connect(finder: &Finder, node: usize) -> Result<Connection> {
    let mut connection = Connection::open(&finder.address(node).url, PATIENCE)?;
    if finder.is_cluster() {
        // So that it answers if it follows.
        connection.command("READONLY", &[])?;
    }
    Ok(connection)
}

enum Looked {
    Shown(View),
    /// Another shard has the slot.
    IsElsewhere,
    /// The node serves nobody; or the slot has just moved.
    NotServed,
}

/// Role and journal at one moment.
fn look(connection: &mut Connection, finder: &Finder, node: usize, place: usize, tag: &str) -> Result<Looked> {
    let (tail, journal) = (-(TAIL as i64), journal(tag));
    if finder.is_cluster() {
        match connection.redirection(&journal) {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(Looked::IsElsewhere),
            Err(_) => return Ok(Looked::NotServed),
        }
    }
    let commands = [
        cmd("MULTI"),
        cmd("INFO").arg("durability").take(),
        cmd("LLEN").arg(&journal).take(),
        cmd("LRANGE").arg(&journal).arg(tail).arg(-1).take(),
        cmd("EXEC"),
    ];
    let Reply::Answer(Value::Array(parts)) = connection.exchange(&commands).context("looking at the journal")? else {
        return Ok(Looked::NotServed);
    };
    let [info, length, tail] = <[Value; 3]>::try_from(parts).ok().context("EXEC answers three parts")?;
    let role = NodeState::read(&info).role().to_owned();
    let (length, tail) = (redis::from_redis_value(length)?, redis::from_redis_value(tail)?);
    Ok(Looked::Shown(View { place, node, role, length, tail }))
}

impl View {
    /// Whether a journal that goes on from this view can have become `journal`.
    pub fn is_beginning_of(&self, journal: &[(usize, u64)]) -> bool {
        let Some(start) = self.length.checked_sub(self.tail.len()) else { return false };
        let shown = journal.get(start..self.length);
        shown.is_some_and(|shown| {
            shown.iter().zip(&self.tail).all(|(&(writer, number), text)| entry(writer, number) == *text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_a_beginning_if_nothing_it_shows_is_missing() {
        let journal = [(1, 1), (2, 1), (1, 2)];
        let view = |length, tail: &[&str]| View {
            place: 0,
            node: 0,
            role: "follower".to_owned(),
            length,
            tail: tail.iter().map(|text| (*text).to_owned()).collect(),
        };
        assert!(view(0, &[]).is_beginning_of(&journal));
        assert!(view(2, &["1 1", "2 1"]).is_beginning_of(&journal));
        assert!(view(3, &["1 2"]).is_beginning_of(&journal));
        assert!(!view(2, &["1 1", "2 2"]).is_beginning_of(&journal));
        assert!(!view(4, &["1 2", "1 3"]).is_beginning_of(&journal));
        assert!(!view(0, &["1 1"]).is_beginning_of(&journal));
    }
}
