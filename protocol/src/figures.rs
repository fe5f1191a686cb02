//! What a node reports of itself for monitoring, with [`NODE`](crate::NODE).

use std::fmt::Write;

/// How durable an answered write is at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodeMode {
    /// The node says nothing of it, or something that this version does not know.
    #[default]
    Unknown,
    /// A reply waits until the log has the write on disk.
    Sync,
    /// Replies do not wait.
    Async,
    /// The node has no log.
    Off,
}

impl NodeMode {
    /// Its word; empty if it is not known.
    pub fn word(self) -> &'static str {
        match self {
            NodeMode::Unknown => "",
            NodeMode::Sync => "sync",
            NodeMode::Async => "async",
            NodeMode::Off => "off",
        }
    }

    /// The mode of that name; [`NodeMode::Unknown`] if there is none.
    pub fn from_word(word: &str) -> Self {
        let known = [NodeMode::Sync, NodeMode::Async, NodeMode::Off];
        known.into_iter().find(|mode| mode.word() == word).unwrap_or_default()
    }
}

/// Declares the numbers. The comment above each says what it means.
macro_rules! numbers {
    ($($(#[doc = $meaning:literal])+ $name:ident,)+) => {
        /// What a node reports of itself for monitoring, as its main thread saw it. Counters count since the module was loaded.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct NodeFigures {
            /// How durable an answered write is.
            pub mode: NodeMode,
            $($(#[doc = $meaning])+ pub $name: u64,)+
        }

        impl NodeFigures {
            /// The names of the numbers, in the order in which they are sent.
            pub const NAMES: &[&str] = &[$(stringify!($name)),+];

            /// The numbers with their names, in that order.
            pub fn numbers(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),+]
            }

            fn number_mut(&mut self, name: &str) -> Option<&mut u64> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)+
                    _ => None,
                }
            }
        }
    };
}

numbers! {
    /// Milliseconds since the node's main thread looked at them.
    age_ms,
    /// Age in milliseconds of the oldest write that the log has not acknowledged; 0 if there is none.
    lag_ms,
    /// The age in milliseconds at which writes are refused.
    max_lag_ms,
    /// Bytes that were written and that the log has not acknowledged.
    pending_bytes,
    /// Clients whose replies wait for the log.
    held_clients,
    /// Bytes of replies and of messages to other nodes of a cluster that wait in the module's memory.
    held_bytes,
    /// Keys that were written and that the log has not acknowledged.
    dirty_keys,
    /// 1 while writes are refused because the log is too far behind, else 0.
    refusing_writes,
    /// Times that writes began to be refused.
    refusals,
    /// Total time in milliseconds for which writes were refused, including a refusal still in progress.
    refused_time_ms,
    /// How long in milliseconds the log will take for what it lacks, at its pace of late.
    expected_lag_ms,
    /// 1 while writers are slowed down to the log's pace, else 0.
    throttling,
    /// Clients whose replies wait because of that.
    throttled_clients,
    /// Writes whose replies waited because of that.
    throttled_writes,
    /// Times that writers began to be slowed down.
    throttles,
    /// Total time in milliseconds for which writers were slowed down, including one still in progress.
    throttled_time_ms,
    /// Commands that were refused, for any reason.
    refused_commands,
    /// Clients that were closed because their replies waited too long.
    sync_timeouts,
    /// Writes that were found not to be in the replication stream.
    unlogged_writes,
    /// 1 while the node leads and its lease has passed, else 0.
    suspended,
    /// Times that the lease passed without being renewed.
    suspensions,
    /// Times that another node took over from this one.
    depositions,
    /// The most bytes that the node may have written and given up because another node took over.
    discarded_bytes,
    /// Times that the connection to the log was made anew.
    log_reconnects,
    /// Acknowledgements of the last minute: groups of writes that became durable together.
    acks,
    /// Median of the time in microseconds from the writes of such a group to their acknowledgement; 0 without acknowledgements.
    ack_p50_us,
    /// The time that 99 % of them took at most.
    ack_p99_us,
    /// The longest time.
    ack_max_us,
    /// 1 if the node sees the majority of its cluster's primaries, 2 if it does not; 0 if it is in no cluster, or does not know.
    majority,
}

impl NodeFigures {
    /// Whether the node sees the majority of its cluster's primaries; none if it is in no cluster, or does not know.
    pub fn sees_majority(&self) -> Option<bool> {
        match self.majority {
            1 => Some(true),
            2 => Some(false),
            _ => None,
        }
    }
}

/// Longest text of figures, in bytes.
pub const MAX_FIGURES_BYTES: usize = 2048;

impl NodeFigures {
    /// As it is sent: `mode=sync,age_ms=12,…`.
    pub fn text(&self) -> String {
        let mut text = format!("mode={}", self.mode.word());
        for (name, number) in self.numbers() {
            // Writing to a string does not fail.
            let _ = write!(text, ",{name}={number}");
        }
        text
    }

    /// Reads what a node of any version sends: names that are not known are passed over, and what is not named is 0.
    ///
    /// # Errors
    /// What is wrong with it: it is too long, or a part is no name and value, or the value of a number is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_FIGURES_BYTES {
            return Err(format!("figures have {MAX_FIGURES_BYTES} bytes at most"));
        }
        let mut figures = NodeFigures::default();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or("figures are name=value, with commas between them")?;
            if name == "mode" {
                figures.mode = NodeMode::from_word(value);
            } else if let Some(number) = figures.number_mut(name) {
                *number = value.parse().map_err(|_| format!("figure {name} is no number"))?;
            }
        }
        Ok(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_survive_their_text() {
        let mut figures = NodeFigures { mode: NodeMode::Async, ..NodeFigures::default() };
        for (number, name) in (1..).zip(NodeFigures::NAMES) {
            *figures.number_mut(name).expect("a name") = number;
        }
        *figures.number_mut("refusals").expect("a name") = u64::MAX;
        let text = figures.text();
        assert!(text.len() < MAX_FIGURES_BYTES / 2, "{} bytes", text.len());
        assert_eq!(NodeFigures::parse(&text), Ok(figures));
    }

    #[test]
    fn what_another_version_says_more_or_less_does_no_harm() {
        let told = NodeFigures::parse("mode=quorum,lag_ms=7,invented=1,also=word").expect("figures");
        assert_eq!(told, NodeFigures { lag_ms: 7, ..NodeFigures::default() });
    }

    #[test]
    fn what_is_no_figure_is_refused() {
        for bad in ["", "lag_ms", "lag_ms=", "lag_ms=-1", "lag_ms=1,,", &"x=1,".repeat(1000)] {
            assert!(NodeFigures::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn any_text_is_figures_or_an_error() {
        bolero::check!().with_type::<String>().for_each(|text| {
            let _ = NodeFigures::parse(text);
        });
    }
}
