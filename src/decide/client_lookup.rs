//! Finds the server's clients by id, and remembers the last one. Main thread only. Knows no server, so that what must hold of it can be
//! tested without one.

use std::cell::Cell;

use crate::decide::gate::ClientId;

/// Answers a client's address only while the server has that client: never once its disconnection was reported.
#[derive(Debug)]
pub struct ClientLookup<C> {
    /// The client that was looked up last.
    recent: Cell<Option<(ClientId, *mut C)>>,
    /// A client whose disconnection was reported since the event loop last went round. The server may be in the middle of freeing it, and has
    /// it in its index until it is done.
    leaving: Cell<Option<ClientId>>,
}

impl<C> ClientLookup<C> {
    /// Nothing was looked up.
    pub fn new() -> Self {
        ClientLookup { recent: Cell::new(None), leaving: Cell::new(None) }
    }

    /// The client with that id: the client that was found last, or what `look_up` finds. What is found while another client is being freed is
    /// not remembered: its own end may come before that one's is done.
    #[inline]
    pub fn find(&self, id: ClientId, look_up: impl FnOnce() -> Option<*mut C>) -> Option<*mut C> {
        match (self.recent.get(), self.leaving.get()) {
            (Some((recent, client)), _) if recent == id => Some(client),
            (_, None) => {
                let client = look_up()?;
                self.recent.set(Some((id, client)));
                Some(client)
            }
            (_, Some(leaving)) if leaving == id => None,
            (_, Some(_)) => look_up(),
        }
    }

    /// The server is about to free the client: from now on it is not found.
    pub fn leaves(&self, id: ClientId) {
        self.recent.set(None);
        self.leaving.set(Some(id));
    }

    /// The event loop goes round, so no client is being freed. The server may give the id of one that left to its primary's link again.
    #[inline]
    pub fn round_is_over(&self) {
        self.leaving.set(None);
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    #[test]
    fn a_client_that_leaves_is_not_found_although_the_server_still_has_it() {
        let (mut one, mut other) = (1, 2);
        let (one, other) = (ptr::from_mut(&mut one), ptr::from_mut(&mut other));
        let lookup = ClientLookup::new();
        assert_eq!(lookup.find(1, || Some(one)), Some(one));
        assert_eq!(lookup.find(1, || unreachable!("it is remembered")), Some(one));
        lookup.leaves(1);
        assert_eq!(lookup.find(1, || Some(one)), None);
        assert_eq!(lookup.find(2, || Some(other)), Some(other));
        assert_eq!(lookup.find(1, || Some(one)), None, "also after another one");
        lookup.round_is_over();
        assert_eq!(lookup.find(1, || None), None);
    }

    #[test]
    fn what_is_found_while_a_client_leaves_is_looked_up_again() {
        let mut client = 2;
        let client = ptr::from_mut(&mut client);
        let lookup = ClientLookup::new();
        lookup.leaves(1);
        assert_eq!(lookup.find(2, || Some(client)), Some(client));
        lookup.leaves(3);
        assert_eq!(lookup.find(2, || None), None, "it was freed meanwhile");
        lookup.round_is_over();
        assert_eq!(lookup.find(2, || Some(client)), Some(client));
        assert_eq!(lookup.find(2, || unreachable!("it is remembered")), Some(client));
    }
}
