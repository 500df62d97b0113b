//! What must be known of processes, so that it can be asked of a real system or of a made-up one.

use std::sync::Weak;
use std::time::Duration;

use crate::platform::time::{ClockId, clock_gettime};

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its thread group id.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its cgroup's number; 0 when it is not known.
    pub cgroup: u64,
}

/// What becomes of a process that closes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It runs, or has ended of itself: what it closes, it closes.
    Fine,
    /// A signal has ended it, in the middle of whatever it was writing.
    Killed,
}

/// Whether the end of a thread will be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// No.
    No,
    /// Yes.
    Yes,
    /// Yes, but no longer that of this other thread.
    InsteadOf(u32),
}

/// Who is told of ends. Called with no lock of the system held.
pub trait Ends: Send + Sync {
    /// All threads of a watched process have ended. It is not watched any more.
    fn process_ended(&self, process: u32);

    /// A watched thread has ended. It is not watched any more.
    fn thread_ended(&self, thread: u32);

    /// There was no process left in a watched cgroup when last seen. It is watched on.
    fn group_emptied(&self, cgroup: u64);
}

/// Sees of processes what is shown only to who may look into them, for a daemon that may not. Never waits
/// for the mount.
pub trait Witness: Send + Sync + 'static {
    /// The `stat` of a thread, as `/proc` has it; none if it is gone.
    fn stat(&self, task: u32) -> Option<Vec<u8>>;

    /// Whether a process has a descriptor of a file with that inode number.
    fn has_open(&self, process: u32, inode: u64) -> bool;
}

/// A system that has processes.
pub trait System: Send + Sync + 'static {
    /// The process that a thread belongs to; none if it is gone or can't be seen.
    fn process(&self, thread: u32) -> Option<Process>;

    /// What becomes of a thread's process.
    fn fate(&self, thread: u32) -> Fate;

    /// Like [`System::fate`], of a thread of a process that is watched: cheaper.
    fn fate_in(&self, process: u32, thread: u32) -> Fate {
        let _ = process;
        self.fate(thread)
    }

    /// Whether a process has a descriptor of a file with that inode number.
    fn has_open(&self, process: u32, inode: u64) -> bool;

    /// Whether anybody holds a lock (`flock(2)` or `fcntl(2)`) on a file of that inode number, or
    /// waits for one.
    fn is_locked(&self, device: (u32, u32), inode: u64) -> bool;

    /// Says who is told of ends. Called once, before anything is watched.
    fn report_to(&self, ends: Weak<dyn Ends>);

    /// From now on the end of this process is reported, also if it has ended already; returns
    /// whether that can be done. Never calls [`Ends`] itself, like the two that follow.
    fn watch(&self, process: u32) -> bool;

    /// From now on the end of this thread is reported, unless it is unwatched or makes room for
    /// another one before.
    fn watch_thread(&self, thread: u32) -> Watch;

    /// The end of this thread needs not be reported any more.
    fn unwatch_thread(&self, thread: u32);

    /// From now on it is reported when a cgroup, in which `process` is, has no process any more;
    /// nothing happens if that can't be done.
    fn watch_group(&self, cgroup: u64, process: u32);

    /// Whether there are processes in a watched cgroup; none if it isn't watched.
    fn is_populated(&self, cgroup: u64) -> Option<bool>;

    /// The cgroup is not of interest any more.
    fn unwatch_group(&self, cgroup: u64);

    /// The time since some fixed moment, precise to a few milliseconds.
    fn now(&self) -> Duration {
        let now = clock_gettime(ClockId::MonotonicCoarse);
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    }
}
