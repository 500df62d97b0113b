//! A job.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::cache::view::{During, Moment, Reader};

/// So many directories are remembered that a job has listed, each for some tens of bytes.
const MOST_LISTED: usize = 1 << 16;

/// So many directories that it has closed it goes on with.
const MOST_CLOSED: usize = 64;

/// Who has removed something goes on with it after no longer than that, or not at all.
const PAUSE: Duration = Duration::from_secs(5);

/// So many directories are remembered in which it has removed something in vain.
const MOST_SPARED: usize = 1 << 12;

/// No time of the system's clock.
const NEVER: u64 = u64::MAX;

/// How a directory was listed last.
#[derive(Clone, Copy, Debug)]
struct Listed {
    at: Moment,
    process: u32,
    /// In milliseconds of the system's clock.
    when: u64,
}

/// The directories that a job lists, by their nodes.
#[derive(Debug, Default)]
struct Listing {
    /// Which it has open, once for each time.
    open: SmallVec<[u64; 4]>,
    /// Which it has closed but goes on with, as long as it has any open, or removes.
    closed: SmallVec<[u64; 4]>,
    /// Which it has removed and not closed, as far as is known: closing is told of later, and by the way.
    removed: SmallVec<[u64; 4]>,
}

/// A job that uses the mount.
#[derive(Debug)]
pub struct Job {
    /// Which; never used twice in a daemon's life.
    pub id: u64,
    /// What others had removed before it doesn't see, but for what was going on then: when it began.
    pub began: Moment,
    /// The removals that were going on then.
    pub during: During,
    /// The process it began with; 0 for those whose pids the daemon can't see.
    pub pid: u32,
    /// The user it began as.
    pub uid: u32,
    /// When it began, by the clock.
    pub since: SystemTime,
    open: AtomicUsize,
    listing: Mutex<Listing>,
    /// When it last removed anything, in milliseconds of the system's clock; [`NEVER`].
    removed: AtomicU64,
    /// The directories that it has listed, by their nodes.
    listed: Mutex<LruCache<u64, Listed>>,
    /// The directories, by their nodes, in which something is that a process of it has removed in vain.
    spared: Mutex<LruCache<u64, (u32, u64)>>,
    /// When it last used the mount, in milliseconds of the system's clock.
    touched: AtomicU64,
}

impl Job {
    /// The number of the one job that stands for all callers whose pids the daemon can't see.
    pub const UNKNOWN: u64 = 0;

    /// One that begins at `now_is`, which is also its number: no two jobs begin at one moment. It sees
    /// what was removed since `began`, and `during` that.
    pub(super) fn new(
        now_is: Moment,
        (during, began): (During, Moment),
        pid: u32,
        uid: u32,
        now: Duration,
    ) -> Job {
        Job {
            id: now_is.0,
            began,
            during,
            pid,
            uid,
            since: SystemTime::now(),
            open: AtomicUsize::new(0),
            listing: Mutex::default(),
            removed: AtomicU64::new(NEVER),
            // Unbounded to the map, which otherwise reserves room for all at once.
            listed: Mutex::new(LruCache::unbounded()),
            spared: Mutex::new(LruCache::unbounded()),
            touched: AtomicU64::new(millis(now)),
        }
    }

    /// As the view function knows it, where it acts as somebody who sees what everyone sees.
    pub fn reader(&self) -> Reader {
        self.reader_as(None)
    }

    /// As the view function knows it, where it acts as that user.
    pub fn reader_as(&self, user: Option<u32>) -> Reader {
        Reader { id: self.id, began: self.began, during: self.during, user }
    }

    /// Whether it began before something was removed, or while who did it removed one name after the other; the first
    /// of those who do not see that is who removed it.
    pub fn was_there_before(&self, removed: Moment, hidden: &[u64]) -> bool {
        self.began < removed || self.during.took(removed, hidden)
    }

    /// A process of it lists a directory at this moment.
    pub fn note_listed(&self, node: u64, at: Moment, process: u32) {
        let when = self.touched.load(Ordering::Relaxed);
        let mut listed = self.listed.lock();
        listed.put(node, Listed { at, process, when });
        if listed.len() > MOST_LISTED {
            listed.pop_lru();
        }
    }

    /// When it last listed a directory, unless that was too many directories ago.
    pub fn listed(&self, node: u64) -> Option<Moment> {
        self.listed.lock().peek(&node).map(|listed| listed.at)
    }

    /// As [`Job::listed`], if it was that process, no longer ago than `within`.
    pub fn listed_by(&self, process: u32, node: u64, within: Duration) -> Option<Moment> {
        let listed = self.listed.lock().peek(&node).copied()?;
        let decides = listed.process == process && !self.is_past(listed.when, within);
        decides.then_some(listed.at)
    }

    /// A process of it has removed something in vain that lies in these directories.
    pub fn note_spared(&self, directories: &[u64], process: u32) {
        let when = self.touched.load(Ordering::Relaxed);
        let mut spared = self.spared.lock();
        for directory in directories {
            spared.put(*directory, (process, when));
        }
        while spared.len() > MOST_SPARED {
            spared.pop_lru();
        }
    }

    /// It begins anew to remove what is in that directory, if it does.
    pub fn forget_spared(&self, directory: u64) {
        if self.has_spared_any() {
            self.spared.lock().pop(&directory);
        }
    }

    /// Whether that process has removed something in vain that lies in that directory, no longer ago
    /// than `within`.
    pub fn has_spared(&self, process: u32, directory: u64, within: Duration) -> bool {
        let spared = self.spared.lock().peek(&directory).copied();
        spared.is_some_and(|(by, when)| by == process && !self.is_past(when, within))
    }

    /// Whether it has removed anything in vain.
    pub fn has_spared_any(&self) -> bool {
        !self.spared.lock().is_empty()
    }

    /// Whether it has used the mount longer than that after that time, in milliseconds of the clock.
    fn is_past(&self, when: u64, within: Duration) -> bool {
        let ago = self.touched.load(Ordering::Relaxed).saturating_sub(when);
        u128::from(ago) > within.as_millis()
    }

    /// It has opened a directory, and lists it; once more, if it does already.
    pub fn begins_to_list(&self, node: u64) {
        let mut listing = self.listing.lock();
        listing.removed.retain(|removed| *removed != node);
        listing.open.push(node);
    }

    /// Whether it has any directory open and lists it.
    pub fn lists_any(&self) -> bool {
        !self.listing.lock().open.is_empty()
    }

    /// Whether it goes through any directory, as [`Job::goes_through`] says, that it has not removed.
    pub fn goes_through_any(&self) -> bool {
        let listing = self.listing.lock();
        listing.open.iter().any(|open| !listing.removed.contains(open))
            || !listing.closed.is_empty() && self.is_removing()
    }

    /// The directories that it has open and lists.
    pub fn lists(&self) -> SmallVec<[u64; 4]> {
        self.listing.lock().open.clone()
    }

    /// It closes a directory that it lists. Who goes through a tree, and has others open at that moment, may go on
    /// with what he has read there, and so lists it until he has removed it, or has none open at all and removes
    /// nothing. Returns which it does not list any more.
    pub fn ends_to_list(&self, node: u64) -> SmallVec<[u64; 4]> {
        let mut listing = self.listing.lock();
        if let Some(at) = listing.open.iter().rposition(|open| *open == node) {
            listing.open.swap_remove(at);
        }
        let mut ended = SmallVec::new();
        let is_last = listing.open.is_empty();
        if !listing.open.contains(&node) && !listing.closed.contains(&node) {
            match listing.removed.iter().position(|removed| *removed == node) {
                Some(at) => ended.push(listing.removed.swap_remove(at)),
                None if is_last => ended.push(node),
                None => listing.closed.push(node),
            }
        }
        let goes_on = !is_last || self.is_removing();
        let surplus = listing.closed.len().saturating_sub(if goes_on { MOST_CLOSED } else { 0 });
        ended.extend(listing.closed.drain(..surplus));
        ended
    }

    /// It has removed a directory; whether it had closed it, and listed it until now.
    pub fn has_done_with(&self, node: u64) -> bool {
        let mut listing = self.listing.lock();
        let before = listing.closed.len();
        listing.closed.retain(|closed| *closed != node);
        if listing.open.contains(&node) && !listing.removed.contains(&node) {
            listing.removed.push(node);
        }
        listing.closed.len() < before
    }

    /// Whether it lists that directory: it has it open, or has had, and has any open.
    pub fn is_listing(&self, node: u64) -> bool {
        let listing = self.listing.lock();
        let goes_on = !listing.open.is_empty() && listing.closed.contains(&node);
        goes_on || listing.open.contains(&node)
    }

    /// Whether it lists that directory, or goes on to remove what it has found there. Not all who do have any
    /// directory open: some read on what they can't keep open, as they have too many.
    pub fn goes_through(&self, node: u64) -> bool {
        let listing = self.listing.lock();
        let goes_on = !listing.open.is_empty() || self.is_removing();
        listing.open.contains(&node) || goes_on && listing.closed.contains(&node)
    }

    /// It removes something.
    pub fn note_removal(&self) {
        self.removed.store(self.touched.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether it has ever removed anything.
    pub fn has_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed) != NEVER
    }

    /// Whether it had removed something a moment before it last used the mount.
    fn is_removing(&self) -> bool {
        self.has_removed() && !self.is_past(self.removed.load(Ordering::Relaxed), PAUSE)
    }

    /// It has one more file or directory open.
    pub fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// It has one less open.
    pub fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many files and directories it has open.
    pub fn open_files(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// It uses the mount now; returns whether it had not for `idle`.
    pub(super) fn touch(&self, now: Duration, idle: Duration) -> bool {
        let now = millis(now);
        let before = self.touched.load(Ordering::Relaxed);
        // A line that other cores read is not written again within one tick of the coarse clock.
        if before != now {
            self.touched.store(now, Ordering::Relaxed);
        }
        u128::from(now.saturating_sub(before)) >= idle.as_millis()
    }

    /// Whether a new child of one of its processes belongs to it.
    pub(super) fn adopts(&self, now: Duration, idle: Duration) -> bool {
        let unused = millis(now).saturating_sub(self.touched.load(Ordering::Relaxed));
        self.open_files() > 0 || u128::from(unused) < idle.as_millis()
    }
}

/// A time of the clock, as it is kept.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
