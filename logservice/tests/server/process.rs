//! The service as a process of its own, so that its threads and its memory can be told from those of other tests.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The process, which ends with this.
pub struct Process {
    process: Child,
    pub address: SocketAddr,
}

impl Process {
    /// With small segments, and no engine.
    pub fn start(directory: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_logservice"))
            .arg("--dir")
            .arg(directory)
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--segment-mb", "2", "--snapshot-log-mb", "0"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let started = lines.by_ref().map(|line| line.expect("a line")).find(|line| line.contains("RESP on "));
        let address =
            started.as_deref().and_then(|line| line.split("RESP on ").nth(1)).and_then(|rest| rest.split(',').next());
        let address = address.expect("an address").parse().expect("an address");
        // Else it would wait for somebody to read.
        std::thread::spawn(move || lines.for_each(drop));
        Process { process, address }
    }

    /// Threads that do the work of shards.
    pub fn threads(&self) -> usize {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("listed");
        let name = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.expect("entry").path().join("comm")).unwrap_or_default()
        };
        tasks.map(name).filter(|name| name.starts_with("log-")).count()
    }

    /// Memory that it has.
    pub fn resident_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.process.id())).expect("statm");
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4096
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
