//! How often something happened, to show that it did.

macro_rules! seen {
    ($($field:ident: $name:literal,)*) => {
        /// How often something happened.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub struct Seen {
            $(pub $field: u64,)*
        }

        impl Seen {
            /// Adds what another seed has seen.
            pub fn add(&mut self, other: &Seen) {
                $(self.$field += other.$field;)*
            }

            /// All of it, by name.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$(($name, self.$field),)*]
            }
        }
    };
}

seen! {
    steps: "steps",
    elections: "elections",
    leads: "leaders that could decide",
    appends: "appends",
    stale: "appends out of place or of another epoch",
    committed: "entries committed",
    acknowledged: "acknowledgements",
    changes: "states replaced",
    restarts: "logs begun anew",
    conflicts: "changes of another revision",
    dropped: "changes of which nothing came",
    unknown: "changes of unknown outcome",
    confirmed: "questions answered yes",
    unconfirmed: "questions answered no",
    crashes: "crashes",
    torn: "torn writes",
    unawaited: "whole writes that nobody had waited for",
    truncations: "tails replaced",
    reads: "reads of the disk",
    trims: "trims",
    installs: "copies begun anew",
    transfers: "transfers",
    pauses: "pauses",
    cuts: "cuts",
    breaks: "broken connections",
}
