//! What services tell each other beside the logs: of their copies (`copy_reports.rs`), and what the rest of the service has to tell of shards
//! (`service/reports.rs`).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::copy_reports::Report;
use super::forming::{Reply, Request};
use super::{lock, Replicas};
use crate::replica::groups::HearsReports;

/// Copies that are told of in one request: well below what a request may have.
const COPIES_AT_ONCE: usize = 1000;
/// How long telling another service takes at most.
pub(super) const TOLD_WITHIN: Duration = Duration::from_millis(500);

impl Replicas {
    /// Tells the other services of this one's copies.
    pub(super) async fn tell(&self, report: Report) {
        let others: Vec<String> = {
            let peers = self.peers().into_iter().map(|(name, _)| name);
            peers.filter(|name| *name != self.options.name).collect()
        };
        let Report { member, copies } = report;
        for peer in others {
            for copies in copies.chunks(COPIES_AT_ONCE) {
                let report = Report { member, copies: copies.to_vec() };
                // One that is away hears it when it is back.
                let _ = timeout(TOLD_WITHIN, self.ask(&peer, &Request::Report(report))).await;
            }
        }
    }

    /// Tells a service what the rest of this one has to tell.
    pub(super) async fn send_report(&self, service: &str, report: String) -> Result<(), String> {
        match self.ask(service, &Request::Hear(report)).await.map_err(|error| error.to_string())? {
            Reply::Heard => Ok(()),
            Reply::Refused(reason) => Err(reason),
            _ => Err(format!("service {service} did not say whether it heard")),
        }
    }

    /// Passes on what a peer reports. Blocks for as long as who hears it does.
    pub(super) fn hear(&self, report: &str) -> Reply {
        let hearer: Option<Arc<dyn HearsReports>> = lock(&self.hearer).clone();
        match hearer {
            Some(hearer) => {
                hearer.heard(report);
                Reply::Heard
            }
            None => Reply::Refused("the service is starting".to_owned()),
        }
    }
}
