//! Which process leads. A node that is started again and finds its own name leading has to know whether that is its earlier
//! life, which is over, or another process of the same name, which still answers: it knows if it can see that process end.

/// Longest name of a process in bytes.
pub const MAX_BYTES: usize = 128;

/// A process among all that ever ran on a machine since it was booted, as `boot-id/pid-namespace/pid[/ip]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessName<'a> {
    /// Drawn by the kernel when the machine was booted.
    pub boot_id: &'a str,
    /// Number of the pid namespace. Another namespace gets it at most once the first one has ended, with all its processes.
    pub pid_namespace: u64,
    /// The process, as it is known there.
    pub pid: i32,
    /// The IP address from which the log service sees it; empty if that is not known. A clone of a virtual machine that went on from an
    /// image of its memory has the same of everything else.
    pub ip: &'a str,
}

impl<'a> ProcessName<'a> {
    /// Reads what [`std::fmt::Display`] writes; `None` if it is something else.
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

/// Whether the log service takes `text` for the name of a process: it keeps and shows it, and understands nothing of it.
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
    fn what_would_not_fit_into_a_line_is_refused() {
        for bad in ["", "a b", "a,b", "a\nb", &"x".repeat(MAX_BYTES + 1)] {
            assert!(!is_valid(bad), "{bad:?}");
        }
    }
}
