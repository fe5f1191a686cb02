//! What services tell each other beside the logs, and handing over the decision over the cluster.

use super::tests::{until, Cluster};
use super::*;
use crate::replica::groups::{Groups, HearsReports};

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl HearsReports for Heard {
    fn heard(&self, report: &str) {
        lock(&self.0).push(report.to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_report_to_each_other() {
    let cluster = Cluster::new();
    let error = cluster.service(0).report("b", "early".to_owned()).await.expect_err("nobody hears it");
    assert!(error.contains("starting"), "{error}");
    let heard = Arc::new(Heard::default());
    cluster.service(1).on_reports(heard.clone());
    cluster.service(0).report("b", "of nodes".to_owned()).await.expect("heard");
    assert_eq!(*lock(&heard.0), ["of nodes"]);
    cluster.mute(1);
    assert!(cluster.service(0).report("b", "lost".to_owned()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_decision_over_the_cluster_is_handed_over() {
    let mut cluster = Cluster::new();
    cluster.service(0).init().await.expect("made");
    let leader = cluster.leader().await;
    let leads = |cluster: &Cluster, node: usize| {
        lock(&cluster.service(node).cluster_group).as_ref().is_some_and(|group| group.view().leads_in.is_some())
    };
    cluster.service(leader).hand_over_cluster().await;
    assert!(!leads(&cluster, leader), "when it returns");
    until("another one decides", || (0..3).any(|node| node != leader && leads(&cluster, node))).await;
    let next = cluster.leader().await;
    cluster.service(leader).hand_over_cluster().await;
    assert!(leads(&cluster, next), "who does not decide has nothing to hand over");
    // Alone it keeps it.
    for node in (0..3).filter(|&node| node != next) {
        cluster.kill(node).await;
    }
    cluster.service(next).hand_over_cluster().await;
}
