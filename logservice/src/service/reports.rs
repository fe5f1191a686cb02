//! The services of a cluster tell each other what only the one that decides over a log hears: which nodes there are, and whether one leads.
//! So each answers clients alike. See [`ShardReport`].

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{timeout, Instant};

use super::Service;
use crate::base::log_throttle::{say, LineThrottle};
use crate::replica::groups::{Groups, HearsReports};
use crate::shard::{Shard, ShardReport};

/// How often the others are told.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// How long an answer is waited for before a handover.
const ANSWER_AT_MOST: Duration = Duration::from_secs(1);
/// Bytes of a report, unless a single shard takes more: far below what a request may have, as text in a request takes more.
const REPORT_BYTES: usize = 256 << 10;

/// For reports that cannot be read.
static UNREADABLE: LineThrottle = LineThrottle::new();

/// Passes on reports to the shards.
struct Hearer(Weak<Service>);

impl HearsReports for Hearer {
    fn heard(&self, report: &str) {
        let Some(service) = self.0.upgrade() else { return };
        let reports: Vec<ShardReport> = match serde_json::from_str(report) {
            Ok(reports) => reports,
            Err(error) => return say!(UNREADABLE, warn, "a report of another service cannot be read: {error}"),
        };
        for report in reports {
            let Some(shard) = service.served_shard(&report.shard) else { continue };
            let (name, placed) = (report.shard.clone(), report.placed());
            if shard.hear_report(report) {
                service.note_placed(&name, placed);
            }
        }
    }
}

impl Service {
    /// Reports to the other services, and hears them, for as long as this service is there. Must run within the runtime.
    pub(super) fn exchange_reports(&self) {
        let Some(groups) = self.groups().cloned() else { return };
        groups.on_reports(Arc::new(Hearer(self.this.clone())));
        let (this, mut due) = (self.this.clone(), self.report_due.subscribe());
        tokio::spawn(async move {
            let mut under_way: HashMap<String, JoinHandle<()>> = HashMap::new();
            let mut next = Instant::now();
            loop {
                // The time is up, or there is news. That the service is gone shows next.
                let _ = timeout(next.saturating_duration_since(Instant::now()), due.changed()).await;
                next = Instant::now() + REPORT_EVERY;
                let Some(service) = this.upgrade() else { return };
                let reports = service.reports(&groups);
                drop(service);
                if !reports.is_empty() {
                    tell_others(&groups, &reports, &mut under_way);
                }
            }
        });
    }

    /// The others are told soon.
    pub(super) fn report_soon(&self) {
        self.report_due.send_replace(());
    }

    /// Tells one other service of one shard, and waits for its answer.
    pub(super) async fn tell(
        &self,
        groups: &Arc<dyn Groups>,
        service: &str,
        report: ShardReport,
    ) -> Result<(), String> {
        let report = serde_json::to_string(&[report]).map_err(|error| error.to_string())?;
        let told = timeout(ANSWER_AT_MOST, groups.report(service, report)).await;
        told.unwrap_or_else(|_| Err(format!("no answer within {} ms", ANSWER_AT_MOST.as_millis())))
    }

    /// What there is to tell of the shards over which this service decides.
    fn reports(&self, groups: &Arc<dyn Groups>) -> Vec<Arc<str>> {
        let deciding = self.open_shards().into_iter().filter(|shard| shard.decides());
        let of_shard = |shard: Arc<Shard>| {
            let term = groups.group(shard.name())?.view().leads_in?;
            serde_json::to_string(&shard.report(term, self.placed(shard.name()))).ok()
        };
        let mut reports: Vec<String> = Vec::new();
        for report in deciding.filter_map(of_shard) {
            match reports.last_mut().filter(|last| last.len() + report.len() < REPORT_BYTES) {
                Some(last) => {
                    last.push(',');
                    last.push_str(&report);
                }
                None => reports.push(format!("[{report}")),
            }
        }
        reports.into_iter().map(|report| format!("{report}]").into()).collect()
    }
}

/// Tells each other service that is connected and has answered what it was told before.
fn tell_others(groups: &Arc<dyn Groups>, reports: &[Arc<str>], under_way: &mut HashMap<String, JoinHandle<()>>) {
    under_way.retain(|_, telling| !telling.is_finished());
    let own = groups.member();
    for other in groups.services().into_iter().filter(|other| other.member != own && other.is_connected) {
        if under_way.contains_key(&other.name) {
            continue;
        }
        let (groups, reports, name) = (groups.clone(), reports.to_vec(), other.name.clone());
        let telling = tokio::spawn(async move {
            for report in reports {
                // Told again soon.
                if let Err(reason) = groups.report(&name, report.to_string()).await {
                    tracing::debug!("service {name} was not told of nodes: {reason}");
                    return;
                }
            }
        });
        under_way.insert(other.name, telling);
    }
}
