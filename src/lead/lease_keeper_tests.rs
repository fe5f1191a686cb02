use std::process::Command as Process;
use std::time::Instant;

use crossbeam_channel::unbounded;

use super::*;

const IN_CHILD: &str = "LEASE_KEEPER_TESTS_IN_CHILD";

/// Runs this test alone in a process of its own: a panic is remembered for as long as the process runs.
fn in_a_process_of_its_own(name: &str, test: impl FnOnce()) {
    if std::env::var_os(IN_CHILD).is_some() {
        return test();
    }
    let (_, module) = module_path!().split_once("::").unwrap();
    let own = std::env::current_exe().unwrap();
    let output = Process::new(own).args(["--exact", &format!("{module}::{name}")]).env(IN_CHILD, "1").output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn a_failover_that_is_requested_after_an_internal_error_is_declined() {
    in_a_process_of_its_own("a_failover_that_is_requested_after_an_internal_error_is_declined", || {
        // Without a server there is nowhere to log the panic.
        let _ = std::panic::catch_unwind(|| guard("testing", (), || panic!("on purpose")));
        assert!(has_failed());
        let hour = Duration::from_secs(3600);
        for (length, what_of_the_lease) in [(hour, "its lease passes by itself"), (Duration::ZERO, "LOG.RELEASE")] {
            let (shared, _tasks) = Shared::new().unwrap();
            let shared = Arc::new(shared);
            let (to_agent, _commands) = unbounded();
            let keeper = LeaseKeeper::start(Arc::clone(&shared), to_agent).unwrap();
            keeper.set(Duty::Lead { epoch: 1, lease: Lease::acquired(lease_clock::now(), length) });
            keeper.handle().hand_over(FailoverRequest { to: None, asked: lease_clock::now(), timeout: hour });
            let deadline = Instant::now() + Duration::from_secs(60);
            while shared.failover_error().is_empty() {
                assert!(Instant::now() < deadline, "nobody answers the request");
                std::thread::sleep(Duration::from_millis(5));
            }
            assert!(shared.failover_error().contains(what_of_the_lease), "{}", shared.failover_error());
            assert!(keeper.state.lock().handover.is_none(), "a request that stays keeps the thread from resting");
        }
    });
}
