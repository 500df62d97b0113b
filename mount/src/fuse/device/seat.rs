//! Who serves, as one number that two threads may change: the one who serves, and the one who looks after him.

use std::sync::atomic::{AtomicU64, Ordering};

const CLOSED: u64 = 0;
const READS: u64 = 1;
const SERVES: u64 = 2;
const STATES: u64 = 3;

/// Each request is a turn of its own, so that no state comes twice.
const TURN: u64 = 4;

/// A place from which one thread at a time reads requests.
///
/// Who sits there alone says that it serves, closes the seat, and goes on reading; unless, while it served, the
/// seat was taken from it.
#[derive(Debug)]
pub(super) struct Seat {
    state: AtomicU64,
    /// How often nothing was there to be read after a request had been served.
    idle: AtomicU64,
}

/// The right to read from a seat.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn(u64);

/// What a seat was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    state: u64,
    idle: u64,
}

impl Seen {
    pub(super) fn is_closed(self) -> bool {
        self.state & STATES == CLOSED
    }

    /// How many requests were served since, and how often there was no other one.
    pub(super) fn since(self, before: Seen) -> (u64, u64) {
        (self.state / TURN - before.state / TURN, self.idle - before.idle)
    }
}

impl Seat {
    /// One that is closed.
    pub(super) fn new() -> Seat {
        Seat { state: AtomicU64::new(CLOSED), idle: AtomicU64::new(0) }
    }

    pub(super) fn look(&self) -> Seen {
        let idle = self.idle.load(Ordering::Relaxed);
        Seen { state: self.state.load(Ordering::Acquire), idle }
    }

    /// Opens it, if it was `seen` closed and still is.
    pub(super) fn open(&self, seen: Seen) -> Option<Turn> {
        seen.is_closed().then(|| self.change(seen.state, READS)).flatten()
    }

    /// Takes it from who serves the request that was `seen` being served, and still is.
    pub(super) fn take(&self, seen: Seen) -> Option<Turn> {
        (seen.state & STATES == SERVES).then(|| self.change(seen.state, READS)).flatten()
    }

    fn change(&self, from: u64, to: u64) -> Option<Turn> {
        let next = (from & !STATES) + TURN + to;
        let changed = self.state.compare_exchange(from, next, Ordering::AcqRel, Ordering::Relaxed);
        changed.is_ok().then_some(Turn(next))
    }

    /// There was nothing to read.
    pub(super) fn found_nothing(&self) {
        self.idle.fetch_add(1, Ordering::Relaxed);
    }

    /// A request is served from now on.
    pub(super) fn serve(&self, turn: Turn) -> Serving<'_> {
        let state = turn.0 - READS + SERVES;
        self.state.store(state, Ordering::Release);
        Serving { seat: self, state }
    }

    /// Nobody reads from it any more.
    pub(super) fn close(&self, turn: Turn) {
        self.state.store(turn.0 - READS + TURN + CLOSED, Ordering::Release);
    }
}

/// A request that is being served from a seat.
#[derive(Debug)]
pub(super) struct Serving<'a> {
    seat: &'a Seat,
    state: u64,
}

impl Serving<'_> {
    /// It is served, or somebody else is to read in the meantime: the right to go on reading; none if that was
    /// taken away.
    pub(super) fn done(self) -> Option<Turn> {
        self.seat.change(self.state, READS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_serves_for_long_loses_the_seat_once() {
        let seat = Seat::new();
        let closed = seat.look();
        let turn = seat.open(closed).unwrap();
        assert_eq!(seat.open(closed), None);
        let reads = seat.look();
        assert_eq!((seat.open(reads), seat.take(reads)), (None, None));

        let serving = seat.serve(turn);
        let serves = seat.look();
        let turn = serving.done().unwrap();
        assert_eq!(seat.take(serves), None, "that request was served in time");

        let slow = seat.serve(turn);
        let serves = seat.look();
        let other = seat.take(serves).unwrap();
        assert_eq!((slow.done(), seat.take(serves)), (None, None));
        assert_eq!(seat.serve(other).done().map(|turn| seat.close(turn)), Some(()));
        assert!(seat.look().is_closed());
        assert_eq!(seat.look().since(closed).1, 0);
    }

    #[test]
    fn what_was_served_and_what_was_not_there_is_counted() {
        let seat = Seat::new();
        let mut turn = seat.open(seat.look()).unwrap();
        let before = seat.look();
        for _ in 0..3 {
            turn = seat.serve(turn).done().unwrap();
        }
        seat.found_nothing();
        assert_eq!(seat.look().since(before), (3, 1));
    }
}
