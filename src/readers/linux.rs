//! The processes of this machine.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use rustix::process::PidfdFlags;

use super::system::{Ends, Fate, Process, System, Watch, Witness};
use super::watcher::{self, Watcher};
use super::{fate, proc};

/// The processes of this machine, as the pid namespace of the daemon numbers them.
///
/// It is asked while requests of the mount wait for the answer. So it never looks at a file of the
/// mount, and reads nothing in `/proc` that could be waiting for one.
pub struct Linux {
    watcher: Arc<Watcher>,
    thread: Option<JoinHandle<()>>,
    /// Who sees what is not shown to this process; none where it sees by itself.
    witness: Option<Arc<dyn Witness>>,
    /// The kernel does not say of a pidfd what process that is (before Linux 6.13).
    is_old: AtomicBool,
    has_complained: AtomicBool,
}

impl std::fmt::Debug for Linux {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Linux").field("is_old", &self.is_old).finish_non_exhaustive()
    }
}

impl Linux {
    /// Starts the thread that notices ends.
    pub fn new() -> io::Result<Linux> {
        let watcher = Arc::new(Watcher::new()?);
        let shared = Arc::clone(&watcher);
        let start = std::thread::Builder::new().name("readers".to_owned());
        let thread = start.spawn(move || shared.run())?;
        let (is_old, has_complained) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Linux { watcher, thread: Some(thread), witness: None, is_old, has_complained })
    }

    /// Asks `witness` what is shown only to who may look into processes.
    pub fn seen_by(mut self, witness: Arc<dyn Witness>) -> Linux {
        self.witness = Some(witness);
        self
    }

    fn stat(&self, thread: u32) -> Option<Vec<u8>> {
        match &self.witness {
            Some(witness) => witness.stat(thread),
            None => proc::read(thread, "stat"),
        }
    }

    /// What the kernel says of a thread's pidfd.
    fn ask(&self, thread: u32) -> io::Result<Process> {
        if self.is_old.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let flags = PidfdFlags::from_bits_retain(libc::PIDFD_THREAD);
        let asked = watcher::open(thread, flags).and_then(|pidfd| info(&pidfd));
        if let Err(error) = &asked
            && matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTTY | libc::ENOSYS))
        {
            self.is_old.store(true, Ordering::Relaxed);
        }
        asked
    }

    /// Says once that something can't be watched, unless it just was not there any more.
    fn complain(&self, error: &io::Error) {
        if error.raw_os_error() == Some(libc::ESRCH) {
            return;
        }
        if !self.has_complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "can't watch for the end of a process ({error}): the jobs of such processes are not \
                 told from each other, and what is removed is kept for them as for unknown readers; \
                 if there are too many open files, raise that limit for the daemon"
            );
        }
    }

    /// How much is watched: processes, threads and cgroups.
    #[cfg(test)]
    pub(super) fn watched(&self) -> [usize; 3] {
        self.watcher.watched()
    }

    /// As on a kernel before 6.13.
    #[cfg(test)]
    pub(super) fn pretend_to_be_old(&self) {
        self.is_old.store(true, Ordering::Relaxed);
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        self.watcher.stop();
        let itself = std::thread::current().id();
        // That thread may be the one which had the last use for this.
        if let Some(thread) = self.thread.take().filter(|t| t.thread().id() != itself) {
            let _ = thread.join();
        }
    }
}

impl System for Linux {
    fn process(&self, thread: u32) -> Option<Process> {
        match self.ask(thread) {
            Ok(process) => Some(process),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => None,
            Err(_) => {
                let process = proc::process(&proc::read(thread, "status")?)?;
                Some(Process { cgroup: proc::cgroup(thread).unwrap_or(0), ..process })
            }
        }
    }

    fn fate(&self, thread: u32) -> Fate {
        match proc::read(thread, "statm") {
            // It is ending; only so its `stat` waits for nobody.
            Some(statm) if !fate::has_memory(&statm) => {
                self.stat(thread).map_or(Fate::Fine, |stat| fate::of_ending(&stat))
            }
            _ => Fate::Fine,
        }
    }

    fn fate_in(&self, process: u32, thread: u32) -> Fate {
        match self.watcher.process(process).and_then(|watched| watched.has_memory()) {
            Some(true) => Fate::Fine,
            // Also if only the first thread has ended.
            _ => self.fate(thread),
        }
    }

    fn has_open(&self, process: u32, inode: u64) -> bool {
        match &self.witness {
            Some(witness) => witness.has_open(process, inode),
            None => proc::has_open(process, inode),
        }
    }

    fn is_locked(&self, device: (u32, u32), inode: u64) -> bool {
        proc::is_locked_now(device, inode).unwrap_or(false)
    }

    fn report_to(&self, ends: Weak<dyn Ends>) {
        self.watcher.report_to(ends);
    }

    fn watch(&self, process: u32) -> bool {
        let watched = self.watcher.watch(process);
        watched.inspect_err(|error| self.complain(error)).is_ok()
    }

    fn watch_thread(&self, thread: u32) -> Watch {
        // If not, it is just resolved again the next time.
        self.watcher.watch_thread(thread).unwrap_or(Watch::No)
    }

    fn unwatch_thread(&self, thread: u32) {
        self.watcher.unwatch_thread(thread);
    }

    fn watch_group(&self, cgroup: u64, process: u32) {
        let path = proc::read(process, "cgroup").and_then(|text| proc::cgroup_path(&text));
        let folder = path.and_then(|path| proc::cgroup_folder(&path));
        let watched = folder.map(|folder| self.watcher.watch_group(cgroup, &folder));
        if !matches!(watched, Some(Ok(()))) {
            tracing::debug!(
                cgroup,
                "can't watch a cgroup; its job ends with the last known process"
            );
        }
    }

    fn is_populated(&self, cgroup: u64) -> Option<bool> {
        self.watcher.is_populated(cgroup)
    }

    fn unwatch_group(&self, cgroup: u64) {
        self.watcher.unwatch_group(cgroup);
    }
}

fn info(pidfd: impl AsFd) -> io::Result<Process> {
    /// The root of all cgroups, in which everything is where none are in use.
    const ROOT: u64 = 1;
    // SAFETY: a structure of integers, for which 0 is a value.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_PID | libc::PIDFD_INFO_CGROUPID);
    let pidfd = pidfd.as_fd().as_raw_fd();
    // SAFETY: the call writes at most the structure's size, which is part of its number, to it.
    if unsafe { libc::ioctl(pidfd, libc::PIDFD_GET_INFO as _, &raw mut info) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if info.mask & u64::from(libc::PIDFD_INFO_PID) == 0 || info.tgid == 0 {
        return Err(rustix::io::Errno::SRCH.into());
    }
    let is_known = info.mask & u64::from(libc::PIDFD_INFO_CGROUPID) != 0 && info.cgroupid > ROOT;
    let cgroup = if is_known { info.cgroupid } else { 0 };
    Ok(Process { pid: info.tgid, parent: info.ppid, cgroup })
}
