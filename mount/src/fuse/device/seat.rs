//! Who serves, as one number that two threads may change: the one who serves, and the one who looks after him.

use std::sync::atomic::{AtomicU64, Ordering};

/// Set while a request is served. The rest counts the turns, so that no state comes twice.
const SERVES: u64 = 1;
const TURN: u64 = 2;

/// A place from which one thread at a time reads requests.
///
/// Who sits there alone says that it serves, and goes on reading; unless, while it served, the seat was taken from it.
#[derive(Debug, Default)]
pub(super) struct Seat(AtomicU64);

/// The right to read from a seat.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn(u64);

/// What a seat was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen(u64);

impl Seat {
    /// The right that the first one has.
    pub(super) fn first(&self) -> Turn {
        Turn(self.0.load(Ordering::Acquire))
    }

    pub(super) fn look(&self) -> Seen {
        Seen(self.0.load(Ordering::Acquire))
    }

    /// Takes it from who serves the request that was `seen` being served, and still is.
    pub(super) fn take(&self, seen: Seen) -> Option<Turn> {
        (seen.0 & SERVES != 0).then(|| self.next(seen.0)).flatten()
    }

    fn next(&self, serves: u64) -> Option<Turn> {
        let next = serves - SERVES + TURN;
        let changed = self.0.compare_exchange(serves, next, Ordering::AcqRel, Ordering::Relaxed);
        changed.is_ok().then_some(Turn(next))
    }

    /// A request is served from now on.
    pub(super) fn serve(&self, turn: Turn) -> Serving<'_> {
        let state = turn.0 + SERVES;
        self.0.store(state, Ordering::Release);
        Serving { seat: self, state }
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
        self.seat.next(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_serves_for_long_loses_the_seat_once() {
        let seat = Seat::default();
        let turn = seat.first();
        assert_eq!(seat.take(seat.look()), None, "nothing is served");

        let serving = seat.serve(turn);
        let serves = seat.look();
        let turn = serving.done().unwrap();
        assert_eq!(seat.take(serves), None, "that request was served in time");

        let slow = seat.serve(turn);
        let serves = seat.look();
        let other = seat.take(serves).unwrap();
        assert_eq!((slow.done(), seat.take(serves)), (None, None));
        assert!(seat.serve(other).done().is_some());
    }
}
