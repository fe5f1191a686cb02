//! A node that follows: it takes what is durable from where it goes on, or a full copy.

use durability_protocol::Known;
use logservice::shard::{Pin, Position};

use crate::draw::Draw;
use crate::node::Node;
use crate::service::{full_copy, Service};

/// The most bytes that it takes in a step.
const MOST_BYTES: usize = 96;

/// A replication link.
pub struct Session {
    service_life: u32,
    stream: u64,
    generation: u64,
    pin: Pin,
}

impl Node {
    /// Takes the next bytes of the log, below `readable` (exclusive). What is wrong with them, if anything is.
    pub fn follow(&mut self, service: &Service, readable: u64, draw: &mut Draw) -> Result<(), String> {
        let (shard, store) = (&service.shard, service.shard.store());
        let progress = shard.notifier().progress();
        let is_up = |session: &Session| (session.service_life, session.stream) == (service.life, progress.stream);
        if !self.session.as_ref().is_some_and(is_up) {
            self.session = self.connect(service)?;
        }
        let Some(session) = &mut self.session else { return Ok(()) };
        let held = self.data.len() as u64;
        let readable = progress.visible.min(readable);
        if readable > held {
            let most = draw.within(1..MOST_BYTES as u64) as usize;
            match store.reader(held).and_then(|mut reader| reader.read(readable, most)) {
                Ok(bytes) => self.data.extend_from_slice(&bytes),
                Err(error) if store.manifest().generation == session.generation => {
                    return Err(format!("log that is pinned at {held} cannot be read: {error}"));
                }
                // The log is being begun anew.
                Err(_) => {
                    self.session = None;
                    return Ok(());
                }
            }
            session.pin.advance(self.data.len() as u64);
        }
        if shard.check_not_failed().is_err() {
            return Ok(());
        }
        // What it holds was the log's before this answer.
        let status = shard.status();
        if status.stream_epoch > 0 && self.data.len() as u64 <= status.end {
            let (log, epoch) = (status.log_id, status.stream_epoch);
            self.known = Some(Known { log, epoch, replid: status.replid, durable: self.data.len() as u64 });
        }
        Ok(())
    }

    fn connect(&mut self, service: &Service) -> Result<Option<Session>, String> {
        let generation = service.shard.store().manifest().generation;
        let service_life = service.life;
        match service.shard.position_of(&self.replid, Some(self.data.len() as u64)) {
            Err(_) => Ok(None),
            Ok(Position::Continue { replid, offset, stream, pin }) => {
                if offset != self.data.len() as u64 {
                    return Err(format!("a replica that holds {} goes on from {offset}", self.data.len()));
                }
                self.replid = replid;
                Ok(Some(Session { service_life, stream, generation, pin }))
            }
            Ok(Position::Full) => Ok(full_copy(&service.shard).map(|copy| {
                (self.data, self.replid) = (copy.content, copy.replid);
                Session { service_life, stream: copy.stream, generation, pin: copy.pin }
            })),
        }
    }
}
