//! What a leader is in its cluster, and what of that its log has stored. Main thread only.
//!
//! A leader claims slots only after its log has stored them with the config epoch under which it claims them. The cluster's bus may raise
//! that epoch by itself, where another shard's primary has the same; then the new one is stored at once. Until it is, a node that took over
//! would still choose a greater one, by the margin of `server/cluster/membership.rs`.
//!
//! What the log has stored is what the next leader claims, from whoever has it then. So whenever it may be another thing than what this leader
//! serves, the leader has it store that: after a change of which it is not known whether it was stored, and when the bus has given slots to
//! others by a greater config epoch. The server has deleted their keys by then, here and in the log.

use std::cell::Cell;
use std::time::{Duration, Instant};

use durability_protocol::SlotRanges;
use valkey_module::logging::{log_notice, log_warning};
use valkey_module::{BlockedClient, Context, ContextFlags, ThreadSafeContext, ValkeyError, ValkeyValue};

use crate::decide::cluster_claim::Claim;
use crate::node::{self, Module, Role};
use crate::server::cluster::membership::Membership;
use crate::server::{api, cluster};

/// The least time after a claim that the log did not store, before the next one.
const RETRY_WAIT: Duration = Duration::from_millis(200);

/// What is known of this node's claims.
#[derive(Default)]
pub struct Claims {
    /// The config epoch that is stored, and how many slots.
    stored: Option<(u64, u32)>,
    /// What the log is to store, or is storing. A later claim takes the place of one that is not sent yet.
    storing: Option<Claim>,
    /// When the log did not store one last.
    failed: Option<Instant>,
    /// Whether the log may have stored another thing than `stored`.
    is_unsure: bool,
    /// Whether this node served slots as a primary when it was last decided what it refuses as a follower.
    served_slots: Cell<bool>,
    /// Slots that wait for the log to store them.
    adding: Option<Adding>,
}

impl Claims {
    /// This node is what that claim says, and its log has stored it.
    pub fn took(&mut self, claim: &Claim) {
        self.stored = Some((claim.config_epoch, u32::from(claim.slots.count())));
        self.failed = None;
        self.is_unsure = false;
    }

    /// Whether the log knows which slots this leader's shard has.
    pub fn knows_slots(&self) -> bool {
        self.stored.is_some_and(|(config_epoch, _)| config_epoch > 0)
    }

    /// Whether the log has answered all that it was told of this leader's slots. What it has not may still arrive, and say that the shard does
    /// not have what it gets next.
    pub fn are_told(&self) -> bool {
        self.storing.is_none() && self.adding.is_none() && !self.is_unsure
    }

    /// The log has moved slots to another shard, and the server knows it.
    pub fn gave_away(&mut self) {
        if let (Some(stored), Some(membership)) = (&mut self.stored, Membership::get()) {
            stored.1 = membership.standing().1;
        }
    }

    /// The log has moved slots to this shard, and the server knows it.
    pub fn took_more(&mut self, config_epoch: u64) {
        if let Some(membership) = Membership::get() {
            self.stored = Some((config_epoch, membership.standing().1));
        }
    }

    /// This node leads no more, so nobody adds slots to it. Returns who was about to.
    pub fn end(&mut self) -> Option<BlockedClient> {
        self.storing = None;
        self.adding.take().map(|adding| adding.client)
    }
}

/// Whether this node serves slots as a primary, to its cluster; not so outside of cluster mode.
pub fn serves_slots() -> bool {
    cluster::is_enabled()
        && Membership::get().is_some_and(|membership| membership.is_primary() && membership.standing().1 > 0)
}

/// As [`serves_slots`], for who decides by it what a follower refuses: it is decided anew when that changes.
pub fn decide_by_slots(claims: &Claims) -> bool {
    let serves_slots = serves_slots();
    claims.served_slots.set(serves_slots);
    serves_slots
}

/// A node that follows its log may serve reads only as a replica. As a primary without slots it serves nothing, and sends clients on.
pub fn look_for_change(module: &mut Module) {
    if module.role == Role::Follower && module.claims.served_slots.get() != serves_slots() {
        module.update_filter();
    }
}

/// Has the log store what the bus has made of this leader.
#[inline]
pub fn store_if_changed(module: &mut Module) {
    if !cluster::is_enabled() || module.role != Role::Leader {
        return;
    }
    let Some((membership, stored)) = Membership::get().zip(module.claims.stored) else { return };
    let (config_epoch, slot_count) = membership.standing();
    if module.slot_moves.may_lose_slots() || module.slot_moves.is_settling() {
        // The log knows more of them than the server. What it is told meanwhile would contradict it.
        return;
    }
    let may_try =
        module.claims.storing.is_none() && module.claims.failed.is_none_or(|failed| failed.elapsed() >= RETRY_WAIT);
    let is_other = config_epoch > stored.0 || slot_count != stored.1 || module.claims.is_unsure;
    if !is_other || !may_try {
        return;
    }
    if slot_count < stored.1 && !module.claims.is_unsure {
        log_warning(format!(
            "durability: the cluster has given {} of this shard's slots to others, by a greater config epoch: two leaders have added the \
             same ones, or a node without this module, or of another cluster, has claimed them. What was in them is gone here",
            stored.1 - slot_count
        ));
    }
    store_standing(module, &membership);
}

/// Has the log store what this leader serves.
fn store_standing(module: &mut Module, membership: &Membership) {
    let stored = module.claims.stored.map_or(0, |stored| stored.0);
    let config_epoch = membership.standing().0.max(stored);
    store(module, Claim { config_epoch, slots: membership.slots(), node_id: membership.id() });
}

fn store(module: &mut Module, claim: Claim) {
    let Some(epoch) = module.epoch else { return };
    module.claims.storing = Some(claim.clone());
    module.keeper.store_claim(epoch, claim);
}

/// Slots that a client adds to this leader.
struct Adding {
    slots: Vec<u16>,
    claim: Claim,
    client: BlockedClient,
}

/// Begins to add slots, which have no owner. The client is answered when the log has stored them and the server has taken them.
///
/// # Errors
/// Why they cannot be added now, for the user to read.
pub fn begin_to_add(module: &mut Module, ctx: &Context, slots: Vec<u16>) -> Result<(), String> {
    // The server ends itself if such a client is made to wait, or does not let it.
    let flags = ctx.get_flags();
    let cannot_wait = ContextFlags::DENY_BLOCKING | ContextFlags::MULTI | ContextFlags::LUA;
    if flags.intersects(cannot_wait) || api::client_flags(ctx.get_client_id()).is_subscriber {
        return Err("slots are added by a client that can wait: not in a transaction, a script or a module, and not by a subscriber".to_owned());
    }
    let membership = Membership::get().filter(|_| module.role == Role::Leader);
    let membership = membership.ok_or("this node does not lead its shard")?;
    if !membership.are_free(&slots) {
        return Err("some of these slots have an owner".to_owned());
    }
    if module.slot_moves.may_lose_slots() || module.slot_moves.is_settling() {
        return Err("slots are moving: try again".to_owned());
    }
    if module.claims.adding.is_some() {
        return Err("the log is storing slots that another client adds: try again".to_owned());
    }
    let own = membership.slots();
    let claim = Claim {
        config_epoch: membership.standing().0.max(module.claims.stored.map_or(0, |stored| stored.0)),
        slots: SlotRanges::of(own.slots().chain(slots.iter().copied())),
        node_id: membership.id(),
    };
    store(module, claim.clone());
    module.claims.adding = Some(Adding { slots, claim, client: ctx.block_client() });
    Ok(())
}

/// The log has stored that claim, or has not, for that reason.
pub fn stored(ctx: &Context, claim: &Claim, stored: Result<(), String>) {
    let adding = node::with(|module| {
        module.claims.storing.take_if(|storing| *storing == *claim);
        let claims = &mut module.claims;
        match &stored {
            Ok(()) => {
                claims.stored = Some((claim.config_epoch, u32::from(claim.slots.count())));
                if std::mem::take(&mut claims.is_unsure) {
                    log_notice("durability: the log has stored what this node serves in its cluster");
                }
            }
            Err(why) => {
                claims.failed = Some(Instant::now());
                // It may have arrived all the same.
                if !std::mem::replace(&mut claims.is_unsure, true) {
                    log_warning(format!(
                        "durability: whether the log has stored config epoch {} and its slots is not known: {why}; having it store what this \
                         node serves",
                        claim.config_epoch
                    ));
                }
            }
        }
        claims.adding.take_if(|adding| adding.claim == *claim)
    });
    let Some(Adding { slots, client, .. }) = adding.flatten() else { return };
    let added = stored.and_then(|()| add(ctx, &slots));
    let reply = match added {
        Ok(()) => Ok(ValkeyValue::SimpleStringStatic("OK")),
        Err(why) => Err(ValkeyError::String(format!("ERR durability: the slots are not added: {why}"))),
    };
    ThreadSafeContext::with_blocked_client(client).reply(reply);
}

/// Answers who was about to add slots when this node ceased to lead.
pub fn answer_in_vain(client: BlockedClient) {
    let text =
        "ERR durability: this node leads no more: look which slots the shard has when a node leads, and add them again";
    ThreadSafeContext::with_blocked_client(client).reply(Err(ValkeyError::Str(text)));
}

/// Has the server take slots that its log has stored.
fn add(ctx: &Context, slots: &[u16]) -> Result<(), String> {
    // Not within `with`: the server calls back.
    if node::with(|module| module.role == Role::Leader) != Some(true) {
        return Err(
            "this node does not lead now: look which slots the shard has when a node leads, and add them again"
                .to_owned(),
        );
    }
    let slots: Vec<String> = slots.iter().map(u16::to_string).collect();
    let arguments: Vec<&str> = std::iter::once("ADDSLOTS").chain(slots.iter().map(String::as_str)).collect();
    let added = api::call(ctx, "CLUSTER", &arguments).map(drop);
    if added.is_err() {
        // Others have got them meanwhile: the log is to say what this node has, which it is told until it does.
        node::with(|module| module.claims.is_unsure = true);
    }
    added
}
