//! A job.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::cache::view::{Moment, Reader};

/// So many directories are remembered that a job has listed, each for some tens of bytes.
const MOST_LISTED: usize = 1 << 16;

/// A job that uses the mount.
#[derive(Debug)]
pub struct Job {
    /// Which; never used twice in a daemon's life.
    pub id: u64,
    /// From when on it doesn't see what others remove any more: when it began, or when a removal began
    /// that was going on then.
    pub began: Moment,
    /// The process it began with; 0 for those whose pids the daemon can't see.
    pub pid: u32,
    /// The user it began as.
    pub uid: u32,
    /// When it began, by the clock.
    pub since: SystemTime,
    open: AtomicUsize,
    /// The directories that it has open and lists, by their nodes.
    listing: Mutex<SmallVec<[u64; 4]>>,
    /// Whether it has removed anything.
    removes: AtomicBool,
    /// The directories that it has listed, by their nodes, and when.
    listed: Mutex<LruCache<u64, Moment>>,
    /// When it last used the mount, in milliseconds of the system's clock.
    touched: AtomicU64,
}

impl Job {
    /// The number of the one job that stands for all callers whose pids the daemon can't see.
    pub const UNKNOWN: u64 = 0;

    /// One that begins at `now_is`, which is also its number: no two jobs begin at one moment. It sees
    /// what was removed since `sees`.
    pub(super) fn new(now_is: Moment, sees: Moment, pid: u32, uid: u32, now: Duration) -> Job {
        Job {
            id: now_is.0,
            began: sees,
            pid,
            uid,
            since: SystemTime::now(),
            open: AtomicUsize::new(0),
            listing: Mutex::default(),
            removes: AtomicBool::new(false),
            // Unbounded to the map, which otherwise reserves room for all at once.
            listed: Mutex::new(LruCache::unbounded()),
            touched: AtomicU64::new(millis(now)),
        }
    }

    /// As the view function knows it, where it acts as somebody who sees what everyone sees.
    pub fn reader(&self) -> Reader {
        self.reader_as(None)
    }

    /// As the view function knows it, where it acts as that user.
    pub fn reader_as(&self, user: Option<u32>) -> Reader {
        Reader { id: self.id, began: self.began, user }
    }

    /// It lists a directory at this moment.
    pub fn note_listed(&self, node: u64, at: Moment) {
        let mut listed = self.listed.lock();
        listed.put(node, at);
        if listed.len() > MOST_LISTED {
            listed.pop_lru();
        }
    }

    /// When it last listed a directory, unless that was too many directories ago.
    pub fn listed(&self, node: u64) -> Option<Moment> {
        self.listed.lock().peek(&node).copied()
    }

    /// It has opened a directory, and lists it; once more, if it does already.
    pub fn begins_to_list(&self, node: u64) {
        self.listing.lock().push(node);
    }

    /// Whether it has any directory open and lists it.
    pub fn lists_any(&self) -> bool {
        !self.listing.lock().is_empty()
    }

    /// It closes a directory, and lists it no more, although it may have it open otherwise; whether it
    /// lists no other.
    pub fn ends_to_list(&self, node: u64) -> bool {
        let mut listing = self.listing.lock();
        if let Some(at) = listing.iter().rposition(|open| *open == node) {
            listing.swap_remove(at);
        }
        listing.is_empty()
    }

    /// Whether it has that directory open and lists it.
    pub fn is_listing(&self, node: u64) -> bool {
        self.listing.lock().contains(&node)
    }

    /// It removes something.
    pub fn note_removal(&self) {
        if !self.removes.load(Ordering::Relaxed) {
            self.removes.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it has ever removed anything.
    pub fn has_removed(&self) -> bool {
        self.removes.load(Ordering::Relaxed)
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

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
