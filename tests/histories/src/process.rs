//! A process that can be killed, stopped and started again.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::process::{kill_process, Pid, Signal};

/// A program with an output file of its own.
#[derive(Debug)]
pub struct Process {
    program: PathBuf,
    arguments: Vec<String>,
    output: PathBuf,
    environment: Vec<(String, OsString)>,
    child: Option<Child>,
}

impl Process {
    /// One that does not run yet.
    pub fn new(program: PathBuf, arguments: Vec<String>, output: PathBuf) -> Self {
        Process { program, arguments, output, environment: Vec::new(), child: None }
    }

    /// The same with another variable in its environment.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Starts it with that word as well from now on.
    pub fn add_argument(&mut self, word: &str) {
        if !self.arguments.iter().any(|argument| argument == word) {
            self.arguments.push(word.to_owned());
        }
    }

    /// The file with its output.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// Starts it.
    ///
    /// # Errors
    /// The system does not.
    pub fn start(&mut self) -> Result<()> {
        let output = File::options().create(true).append(true).open(&self.output)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether it was started and not killed, and has not ended by itself.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn is_running(&mut self) -> Result<bool> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    /// As a crash. Returns when it is gone.
    ///
    /// # Errors
    /// The system does not let it be killed.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// It is asked to end (SIGTERM), and [`Process::is_running`] says when it has.
    ///
    /// # Errors
    /// It does not run.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// It stands still until it is told to go on, or killed.
    ///
    /// # Errors
    /// It does not run.
    pub fn stall(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// It goes on.
    ///
    /// # Errors
    /// It does not run.
    pub fn go_on(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("it does not run")?;
        kill_process(Pid::from_child(child), signal)?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already, and there is nobody to tell.
        let _ = self.kill();
    }
}

/// The path that a variable of the environment names.
///
/// # Errors
/// It is not set.
pub fn from_environment(name: &str) -> Result<PathBuf> {
    let path = env::var_os(name).with_context(|| format!("{name} is not set; run.sh sets it"))?;
    Ok(PathBuf::from(path))
}
