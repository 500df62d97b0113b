//! Removals that are going on: a job removes, one after the other, the names in directories that it
//! lists (`rm -r`, `shutil.rmtree`, `uv cache clean`).
//!
//! To one who begins in the middle of that, half a cache would be worse than all or nothing of it. So
//! such a removal takes place, for who begins later, when its job has closed its directories.
//!
//! And who has looked for a directory, which the kernel answers alone if it can, shall find it when he
//! opens the first file in it: a process that ran already when a directory was removed, and opens its
//! first file at once, sees that directory.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::cache::view::Moment;

/// A job that has removed nothing for so long is not at it any more, whatever it has open.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
struct Removal {
    /// The moment before its first.
    began: Moment,
    last: Duration,
}

/// Between a process's first look and its first file is no more time than this.
const MOMENT: Duration = Duration::from_millis(100);

/// No more processes are started within a [`MOMENT`].
const FAR_OFF: u32 = 10_000;

/// So many directories that were removed just now are remembered.
const MOST_JUST_NOW: usize = 64;

/// A directory that was removed.
#[derive(Clone, Copy)]
struct JustNow {
    /// The moment before that.
    before: Moment,
    at: Duration,
    /// The newest process then.
    newest: u32,
}

#[derive(Default)]
pub(super) struct Removals {
    /// By the numbers of the jobs.
    going_on: Mutex<HashMap<u64, Removal>>,
    count: AtomicUsize,
    /// The oldest first.
    just_now: Mutex<VecDeque<JustNow>>,
}

impl Removals {
    /// The moment at which `job` removes one more name.
    ///
    /// It is taken with the lock that [`Removals::began`] takes: who asks there after the moment
    /// finds the removal, and who asked before it is older.
    pub(super) fn go_on(&self, job: u64, now: Duration, tick: impl FnOnce() -> Moment) -> Moment {
        let mut going_on = self.going_on.lock();
        let at = tick();
        let before = Moment(at.0 - 1);
        let removal = going_on.entry(job).or_insert(Removal { began: before, last: now });
        if now.saturating_sub(removal.last) > PAUSE {
            removal.began = before;
        }
        removal.last = now;
        self.count.store(going_on.len(), Ordering::Release);
        at
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

    /// A directory was removed at this moment, when `newest` was the newest process.
    pub(super) fn directory(&self, at: Moment, now: Duration, newest: u32) {
        let mut just_now = self.just_now.lock();
        just_now.push_back(JustNow { before: Moment(at.0 - 1), at: now, newest });
        let long_ago = |removed: &JustNow| now.saturating_sub(removed.at) > MOMENT;
        while just_now.len() > MOST_JUST_NOW || just_now.front().is_some_and(long_ago) {
            just_now.pop_front();
        }
    }

    /// The moment before the first of all removals that are going on, or took place just now.
    pub(super) fn began(&self, now: Duration) -> Option<Moment> {
        self.earliest(now, |_| true)
    }

    /// The moment from which on a process sees what was removed, if it begins now.
    pub(super) fn began_for(&self, process: u32, now: Duration) -> Option<Moment> {
        // Numbers begin anew after the largest: then one that is far off may be the newer one.
        let ran = |newest: u32| newest.checked_sub(process).is_some_and(|gap| gap < FAR_OFF);
        self.earliest(now, |removed| ran(removed.newest))
    }

    fn earliest(&self, now: Duration, counts: impl Fn(&JustNow) -> bool) -> Option<Moment> {
        let just_now = {
            let just_now = self.just_now.lock();
            let recent = just_now.iter().filter(|r| now.saturating_sub(r.at) <= MOMENT);
            recent.filter(|removed| counts(removed)).map(|removed| removed.before).min()
        };
        let going_on = self.going_on.lock();
        let current = going_on.values().filter(|r| now.saturating_sub(r.last) <= PAUSE);
        current.map(|removal| removal.began).chain(just_now).min()
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
        assert_eq!(removals.go_on(7, seconds(10), || Moment(5)), Moment(5));
        assert_eq!(removals.go_on(8, seconds(10), || Moment(6)), Moment(6));
        assert_eq!(removals.began(seconds(11)), Some(Moment(4)));
        assert!(removals.end(7));
        assert!(!removals.end(7));
        assert_eq!(removals.began(seconds(11)), Some(Moment(5)));
        assert_eq!(removals.began(seconds(12)), None);
        removals.go_on(8, seconds(12), || Moment(9));
        assert_eq!(removals.began(seconds(12)), Some(Moment(8)));
    }

    #[test]
    fn who_ran_before_a_directory_was_removed_finds_it_for_a_moment() {
        let removals = Removals::default();
        let seconds = Duration::from_secs;
        removals.directory(Moment(5), seconds(10), 100);
        assert_eq!(removals.began_for(100, seconds(10)), Some(Moment(4)));
        assert_eq!(removals.began_for(101, seconds(10)), None);
        assert_eq!(removals.began_for(100, seconds(11)), None);
        assert_eq!(removals.began(seconds(10)), Some(Moment(4)));
        removals.directory(Moment(6), seconds(11), FAR_OFF + 1);
        assert_eq!(removals.began_for(1, seconds(11)), None);
        assert_eq!(removals.began_for(2, seconds(11)), Some(Moment(5)));
    }
}
