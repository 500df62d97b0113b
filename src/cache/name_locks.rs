//! Who may change what a name stands for, one at a time, while others look without waiting.
//!
//! What a name stands for is written in two places, the store's folder and the versions in memory,
//! which can't be changed in one step. So whoever changes them holds the name's lock and counts
//! before and after; whoever looks notices by the count that somebody changed the name meanwhile,
//! and looks again. Names share locks by their hash: that costs a wait now and then, nothing else.
//!
//! Lock order: a name's lock comes before [`super::Cache::moves`] and before anything in the tree.
//! Two names are locked together, in the order of their locks, by [`NameLocks::change_two`] only.
//!
//! `tests/model/interleavings.rs` runs this very file in every order of steps that it can think of.

use std::hash::BuildHasher;

use cachefs_mount::{Name, NodeId};

use super::sync::{AtomicU64, Mutex, MutexGuard, Ordering, RandomState, fence, pause};

const LOCKS: usize = 256;

/// So often a name is looked at again before it is waited for.
const TRIES: usize = 3;

/// So many pauses are a moment: some milliseconds.
const PATIENCE: usize = 100;

#[derive(Debug, Default)]
struct Lock {
    mutex: Mutex<()>,
    /// Odd while somebody changes a name of this lock.
    changes: AtomicU64,
}

/// The locks of all names.
#[derive(Debug)]
pub(super) struct NameLocks {
    locks: Vec<Lock>,
    hasher: RandomState,
}

/// The right to change one name or two, until it is dropped.
pub(super) struct Change<'a> {
    held: [Option<Held<'a>>; 2],
}

/// What is to be done with what was found by [`NameLocks::look`].
pub(super) trait Look<T> {
    /// Whether there is nothing to note.
    fn is_settled(&self, found: &T) -> bool;

    /// Notes what was found, while nobody changes the name.
    fn settle(&self, found: &T);

    /// Takes back what was done to find it: somebody has changed the name meanwhile.
    fn undo(&self, found: T);
}

struct Held<'a> {
    lock: &'a Lock,
    _guard: MutexGuard<'a, ()>,
}

impl<'a> Held<'a> {
    fn take(lock: &'a Lock) -> Held<'a> {
        let guard = lock.mutex.lock();
        lock.changes.fetch_add(1, Ordering::Relaxed);
        // What is changed under the lock can't be seen by one who saw the count before.
        fence(Ordering::SeqCst);
        Held { lock, _guard: guard }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.lock.changes.fetch_add(1, Ordering::Release);
    }
}

impl NameLocks {
    pub(super) fn new() -> NameLocks {
        let locks = (0..LOCKS).map(|_| Lock::default()).collect();
        NameLocks { locks, hasher: RandomState::default() }
    }

    fn index(&self, parent: NodeId, name: &[u8]) -> usize {
        self.hasher.hash_one((parent.0, name)) as usize % LOCKS
    }

    /// Waits until nobody else changes this name.
    pub(super) fn change(&self, parent: NodeId, name: &[u8]) -> Change<'_> {
        let index = self.index(parent, name);
        Change { held: [Some(Held::take(&self.locks[index])), None] }
    }

    /// As [`NameLocks::change`], for two names at once.
    pub(super) fn change_two(
        &self,
        one: (NodeId, Name<'_>),
        other: (NodeId, Name<'_>),
    ) -> Change<'_> {
        let one = self.index(one.0, one.1.as_bytes());
        let other = self.index(other.0, other.1.as_bytes());
        let first = Held::take(&self.locks[one.min(other)]);
        let second = (one != other).then(|| Held::take(&self.locks[one.max(other)]));
        Change { held: [Some(first), second] }
    }

    /// Lets who changes this name now finish, but waits no longer than a moment: the caller changes
    /// another name, and the two may wait for each other or be one to the locks.
    pub(super) fn let_finish(&self, parent: NodeId, name: &[u8]) {
        let lock = &self.locks[self.index(parent, name)];
        let before = lock.changes.load(Ordering::Acquire);
        for _ in 0..PATIENCE {
            if before.is_multiple_of(2) || lock.changes.load(Ordering::Acquire) != before {
                return;
            }
            pause();
        }
    }

    /// Does `look`, which finds out about a name in several steps, until nobody has changed the name
    /// meanwhile.
    pub(super) fn look<T>(
        &self,
        parent: NodeId,
        name: &[u8],
        look: impl Fn() -> T,
        with: &impl Look<T>,
    ) -> T {
        let lock = &self.locks[self.index(parent, name)];
        for _ in 0..TRIES {
            let before = lock.changes.load(Ordering::Acquire);
            if before % 2 == 1 {
                break;
            }
            let found = look();
            fence(Ordering::SeqCst);
            let is_unchanged = || lock.changes.load(Ordering::Relaxed) == before;
            if is_unchanged() {
                if with.is_settled(&found) {
                    return found;
                }
                let nobody_changes = lock.mutex.try_lock();
                if nobody_changes.is_some() && is_unchanged() {
                    with.settle(&found);
                    return found;
                }
            }
            with.undo(found);
        }
        let _nobody_changes = lock.mutex.lock();
        let found = look();
        with.settle(&found);
        found
    }
}

impl std::fmt::Debug for Change<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Change").field("names", &self.held.iter().flatten().count()).finish()
    }
}
