//! What must be known of processes, so that it can be asked of a real system or of a made-up one.

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

/// A system that has processes.
pub trait System: Send + Sync + 'static {
    /// The process that a thread belongs to; none if it is gone or can't be seen.
    fn process(&self, thread: u32) -> Option<Process>;

    /// What becomes of a thread's process.
    fn fate(&self, thread: u32) -> Fate;

    /// Whether a process has a descriptor of a file with that inode number.
    fn has_open(&self, process: u32, inode: u64) -> bool;

    /// Whether anybody holds a lock (`flock(2)` or `fcntl(2)`) on a file of that inode number.
    fn is_locked(&self, inode: u64) -> bool;
}
