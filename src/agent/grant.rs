//! The lease that the log service may have granted to this node. The node gives it back when it ends or leaves its log. Agent's thread.

use std::time::{Duration, Instant};

use crate::base::process_identity;
use crate::log::control::LogConnection;
use crate::log::error::LogError;
use crate::log::reply::LogStatus;

/// The log service may still grant a lease that was requested this long ago: it waits, twice, until what it accepted before is durable.
const GRANT_TIME: Duration = Duration::from_secs(25);
/// How often to check whether it has.
const GRANT_POLL: Duration = Duration::from_millis(50);

/// What the log service may have granted to this node, and the node has not given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Nothing.
    None,
    /// The lease of that epoch.
    Epoch(u64),
    /// A lease was requested, last at that time, and the log service did not answer.
    Unknown(Instant),
}

impl Grant {
    /// Whether the log service says that the lease is that of this process.
    fn is_in_force(self, status: &LogStatus, node_id: &str) -> bool {
        let is_own_process = match self {
            Grant::None => false,
            // The request was answered, so the service may see this process at another address by now. On a system that does not identify
            // processes the name is empty.
            Grant::Epoch(epoch) => {
                let name = &status.leader_process;
                status.epoch == epoch
                    && (process_identity::is_own_anywhere(name) || *name == process_identity::own_name(""))
            }
            Grant::Unknown(_) => process_identity::is_own(&status.leader_process, &status.client_ip),
        };
        is_own_process && status.leader == node_id
    }

    /// Whether the log service may still grant a lease.
    pub fn may_come(self) -> bool {
        matches!(self, Grant::Unknown(asked) if asked.elapsed() < GRANT_TIME)
    }

    /// Forgets the lease if the log service says that it is over, or another node's.
    pub fn compare(&mut self, status: &LogStatus, node_id: &str) {
        if matches!(*self, Grant::Epoch(epoch) if status.epoch != epoch || status.leader != node_id) {
            *self = Grant::None;
        }
    }

    /// Gives back the lease on that connection, until `end` at the latest. Returns the epoch whose lease was freed; `None` if the service
    /// has no lease of this process. The log may have been exchanged since the grant, so what counts is who leads now.
    ///
    /// # Errors
    /// A question to the log service failed. It may still hold the lease.
    pub fn resign(self, log: &mut LogConnection, node_id: &str, end: Option<Instant>) -> Result<Option<u64>, LogError> {
        loop {
            let status = log.status()?;
            if self.is_in_force(&status, node_id) {
                log.resign(status.epoch)?;
                return Ok(Some(status.epoch));
            }
            if !self.may_come() || end.is_none_or(|end| Instant::now() + GRANT_POLL >= end) {
                return Ok(None);
            }
            std::thread::sleep(GRANT_POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_given_back_only_if_it_still_belongs_to_this_process() {
        const IP: &str = "10.0.0.5";
        let granted = LogStatus {
            epoch: 5,
            leader: "n0".to_owned(),
            leader_process: process_identity::own_name(IP),
            client_ip: IP.to_owned(),
            ..LogStatus::default()
        };
        let other = |leader: &str| LogStatus { leader: leader.to_owned(), ..granted.clone() };
        let cases = [
            (granted.clone(), true, true),
            // The log was rolled back, and granted the same epoch to another node.
            (other("n1"), false, false),
            // The log service sees this node at another address.
            (LogStatus { client_ip: "10.0.0.6".to_owned(), ..granted.clone() }, true, false),
            (other(""), false, false),
            (LogStatus { leader_process: String::new(), ..granted.clone() }, false, false),
            (LogStatus { epoch: 6, ..granted.clone() }, false, true),
        ];
        for (status, epoch, unknown) in cases {
            let is_in_force = |grant: Grant| grant.is_in_force(&status, "n0");
            assert_eq!(is_in_force(Grant::Epoch(5)), epoch, "{status:?}");
            assert_eq!(is_in_force(Grant::Unknown(Instant::now())), unknown, "{status:?}");
            assert!(!is_in_force(Grant::None));
        }
        let mut grant = Grant::Epoch(5);
        grant.compare(&granted, "n0");
        assert_eq!(grant, Grant::Epoch(5));
        grant.compare(&other("n1"), "n0");
        assert_eq!(grant, Grant::None);
    }
}
