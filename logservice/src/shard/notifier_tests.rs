use super::super::SystemEnvironment;
use super::*;

fn notifier() -> Arc<DurabilityNotifier> {
    Arc::new(DurabilityNotifier::new(100, Arc::new(SystemEnvironment)))
}

fn ticket(notifier: &DurabilityNotifier, until: u64) -> Ticket {
    Ticket { until, refusals: notifier.refusals() }
}

fn outcome(notifier: &DurabilityNotifier, ticket: Ticket) -> Option<Result<u64, Code>> {
    ticket.outcome(&notifier.progress()).map(|outcome| outcome.map_err(|refusal| refusal.code))
}

#[test]
fn an_append_is_acknowledged_when_all_of_it_is_durable() {
    let notifier = notifier();
    let waiting = ticket(&notifier, 150);
    notifier.set_durable(149);
    assert_eq!(outcome(&notifier, waiting), None);
    notifier.set_durable(200);
    assert_eq!(outcome(&notifier, waiting), Some(Ok(150)), "what comes after it may be another leader's");
    notifier.set_durable(180);
    assert_eq!(notifier.durable(), 200, "never goes back");
}

#[test]
fn after_a_failure_nothing_is_acknowledged() {
    let notifier = notifier();
    let waiting = ticket(&notifier, 150);
    notifier.set_failed("the disk is gone");
    notifier.set_failed("a later reason");
    assert_eq!(outcome(&notifier, waiting), Some(Err(Code::LogFailed)));
    assert_eq!(notifier.progress().failed.as_deref(), Some("the disk is gone"));
}

#[test]
fn a_refusal_takes_what_was_queued_beyond_the_end_and_nothing_else() {
    let notifier = notifier();
    let (written, refused) = (ticket(&notifier, 150), ticket(&notifier, 160));
    notifier.set_durable(150);
    notifier.set_refused(150, "full");
    assert_eq!(outcome(&notifier, written), Some(Ok(150)));
    assert_eq!(outcome(&notifier, refused), Some(Err(Code::NoSpace)));
    let again = ticket(&notifier, 160);
    assert_eq!(outcome(&notifier, again), None);
    // The old one stays refused although other bytes of the same length came in its place.
    notifier.set_durable(170);
    assert_eq!(outcome(&notifier, refused), Some(Err(Code::NoSpace)));
    assert_eq!(outcome(&notifier, again), Some(Ok(160)));
    notifier.set_refused(170, "full");
    assert_eq!(outcome(&notifier, refused), Some(Err(Code::NoSpace)));
}

#[test]
fn frozen_acknowledgements_hide_durability_until_they_are_resumed() {
    let notifier = notifier();
    notifier.set_ack_mode(AckMode::Frozen).expect("no thread needed");
    let waiting = ticket(&notifier, 150);
    notifier.set_durable(150);
    assert_eq!(outcome(&notifier, waiting), None);
    assert_eq!((notifier.durable(), notifier.progress().visible), (150, 100));
    notifier.set_ack_mode(AckMode::Running).expect("no thread needed");
    assert_eq!(outcome(&notifier, waiting), Some(Ok(150)));
}

#[test]
fn delayed_acknowledgements_come_late_each_on_its_own_time_and_in_order() {
    const DELAY: Duration = Duration::from_millis(30);
    const SPACING: Duration = Duration::from_millis(2);
    let notifier = notifier();
    notifier.set_ack_mode(AckMode::Delayed(DELAY)).expect("thread starts");
    let start = Instant::now();
    let mut durable_at = Vec::new();
    for step in 0..10 {
        durable_at.push(Instant::now());
        notifier.set_durable(101 + step);
        std::thread::sleep(SPACING);
    }
    for (step, durable_at) in durable_at.iter().enumerate() {
        while notifier.progress().visible < 101 + step as u64 {
            std::thread::yield_now();
        }
        assert!(durable_at.elapsed() >= DELAY, "step {step} came early");
    }
    assert!(start.elapsed() < DELAY * 10, "the delays ran one after the other");
}

#[test]
fn a_delay_adds_hardly_more_than_it_says() {
    const DELAY: Duration = Duration::from_millis(1);
    const ALLOWED: Duration = Duration::from_micros(500);
    let notifier = notifier();
    notifier.set_ack_mode(AckMode::Delayed(DELAY)).expect("thread starts");
    // The best of many, as a busy machine may make any of them late.
    let best = (0..50).map(|step| {
        let durable_at = Instant::now();
        notifier.set_durable(101 + step);
        while notifier.progress().visible < 101 + step {
            std::thread::yield_now();
        }
        durable_at.elapsed()
    });
    let best = best.min().expect("there are fifty");
    assert!((DELAY..DELAY + ALLOWED).contains(&best), "{best:?}");
}

#[tokio::test]
async fn waiting_for_durability_ends_with_it_or_with_the_log() {
    let notifier = notifier();
    notifier.set_ack_mode(AckMode::Frozen).expect("no thread needed");
    assert!(notifier.wait_durable(ticket(&notifier, 100)).await);
    let (other, until) = (notifier.clone(), ticket(&notifier, 150));
    let waiting = tokio::spawn(async move { other.wait_durable(until).await });
    notifier.set_durable(150);
    assert!(waiting.await.expect("ends"));
    let (other, until) = (notifier.clone(), ticket(&notifier, 151));
    let waiting = tokio::spawn(async move { other.wait_durable(until).await });
    tokio::task::yield_now().await;
    notifier.set_failed("gone");
    assert!(!waiting.await.expect("ends"));
}

#[tokio::test]
async fn nobody_waits_for_what_was_refused_before_the_wait_began() {
    let notifier = notifier();
    let everything = ticket(&notifier, 150);
    notifier.set_refused(120, "full");
    let waiting = tokio::time::timeout(Duration::from_secs(5), notifier.wait_durable(everything));
    assert_eq!(waiting.await, Ok(false));
}
