//! The reference object of the search for an order: a keyspace that refuses steps that cannot help.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use redis::Value;
use stateright::semantics::SequentialSpec;

use crate::keyspace::Keyspace;
use crate::operation::{Key, Operation};

/// The most operations that a history may have, as they are numbered by the bits of a [`Places`].
pub const MAX_OPERATIONS: usize = Places::BITS as usize;

/// A set of operations, by number.
type Places = u128;

fn place(number: usize) -> Places {
    1 << number
}

/// An operation of a history.
#[derive(Debug)]
pub struct Numbered {
    number: usize,
    operation: Operation,
    /// Keys that its answer (if there is one) or what it writes depend on.
    reads: Vec<Key>,
    writes: Vec<Key>,
}

impl Numbered {
    /// Each operation of a history has a number of its own, less than [`MAX_OPERATIONS`].
    pub fn new(number: usize, operation: Operation, is_answered: bool) -> Self {
        let (reads, writes) = (operation.reads(is_answered), operation.writes());
        Numbered { number, operation, reads, writes }
    }
}

/// An operation that was never answered, is placed, and so far has been for nothing: nobody has read what it wrote.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Unread {
    number: usize,
    reads: Vec<Key>,
    /// What it wrote and nobody has overwritten.
    live: Vec<Key>,
    /// Whether it could not have come later just as well.
    is_in_place: bool,
}

impl Unread {
    fn new(operation: &Numbered) -> Self {
        let Numbered { number, reads, writes, .. } = operation;
        Unread { number: *number, reads: reads.clone(), live: writes.clone(), is_in_place: false }
    }

    /// `next` comes after it.
    fn is_read_by(&self, next: &Numbered) -> bool {
        self.live.iter().any(|key| next.reads.contains(key))
    }

    /// `next`, which does not read it, comes after it.
    fn is_followed_by(&mut self, next: &Numbered) {
        self.is_in_place |= self.live.iter().chain(&self.reads).any(|key| next.writes.contains(key));
        self.live.retain(|key| !next.writes.contains(key));
    }
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// This.
    Was(Rc<Value>),
    /// Nothing: any answer fits.
    Any,
}

/// How far an order has got: what is placed, what of that is unread, how many of the last ones in a row were never answered, and
/// what the keys hold.
type Point = (Places, Vec<Unread>, usize, Keyspace);

/// What a search tries.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// It is given up after so many steps.
    pub steps: u64,
    /// The most operations in a row that were never answered.
    pub row: usize,
}

impl Limits {
    /// Any number in a row.
    pub const NO_ROW: usize = usize::MAX;
}

/// What the search has seen.
#[derive(Debug)]
pub struct Search {
    seen: HashSet<Point>,
    left_by_read: HashSet<Point>,
    steps_left: u64,
    longest_row: usize,
    /// Orders were left out because of the limit on rows.
    is_limited: bool,
    /// The most operations that were ever placed.
    furthest: Places,
}

impl Search {
    /// One that has tried nothing yet.
    pub fn new(limits: Limits) -> Self {
        Search {
            seen: HashSet::new(),
            left_by_read: HashSet::new(),
            steps_left: limits.steps,
            longest_row: limits.row,
            is_limited: false,
            furthest: 0,
        }
    }

    fn is_given_up(&self) -> bool {
        self.steps_left == 0
    }

    /// Whether all orders were tried.
    pub fn is_exhausted(&self) -> bool {
        !self.is_given_up() && !self.is_limited
    }

    /// Whether the order that explains most answers has the operation of that number.
    pub fn explained(&self, number: usize) -> bool {
        self.furthest & place(number) != 0
    }
}

/// A keyspace that knows which operations have been carried out on it. It refuses these steps:
///
/// - To where the search has been before. What is left to try follows from the [`Point`], so it would fail there again.
/// - Any other step from where a read was placed. A read that fits changes nothing, so if there is a way on without it, there
///   is one on which it comes first.
/// - Any that shows that an operation that was never answered could as well come later: an answered one that comes between
///   it and whoever reads it, and could come before it just as well; or one that overwrites all that it wrote, unread. So of
///   all ways on there is one on which such operations come as late as they can, and those that explain nothing at the end.
#[derive(Debug, Clone)]
pub struct Reference {
    keyspace: Keyspace,
    placed: Places,
    unread: Vec<Unread>,
    /// How many operations that were never answered were placed since the last one that was.
    row: usize,
    /// All operations that were answered.
    answered: Places,
    search: Rc<RefCell<Search>>,
}

impl Reference {
    /// Empty. `answered` are the numbers of the operations that were answered.
    pub fn new(answered: impl Iterator<Item = usize>, search: Rc<RefCell<Search>>) -> Self {
        let answered = answered.fold(0, |places, number| places | place(number));
        Reference { keyspace: Keyspace::default(), placed: 0, unread: Vec::new(), row: 0, answered, search }
    }

    fn point(&self) -> Point {
        (self.placed, self.unread.clone(), self.row, self.keyspace.clone())
    }

    /// Returns whether everything that was never answered is as late as it can be, with `next` after it.
    fn follow_unread(&mut self, next: &Numbered, is_answered: bool) -> bool {
        self.unread.retain(|unread| !unread.is_read_by(next));
        self.unread.iter_mut().for_each(|unread| unread.is_followed_by(next));
        let is_late = |unread: &Unread| !unread.live.is_empty() && (unread.is_in_place || !is_answered);
        self.unread.iter().all(is_late)
    }

    fn is_explained(&self) -> bool {
        self.placed & self.answered == self.answered
    }
}

impl SequentialSpec for Reference {
    type Op = Rc<Numbered>;
    type Ret = Answer;

    fn invoke(&mut self, operation: &Rc<Numbered>) -> Answer {
        self.placed |= place(operation.number);
        Answer::Was(Rc::new(self.keyspace.apply(&operation.operation)))
    }

    fn is_valid_step(&mut self, operation: &Rc<Numbered>, answer: &Answer) -> bool {
        if self.is_explained() {
            return true;
        }
        let before = self.point();
        let is_answered = *answer != Answer::Any;
        let fits = self.invoke(operation) == *answer || !is_answered;
        if !fits || !self.follow_unread(operation, is_answered) {
            return false;
        }
        if !is_answered {
            self.unread.push(Unread::new(operation));
        }
        self.row = if is_answered { 0 } else { self.row + 1 };
        let mut search = self.search.borrow_mut();
        if self.row > search.longest_row {
            search.is_limited = true;
            return false;
        }
        if search.is_given_up() || search.left_by_read.contains(&before) {
            return false;
        }
        if operation.operation.is_read() {
            search.left_by_read.insert(before);
        }
        search.steps_left -= 1;
        if self.placed.count_ones() > search.furthest.count_ones() {
            search.furthest = self.placed;
        }
        search.seen.insert(self.point())
    }
}
