//! What the module does when the server calls it (`server/events/`). Each function passes the call on.

use std::sync::atomic::{AtomicBool, Ordering};

use valkey_module::logging::log_warning;
use valkey_module::{Context, RedisModuleCommandFilterCtx};

use crate::decide::dirty_keys::Database;
use crate::decide::gate::ClientId;
use crate::exchange::mailbox::Task;
use crate::exchange::waker::Waker;
use crate::node::{
    self, command_filter, event_loop, hand_over, login_check, ran_commands, role_changes, slot_moves, stream_errors,
    tasks, Module,
};
use crate::server::command_result::CommandResult;
use crate::server::command_table::CommandTable;
use crate::server::events::Hooks;
use crate::server::{api, cluster};

/// Tasks came while the server could not run them.
static TASKS_WAIT: AtomicBool = AtomicBool::new(false);

/// Forgets what an earlier life of the module left undone. Main thread.
pub fn forget_all() {
    TASKS_WAIT.store(false, Ordering::Relaxed);
}

/// The module's hooks.
pub struct ModuleHooks;

impl Hooks for ModuleHooks {
    fn command_ran(ctx: &Context, result: &CommandResult, has_failed: bool) {
        ran_commands::ran(ctx, result, has_failed);
    }

    fn command_is_not_understood(client: ClientId) {
        // What the reply depends on is not known, so it must not leave.
        node::with(|module| {
            if let Some(gate) = &mut module.gate {
                gate.close(client);
            }
        });
    }

    fn command_failed_while_following(result: &CommandResult) {
        node::with(|module| stream_errors::failed_while_following(module, result));
    }

    fn flushed() {
        node::must(|module| {
            if let (true, Some(gate)) = (module.is_listening, &mut module.gate) {
                // The command's own event follows, and waits for everything.
                gate.write_all();
            }
        });
    }

    fn evicted(key: &[u8]) {
        node::must(|module| {
            if let (true, Some(gate)) = (module.is_listening, &mut module.gate) {
                // Dirty like one that was deleted.
                let hash = gate.hash(key);
                gate.write_key(hash, Database::ANY);
            }
        });
    }

    fn consumer_created(stream: &[u8]) {
        node::must(|module| {
            if module.completes_stream {
                module.created_consumers.push(stream.to_vec());
            }
        });
    }

    fn woke() {
        node::must(event_loop::woke);
    }

    fn before_sleep() {
        node::must(|module| {
            ran_commands::take_in_missed(module);
            event_loop::before_sleep(module);
            if TASKS_WAIT.swap(false, Ordering::Relaxed) {
                module.shared.main_waker.wake();
            }
        });
    }

    fn client_connected(client: ClientId) {
        node::must(|module| {
            module.newest_client = module.newest_client.max(client);
            if let Some(gate) = &module.gate {
                gate.connections.connected(client);
            }
        });
    }

    fn client_disconnected(client: ClientId) {
        command_filter::disconnected(client);
        node::must(|module| {
            module.slot_moves.disconnected(client);
            module.dependencies.disconnected(client);
            if let Some(gate) = &mut module.gate {
                gate.disconnected(client);
            }
        });
    }

    fn role_changed(is_replica: bool) {
        if !tasks::is_changing_role() {
            node::must(|module| role_changes::server_role_changed(module, is_replica));
        }
    }

    fn loading_failed() {
        node::with(stream_errors::copy_failed);
    }

    fn loading_goes_on() {
        node::must(event_loop::end_read_pause_in_time);
    }

    fn modules_changed(ctx: &Context, leaving: Option<&str>) {
        // Not within `with`: the call makes the server call back.
        match CommandTable::of_server(ctx, leaving) {
            Ok(commands) => {
                node::must(|module| {
                    module.learn_commands(commands);
                    module.shared.send(Task::WatchModules);
                });
            }
            Err(why) => log_warning(format!("durability: commands of other modules are not known: {why}")),
        }
    }

    fn configs_changed() {
        // What this module changes itself, while it is in use, is not compared.
        node::with(|module| module.shared.monitoring.settings_changed());
    }

    fn shuts_down() {
        // The server saves nodes.conf next.
        cluster::loading::ends();
        node::must(Module::stop_agent);
    }

    fn asked_to_hand_over(name: &str) {
        node::with(|module| hand_over::asked_by_node(module, name));
    }

    fn heard_shard(node: &str, shard: &str, asks: bool) {
        node::with(|module| slot_moves::heard_shard(module, node, shard, asks));
    }

    fn agent_rang() {
        if node::is_in_use() {
            // Another module yields within a call of this one's. The descriptor stays readable, so the server calls again.
            return;
        }
        let Some(is_busy) = node::must(|module| {
            Waker::clear(&module.shared.main_waker);
            api::is_within_command(&module.ctx)
        }) else {
            return;
        };
        if is_busy {
            TASKS_WAIT.store(true, Ordering::Relaxed);
        } else {
            tasks::run();
        }
    }

    fn filter(ctx: *mut RedisModuleCommandFilterCtx) {
        command_filter::filter(ctx);
    }

    fn log_in(ctx: &Context, user: &[u8], password: &[u8]) -> bool {
        node::with(|module| login_check::log_in(module, ctx, user, password)) == Some(true)
    }
}
