//! Rules that a test can take out, one at a time, to show that it notices. Only a build with the feature `broken-rules` can; in any other
//! they all hold, which costs nothing.

/// Makes `break_rule` and `holds` for the rules of a type `Rule`, for all that is used by a thread.
macro_rules! rule_switches {
    () => {
        #[cfg(feature = "broken-rules")]
        thread_local! {
            static BROKEN: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
        }

        /// Takes out `rule`, or none, for all that is used by this thread. For tests only.
        #[cfg(feature = "broken-rules")]
        pub fn break_rule(rule: Option<Rule>) {
            BROKEN.set(rule);
        }

        /// Whether `rule` is in force.
        #[cfg(feature = "broken-rules")]
        pub(super) fn holds(rule: Rule) -> bool {
            BROKEN.get() != Some(rule)
        }

        /// Whether `rule` is in force: it is.
        #[cfg(not(feature = "broken-rules"))]
        #[inline(always)]
        pub(super) const fn holds(_: Rule) -> bool {
            true
        }
    };
}

pub(crate) use rule_switches;
