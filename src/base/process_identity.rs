//! Which process this is, and whether another one is over. Plain system calls; any thread.

use durability_protocol::process::ProcessName;
use rustix::io::Errno;
use rustix::process::{getpid, test_kill_process, Pid};

/// As the kernel tells it to all processes of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// A link whose text is `pid:[4026531836]`.
const PID_NAMESPACE: &str = "/proc/self/ns/pid";

/// This process, which the log service sees at the address `ip`, as the service shows it to a later life of this node. Empty if the system
/// does not tell: then a later life waits until the lease has passed.
pub fn own_name(ip: &str) -> String {
    let Some((boot_id, pid_namespace)) = own_place() else { return String::new() };
    ProcessName { boot_id: &boot_id, pid_namespace, pid: getpid().as_raw_nonzero().get(), ip }.to_string()
}

/// Whether the process of that name does not run any more, or is this one, which the log service sees at the address `ip` now. False as
/// well if that cannot be known: it ran on another machine, before this one was booted, in another container, or it was seen elsewhere,
/// so that it may run in a clone of this machine.
pub fn is_over(name: &str, ip: &str) -> bool {
    let (Some(name), Some((boot_id, pid_namespace))) = (ProcessName::parse(name), own_place()) else { return false };
    if name.boot_id != boot_id || name.pid_namespace != pid_namespace || name.ip != ip {
        return false;
    }
    let Some(pid) = Pid::from_raw(name.pid) else { return false };
    // Another process may have got its number: then this waits without need. EPERM says that there is one.
    pid == getpid() || test_kill_process(pid) == Err(Errno::SRCH)
}

/// Whether this process, which the log service sees at the address `ip`, goes by that name. Not if the system does not tell.
pub fn is_own(name: &str, ip: &str) -> bool {
    !name.is_empty() && name == own_name(ip)
}

/// As [`is_own`], from wherever the log service saw it: a clone of this machine goes by that name as well.
pub fn is_own_anywhere(name: &str) -> bool {
    ProcessName::parse(name).is_some_and(|parsed| is_own(name, parsed.ip))
}

/// Boot id, and number of the pid namespace.
fn own_place() -> Option<(String, u64)> {
    let boot_id = std::fs::read_to_string(BOOT_ID).ok()?;
    let namespace = std::fs::read_link(PID_NAMESPACE).ok()?;
    let number = namespace.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()?;
    Some((boot_id.trim().to_owned(), number))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const IP: &str = "10.0.0.5";

    #[test]
    fn a_process_is_over_when_it_has_ended_and_not_before() {
        let own = own_name(IP);
        assert!(is_over(&own, IP) && is_own(&own, IP), "it is this one, which knows what it does");
        let name = ProcessName::parse(&own).expect("this system tells");
        let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep starts");
        let other = ProcessName { pid: i32::try_from(child.id()).expect("a pid"), ..name }.to_string();
        assert!(!is_over(&other, IP));
        child.kill().expect("it runs");
        child.wait().expect("it has ended");
        assert!(is_over(&other, IP));
        assert!(!is_over(&other, "10.0.0.6"), "it may run in a clone of this machine");
    }

    #[test]
    fn nothing_is_known_of_a_process_elsewhere() {
        let own = own_name(IP);
        let name = ProcessName::parse(&own).expect("this system tells");
        let is_over = |name: &str| is_over(name, IP);
        assert!(!is_over(&ProcessName { boot_id: "another", ..name }.to_string()));
        assert!(!is_over(&ProcessName { pid_namespace: name.pid_namespace + 1, ..name }.to_string()));
        let clone = ProcessName { ip: "10.0.0.6", ..name }.to_string();
        assert!(!is_over(&clone) && !is_own(&clone, IP) && is_own_anywhere(&clone));
        let other = ProcessName { pid_namespace: name.pid_namespace + 1, ..name }.to_string();
        assert!(!is_own_anywhere(&other) && !is_own_anywhere(""));
        assert!(!is_over("") && !is_over("anything"));
    }
}
