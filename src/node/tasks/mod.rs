//! What the agent asks of the main thread, carried out.
//!
//! The module is not borrowed while a command of the server runs: the command makes the server call back.
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | takes tasks from the mailbox, one after the other |
//! | `serving.rs` | what the node becomes: leader, follower, or nothing |
//! | `following.rs` | makes the server a replica of its log, or a primary again |
//! | `stream.rs` | the server's replication stream |
//! | `own_connections.rs` | connections of the module's own: the tap and the self-test |
//! | `own_settings.rs` | users and settings, which are compared with those of the other nodes |
//! | `description.rs` | what the server says about itself |

mod description;
mod following;
mod own_connections;
mod own_settings;
mod serving;
mod stream;

use std::cell::RefCell;

use crossbeam_channel::{Receiver, Sender};
use valkey_module::Context;

use crate::exchange::mailbox::Task;
use crate::node::role_changes::{epoch_ended, serve_reads};
use crate::node::{self, audit_reads, claims, leading, slot_moves, stream_errors, Role};
use crate::server::{api, data_types};

pub use crate::node::tasks::description::has_data;
pub use crate::node::tasks::following::is_changing_role;
pub use crate::node::tasks::own_settings::forget as forget_settings;

thread_local! {
    static TASKS: RefCell<Option<Receiver<Task>>> = const { RefCell::new(None) };
}

/// Tasks come from `tasks` from now on. Main thread.
pub fn receive_from(tasks: Receiver<Task>) {
    TASKS.set(Some(tasks));
}

/// Runs the tasks that wait. Main thread, outside of any command and of any server event.
pub fn run() {
    let Some(ctx) = node::with(|module| Context::new(module.ctx.ctx)) else { return };
    while let Some(task) = TASKS.with_borrow(|tasks| tasks.as_ref().and_then(|tasks| tasks.try_recv().ok())) {
        carry_out(&ctx, task);
    }
}

/// The agent may have stopped waiting.
fn answer<T>(reply: Sender<T>, value: T) {
    let _ = reply.send(value);
}

/// Hands a task to the file that it is about.
fn carry_out(ctx: &Context, task: Task) {
    match task {
        // What the node becomes.
        Task::Lead { epoch, stage } => serving::lead(ctx, epoch, stage),
        Task::ServeReads { stage } => {
            if serving::is_attaching_in(stage) && api::is_replica(ctx) {
                node::with(serve_reads);
            }
        }
        Task::Resume(epoch) => {
            serving::change_role("leading again", |module| leading::resume(module, epoch));
            slot_moves::drop_foreign_keys();
        }
        Task::CloseClients => serving::stop_answering(ctx),
        Task::CloseWaiting => serving::close_waiting(ctx),
        Task::PauseWrites(reply) => {
            let paused = slot_moves::may_hand_over(ctx).then(|| node::with(leading::pause_writes).flatten());
            if let Some(offset) = paused.flatten() {
                answer(reply, offset);
            }
        }
        Task::GoOn => {
            serving::change(leading::resume_writes);
            slot_moves::drop_foreign_keys();
        }
        Task::StepDown { end, is_decided, reply } => {
            if let Some(has_stepped_down) = serving::hand_over(ctx, end, &is_decided) {
                answer(reply, has_stepped_down);
            }
        }
        Task::Hold(why) => serving::hold(ctx, &why),
        Task::Refuse(why) => serving::refuse(ctx, why),
        Task::StartOver(why) => serving::attach_again("starting over", |role| *role == Role::Refused(why)),
        Task::AttachAnew => serving::attach_again("attaching", |role| matches!(role, Role::Refused(_))),
        Task::ShippingEnded => serving::change(epoch_ended),

        // The server as a replica of its log.
        Task::Follow { at, user, password, knows_slots, reply } => {
            answer(reply, following::follow(ctx, &at, &user, &password, knows_slots));
        }
        Task::FollowAgain => following::follow_again(ctx),
        Task::FollowAt(at, reply) => answer(reply, following::follow_at(ctx, &at)),
        Task::Promote(claim, reply) => answer(reply, following::promote(ctx, claim.as_ref())),
        Task::PlanClaim(stored, reply) => answer(reply, following::plan_claim(&stored)),
        Task::TakeClaim(claim, reply) => answer(reply, following::take(&claim)),
        Task::ClaimStored(claim, stored) => claims::stored(ctx, &claim, stored),
        Task::SlotStepAnswered(step, answer) => slot_moves::answered(ctx, &step, answer),
        Task::MoveSlots => slot_moves::run(ctx),
        Task::AskForTargets => slot_moves::ask_for_targets(ctx),
        Task::EndSlotMoves => slot_moves::end_in_server(ctx),
        Task::AwaitsRedirect(reply) => {
            answer(reply, node::with(|module| module.read_pauses.awaits_redirect()) == Some(true))
        }
        Task::BelongTo(leader, reply) => answer(reply, following::belong_to(&leader)),
        Task::StopFollowing => following::stop_following(ctx),
        Task::StandAside => following::stand_aside(ctx),
        Task::RestoreSettings => following::restore_settings(ctx),
        Task::Progress(reply) => answer(reply, following::progress(ctx)),
        Task::StandsAt(reply) => answer(reply, stream::position(ctx)),
        Task::PassOver(passed_over) => {
            node::with(|module| stream_errors::pass_over(module, passed_over));
        }
        Task::LacksLink(reply) => answer(reply, following::lacks_link(ctx)),
        Task::FollowsWhole(user, reply) => answer(reply, following::follows_whole(ctx, &user)),
        Task::Held(reply) => answer(reply, following::held(ctx)),

        // The server's stream.
        Task::StartStream(offset, reply) => answer(reply, stream::start(ctx, offset)),
        Task::Advance(end, reply) => answer(reply, stream::advance(ctx, end)),
        Task::MarkStream(reply) => answer(reply, stream::mark(ctx)),
        Task::WatchModules => stream::watch_modules(ctx),
        Task::FoundUnfit(command) => {
            node::with(|module| module.found_unfit(&command));
        }

        // The module's own connections.
        Task::TakeConnection(socket, secrets, reply) => answer(reply, own_connections::take(socket, secrets)),
        Task::ExpectLogins(origin, secrets, reply) => {
            own_connections::expect_logins(origin, secrets);
            answer(reply, ());
        }
        Task::Divert(pipe, reply) => answer(reply, own_connections::divert(pipe)),
        Task::SelfTestPending(reply) => answer(reply, own_connections::pending_bytes()),
        Task::SelfTestRelease(reply) => {
            own_connections::release();
            answer(reply, ());
        }
        Task::LearnDatabase(number, reply) => answer(reply, own_connections::learn_database(number)),
        Task::OneDatabase => own_connections::there_is_one_database(),
        Task::SelfTestDone(result) => own_connections::self_test_done(result),

        // What the server says.
        Task::Describe(reply) => answer(reply, description::describe(ctx)),
        Task::UnknownTypes(names, reply) => answer(reply, data_types::unknown(names)),
        Task::LookForShutdown => description::look_for_shutdown(ctx),
        Task::LookAtHeldBytes => {
            let limits = api::config(ctx, "client-output-buffer-limit");
            node::with(|module| module.limits.close_those_with_most(module.gate.as_mut(), &limits));
        }
        Task::LookAtSettings => own_settings::look(ctx),
        Task::ReadKeys(mut step, reply) => {
            audit_reads::run(ctx, &mut step);
            answer(reply, step);
        }
    }
}
