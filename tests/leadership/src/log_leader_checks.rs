//! The searches with several log services, of which one is elected to decide over the log and one was, and does not know better. See
//! [`crate::checks`].

use crate::checks::{holds, is_needed, FAILOVER};
use crate::search::*;
use crate::time::Ticks;

/// Length of a lease that is to become longer. The service's margin for it is one tick as well.
const SHORT_LEASE_TICKS: Ticks = 2;

/// A log service is deposed, while a node leads or is cut off.
const DEPOSED: Bounds = Bounds { is_replicated: true, elections: 1, writes: 1, reads: 0, ..FAILOVER };

/// The node that leads asks for a longer lease.
const LENGTHENED: Bounds = Bounds { first_lease: SHORT_LEASE_TICKS, ..DEPOSED };

#[test]
fn another_log_service_decides() {
    holds("deposed service", DEPOSED);
}

#[test]
fn another_log_service_decides_over_what_was_written() {
    holds("deposed service, writes", Bounds { ticks: 5, renewals: 0, writes: 2, reads: 1, ..DEPOSED });
}

#[test]
fn a_log_service_decides_again() {
    holds("service elected again", Bounds { elections: 2, ..DEPOSED });
}

#[test]
fn a_lease_becomes_longer() {
    holds("longer lease", Bounds { ticks: 5, ..LENGTHENED });
}

#[test]
fn nodes_hear_of_the_lease_from_a_deposed_log_service() {
    holds("stale views", Bounds { ticks: 5, has_stale_views: true, is_drifting: false, ..DEPOSED });
}

#[test]
fn log_service_and_node_change_at_once() {
    let bounds = Bounds { ticks: 5, is_drifting: false, ..DEPOSED };
    holds("deposed service, node restarts", Bounds { acquires: 2, renewals: 0, restarts: 1, ..bounds });
    holds("deposed service, handover", Bounds { releases: 1, ..bounds });
    holds("deposed service, revocation", Bounds { revocations: 1, ..bounds });
    holds("deposed service, one that dies", Bounds { service_restarts: 1, ..bounds });
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn deeper_elections() {
    holds("deposed service, renewals", Bounds { renewals: 2, ..DEPOSED });
    holds("service elected three times", Bounds { elections: 3, renewals: 2, ..DEPOSED });
}

#[test]
fn a_renewal_has_to_be_confirmed() {
    is_needed(Rules { confirms_renewals: false, ..Rules::ALL }, DEPOSED, ONE_ANSWERS);
}

#[test]
fn a_renewal_has_to_be_confirmed_after_it_has_come() {
    let rules = Rules { confirms_after_receipt: false, ..Rules::ALL };
    is_needed(rules, Bounds { ticks: 5, renewals: 2, writes: 0, is_drifting: false, ..DEPOSED }, ONE_ANSWERS);
}

#[test]
fn a_new_log_leader_has_to_count_a_whole_lease() {
    is_needed(Rules { counts_anew_after_election: false, ..Rules::ALL }, DEPOSED, ONE_ANSWERS);
}

#[test]
fn a_grant_has_to_be_committed() {
    is_needed(Rules { commits_grants: false, ..Rules::ALL }, DEPOSED, ONE_ANSWERS);
}

#[test]
fn a_longer_lease_has_to_be_committed() {
    is_needed(Rules { commits_lengths: false, ..Rules::ALL }, LENGTHENED, ONE_ANSWERS);
}

#[test]
fn an_append_has_to_be_committed() {
    is_needed(Rules { commits_appends: false, ..Rules::ALL }, DEPOSED, IN_LOG);
}
