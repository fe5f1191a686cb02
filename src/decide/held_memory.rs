//! Which clients are closed because too many of their replies wait in the module's memory (`decide/taken_replies.rs`).

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::decide::gate::ClientId;
use crate::decide::valve::Group;

/// How often the server's limits for the output of one client are applied, as the server does for clients that get no output.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A log that takes longer to acknowledge is slow: the module then takes replies from the server, and asks this often for what has come behind
/// them.
const OFFER_INTERVAL: Duration = Duration::from_millis(2);
/// As asking one takes about a microsecond, that is a twentieth of the time.
const OFFER_INTERVAL_EACH: Duration = Duration::from_micros(20);
/// How often closed clients are logged at most.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A class of clients in `client-output-buffer-limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// `normal`.
    Normal,
    /// `pubsub`: it has subscribed.
    PubSub,
}

/// The class of a client that has subscribed, or has not.
pub fn class(is_subscriber: bool) -> Class {
    if is_subscriber {
        Class::PubSub
    } else {
        Class::Normal
    }
}

/// How much the server keeps for one client of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct OutputLimit {
    /// A client that reaches this is closed. 0: there is no such limit.
    hard_bytes: u64,
    /// A client that has been at this for longer than `soft_time` is closed. 0: there is no such limit.
    soft_bytes: u64,
    soft_time: Duration,
}

/// What waits of one client.
#[derive(Debug, Clone, Copy)]
pub struct HeldReplies {
    /// Whose it is.
    pub client: ClientId,
    /// Bytes in the module's memory.
    pub bytes: u64,
    /// Whose limits apply.
    pub class: Class,
}

/// Decides who is closed. Main thread only.
#[derive(Default)]
pub struct HeldMemory {
    /// How many clients were closed.
    pub closed: u64,
    normal: OutputLimit,
    pubsub: OutputLimit,
    /// When clients reached the soft limit of their class, for those that are still at it.
    soft_since: HashMap<ClientId, Instant>,
    looked: Option<Instant>,
    /// They are about to be looked at: [`Self::looked`] follows.
    is_looking: bool,
    /// When the server is to offer again what waits for a group up to `offers_of`.
    next_offers: Option<Instant>,
    offers_of: Group,
    logged: Option<Instant>,
    /// How many of those that were closed are not logged.
    unlogged: u64,
}

impl HeldMemory {
    /// Whether clients are to be looked at: once in a while, and at once if they have too much together, which `is_too_much` says. To be asked
    /// only while anything waits. Once it has said so it waits to be told, by [`Self::looked`], that this was done.
    pub fn is_time_to_look(&mut self, now: Instant, is_too_much: bool) -> bool {
        let is_time = self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_INTERVAL);
        if !is_time && (self.is_looking || !is_too_much) {
            return false;
        }
        (self.is_looking, self.looked) = (true, Some(now));
        true
    }

    /// They are looked at now, with the server's limits as they are now.
    pub fn looked(&mut self, output_limits: &str) {
        self.is_looking = false;
        self.set_output_limits(output_limits);
    }

    /// Up to which group those wait that are to be asked for what is in the server, if it is time for that: they have waited since the
    /// last time. `newest` is the newest group now that somebody may wait for.
    pub fn offers_again(&mut self, now: Instant, newest: Group) -> Option<Group> {
        if self.next_offers.is_some_and(|next| now < next) {
            return None;
        }
        self.next_offers = Some(now + OFFER_INTERVAL);
        Some(std::mem::replace(&mut self.offers_of, newest))
    }

    /// `count` clients were asked `now`.
    pub fn offered_again(&mut self, now: Instant, count: usize) {
        let interval = OFFER_INTERVAL_EACH.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        self.next_offers = Some(now + interval.max(OFFER_INTERVAL));
    }

    /// The server's `client-output-buffer-limit`, as `CONFIG GET` shows it. What cannot be read changes nothing.
    fn set_output_limits(&mut self, text: &str) {
        let words: Vec<&str> = text.split_whitespace().collect();
        for limit in words.chunks_exact(4) {
            let numbers: Vec<u64> = limit[1..].iter().filter_map(|number| number.parse().ok()).collect();
            let [hard_bytes, soft_bytes, seconds] = numbers[..] else { continue };
            let new = OutputLimit { hard_bytes, soft_bytes, soft_time: Duration::from_secs(seconds) };
            match limit[0] {
                "normal" => self.normal = new,
                "pubsub" => self.pubsub = new,
                _ => {}
            }
        }
    }

    /// All that waits. Returns who is to be closed: those that have reached the limit of their class, then those with most, until the
    /// others have at most `limit` bytes together.
    pub fn closing(&mut self, now: Instant, held: &[HeldReplies], limit: u64) -> Vec<ClientId> {
        if !self.soft_since.is_empty() {
            let waiting: HashSet<ClientId> = held.iter().map(|held| held.client).collect();
            self.soft_since.retain(|client, _| waiting.contains(client));
        }
        let mut held = held.to_vec();
        held.sort_unstable_by_key(|held| std::cmp::Reverse(held.bytes));
        let mut total: u64 = held.iter().map(|held| held.bytes).sum();
        let (mut closing, others): (Vec<HeldReplies>, Vec<HeldReplies>) =
            held.into_iter().partition(|held| self.is_over_its_limit(now, held));
        total -= closing.iter().map(|held| held.bytes).sum::<u64>();
        for held in others {
            if total <= limit {
                break;
            }
            total -= held.bytes;
            closing.push(held);
        }
        self.closed += closing.len() as u64;
        self.unlogged += closing.len() as u64;
        closing.into_iter().map(|held| held.client).collect()
    }

    fn is_over_its_limit(&mut self, now: Instant, held: &HeldReplies) -> bool {
        let limit = match held.class {
            Class::Normal => self.normal,
            Class::PubSub => self.pubsub,
        };
        if limit.soft_bytes == 0 || held.bytes < limit.soft_bytes {
            self.soft_since.remove(&held.client);
        } else {
            let since = *self.soft_since.entry(held.client).or_insert(now);
            if now.saturating_duration_since(since) > limit.soft_time {
                return true;
            }
        }
        limit.hard_bytes > 0 && held.bytes >= limit.hard_bytes
    }

    /// How many clients were closed since this was last logged, if that is to be logged now.
    pub fn count_to_log(&mut self, now: Instant) -> Option<u64> {
        let is_due = self.logged.is_none_or(|logged| now.saturating_duration_since(logged) >= LOG_INTERVAL);
        if self.unlogged == 0 || !is_due {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn held(client: ClientId, bytes: u64) -> HeldReplies {
        HeldReplies { client, bytes, class: Class::Normal }
    }

    #[test]
    fn those_with_most_are_closed_until_the_others_are_below_the_limit() {
        let (mut memory, now) = (HeldMemory::default(), Instant::now());
        let all = [held(1, 3 * MB), held(2, 5 * MB), held(3, MB), held(4, 4 * MB)];
        assert_eq!(memory.closing(now, &all, 13 * MB), []);
        assert_eq!(memory.closing(now, &all, 7 * MB), [2, 4]);
        assert_eq!(memory.closing(now, &all, 4 * MB), [2, 4], "exactly the limit is left");
        assert_eq!(memory.closed, 4);
    }

    #[test]
    fn the_limits_of_the_server_apply_to_each_client() {
        let (mut memory, now) = (HeldMemory::default(), Instant::now());
        memory.set_output_limits("normal 2097152 0 0 slave 1 1 1 pubsub 0 1048576 60");
        let subscriber = HeldReplies { class: Class::PubSub, ..held(9, 8 * MB) };
        let all = [held(1, 2 * MB), held(2, 2 * MB - 1), subscriber];
        assert_eq!(memory.closing(now, &all, u64::MAX), [1]);
        assert_eq!(memory.closing(now + Duration::from_secs(60), &[subscriber], u64::MAX), []);
        let less = HeldReplies { bytes: MB - 1, ..subscriber };
        assert_eq!(memory.closing(now + Duration::from_secs(61), &[less], u64::MAX), [], "it has read");
        assert_eq!(memory.closing(now + Duration::from_secs(62), &[subscriber], u64::MAX), []);
        assert_eq!(memory.closing(now + Duration::from_secs(123), &[subscriber], u64::MAX), [9]);
        memory.set_output_limits("normal 0 0 0 slave 1 1 1 pubsub x y z");
        assert_eq!(memory.closing(now, &all, u64::MAX), []);
    }

    #[test]
    fn who_has_waited_since_the_last_time_is_asked_again() {
        let (mut memory, now) = (HeldMemory::default(), Instant::now());
        assert_eq!(memory.offers_again(now, 5), Some(0));
        assert_eq!(memory.offers_again(now + OFFER_INTERVAL / 2, 7), None);
        assert_eq!(memory.offers_again(now + OFFER_INTERVAL, 8), Some(5));
        let later = now + OFFER_INTERVAL;
        memory.offered_again(later, 10_000);
        assert_eq!(memory.offers_again(later + OFFER_INTERVAL_EACH * 9_999, 9), None, "many take their time");
        assert_eq!(memory.offers_again(later + OFFER_INTERVAL_EACH * 10_000, 9), Some(8));
    }

    #[test]
    fn closed_clients_are_logged_every_ten_seconds_at_most() {
        let (mut memory, now) = (HeldMemory::default(), Instant::now());
        assert_eq!(memory.count_to_log(now), None);
        memory.closing(now, &[held(1, 2), held(2, 2)], 1);
        assert_eq!(memory.count_to_log(now), Some(2));
        memory.closing(now, &[held(3, 2)], 1);
        assert_eq!(memory.count_to_log(now + LOG_INTERVAL / 2), None);
        assert_eq!(memory.count_to_log(now + LOG_INTERVAL), Some(1));
        assert_eq!(memory.count_to_log(now + LOG_INTERVAL * 3), None);
    }
}
