//! How long it is worth asking again and again before one waits.

use std::time::{Duration, Instant};

/// Waiting costs who asks next some tens of microseconds, until we are awake; so it pays to go on asking for
/// as long as that. For longer it would take more from who needs the processor than it gives (measured with uv,
/// which keeps two busy).
const LONGEST: Duration = Duration::from_micros(40);

/// Asking once takes about half a microsecond; if it took so long, somebody else had the processor.
const DISTURBED: Duration = Duration::from_micros(30);

/// So many times as long as somebody else had the processor he is not kept from it.
const REST: u32 = 10;

/// Between an answer and the next request: whether to go on asking for it. It is, if the request before came
/// soon, and nobody else wants the processor; so that who comes now and then, and who needs the processor himself,
/// is not robbed of it.
#[derive(Debug)]
pub(super) struct Pause {
    pays: bool,
    began: Instant,
    last: Instant,
    rests_until: Instant,
}

impl Pause {
    pub(super) fn new(now: Instant) -> Pause {
        Pause { pays: false, began: now, last: now, rests_until: now }
    }

    /// An answer has been given.
    pub(super) fn begin(&mut self, now: Instant) {
        (self.began, self.last) = (now, now);
    }

    /// Nothing is there yet: whether to ask again at once.
    pub(super) fn goes_on(&mut self, now: Instant) -> bool {
        let since = now.duration_since(self.last);
        if since > DISTURBED {
            self.rests_until = now + since * REST;
        }
        self.last = now;
        self.pays && now >= self.rests_until && now.duration_since(self.began) < LONGEST
    }

    /// A request has come after it was waited for.
    pub(super) fn end(&mut self, now: Instant) {
        self.pays = now.duration_since(self.began) < LONGEST;
        self.last = now;
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
        pause.end(at(30));
        pause.begin(at(50));
        assert!((51..90).all(|now| pause.goes_on(at(now))));
        assert!(!pause.goes_on(at(90)), "long enough");
        pause.end(at(91));
        pause.begin(at(160));
        assert!(!pause.goes_on(at(161)), "it came late");
        pause.end(at(190));
        pause.begin(at(210));
        assert!(pause.goes_on(at(211)));
        assert!(!pause.goes_on(at(249)), "somebody else had the processor");
        pause.end(at(250));
        pause.begin(at(280));
        assert!(!pause.goes_on(at(281)), "and may want it again");
        pause.end(at(290));
        pause.begin(at(750));
        assert!(pause.goes_on(at(751)), "ten times as long after that");
    }
}
