//! How a node's mode changes while it runs. Main thread only.

use valkey_module::logging::log_warning;

use crate::exchange::mailbox::{Command, Task};
use crate::node::{leading, listening, role_changes, Module, Role};
use crate::server::{api, cluster, support};
use crate::settings::{self, Mode};

/// The mode becomes `mode`.
///
/// # Errors
/// Why it cannot, for the user to read; then nothing has changed.
pub fn change_mode(module: &mut Module, mode: Mode) -> Result<(), String> {
    if mode == module.mode {
        return Ok(());
    }
    let role = role_in(module, mode);
    if let Some(why) = why_it_cannot(module, mode, &role) {
        return Err(why);
    }
    // What can fail comes before anything has changed.
    listening::subscribe(module, mode, &role)?;
    let was_off = module.mode == Mode::Off;
    module.mode = mode;
    match role {
        Role::Off => {
            log_warning("durability: mode is off: writes are not sent to the log any more and a failure loses them");
            // A node that refuses its clients may follow its log still.
            module.shared.send(Task::StopFollowing);
            role_changes::leave(module, role);
            listening::listen_to_commands(module)?;
        }
        Role::Replica if was_off => {
            role_changes::serve_nobody(module, role)?;
            module.tell_agent(Command::Replica(true));
        }
        Role::Attaching if was_off => {
            role_changes::serve_nobody(module, role)?;
            module.pause_reads();
        }
        Role::Leader if module.role != Role::Leader => {
            if let Some(epoch) = module.epoch {
                leading::lead(module, epoch)?;
            }
        }
        _ => listening::listen_to_commands(module)?,
    }
    module.tell_agent(Command::Mode(mode));
    Ok(())
}

/// Why the mode cannot become `mode`, in which the node would have that role.
fn why_it_cannot(module: &Module, mode: Mode, role: &Role) -> Option<String> {
    let no_log = || (mode != Mode::Off).then(|| support::why_the_log_is_impossible(&module.ctx)).flatten();
    let no_sync = || (mode == Mode::Sync).then(|| why_sync_does_not_work(module)).flatten();
    let no_lead = || (*role == Role::Leader).then(|| leading::why_it_may_not_lead(module, mode)).flatten();
    let no_switch = || {
        let is_switched = (mode == Mode::Off) != (module.mode == Mode::Off);
        (is_switched && cluster::is_enabled()).then(|| {
            "in cluster mode a running node neither leaves its log nor goes to it: set durability.mode in valkey.conf and restart".to_owned()
        })
    };
    no_switch().or_else(no_log).or_else(no_sync).or_else(no_lead)
}

fn why_sync_does_not_work(module: &Module) -> Option<String> {
    support::why_sync_is_impossible().or_else(|| match &module.self_test {
        Some(Ok(())) => None,
        Some(Err(why)) => Some(format!("sync mode does not work in this server: {why}")),
        // The agent runs the self-test before this node serves anything, as it does at a start.
        None if module.role != Role::Leader => None,
        None => Some("sync mode is still being tested in this server; try again in a second".to_owned()),
    })
}

/// What this node becomes at once if its mode becomes `mode`.
fn role_in(module: &Module, mode: Mode) -> Role {
    let was_off = module.mode == Mode::Off;
    match mode {
        Mode::Off => Role::Off,
        _ if was_off && api::is_replica(&module.ctx) && settings::ALLOW_REPLICAOF.is_on() => Role::Replica,
        _ if was_off => Role::Attaching,
        // Only sync mode was in the way.
        Mode::Async if matches!(module.role, Role::Refused(_)) && module.epoch.is_some() => Role::Leader,
        _ => module.role.clone(),
    }
}
