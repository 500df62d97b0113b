//! Removals that are going on: a job removes, one after the other, the names in directories that it
//! lists (`rm -r`, `shutil.rmtree`, `uv cache clean`).
//!
//! To one who begins in the middle of that, half a cache would be worse than all or nothing of it. So
//! such a removal takes place, for who begins later, when its job has closed its directories, or its process
//! ends or does something else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::cache::view::Moment;

/// A job that has removed nothing for so long is not at it any more, whatever it has open.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
struct Removal {
    /// The process that does it; 0 if it can't be seen.
    process: u32,
    /// The moment before its first.
    began: Moment,
    last: Duration,
    /// Others ran since its first, or shortly before: who begins while it goes on is to see all that it takes away.
    kept: bool,
}

#[derive(Default)]
pub(super) struct Removals {
    /// By the numbers of the jobs.
    going_on: Mutex<HashMap<u64, Removal>>,
    count: AtomicUsize,
}

impl Removals {
    /// The moment at which `job` removes one more name, while others run, or ran a moment ago, or not.
    ///
    /// It is taken with the lock that [`Removals::began`] takes: who asks there after the moment
    /// finds the removal, and who asked before it is older.
    pub(super) fn go_on(
        &self,
        (job, process): (u64, u32),
        others: bool,
        now: Duration,
        tick: impl FnOnce() -> Moment,
    ) -> Moment {
        let mut going_on = self.going_on.lock();
        let at = tick();
        let before = Moment(at.0 - 1);
        let new = Removal { process, began: before, last: now, kept: others };
        let removal = going_on.entry(job).or_insert(new);
        if now.saturating_sub(removal.last) > PAUSE {
            *removal = new;
        }
        removal.process = process;
        removal.last = now;
        removal.kept |= others;
        self.count.store(going_on.len(), Ordering::Release);
        at
    }

    /// Whether what `job` removes is to be kept for those who begin before its removal ends.
    pub(super) fn is_kept(&self, job: u64) -> bool {
        self.count.load(Ordering::Acquire) != 0
            && self.going_on.lock().get(&job).is_some_and(|removal| removal.kept)
    }

    /// `job` has no directory open any more; whether it had been removing.
    pub(super) fn end(&self, job: u64) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut going_on = self.going_on.lock();
        let ended = going_on.remove(&job).is_some();
        self.count.store(going_on.len(), Ordering::Release);
        ended
    }

    /// A process of `job` does something else, or ends; whether it had been removing.
    pub(super) fn leave(&self, job: u64, process: u32) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut going_on = self.going_on.lock();
        let removes = going_on.get(&job).is_some_and(|removal| removal.process == process);
        if removes {
            going_on.remove(&job);
        }
        self.count.store(going_on.len(), Ordering::Release);
        removes
    }

    /// The removals that are going on: whose, and the moments before their first.
    pub(super) fn going_on(&self, now: Duration) -> SmallVec<[(u64, Moment); 4]> {
        if self.count.load(Ordering::Acquire) == 0 {
            return SmallVec::new();
        }
        let going_on = self.going_on.lock();
        let current = going_on.iter().filter(|(_, r)| now.saturating_sub(r.last) <= PAUSE);
        current.map(|(job, removal)| (*job, removal.began)).collect()
    }

    /// The moment before the first of all removals that are going on.
    pub(super) fn began(&self, now: Duration) -> Option<Moment> {
        self.going_on(now).into_iter().map(|(_, began)| began).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_goes_on_until_its_job_lists_nothing_or_pauses() {
        let removals = Removals::default();
        let seconds = Duration::from_secs;
        assert_eq!(removals.began(seconds(0)), None);
        assert_eq!(removals.go_on((7, 70), false, seconds(10), || Moment(5)), Moment(5));
        assert_eq!(removals.go_on((8, 80), false, seconds(10), || Moment(6)), Moment(6));
        assert_eq!(removals.began(seconds(11)), Some(Moment(4)));
        assert!(removals.end(7));
        assert!(!removals.end(7));
        assert_eq!(removals.began(seconds(11)), Some(Moment(5)));
        assert_eq!(removals.began(seconds(12)), None);
        removals.go_on((8, 80), false, seconds(12), || Moment(9));
        assert_eq!(removals.began(seconds(12)), Some(Moment(8)));
    }

    #[test]
    fn a_removal_ends_when_its_process_does_something_else() {
        let removals = Removals::default();
        let now = Duration::from_secs(1);
        removals.leave(7, 70);
        removals.go_on((7, 70), false, now, || Moment(5));
        assert!(!removals.leave(7, 71));
        assert!(!removals.leave(8, 70));
        assert_eq!(removals.began(now), Some(Moment(4)));
        assert!(removals.leave(7, 70));
        assert_eq!(removals.began(now), None);
        assert!(!removals.end(7));
    }
}
