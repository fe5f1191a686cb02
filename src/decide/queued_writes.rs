//! Which open transactions hold writes, while the log is so far behind that writes may be refused before EXEC comes.

use std::collections::HashMap;

use crate::decide::gate::ClientId;

/// The transactions that were begun since this is kept. Main thread only.
#[derive(Default)]
pub struct Transactions(HashMap<ClientId, bool>);

impl Transactions {
    /// The client sent MULTI.
    pub fn begin(&mut self, client: ClientId) {
        // A MULTI within a transaction is an error and ends nothing.
        self.0.entry(client).or_insert(false);
    }

    /// The client queued a write.
    pub fn queued_write(&mut self, client: ClientId) {
        if let Some(has_write) = self.0.get_mut(&client) {
            *has_write = true;
        }
    }

    /// The client's transaction ends. Returns whether it can be executed while writes are refused: it is known from its
    /// beginning, and queued none.
    pub fn end(&mut self, client: ClientId) -> bool {
        self.0.remove(&client) == Some(false)
    }

    /// Nothing is kept any more.
    pub fn forget(&mut self) {
        self.0 = HashMap::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_queue_no_write_may_be_executed() {
        let mut transactions = Transactions::default();
        transactions.begin(1);
        transactions.begin(2);
        transactions.queued_write(2);
        transactions.begin(2);
        transactions.queued_write(3);
        assert!(transactions.end(1));
        assert!(!transactions.end(1), "over");
        assert!(!transactions.end(2));
        assert!(!transactions.end(3), "begun before");
    }
}
