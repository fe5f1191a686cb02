//! Which client runs a command, as the server's struct: the clients of scripts and of modules are in no index.
//!
//! The command filter sees each of them before its command, so it notes them. One alone is not enough where other modules are loaded: they
//! may call commands because of what a command does, before that command's event.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use valkey_module::raw;

use crate::decide::gate::ClientId;
use crate::server::connections::ServerConnections;
use crate::server::structs::{Client, FilterContext};

/// How many clients are known, the last one first. A command whose client is not among them counts as one that is not in the stream, so these
/// are more than commands that modules call one within another.
const KEPT: usize = 16;

/// Whether what the filter is passed is known to be what [`FilterContext`] describes.
static KNOWS_CLIENTS: AtomicBool = AtomicBool::new(false);
/// Whether other modules are loaded, so that more than the last client is kept.
static KEEPS_MANY: AtomicBool = AtomicBool::new(false);
/// The clients whose commands the filter saw last. Used by the thread that holds the server's lock.
static CLIENTS: [Noted; KEPT] =
    [const { Noted { id: AtomicU64::new(0), client: AtomicPtr::new(ptr::null_mut()) } }; KEPT];

/// A client, and its id. No two clients ever have one id, so as long as a client of that id runs, this is it.
struct Noted {
    id: AtomicU64,
    client: AtomicPtr<Client>,
}

impl Noted {
    fn get(&self) -> (ClientId, *mut Client) {
        (self.id.load(Ordering::Relaxed), self.client.load(Ordering::Relaxed))
    }

    fn set(&self, (id, client): (ClientId, *mut Client)) {
        self.id.store(id, Ordering::Relaxed);
        self.client.store(client, Ordering::Relaxed);
    }
}

/// Forgets what an earlier life of the module knew. Main thread.
pub fn forget_all() {
    KNOWS_CLIENTS.store(false, Ordering::Relaxed);
    for noted in &CLIENTS {
        noted.set((0, ptr::null_mut()));
    }
}

/// Other modules are loaded, or none is any more. Main thread.
pub fn keep_many(keeps: bool) {
    KEEPS_MANY.store(keeps, Ordering::Relaxed);
}

/// The self-test's client is about to run a command: one more fact from which the layout of clients is learned.
pub fn learn(connections: &mut ServerConnections, ctx: *mut raw::RedisModuleCommandFilterCtx, id: ClientId) {
    // SAFETY: connections that can be held are those of a verified version, in which a filter is passed this struct; the
    // client is in the server's index, so it lives.
    let context = unsafe { &*ctx.cast::<FilterContext>() };
    if connections.client(id) == Some(context.client)
        && connections.arguments.learn(context.client, context.argv, context.argc)
    {
        KNOWS_CLIENTS.store(true, Ordering::Relaxed);
    }
}

/// Whether [`learn`] has come to an end, so that scripts cannot hide what they write.
pub fn has_learned() -> bool {
    KNOWS_CLIENTS.load(Ordering::Relaxed)
}

/// A client is about to run a command, or to queue it.
#[inline]
pub fn note(ctx: *mut raw::RedisModuleCommandFilterCtx) {
    if KNOWS_CLIENTS.load(Ordering::Relaxed) {
        // SAFETY: the filter is passed this struct, and a client that lives.
        let client = unsafe { (*ctx.cast::<FilterContext>()).client };
        // SAFETY: as above.
        let id = unsafe { (*client).id };
        if KEEPS_MANY.load(Ordering::Relaxed) && CLIENTS[0].id.load(Ordering::Relaxed) != id {
            make_room(&CLIENTS, id);
        }
        CLIENTS[0].set((id, client));
    }
}

/// Moves those before `id`, or all if it is not among them, one further: so the one that has run nothing for longest is lost.
fn make_room(clients: &[Noted], id: ClientId) {
    let found = clients.iter().position(|noted| noted.id.load(Ordering::Relaxed) == id);
    for at in (1..=found.unwrap_or(clients.len() - 1)).rev() {
        clients[at].set(clients[at - 1].get());
    }
}

/// The client whose command's event this is.
pub fn get(connections: &ServerConnections, id: ClientId) -> Option<*mut Client> {
    if !has_learned() {
        return connections.client(id);
    }
    // They are only ever used for a command that passed the filter.
    let noted = CLIENTS.iter().map(Noted::get).find(|noted| noted.0 == id);
    noted.map(|(_, client)| client).or_else(|| connections.client(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(ids: &[ClientId]) -> Vec<ClientId> {
        let clients = [const { Noted { id: AtomicU64::new(0), client: AtomicPtr::new(ptr::null_mut()) } }; 4];
        for id in ids {
            make_room(&clients, *id);
            clients[0].set((*id, ptr::without_provenance_mut(*id as usize)));
        }
        clients.iter().for_each(|noted| assert_eq!(noted.get().0 as usize, noted.get().1.addr()));
        clients.iter().map(|noted| noted.get().0).collect()
    }

    #[test]
    fn a_client_is_known_until_as_many_others_came_as_are_kept() {
        assert_eq!(noted(&[1]), [1, 0, 0, 0]);
        assert_eq!(noted(&[1, 2, 3]), [3, 2, 1, 0]);
        assert_eq!(noted(&[1, 2, 3, 4, 5]), [5, 4, 3, 2]);
    }

    #[test]
    fn two_that_alternate_push_nobody_out() {
        assert_eq!(noted(&[9, 1, 2, 1, 2, 1, 2, 1, 2]), [2, 1, 9, 0]);
        assert_eq!(noted(&[9, 1, 2, 3, 9, 9, 3]), [3, 9, 2, 1]);
    }
}
