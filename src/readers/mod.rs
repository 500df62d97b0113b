//! Who is running: the jobs that use the mount, told from each other by their processes
//! (SEMANTICS, "reader").
//!
//! * [`Readers`]: which job a caller belongs to, and which jobs run.
//! * [`System`]: what must be known of processes for that; `Linux` or `Windows` knows it.
//! * [`about`]: what people call a process.

#[cfg(unix)]
pub mod about;
#[cfg(unix)]
mod fate;
mod job;
#[cfg(unix)]
mod linux;
#[doc(hidden)]
pub mod made_up;
#[cfg(unix)]
mod proc;
mod registry;
mod removals;
mod strangers;
mod system;
#[cfg(unix)]
mod watcher;
#[cfg(windows)]
mod windows;

#[cfg(all(test, unix))]
mod real_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use cachefs_mount::Caller;

pub use self::job::Job;
#[cfg(unix)]
pub use self::linux::Linux;
#[cfg(unix)]
pub(crate) use self::proc::has_open;
use self::registry::Registry;
pub use self::system::{Ends, Fate, Process, System, Watch, Witness};
#[cfg(windows)]
pub use self::windows::Windows;
use crate::cache::view::Moment;

/// The number that an administrator has among jobs.
pub(crate) const ADMINISTRATOR: u64 = u64::MAX;

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

/// All jobs that run.
pub struct Readers {
    system: Arc<dyn System>,
    /// Shared with the system, which reports ends to it.
    registry: Arc<Registry>,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Readers {
    /// Nobody yet.
    pub fn new(system: Arc<dyn System>, options: ReaderOptions) -> Readers {
        let registry = Arc::new(Registry::new(Arc::clone(&system), options));
        let ends: Arc<dyn Ends> = Arc::clone(&registry) as Arc<dyn Ends>;
        system.report_to(Arc::downgrade(&ends));
        Readers { system, registry }
    }

    /// The caller's job, which begins now if it has not begun yet.
    pub fn job(&self, caller: &Caller) -> Arc<Job> {
        self.registry.job(caller.thread, caller.uid)
    }

    /// The caller's job, if it has begun. Someone who only looks around has none.
    pub fn known(&self, caller: &Caller) -> Option<Arc<Job>> {
        self.registry.known(caller.thread, caller.uid)
    }

    /// The caller's process (thread group id); 0 when it can't be seen.
    pub fn process(&self, caller: &Caller) -> u32 {
        let registered = self.registry.process(caller.thread);
        let asked = || self.system.process(caller.thread).map(|process| process.pid);
        registered.or_else(asked).unwrap_or(0)
    }

    /// What becomes of the caller's process, as far as its thread can tell.
    pub fn fate(&self, caller: &Caller) -> Fate {
        match self.registry.process(caller.thread) {
            Some(process) => self.system.fate_in(process, caller.thread),
            None => self.system.fate(caller.thread),
        }
    }

    /// Whether the process has a descriptor open whose inode number is `inode`.
    pub fn has_open(&self, process: u32, inode: u64) -> bool {
        self.system.has_open(process, inode)
    }

    /// Whether anybody holds a lock on the file with that device and inode number, or waits for one.
    pub fn is_locked(&self, device: (u32, u32), inode: u64) -> bool {
        self.system.is_locked(device, inode)
    }

    /// The next moment.
    pub fn tick(&self) -> Moment {
        self.registry.tick()
    }

    /// The next moment, at which a job goes on to remove what is in a directory that it lists.
    pub fn tick_of_removal(&self, job: &Job, caller: &Caller) -> Moment {
        self.registry.tick_of_removal(job.id, self.process(caller))
    }

    /// A job does something that nobody does in the midst of a removal; whether it had been removing.
    pub fn leave_removal(&self, job: &Job, caller: &Caller) -> bool {
        job.has_removed() && self.registry.leave_removal(job.id, self.process(caller))
    }

    /// A job goes through no directory any more; whether it has removed anything meanwhile.
    pub fn removal_ended(&self, job: &Job) -> bool {
        self.registry.removal_ended(job.id)
    }

    /// The next moment, at which an administrator goes on to remove what is to go as one. One at a time.
    pub fn tick_of_cleaning(&self) -> Moment {
        self.registry.tick_of_removal(ADMINISTRATOR, 0)
    }

    /// All that an administrator removes has gone.
    pub fn cleaning_ended(&self) {
        self.registry.removal_ended(ADMINISTRATOR);
    }

    /// What was removed after this moment will be seen by jobs that begin while removals go on.
    pub fn removals_began(&self) -> Option<Moment> {
        self.registry.removals_began()
    }

    /// Whether something that `by` removes at that moment is seen by anyone: by a job that runs and began before, or
    /// by one that is still to begin before a removal ends that others run beside.
    ///
    /// If this, called after `at = tick()`, finds none that began before `at`, then none that did will run from now
    /// on (but for [`Job::UNKNOWN`], which counts as older than everything and may turn up at any time).
    pub fn is_seen_by_others(&self, by: u64, at: Moment) -> bool {
        self.registry.is_seen_by_others(by, at)
    }

    /// Whether that job runs.
    pub fn runs(&self, id: u64) -> bool {
        self.registry.runs(id)
    }

    /// All jobs that run, the oldest first.
    pub fn all(&self) -> Vec<Arc<Job>> {
        self.registry.all()
    }

    /// Has `ended` called with each job that ends, after it is not among [`Readers::all`] any more.
    /// Called once, before the first caller comes.
    pub fn when_one_ends(&self, ended: Box<dyn Fn(&Job) + Send + Sync>) {
        self.registry.when_one_ends(ended);
    }
}
