//! Which events of commands the server sends to this module. Main thread only.

use valkey_module::logging::log_warning;

use crate::node::{Module, Role};
use crate::server::events::Heard;
use crate::server::{api, propagation, running_client};
use crate::settings::Mode;

/// What a node is told about commands that ran.
struct Listening {
    /// The gate is told about them.
    listens: bool,
    /// What the server leaves out of the stream is put there.
    completes: bool,
    /// That would be so if there were cause.
    may_complete: bool,
}

impl Listening {
    /// What a node of that mode and role is told.
    fn of(module: &Module, mode: Mode, role: &Role) -> Self {
        let leads = *role == Role::Leader;
        let listens = mode == Mode::Sync && leads;
        // In async mode an event for each command would cost more than it is worth before there is cause for it.
        let may_complete = leads && module.gate.is_some() && running_client::has_learned();
        Listening { listens, completes: may_complete && (listens || module.has_cause_to_watch), may_complete }
    }
}

/// Has the server send the events that a node of that mode and role needs: in sync mode, while it leads, those of commands that ran; while
/// it follows, or may, those of commands that failed. Not from within a server event.
///
/// # Errors
/// The server does not take a subscription. It then sends what it sent before.
pub fn subscribe(module: &Module, mode: Mode, role: &Role) -> Result<(), String> {
    let heard = |mode: Mode, role: &Role| {
        let Listening { listens, completes, .. } = Listening::of(module, mode, role);
        let follows = mode != Mode::Off && role.may_follow();
        Heard { commands: listens || completes, failures: follows, flushes: listens }
    };
    module.command_events.hear(&module.ctx, heard(mode, role)).inspect_err(|_| {
        // The server took these before.
        let _ = module.command_events.hear(&module.ctx, heard(module.mode, &module.role));
    })
}

/// From now on the module is told about commands what its mode and role ask for. Not from within a server event.
///
/// # Errors
/// See [`subscribe`].
pub fn listen_to_commands(module: &mut Module) -> Result<(), String> {
    subscribe(module, module.mode, &module.role)?;
    let Listening { listens, completes, may_complete } = Listening::of(module, module.mode, &module.role);
    module.is_listening = listens;
    module.completes_stream = completes;
    propagation::wait_for_cause(may_complete && !completes);
    module.dependencies.forget_watched();
    if listens {
        find_receivers(module);
    }
    if let (true, Some(gate)) = (listens, &mut module.gate) {
        // Everything that was written without the gate's knowledge is dirty until the log has it.
        gate.write_all();
    }
    Ok(())
}

/// From now on events of commands are ignored. The subscriptions stay, so that server events can call this.
pub fn ignore_commands(module: &mut Module) {
    module.is_listening = false;
    module.completes_stream = false;
    propagation::wait_for_cause(false);
}

/// In async mode: a command is about to run of which the server may leave something out of the stream.
pub fn watch_commands(module: &mut Module) {
    module.has_cause_to_watch = true;
    if module.completes_stream {
        return;
    }
    if let Err(why) = listen_to_commands(module) {
        log_warning(format!("durability: what scripts hide from the stream is not in the log: {why}"));
    }
}

/// Clients may have subscribed, or been blocked by a module, while this module was not told about commands.
fn find_receivers(module: &Module) {
    let Some(gate) = &module.gate else { return };
    match api::receivers(&module.ctx) {
        Ok(clients) => {
            for client in clients {
                if client.is_subscriber {
                    gate.connections.receives_messages(client.id);
                }
                if client.is_blocked && module.commands.has_others() {
                    gate.connections.awaits_answer(client.id);
                }
            }
        }
        Err(why) => log_warning(format!(
            "durability: messages to clients that have subscribed before may tell of writes that are not durable: {why}"
        )),
    }
}
