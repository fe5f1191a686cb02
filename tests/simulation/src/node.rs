//! A node: what it holds, whether it follows or leads, and what it does next. Its lease and its elections are the real ones.

use std::time::Duration;

use bytes::Bytes;
use durability_leadership::{Decision, Election, Holder, Lease, Moment, Pacing, Peer, Standing, View as Known};
use durability_protocol::{Code, Known as LogKnown, Refusal};

use crate::draw::Draw;
use crate::leader::Leading;
use crate::message::{Answer, NodeIndex, Request, View};
use crate::profile::Profile;
use crate::replica::Session;
use crate::rules::NodeRule;
use crate::service::NAMES;
use crate::store::LOG_ID;

/// For how long an answer to a request for the lease is waited for.
const ANSWER_AT_MOST: Duration = Duration::from_millis(400);
/// Bytes that a node comes to hold, unless told.
const MAX_BYTES: usize = 1500;
/// How long a poll waits at the most.
const POLL_MS: u64 = 500;

/// A node.
pub struct Node {
    /// Its place among all.
    pub index: NodeIndex,
    /// Which of its processes this is.
    pub life: u32,
    /// Its clock against the service's, in millionths.
    rate_ppm: u64,
    /// What it holds: all bytes from offset 0 on.
    pub data: Vec<u8>,
    /// Clients write no more when it holds so many bytes.
    pub max_bytes: usize,
    /// The replication id of that.
    pub replid: String,
    /// How much it is wanted as a leader.
    priority: u16,
    /// What it is told of the log while it follows.
    pub session: Option<Session>,
    /// None while it follows.
    pub leading: Option<Leading>,
    /// What it knows of its log.
    pub known: Option<LogKnown>,
    /// There may be clones of it, so what it holds under its own replication id need not be the log's.
    may_be_cloned: bool,
    /// Until when it stands still, in true nanoseconds.
    pub stands_until: u64,
    pacing: Pacing,
    election: Election,
    view: Option<(Moment, View)>,
    asked: u64,
    pending: Option<Pending>,
}

/// A request for the lease that is not answered.
#[derive(Debug, Clone, Copy)]
struct Pending {
    number: u64,
    until: Moment,
}

impl Node {
    /// A process that has just started and holds nothing.
    pub fn new(index: NodeIndex, draw: &mut Draw, profile: &Profile) -> Self {
        let step = Duration::from_millis(draw.pick(&[0, 0, 1, 20, 150]));
        let pacing = Pacing { step, jitter: step / 3, ..Pacing::default() };
        Node {
            index,
            life: 0,
            rate_ppm: draw.within(profile.slowest_clock_ppm..1_040_000),
            data: Vec::new(),
            max_bytes: MAX_BYTES,
            replid: String::new(),
            priority: draw.pick(&[100, 100, 100, 200]),
            session: None,
            leading: None,
            known: None,
            may_be_cloned: profile.clones > 0,
            stands_until: 0,
            pacing,
            election: Election::new(),
            view: None,
            asked: 0,
            pending: None,
        }
    }

    /// Its clock at a true time.
    pub fn moment(&self, true_ns: u64) -> Moment {
        let own = u128::from(true_ns) * u128::from(self.rate_ppm) / 1_000_000;
        Moment(1_000_000_000 * (self.index as u64 + 1) + own as u64)
    }

    /// How long until its clock shows `moment`, in true nanoseconds.
    pub fn until(&self, moment: Moment, true_ns: u64) -> u64 {
        let own = moment.since(self.moment(true_ns)).as_nanos();
        (own * 1_000_000 / u128::from(self.rate_ppm)) as u64
    }

    /// Whether it would answer clients at a true time.
    pub fn may_answer(&self, true_ns: u64) -> bool {
        self.leading.as_ref().is_some_and(|leading| leading.lease.is_valid(self.moment(true_ns)))
    }

    /// The epoch in which it would answer clients at a true time, and for how many true milliseconds more, rounded down; none if its lease
    /// never ends.
    pub fn lease_left_ms(&self, true_ns: u64) -> Option<(u64, Option<u64>)> {
        let leading = self.leading.as_ref().filter(|_| self.may_answer(true_ns))?;
        let until = leading.lease.valid_until();
        let left_ms = (until != Moment::NEVER).then(|| self.until(until, true_ns) / 1_000_000);
        Some((leading.epoch, left_ms))
    }

    /// The process dies and is started anew, with nothing or with what it had saved.
    pub fn restart(&mut self, draw: &mut Draw) {
        self.life += 1;
        (self.leading, self.session, self.known, self.view, self.pending) = (None, None, None, None, None);
        self.election = Election::new();
        let keeps = draw.chance(500) && !self.may_be_cloned;
        let kept = if keeps { draw.below(self.data.len() + 1) } else { 0 };
        self.keep(kept);
    }

    fn keep(&mut self, bytes: usize) {
        self.data.truncate(bytes);
        if bytes == 0 {
            self.replid.clear();
        }
    }

    /// It stops leading, and follows with what it holds.
    pub fn step_down(&mut self) {
        (self.leading, self.session, self.pending) = (None, None, None);
        if self.may_be_cloned {
            self.keep(0);
        }
    }

    /// What a process that does not lead sends next, if anything.
    pub fn follow_step(&mut self, true_ns: u64, draw: &mut Draw, profile: &Profile) -> Option<Request> {
        if draw.chance(250) {
            return Some(self.poll(draw));
        }
        let now = self.moment(true_ns);
        self.pending.take_if(|pending| now >= pending.until);
        if self.pending.is_none() && draw.chance(profile.careless) {
            return Some(self.acquire(now, self.data.len() as u64, draw, profile));
        }
        let (answered, view) = self.view.as_ref()?;
        let own_name = NAMES[self.index];
        if view.leader == own_name {
            // An earlier process, which is gone, or this one, if it does not know. No answer counts any more to what it has asked for.
            let epoch = view.epoch;
            (self.pending, self.view) = (None, None);
            return Some(Request::Resign { epoch, to: None });
        }
        if self.pending.is_some() {
            return None;
        }
        let left = |ms: i64| u64::try_from(ms).ok().map(Duration::from_millis);
        let holder = match view.lease_remaining_ms {
            -1 => Holder::Nobody,
            ms => Holder::Node { node_id: &view.leader, left: left(ms) },
        };
        let peers: Vec<Peer<'_>> = view.peers.iter().map(as_peer).collect();
        let reserved_for = Some(view.reserved_for.as_str()).filter(|name| !name.is_empty());
        let known = Known { answered: *answered, holder, reserved_for, end: view.end, peers: &peers };
        let (applied, priority) = (self.data.len() as u64, u32::from(self.priority));
        let standing = Standing { node_id: own_name, priority, applied, is_connected: true };
        let decision = self.election.decide(now, &standing, &known, &self.pacing, draw.number());
        let Decision::Acquire { expected_end } = decision else { return None };
        Some(self.acquire(now, expected_end, draw, profile))
    }

    /// Asks for the lease at `expected_end`.
    pub fn acquire(&mut self, now: Moment, expected_end: u64, draw: &mut Draw, profile: &Profile) -> Request {
        self.asked += 1;
        self.pending = Some(Pending { number: self.asked, until: now.plus(ANSWER_AT_MOST) });
        let (number, lease_ms, replid) = (self.asked, profile.lease_ms(draw), self.replid.clone());
        let seen = self.view.as_ref().map_or(0, |(_, view)| view.epoch);
        Request::Acquire { number, sent: now, expected_end, lease_ms, replid, seen }
    }

    /// A node tells of itself.
    pub fn poll(&self, draw: &mut Draw) -> Request {
        let seen = self.view.as_ref().map_or(0, |(_, view)| view.version);
        let (leads, priority, applied) = (self.leading.is_some(), self.priority, self.data.len() as u64);
        let wait_ms = if draw.chance(500) { 0 } else { draw.within(0..POLL_MS) };
        Request::Poll { leads, priority, applied, seen, wait_ms }
    }

    /// It is told something. What it sends in turn.
    pub fn hear(
        &mut self,
        request: Request,
        answer: Result<Answer, Refusal>,
        true_ns: u64,
        draw: &mut Draw,
        broken: Option<NodeRule>,
    ) -> Option<Request> {
        let now = self.moment(true_ns);
        match (request, answer) {
            (Request::Poll { .. }, Ok(Answer::View(view))) => self.view = Some((now, view)),
            (Request::Poll { leads: true, .. }, Err(refusal)) if refusal.code == Code::Fenced => {
                // The lease is being taken from it: it answers nobody any more, and says so.
                let epoch = self.leading.as_mut().map(Leading::give_up)?;
                return Some(Request::Resign { epoch, to: None });
            }
            (Request::Acquire { number, sent, lease_ms, .. }, Ok(Answer::Acquired { epoch, end })) => {
                self.granted(number, sent, lease_ms, epoch, end, now, draw, broken);
            }
            (Request::Acquire { number, .. }, Err(_)) => {
                if self.pending.take_if(|pending| pending.number == number).is_some() {
                    self.election.refused(now, &self.pacing, draw.number());
                }
            }
            (request, answer) => {
                let counts_from_sending = broken != Some(NodeRule::CountsFromSending);
                let leading = self.leading.as_mut()?;
                let is_over = leading.hear(&request, answer, now, counts_from_sending);
                if leading.has_begun {
                    self.replid.clone_from(&leading.replid);
                    let (log, epoch, replid) = (LOG_ID.to_owned(), leading.epoch, leading.replid.clone());
                    self.known = Some(LogKnown { log, epoch, replid, durable: leading.acknowledged });
                }
                if is_over {
                    self.step_down();
                }
            }
        }
        None
    }

    /// The lease was granted. It counts only as the answer to the last request, and if this node still stands there.
    #[allow(clippy::too_many_arguments)]
    fn granted(
        &mut self,
        number: u64,
        sent: Moment,
        lease_ms: u64,
        epoch: u64,
        end: u64,
        now: Moment,
        draw: &mut Draw,
        broken: Option<NodeRule>,
    ) {
        let is_last = self.pending.is_some_and(|pending| pending.number == number);
        let counts = is_last || broken == Some(NodeRule::TakesLastAnswer);
        if !counts || self.leading.is_some() || self.data.len() as u64 != end {
            return;
        }
        let sent = if broken == Some(NodeRule::CountsFromSending) { now } else { sent };
        (self.pending, self.session) = (None, None);
        let lease = Lease::acquired(sent, Duration::from_millis(lease_ms));
        self.leading = Some(Leading::new(epoch, lease, lease_ms, sent, draw.replid(), end));
    }

    /// Clients write.
    pub fn write(&mut self, draw: &mut Draw) {
        let length = draw.within(1..24) as usize;
        self.data.extend(draw.bytes(length));
    }

    /// What it holds at and above `offset`, no more than `most`.
    pub fn slice(&self, offset: u64, most: usize) -> Bytes {
        let from = (offset as usize).min(self.data.len());
        let until = (from + most).min(self.data.len());
        Bytes::copy_from_slice(&self.data[from..until])
    }
}

fn as_peer((node_id, priority, applied, silent_ms): &(String, u16, u64, u64)) -> Peer<'_> {
    let silent_for = Duration::from_millis(*silent_ms);
    Peer { node_id, priority: u32::from(*priority), applied: *applied, silent_for }
}
