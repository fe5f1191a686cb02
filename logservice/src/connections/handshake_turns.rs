//! Turns at handshakes, the costly work that strangers can cause: one at a time, and networks alternate however many each asks for.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

use super::network::Network;

/// The handshake that runs, and those that wait.
#[derive(Debug, Default)]
pub struct HandshakeTurns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_taken: bool,
    /// The networks that wait, in the order of their turns.
    order: VecDeque<Network>,
    /// The waiting handshakes of each network, in the order in which they came.
    waiting: HashMap<Network, VecDeque<oneshot::Sender<Turn>>>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn(Option<Arc<HandshakeTurns>>);

impl HandshakeTurns {
    /// Waits for a turn. Cancel-safe, also before the turn is used.
    pub async fn take(self: &Arc<Self>, network: Network) -> Turn {
        let turn = {
            let mut state = self.lock();
            if !std::mem::replace(&mut state.is_taken, true) {
                return Turn(Some(self.clone()));
            }
            state.wait(network)
        };
        // The turn is passed on to everyone who waits.
        turn.await.unwrap_or(Turn(None))
    }

    fn pass(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.lock();
                let next = state.next();
                state.is_taken = next.is_some();
                next
            };
            let Some(next) = next else { return };
            match next.send(Turn(Some(self.clone()))) {
                Ok(()) => return,
                // That handshake was dropped.
                Err(mut turn) => drop(turn.0.take()),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn wait(&mut self, network: Network) -> oneshot::Receiver<Turn> {
        let (sender, turn) = oneshot::channel();
        let waiting = self.waiting.entry(network).or_default();
        if waiting.is_empty() {
            self.order.push_back(network);
        }
        waiting.push_back(sender);
        turn
    }

    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let network = self.order.pop_front()?;
        let waiting = self.waiting.get_mut(&network)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&network);
        } else {
            self.order.push_back(network);
        }
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Waiting = Pin<Box<dyn Future<Output = Turn>>>;

    fn network(number: u8) -> Network {
        Network::of([10, 0, 0, number].into())
    }

    fn begin(turns: &Arc<HandshakeTurns>, of: u8) -> Waiting {
        let turns = turns.clone();
        let mut waiting: Waiting = Box::pin(async move { turns.take(network(of)).await });
        assert!(poll(&mut waiting).is_pending());
        waiting
    }

    fn poll(waiting: &mut Waiting) -> Poll<Turn> {
        waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn a_network_with_many_handshakes_delays_no_other() {
        let turns = Arc::new(HandshakeTurns::default());
        let mut turn = turns.take(network(1)).await;
        let mut waiting: Vec<_> = [1, 1, 1, 2, 3, 2].map(|of| (of, begin(&turns, of))).into();
        let mut had = Vec::new();
        while !waiting.is_empty() {
            drop(turn);
            let mut ready = waiting.iter_mut().enumerate().filter_map(|(at, (_, one))| match poll(one) {
                Poll::Ready(turn) => Some((at, turn)),
                Poll::Pending => None,
            });
            let (at, next) = ready.next().expect("somebody has the turn");
            assert!(ready.next().is_none(), "only one");
            drop(ready);
            turn = next;
            had.push(waiting.remove(at).0);
        }
        assert_eq!(had, [1, 2, 3, 1, 2, 1]);
        drop(turn);
        assert!(turns.lock().waiting.is_empty());
        drop(turns.take(network(1)).await);
    }

    #[tokio::test]
    async fn a_dropped_wait_or_turn_blocks_nobody() {
        let turns = Arc::new(HandshakeTurns::default());
        let turn = turns.take(network(1)).await;
        let (gone, unused, mut last) = (begin(&turns, 1), begin(&turns, 2), begin(&turns, 3));
        drop(gone);
        drop(turn);
        drop(unused);
        assert!(poll(&mut last).is_ready());
        drop(turns.take(network(1)).await);
    }
}
