//! The agent's mailbox: how its work waits, asks the main thread, and notices what is to be done first. Agent's thread.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, Receiver, RecvTimeoutError, Sender};

use crate::agent::interrupt::Interrupt;
use crate::decide::known_log::Kind;
use crate::exchange::mailbox::{Command, Task};
use crate::exchange::server_support::ServerSupport;
use crate::exchange::Shared;
use crate::settings::Mode;

/// While the agent waits for the main thread's answer, it reads its mailbox this often.
const MAILBOX_POLL: Duration = Duration::from_millis(20);

/// The agent's mailbox, and what decides whether a command interrupts its work.
pub struct Control {
    /// Shared with the other threads.
    pub shared: Arc<Shared>,
    /// What the server can do.
    pub support: ServerSupport,
    commands: Receiver<Command>,
    mode: Mode,
    /// Whether the operator made the server a replica of another one. Then it has no log.
    is_replica: bool,
    /// The newest epoch that this process led.
    pub last_led: Option<u64>,
    /// [`Shared::stage`] when the node began to attach.
    stage: u64,
}

impl Control {
    /// The mailbox that receives `commands`.
    pub fn new(
        shared: Arc<Shared>,
        support: ServerSupport,
        commands: Receiver<Command>,
        mode: Mode,
        is_replica: bool,
    ) -> Self {
        Control { shared, support, commands, mode, is_replica, last_led: None, stage: 0 }
    }

    /// Gives the main thread a task, and waits for its answer.
    ///
    /// # Errors
    /// Something else is to be done first.
    pub fn ask<T>(&mut self, task: impl FnOnce(Sender<T>) -> Task) -> Result<T, Interrupt> {
        let (reply, answer) = bounded(1);
        self.shared.send(task(reply));
        loop {
            match answer.recv_timeout(MAILBOX_POLL) {
                Ok(value) => return Ok(value),
                Err(RecvTimeoutError::Disconnected) => return Err(Interrupt::Stop),
                Err(RecvTimeoutError::Timeout) => self.read_mailbox()?,
            }
        }
    }

    /// Waits for `time`.
    ///
    /// # Errors
    /// Something else is to be done first.
    pub fn pause(&mut self, time: Duration) -> Result<(), Interrupt> {
        let deadline = Instant::now().checked_add(time);
        loop {
            let received = match deadline {
                Some(deadline) => self.commands.recv_deadline(deadline),
                None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(command) => self.obey(command)?,
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(Interrupt::Stop),
            }
        }
    }

    /// Waits for news of who leads, or of what the server has applied, at most `time`.
    ///
    /// # Errors
    /// Something else is to be done first.
    pub fn wait_for_news(&mut self, time: Duration) -> Result<(), Interrupt> {
        let deadline = Instant::now() + time;
        let mut has_news = false;
        loop {
            // Everything that has arrived already counts as one piece of news.
            let received = match has_news {
                true => self.commands.try_recv().map_err(|_| RecvTimeoutError::Timeout),
                false => self.commands.recv_deadline(deadline),
            };
            match received {
                Ok(Command::Applied | Command::Viewed) => has_news = true,
                Ok(command) => self.obey(command)?,
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(Interrupt::Stop),
            }
        }
    }

    /// Reads the commands that have arrived.
    ///
    /// # Errors
    /// One of them ends the current work.
    pub fn read_mailbox(&mut self) -> Result<(), Interrupt> {
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command)?;
        }
        Ok(())
    }

    /// Makes the main thread report when the server, as a replica of the log, has applied everything up to `target` (exclusive).
    pub fn report_when_applied(&self, target: u64) {
        if self.shared.attach_target.swap(target, Ordering::AcqRel) != target {
            self.shared.main_waker.wake();
        }
    }

    /// Whether this node is to have its log.
    pub fn has_log(&self) -> bool {
        self.mode != Mode::Off && !self.is_replica
    }

    /// The mode of which the main thread last informed the agent.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The node begins to attach. The main thread has done everything that it was asked before.
    pub fn begin_stage(&mut self) {
        self.stage = self.shared.stage.load(Ordering::Relaxed);
    }

    /// Has the server serve clients as the leader of `epoch`.
    pub fn serve_as_leader(&self, epoch: u64) {
        self.shared.send(Task::Lead { epoch, stage: self.stage });
    }

    /// Has the server serve reads while another node leads.
    pub fn serve_reads(&self) {
        self.shared.send(Task::ServeReads { stage: self.stage });
    }

    fn obey(&mut self, command: Command) -> Result<(), Interrupt> {
        let had_log = self.has_log();
        match command {
            Command::Stop => Err(Interrupt::Stop),
            // Nobody waits for this news any more, or the shipper sees it by itself.
            Command::Applied | Command::Viewed | Command::SnapshotWanted => Ok(()),
            Command::Fenced { epoch, detail } if self.last_led == Some(epoch) => Err(Interrupt::Fenced(detail)),
            Command::Fenced { .. } => Ok(()),
            Command::HandedOver => Err(Interrupt::HandedOver),
            Command::Contradicted(contradiction) => Err(Interrupt::Contradicted(contradiction)),
            Command::AcceptLog { log_id, keeps_own_data } => {
                let may = self.shared.contradiction().is_some_and(|it| !keeps_own_data || it.kind != Kind::Unfollowed);
                // If not, the contradiction has ended meanwhile.
                if may {
                    Err(Interrupt::LogAccepted { log_id, keeps_own_data })
                } else {
                    Ok(())
                }
            }
            Command::LostItsLog => Err(Interrupt::LostItsLog),
            Command::CopyFailed => Err(Interrupt::CopyFailed),
            Command::PassedOver(passed_over) => Err(Interrupt::PassedOver(passed_over)),
            Command::Mode(mode) => {
                self.mode = mode;
                self.go_on_if(had_log)
            }
            Command::Replica(is_replica) => {
                self.is_replica = is_replica;
                self.go_on_if(had_log)
            }
        }
    }

    fn go_on_if(&self, had_log: bool) -> Result<(), Interrupt> {
        if self.has_log() == had_log {
            Ok(())
        } else {
            Err(Interrupt::ModeChanged)
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;

    use super::*;
    use crate::decide::known_log::Contradiction;

    const LONG: Duration = Duration::from_secs(60);

    fn mailbox() -> (Control, Sender<Command>, Receiver<Task>) {
        let (shared, tasks) = Shared::new().unwrap();
        let (to_agent, commands) = unbounded();
        let support =
            ServerSupport { why_no_sync: None, expect_own_port: |_| {}, knows_clients: || true, is_cluster: false };
        (Control::new(Arc::new(shared), support, commands, Mode::Sync, false), to_agent, tasks)
    }

    #[test]
    fn a_lease_that_another_epoch_lost_interrupts_nothing() {
        let (mut control, to_agent, _tasks) = mailbox();
        let fenced = |epoch| Command::Fenced { epoch, detail: String::new() };
        control.last_led = Some(5);
        to_agent.send(fenced(4)).unwrap();
        control.read_mailbox().unwrap();
        to_agent.send(fenced(5)).unwrap();
        assert!(matches!(control.pause(LONG), Err(Interrupt::Fenced(_))));
    }

    #[test]
    fn a_log_is_accepted_only_while_it_contradicts_and_never_started_anew_if_others_led_it() {
        let (mut control, to_agent, _tasks) = mailbox();
        let accept = |control: &mut Control, keeps_own_data| {
            to_agent.send(Command::AcceptLog { log_id: "id".to_owned(), keeps_own_data }).unwrap();
            control.read_mailbox()
        };
        accept(&mut control, false).unwrap();
        control.shared.set_contradiction(Some(Contradiction::unfollowed("id")));
        accept(&mut control, true).unwrap();
        let accepted = accept(&mut control, false);
        assert!(matches!(accepted, Err(Interrupt::LogAccepted { keeps_own_data: false, .. })));
    }

    #[test]
    fn work_ends_when_the_node_gets_a_log_or_loses_it_and_not_when_only_the_mode_changes() {
        let (mut control, to_agent, _tasks) = mailbox();
        let mut obey = |command| {
            to_agent.send(command).unwrap();
            matches!(control.read_mailbox(), Err(Interrupt::ModeChanged))
        };
        assert!(!obey(Command::Mode(Mode::Async)));
        assert!(obey(Command::Replica(true)));
        assert!(!obey(Command::Mode(Mode::Off)));
        assert!(!obey(Command::Replica(false)));
        assert!(obey(Command::Mode(Mode::Sync)));
    }

    #[test]
    fn all_news_that_has_arrived_ends_one_wait() {
        let (mut control, to_agent, _tasks) = mailbox();
        for _ in 0..3 {
            to_agent.send(Command::Viewed).unwrap();
            to_agent.send(Command::Applied).unwrap();
        }
        control.wait_for_news(LONG).unwrap();
        assert!(control.commands.is_empty());
        to_agent.send(Command::Viewed).unwrap();
        to_agent.send(Command::Stop).unwrap();
        assert!(matches!(control.wait_for_news(LONG), Err(Interrupt::Stop)));
    }

    #[test]
    fn a_question_to_a_busy_main_thread_is_given_up_for_what_is_to_be_done_first() {
        let (mut control, to_agent, tasks) = mailbox();
        to_agent.send(Command::HandedOver).unwrap();
        assert!(matches!(control.ask(Task::LacksLink), Err(Interrupt::HandedOver)));
        let main = std::thread::spawn(move || {
            for task in tasks {
                // The first question's asker has gone.
                if let Task::LacksLink(reply) = task {
                    let _ = reply.send(true);
                }
            }
        });
        assert!(control.ask(Task::LacksLink).unwrap());
        drop(control);
        main.join().unwrap();
    }
}
