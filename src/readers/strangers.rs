//! Threads of which it was found lately that they belong to no job.
//!
//! Someone who only looks around (`ls`, `find`) begins no job, and to find that out takes a walk up
//! their ancestors. So that this is not done for each name they look up, the answer is remembered:
//! in a table that can't grow, and for so short a time that no watch is needed on those threads.

use std::time::Duration;

use parking_lot::Mutex;

const SLOTS: usize = 256;

/// Shorter than it takes to go once through all thread numbers.
const LASTS: Duration = Duration::from_secs(1);

/// The table: one slot for all threads whose numbers end alike.
#[derive(Debug)]
pub(super) struct Strangers(Box<[Mutex<Option<Stranger>>]>);

#[derive(Clone, Copy, Debug)]
struct Stranger {
    thread: u32,
    found: Duration,
    changes: u64,
}

impl Strangers {
    pub(super) fn new() -> Strangers {
        Strangers((0..SLOTS).map(|_| Mutex::new(None)).collect())
    }

    /// The thread was found to have no job at `now`, when there had been so many `changes` to who
    /// adopts whom.
    pub(super) fn remember(&self, thread: u32, now: Duration, changes: u64) {
        if let Some(slot) = self.0.get(thread as usize % SLOTS) {
            *slot.lock() = Some(Stranger { thread, found: now, changes });
        }
    }

    /// Whether the thread still has none.
    pub(super) fn has(&self, thread: u32, now: Duration, changes: u64) -> bool {
        let found = self.0.get(thread as usize % SLOTS).and_then(|slot| *slot.lock());
        found.is_some_and(|stranger| {
            let age = now.saturating_sub(stranger.found);
            stranger.thread == thread && stranger.changes == changes && age < LASTS
        })
    }
}
