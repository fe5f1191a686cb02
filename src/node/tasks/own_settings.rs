//! Looks at what is each node's own and shows to clients when another node leads: users, modules and settings, for the log service to
//! compare. Main thread, outside of any command and of any server event.
//!
//! A look is done in steps of bounded work, one for each report of the lease keeper: a server may have very many users.

use std::cell::RefCell;
use std::time::Instant;

use durability_protocol::{NodeSettings, SettingsDigest};
use valkey_module::Context;

use crate::decide::user_rules;
use crate::node;
use crate::server::api;
use crate::settings::COMPARED;

/// The most users that one step looks at: some tens of microseconds.
const USERS_OF_STEP: usize = 64;

thread_local! {
    static LOOK: RefCell<Option<Look>> = const { RefCell::new(None) };
}

/// A look that is not done yet.
struct Look {
    settings: NodeSettings,
    users: Users,
}

/// The users that are still to be looked at, in reverse order of their names, and those that were. None if the server does not tell them.
type Users = Option<(Vec<Vec<u8>>, SettingsDigest)>;

/// Begins a look, or goes on with it.
pub fn look(ctx: &Context) {
    let Some(shared) = node::with(|module| module.shared.clone()) else { return };
    let Some(log) = shared.known().map(|known| known.log) else {
        // What is told is told about one log. There is none yet.
        return shared.monitoring.looked(None, Instant::now());
    };
    let mut look = LOOK.take().unwrap_or_else(|| Look::begin(ctx, &log));
    if look.go_on(ctx) {
        shared.monitoring.looked(Some(look.end()), Instant::now());
    } else {
        LOOK.set(Some(look));
        shared.monitoring.looked(None, Instant::now());
    }
}

/// Forgets what an earlier life of the module left undone.
pub fn forget() {
    LOOK.set(None);
}

impl Look {
    fn begin(ctx: &Context, log: &str) -> Self {
        let mut settings = NodeSettings::default();
        for (name, value) in api::configs(ctx, &COMPARED) {
            settings.add(&name, &value);
        }
        if let Some(mut modules) = api::modules(ctx) {
            modules.sort_unstable();
            settings.add("modules", &modules.join(" "));
        }
        let users = api::user_names(ctx).map(|mut names| {
            names.sort_unstable_by(|one, other| other.cmp(one));
            (names, SettingsDigest::new(log))
        });
        Look { settings, users }
    }

    /// Looks at some users. Returns whether all are done.
    fn go_on(&mut self, ctx: &Context) -> bool {
        let Some((names, digest)) = &mut self.users else { return true };
        for name in names.drain(names.len().saturating_sub(USERS_OF_STEP)..).rev() {
            // One that was deleted meanwhile has no rules. The next look does not see it.
            if let Some(rules) = api::user_rules(ctx, &name) {
                user_rules::add(digest, &name, &rules);
            }
        }
        names.is_empty()
    }

    fn end(self) -> NodeSettings {
        let Look { mut settings, users } = self;
        if let Some((_, digest)) = users {
            settings.add_digest("acl", digest);
        }
        settings
    }
}
