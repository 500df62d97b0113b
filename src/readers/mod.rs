//! Who is running: the jobs that use the mount, told from each other by their processes
//! (SEMANTICS, "reader").

mod system;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use cachefs_mount::Caller;

pub use self::system::{Fate, Process, System};
use crate::cache::view::{Moment, Reader};

/// What makes a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Grouping {
    /// A process and its descendants.
    #[default]
    Tree,
    /// All processes of a cgroup.
    Cgroup,
}

/// How jobs are told from each other.
#[derive(Clone, Copy, Debug)]
pub struct ReaderOptions {
    /// What makes a job.
    pub grouping: Grouping,
    /// A job that has nothing open and has not used the mount for this long adopts no new children.
    pub idle: Duration,
}

/// A job that uses the mount.
#[derive(Debug)]
pub struct Job {
    /// Which; never used twice in a daemon's life.
    pub id: u64,
    /// When it began, in the order of removals.
    pub began: Moment,
    /// The process it began with; 0 for those whose pids the daemon can't see.
    pub pid: u32,
    /// The user it began as.
    pub uid: u32,
    /// When it began, by the clock.
    pub since: SystemTime,
    open: AtomicUsize,
    touched: AtomicU64,
}

impl Job {
    /// The number of the one job that stands for all callers whose pids the daemon can't see.
    pub const UNKNOWN: u64 = 0;

    /// As the view function knows it.
    pub fn reader(&self) -> Reader {
        Reader { id: self.id, began: self.began }
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
}

/// All jobs that run.
pub struct Readers {
    system: Arc<dyn System>,
    options: ReaderOptions,
    clock: AtomicU64,
    jobs: parking_lot::Mutex<std::collections::BTreeMap<u32, Arc<Job>>>,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Readers {
    /// Nobody yet.
    pub fn new(system: Arc<dyn System>, options: ReaderOptions) -> Readers {
        Readers { system, options, clock: AtomicU64::new(1), jobs: parking_lot::Mutex::default() }
    }

    /// The caller's job, which begins now if it has not begun yet.
    pub fn job(&self, caller: &Caller) -> Arc<Job> {
        self.jobs
            .lock()
            .entry(caller.thread)
            .or_insert_with(|| {
                Arc::new(Job {
                    id: u64::from(caller.thread),
                    began: self.tick(),
                    pid: caller.thread,
                    uid: caller.uid,
                    since: SystemTime::now(),
                    open: AtomicUsize::new(0),
                    touched: AtomicU64::new(0),
                })
            })
            .clone()
    }

    /// The caller's job, if it has begun. Someone who only looks around has none.
    pub fn known(&self, caller: &Caller) -> Option<Arc<Job>> {
        self.jobs.lock().get(&caller.thread).cloned()
    }

    /// The caller's process (thread group id); 0 when it can't be seen.
    pub fn process(&self, caller: &Caller) -> u32 {
        self.system.process(caller.thread).map_or(0, |process| process.pid)
    }

    /// What becomes of the caller's process, as far as its thread can tell.
    pub fn fate(&self, caller: &Caller) -> Fate {
        self.system.fate(caller.thread)
    }

    /// Whether the process has a descriptor open whose inode number is `inode`.
    pub fn has_open(&self, process: u32, inode: u64) -> bool {
        self.system.has_open(process, inode)
    }

    /// The next moment.
    pub fn tick(&self) -> Moment {
        Moment(self.clock.fetch_add(1, Ordering::AcqRel))
    }

    /// When the oldest running job besides `by` began.
    pub fn oldest_besides(&self, by: u64) -> Option<Moment> {
        self.jobs.lock().values().filter(|job| job.id != by).map(|job| job.began).min()
    }

    /// Whether that job runs.
    pub fn runs(&self, id: u64) -> bool {
        self.jobs.lock().values().any(|job| job.id == id)
    }

    /// All jobs that run, the oldest first.
    pub fn all(&self) -> Vec<Arc<Job>> {
        self.jobs.lock().values().cloned().collect()
    }

    /// Has `ended` called with each job that ends, after it is not among [`Readers::all`] any more.
    /// Called once, before the first caller comes.
    pub fn when_one_ends(&self, ended: Box<dyn Fn(&Job) + Send + Sync>) {
        drop(ended);
    }
}
