//! The versions of Valkey that this release was tried with, and what follows for any other.
//!
//! A version number alone decides nothing about the server's internals: `layout_check.rs` and the self-test see whether they are the ones that
//! this module knows. But the tests of a release run with certain versions, and what changed in a later one may be what no check looks at. So
//! an operator has to say that sync mode may be used there.

use std::fmt;

use crate::server::api;
use crate::settings;

/// The versions with which the tests of this release pass: see `tests/versions/RESULTS.md`.
pub const TRIED: [Version; 3] = [Version(9, 1, 0), Version(9, 1, 1), Version(9, 1, 2)];

/// A version of Valkey: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version(major, minor, patch) = self;
        write!(out, "{major}.{minor}.{patch}")
    }
}

impl Version {
    /// The running server's. Any thread.
    pub fn of_server() -> Self {
        let (major, minor, patch) = api::version();
        Version(major, minor, patch)
    }

    /// Whether the tests of this release pass with it.
    pub fn is_tried(self) -> bool {
        TRIED.contains(&self)
    }

    /// Why sync mode and leases are not offered in this version, for the operator to read; none if they are. `is_allowed` is
    /// `durability.allow-untested-version`.
    fn why_not_offered(self, is_allowed: bool) -> Option<String> {
        (!self.is_tried() && !is_allowed).then(|| {
            // The config's name comes early: the server cuts the errors of CONFIG SET.
            format!(
                "Valkey {self} is untested: this needs durability.allow-untested-version yes in valkey.conf and a restart, or durability.mode \
                 async; this release was tried with {}",
                tried()
            )
        })
    }

    /// What to say once about a version that nobody has tried, for the server's log; none for a version that was tried.
    fn notice(self, is_allowed: bool) -> Option<String> {
        let consequence = if is_allowed {
            "durability.allow-untested-version is yes, so sync mode and leases rely on the checks of this server's internals"
        } else {
            "durability.mode async and off work, sync mode and leases need durability.allow-untested-version yes"
        };
        (!self.is_tried()).then(|| {
            format!(
                "Valkey {self} is not among the versions that this release was tried with ({}): {consequence}",
                tried()
            )
        })
    }
}

/// Why sync mode and leases are not offered in the running server's version; none if they are. Any thread.
pub fn why_not_offered() -> Option<String> {
    Version::of_server().why_not_offered(settings::ALLOW_UNTESTED_VERSION.is_on())
}

/// What to say once about the running server's version, for the server's log; none if there is nothing to say.
pub fn notice() -> Option<String> {
    Version::of_server().notice(settings::ALLOW_UNTESTED_VERSION.is_on())
}

fn tried() -> String {
    TRIED.map(|version| version.to_string()).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_was_tried_needs_nothing() {
        for version in TRIED {
            assert_eq!((version.why_not_offered(false), version.notice(false)), (None, None), "{version}");
        }
    }

    #[test]
    fn any_other_version_needs_the_operators_word() {
        for version in [Version(9, 1, 3), Version(9, 2, 0), Version(10, 0, 0), Version(9, 1, 255)] {
            let why = version.why_not_offered(false).expect("a reason");
            let [number, config] = [version.to_string(), "durability.allow-untested-version yes".to_owned()];
            assert!([number, config, "9.1.0, 9.1.1, 9.1.2".to_owned()].iter().all(|part| why.contains(part)), "{why}");
            assert_eq!(version.why_not_offered(true), None);
            // It is named in the log in either case.
            assert!(version.notice(true).expect("a notice") != version.notice(false).expect("a notice"));
        }
    }
}
