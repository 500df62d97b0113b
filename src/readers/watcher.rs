//! Notices when processes, threads and cgroups end: one thread that waits for all of them at once.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};

use dashmap::DashMap;
use lru::LruCache;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::fate;
use super::proc;
use super::system::{Ends, Watch};

/// At most so many threads are watched. Those of processes that have one thread are not counted.
const THREADS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// What an event is about is in the two highest bits of its data; the number is in the others.
const KIND: u64 = 3 << 62;
const PROCESS: u64 = 0;
const THREAD: u64 = 1 << 62;
const GROUP: u64 = 2 << 62;
const STOP: u64 = 3 << 62;

pub(super) struct Watcher {
    epoll: OwnedFd,
    stop: OwnedFd,
    processes: DashMap<u32, Arc<Watched>>,
    threads: Mutex<LruCache<u32, OwnedFd>>,
    /// The `cgroup.events` of each.
    groups: Mutex<HashMap<u64, File>>,
    ends: OnceLock<Weak<dyn Ends>>,
}

/// A process that is watched.
pub(super) struct Watched {
    pid: u32,
    pidfd: OwnedFd,
    /// Opened when it is wanted for the first time: of processes that only read it never is.
    statm: OnceLock<Option<File>>,
}

impl Watched {
    /// Whether the first thread of the process still has memory: if so, no thread of it can be
    /// closing what they shared because the process ends. None if that can't be read.
    pub(super) fn has_memory(&self) -> Option<bool> {
        let open = || File::open(format!("/proc/{}/statm", self.pid)).ok();
        let mut text = [0; 128];
        let read = self.statm.get_or_init(open).as_ref()?.read_at(&mut text, 0).ok()?;
        text.get(..read).map(fate::has_memory)
    }
}

impl Watcher {
    pub(super) fn new() -> io::Result<Watcher> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(STOP);
        epoll::add(&epoll, &stop, data, epoll::EventFlags::IN)?;
        Ok(Watcher {
            epoll,
            stop,
            processes: DashMap::new(),
            threads: Mutex::new(LruCache::new(THREADS)),
            groups: Mutex::default(),
            ends: OnceLock::new(),
        })
    }

    pub(super) fn report_to(&self, ends: Weak<dyn Ends>) {
        // Called once, as its documentation says.
        let _ = self.ends.set(ends);
    }

    /// Has [`Watcher::run`] return.
    pub(super) fn stop(&self) {
        // Can't fail: it is written to once.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }

    /// Reports ends until it is stopped.
    pub(super) fn run(&self) {
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            let space = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, space, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!("ends of processes are not noticed any more: {error}");
                    return;
                }
            }
            for event in &events {
                let data = event.data.u64();
                let (kind, number) = (data & KIND, data & !KIND);
                match kind {
                    PROCESS => self.process_ended(number as u32),
                    THREAD => self.thread_ended(number as u32),
                    GROUP => self.group_changed(number),
                    _ => return,
                }
            }
        }
    }

    pub(super) fn watch(&self, pid: u32) -> io::Result<()> {
        let pidfd = open(pid, PidfdFlags::empty())?;
        let watched = Arc::new(Watched { pid, pidfd, statm: OnceLock::new() });
        // First the table: the end may be reported before this returns.
        self.processes.insert(pid, Arc::clone(&watched));
        let added = self.add(&watched.pidfd, PROCESS | u64::from(pid), epoll::EventFlags::IN);
        if added.is_err() {
            self.processes.remove(&pid);
        }
        added
    }

    pub(super) fn process(&self, pid: u32) -> Option<Arc<Watched>> {
        self.processes.get(&pid).map(|watched| Arc::clone(&watched))
    }

    pub(super) fn watch_thread(&self, thread: u32) -> io::Result<Watch> {
        let pidfd = open(thread, PidfdFlags::from_bits_retain(libc::PIDFD_THREAD))?;
        let mut threads = self.threads.lock();
        self.add(&pidfd, THREAD | u64::from(thread), epoll::EventFlags::IN)?;
        let Some((other, pidfd)) = threads.push(thread, pidfd) else { return Ok(Watch::Yes) };
        self.remove(&pidfd);
        Ok(if other == thread { Watch::Yes } else { Watch::InsteadOf(other) })
    }

    pub(super) fn unwatch_thread(&self, thread: u32) {
        if let Some(pidfd) = self.threads.lock().pop(&thread) {
            self.remove(&pidfd);
        }
    }

    /// Watches the cgroup whose folder is at `path`.
    pub(super) fn watch_group(&self, cgroup: u64, path: &Path) -> io::Result<()> {
        if cgroup & KIND != 0 || path.metadata()?.ino() != cgroup {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = File::open(path.join("cgroup.events"))?;
        let mut groups = self.groups.lock();
        self.add(&file, GROUP | cgroup, epoll::EventFlags::PRI)?;
        groups.insert(cgroup, file);
        Ok(())
    }

    pub(super) fn is_populated(&self, cgroup: u64) -> Option<bool> {
        // One that can't be read is not there any more.
        self.groups.lock().get(&cgroup).map(|file| populated(file).unwrap_or(false))
    }

    pub(super) fn unwatch_group(&self, cgroup: u64) {
        if let Some(file) = self.groups.lock().remove(&cgroup) {
            self.remove(&file);
        }
    }

    fn process_ended(&self, pid: u32) {
        let Some((_, watched)) = self.processes.remove(&pid) else { return };
        self.remove(&watched.pidfd);
        drop(watched);
        if let Some(ends) = self.ends() {
            ends.process_ended(pid);
        }
    }

    fn thread_ended(&self, thread: u32) {
        self.unwatch_thread(thread);
        if let Some(ends) = self.ends() {
            ends.thread_ended(thread);
        }
    }

    fn group_changed(&self, cgroup: u64) {
        let is_empty = {
            let groups = self.groups.lock();
            let Some(file) = groups.get(&cgroup) else { return };
            // To read it is also what ends this event.
            let populated = populated(file);
            if populated.is_none() {
                self.remove(file);
            }
            populated != Some(true)
        };
        if let Some(ends) = self.ends().filter(|_| is_empty) {
            ends.group_emptied(cgroup);
        }
    }

    fn ends(&self) -> Option<Arc<dyn Ends>> {
        self.ends.get()?.upgrade()
    }

    fn add(&self, watched: impl AsFd, data: u64, flags: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, watched, epoll::EventData::new_u64(data), flags)?)
    }

    /// To close a descriptor is not enough: a program that is just being started may have a copy.
    fn remove(&self, watched: impl AsFd) {
        let _ = epoll::delete(&self.epoll, watched);
    }
}

impl Watcher {
    /// How much is watched: processes, threads and cgroups.
    #[cfg(test)]
    pub(super) fn watched(&self) -> [usize; 3] {
        [self.processes.len(), self.threads.lock().len(), self.groups.lock().len()]
    }
}

pub(super) fn open(task: u32, flags: PidfdFlags) -> io::Result<OwnedFd> {
    let pid = i32::try_from(task).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    Ok(pidfd_open(pid, flags)?)
}

fn populated(events: &File) -> Option<bool> {
    let mut text = [0; 256];
    let read = events.read_at(&mut text, 0).ok()?;
    text.get(..read).map(proc::is_populated)
}
