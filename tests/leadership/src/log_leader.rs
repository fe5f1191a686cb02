//! The log services: one that decides over the log, and perhaps one that was deposed and does not know it.
//!
//! What consensus promises is taken for granted: of the services that believe to decide only the one elected last commits, it holds all
//! that was ever committed, and a round of confirmation that begins after another one's election does not come to its end, as the quorum
//! that confirms would have to meet the one that elected.
//!
//! The services are told apart by what they are and not by name. So each state stands for the one in which they have changed places.
//! To which of them a node sends a request is left open until it arrives: the deposed one does nothing with most of them, as if it
//! had answered `NOTLEADER` and the node had turned to the other.

use std::collections::BTreeSet;

use crate::ledger::Ledger;
use crate::network::{Message, Process};
use crate::search::Rules;
use crate::time::Ticks;

/// Which of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The one that was elected last, or the only one.
    Elected,
    /// The one that decided before, and believes that it still does.
    Deposed,
}

/// A service that believes that it decides over the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogLeader {
    /// What it knows. Of one that is deposed, what it knew, and what it has made of it since.
    pub ledger: Ledger,
    /// The renewals that are answered when the round of confirmation ends that is under way. It began while the service was the
    /// elected one, so it may end at any time. None is under way if this is empty.
    round: BTreeSet<Renewal>,
}

/// A renewal that waits for confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Renewal {
    from: Process,
    epoch: u8,
    sent: Ticks,
}

impl Renewal {
    fn granted(self) -> Message {
        Message::Renewed { to: self.from, epoch: self.epoch, sent: self.sent }
    }
}

/// What comes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Nothing, as if it had not arrived: it waits, or the node turns to the other service.
    NotYet,
    /// It has been taken, and perhaps answered.
    Taken(Option<Message>),
}

/// Under which circumstances a request is served.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// By whom.
    pub service: Service,
    /// Whether there is more than one service, so that leadership has to be confirmed.
    pub is_replicated: bool,
    /// The service's clock.
    pub now: Ticks,
    /// The rules.
    pub rules: &'a Rules,
}

impl LogLeader {
    /// It has been elected, or is the only one.
    pub fn new(ledger: Ledger) -> Self {
        LogLeader { ledger, round: BTreeSet::new() }
    }

    /// Another service is elected, which knows what is committed.
    pub fn successor(&self, now: Ticks, rules: &Rules) -> Self {
        let mut ledger = self.ledger.clone();
        ledger.open(now, rules.counts_anew_after_election);
        LogLeader::new(ledger)
    }

    /// The service dies and comes back.
    pub fn restart(&mut self, now: Ticks, rules: &Rules) {
        self.ledger.open(now, rules.counts_anew_after_restart);
        self.round.clear();
    }

    /// A request arrives. What has to be committed is so at once if the service is the elected one, and never if it is not.
    pub fn serve(&mut self, request: Message, by: Circumstances<'_>) -> Served {
        let Circumstances { service, now, rules, .. } = by;
        let commits = service == Service::Elected;
        match request {
            Message::Renew { from, epoch, .. } | Message::Append { from, epoch, .. }
                if self.ledger.is_revoked(epoch) =>
            {
                Served::Taken(Some(Message::Fenced { to: from, epoch }))
            }
            Message::Acquire { from, number, expected_end, sent } if commits || !rules.commits_grants => {
                let epoch = self.ledger.acquire(from, expected_end, now, rules);
                let granted = |epoch| Message::Acquired { to: from, number, epoch, end: expected_end, sent };
                Served::Taken(epoch.map(granted))
            }
            Message::Release { epoch } if commits || !rules.commits_grants => {
                self.ledger.release(epoch);
                Served::Taken(None)
            }
            Message::Append { from, epoch, offset } if commits || !rules.commits_appends => {
                let durable = self.ledger.append(epoch, offset, rules);
                Served::Taken(durable.map(|durable| Message::Appended { to: from, epoch, durable }))
            }
            Message::Renew { from, epoch, sent } => self.renew(Renewal { from, epoch, sent }, by),
            _ => Served::NotYet,
        }
    }

    fn renew(&mut self, renewal: Renewal, by: Circumstances<'_>) -> Served {
        let Circumstances { service, is_replicated, now, rules } = by;
        let commits = service == Service::Elected;
        let is_to_commit = rules.commits_lengths && self.ledger.would_change_length(renewal.epoch);
        if is_to_commit && !commits {
            return Served::NotYet;
        }
        // What was proposed after the renewal came in and is committed confirms as well as a round does.
        if is_to_commit || !is_replicated || !rules.confirms_renewals {
            let is_renewed = self.ledger.renew(renewal.epoch, now, is_to_commit);
            return Served::Taken(is_renewed.then(|| renewal.granted()));
        }
        let can_join = match self.round.is_empty() {
            true => commits,
            false => !rules.confirms_after_receipt,
        };
        if !can_join {
            return Served::NotYet;
        }
        // It counts from now, whether or not it is ever confirmed.
        if self.ledger.renew(renewal.epoch, now, false) {
            self.round.insert(renewal);
        }
        Served::Taken(None)
    }

    /// Whether a round of confirmation is under way.
    pub fn is_confirming(&self) -> bool {
        !self.round.is_empty()
    }

    /// The round ends. The answers.
    pub fn end_round(&mut self) -> impl Iterator<Item = Message> {
        std::mem::take(&mut self.round).into_iter().map(Renewal::granted)
    }

    /// Nobody waits any more for an answer that is not `awaited`.
    pub fn forget(&mut self, awaited: impl Fn(&Message) -> bool) {
        self.round.retain(|renewal| awaited(&renewal.granted()));
    }
}
