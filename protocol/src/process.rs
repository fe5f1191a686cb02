//! Which process leads. A restarted node that finds its own name leading has to know whether that is its earlier process, which has ended,
//! or another process of the same name, which still answers. It knows if it can see that this process no longer exists.

/// Longest name of a process in bytes.
pub const MAX_BYTES: usize = 128;

/// A process among all that have run since the machine was booted, as `boot-id/pid-namespace/pid[/ip]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessName<'a> {
    /// Drawn by the kernel when the machine was booted.
    pub boot_id: &'a str,
    /// Number of the pid namespace. Another namespace gets the same number only after this one has ended with all its processes.
    pub pid_namespace: u64,
    /// The process id in that namespace.
    pub pid: i32,
    /// The IP address from which the log service sees it; empty if that is unknown. Everything else is the same in a clone of a virtual
    /// machine that continues from an image of its memory.
    pub ip: &'a str,
}

impl<'a> ProcessName<'a> {
    /// Reads what [`std::fmt::Display`] writes; `None` for anything else.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('/');
        let (boot_id, pid_namespace, pid) = (parts.next()?, parts.next()?, parts.next()?);
        let ip = parts.next();
        let is_whole = parts.next().is_none() && !boot_id.is_empty() && ip != Some("");
        let (pid_namespace, pid, ip) = (pid_namespace.parse().ok()?, pid.parse().ok()?, ip.unwrap_or_default());
        let name = ProcessName { boot_id, pid_namespace, pid, ip };
        (is_whole && name.pid > 0).then_some(name)
    }
}

impl std::fmt::Display for ProcessName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if self.ip.is_empty() { "" } else { "/" };
        write!(f, "{}/{}/{}{separator}{}", self.boot_id, self.pid_namespace, self.pid, self.ip)
    }
}

/// Whether the log service accepts `text` as the name of a process. The service stores and shows the name without interpreting it.
pub fn is_valid(text: &str) -> bool {
    (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_its_own_text_and_nothing_else_is_one() {
        for ip in ["", "10.0.0.5", "fd00::5"] {
            let name = ProcessName { boot_id: "0a1b-2c", pid_namespace: 4_026_531_836, pid: 77, ip };
            let text = name.to_string();
            assert!(is_valid(&text));
            assert_eq!(ProcessName::parse(&text), Some(name));
        }
        for bad in ["", "a", "a/1", "/1/2", "a/1/0", "a/1/-2", "a/-1/2", "a/1/2/", "a/1/2/3/4", "a/1/2 ", "a/x/2"] {
            assert_eq!(ProcessName::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_name_that_would_not_fit_into_a_line_is_refused() {
        for bad in ["", "a b", "a,b", "a\nb", &"x".repeat(MAX_BYTES + 1)] {
            assert!(!is_valid(bad), "{bad:?}");
        }
    }
}
