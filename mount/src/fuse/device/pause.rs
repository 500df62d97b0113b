//! How long it is worth asking again and again before one waits.

use std::time::{Duration, Instant};

/// Waiting costs who asks next some tens of microseconds, until we are awake; so it pays to go on asking for
/// as long as that.
const LONGEST: Duration = Duration::from_micros(100);

/// Asking once takes about half a microsecond; if it took so long, somebody else had the processor.
const DISTURBED: Duration = Duration::from_micros(30);

/// Between an answer and the next request: whether to go on asking for it. It is, if the request before came
/// soon; so that who comes now and then, and who needs the processor himself, is not robbed of it.
#[derive(Debug)]
pub(super) struct Pause {
    pays: bool,
    began: Instant,
    last: Instant,
}

impl Pause {
    pub(super) fn new(now: Instant) -> Pause {
        Pause { pays: false, began: now, last: now }
    }

    /// An answer has been given.
    pub(super) fn begin(&mut self, now: Instant) {
        (self.began, self.last) = (now, now);
    }

    /// Nothing is there yet: whether to ask again at once.
    pub(super) fn goes_on(&mut self, now: Instant) -> bool {
        let disturbed = now.duration_since(self.last) > DISTURBED;
        self.last = now;
        self.pays &= !disturbed && now.duration_since(self.began) < LONGEST;
        self.pays
    }

    /// A request has come after it was waited for.
    pub(super) fn end(&mut self, now: Instant) {
        self.pays = now.duration_since(self.began) < LONGEST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    #[test]
    fn it_is_asked_again_if_the_last_one_came_soon() {
        let start = Instant::now();
        let at = |microseconds: u32| start + MICROSECOND * microseconds;
        let mut pause = Pause::new(start);
        assert!(!pause.goes_on(at(1)), "nothing is known yet");
        pause.end(at(40));
        pause.begin(at(50));
        assert!((51..150).all(|now| pause.goes_on(at(now))));
        assert!(!pause.goes_on(at(150)), "long enough");
        pause.end(at(151));
        pause.begin(at(160));
        assert!(!pause.goes_on(at(161)), "it came late");
        pause.end(at(200));
        pause.begin(at(210));
        assert!(pause.goes_on(at(211)));
        assert!(!pause.goes_on(at(260)), "somebody else had the processor");
        assert!(!pause.goes_on(at(261)));
    }
}
