//! A system whose processes exist only here, for tests: everything happens when it is told to.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::system::{Ends, Fate, Process, System, Watch};

/// The system. Process 1 is there from the start, and adopts orphans.
#[derive(Default)]
pub struct MadeUp {
    state: Mutex<State>,
    ends: OnceLock<Weak<dyn Ends>>,
}

#[derive(Default)]
struct State {
    processes: HashMap<u32, Process>,
    /// The processes of threads that are not their first.
    threads: HashMap<u32, u32>,
    killed: HashSet<u32>,
    open: HashSet<(u32, u64)>,
    locked: HashSet<u64>,
    /// What happens right after it was looked who locks what, or what becomes of a process.
    after_look: Option<Box<dyn FnOnce() + Send>>,
    watched: HashSet<u32>,
    watched_threads: HashSet<u32>,
    watched_groups: HashSet<u64>,
    hides_groups: bool,
    refuses: bool,
    now: Duration,
}

impl std::fmt::Debug for MadeUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadeUp").finish_non_exhaustive()
    }
}

impl MadeUp {
    /// One without processes.
    pub fn new() -> Arc<MadeUp> {
        Arc::default()
    }

    /// `parent` has a child `pid`.
    pub fn start(&self, pid: u32, parent: u32) {
        self.start_in(pid, parent, 0);
    }

    /// `parent` has a child `pid`, in a cgroup.
    pub fn start_in(&self, pid: u32, parent: u32, cgroup: u64) {
        self.state.lock().processes.insert(pid, Process { pid, parent, cgroup });
    }

    /// `process` has one more thread.
    pub fn start_thread(&self, thread: u32, process: u32) {
        self.state.lock().threads.insert(thread, process);
    }

    /// A thread ends that is not the first of its process.
    pub fn end_thread(&self, thread: u32) {
        let is_watched = {
            let mut state = self.state.lock();
            state.threads.remove(&thread);
            state.watched_threads.remove(&thread)
        };
        if let Some(ends) = self.ends().filter(|_| is_watched) {
            ends.thread_ended(thread);
        }
    }

    /// A signal ends a process. It is gone only after [`MadeUp::end`]; until then it closes files.
    pub fn kill(&self, pid: u32) {
        self.state.lock().killed.insert(pid);
    }

    /// A process is gone, with all its threads. Returns after everyone was told.
    pub fn end(&self, pid: u32) {
        let (threads, is_watched, emptied) = {
            let mut state = self.state.lock();
            let Some(gone) = state.processes.remove(&pid) else { return };
            state.killed.remove(&pid);
            state.open.retain(|&(by, _)| by != pid);
            for orphan in state.processes.values_mut().filter(|process| process.parent == pid) {
                orphan.parent = 1;
            }
            let threads: Vec<u32> = {
                let all = state.threads.iter();
                all.filter(|&(_, &process)| process == pid).map(|(&thread, _)| thread).collect()
            };
            let is_empty = state.processes.values().all(|process| process.cgroup != gone.cgroup);
            let is_told = is_empty && state.watched_groups.contains(&gone.cgroup);
            (threads, state.watched.remove(&pid), is_told.then_some(gone.cgroup))
        };
        for thread in threads {
            self.end_thread(thread);
        }
        let Some(ends) = self.ends() else { return };
        if is_watched {
            ends.process_ended(pid);
        }
        if let Some(cgroup) = emptied {
            ends.group_emptied(cgroup);
        }
    }

    /// Somebody locks the file.
    pub fn lock(&self, inode: u64) {
        self.state.lock().locked.insert(inode);
    }

    /// Nobody locks it any more.
    pub fn unlock(&self, inode: u64) {
        self.state.lock().locked.remove(&inode);
    }

    /// Once it is asked next whether somebody locks a file, or what becomes of a process, and before whoever asks
    /// hears the answer, that happens.
    pub fn after_next_look(&self, happens: impl FnOnce() + Send + 'static) {
        self.state.lock().after_look = Some(Box::new(happens));
    }

    /// A process opens a file.
    pub fn open(&self, pid: u32, inode: u64) {
        self.state.lock().open.insert((pid, inode));
    }

    /// A process closes it.
    pub fn close(&self, pid: u32, inode: u64) {
        self.state.lock().open.remove(&(pid, inode));
    }

    /// Time passes; it does so only here.
    pub fn pass(&self, time: Duration) {
        self.state.lock().now += time;
    }

    /// From now on processes can't be watched (or again, if not `refuses`).
    pub fn refuse(&self, refuses: bool) {
        self.state.lock().refuses = refuses;
    }

    /// From now on it can't be told whether there are processes in a cgroup.
    pub fn hide_groups(&self) {
        self.state.lock().hides_groups = true;
    }

    /// How many processes, threads and cgroups are watched.
    pub fn watched(&self) -> [usize; 3] {
        let state = self.state.lock();
        [state.watched.len(), state.watched_threads.len(), state.watched_groups.len()]
    }

    fn ends(&self) -> Option<Arc<dyn Ends>> {
        self.ends.get()?.upgrade()
    }
}

impl State {
    fn process_of(&self, thread: u32) -> u32 {
        self.threads.get(&thread).copied().unwrap_or(thread)
    }
}

impl System for MadeUp {
    fn process(&self, thread: u32) -> Option<Process> {
        let state = self.state.lock();
        state.processes.get(&state.process_of(thread)).copied()
    }

    fn fate(&self, thread: u32) -> Fate {
        let (is_killed, happens) = {
            let mut state = self.state.lock();
            (state.killed.contains(&state.process_of(thread)), state.after_look.take())
        };
        if let Some(happens) = happens {
            happens();
        }
        if is_killed { Fate::Killed } else { Fate::Fine }
    }

    fn has_open(&self, process: u32, inode: u64) -> bool {
        self.state.lock().open.contains(&(process, inode))
    }

    fn is_locked(&self, _: (u32, u32), inode: u64) -> bool {
        let (locked, happens) = {
            let mut state = self.state.lock();
            (state.locked.contains(&inode), state.after_look.take())
        };
        if let Some(happens) = happens {
            happens();
        }
        locked
    }

    fn report_to(&self, ends: Weak<dyn Ends>) {
        let _ = self.ends.set(ends);
    }

    /// Unlike a real system it refuses a process that has ended already, as nothing would happen
    /// here later that could report it.
    fn watch(&self, process: u32) -> bool {
        let mut state = self.state.lock();
        let can = !state.refuses && state.processes.contains_key(&process);
        if can {
            state.watched.insert(process);
        }
        can
    }

    fn watch_thread(&self, thread: u32) -> Watch {
        let mut state = self.state.lock();
        if state.refuses || !state.threads.contains_key(&thread) {
            return Watch::No;
        }
        state.watched_threads.insert(thread);
        Watch::Yes
    }

    fn unwatch_thread(&self, thread: u32) {
        self.state.lock().watched_threads.remove(&thread);
    }

    fn watch_group(&self, cgroup: u64, _: u32) {
        let mut state = self.state.lock();
        if !state.hides_groups {
            state.watched_groups.insert(cgroup);
        }
    }

    fn is_populated(&self, cgroup: u64) -> Option<bool> {
        let state = self.state.lock();
        let is_populated = || state.processes.values().any(|process| process.cgroup == cgroup);
        state.watched_groups.contains(&cgroup).then(is_populated)
    }

    fn unwatch_group(&self, cgroup: u64) {
        self.state.lock().watched_groups.remove(&cgroup);
    }

    fn now(&self) -> Duration {
        self.state.lock().now
    }
}
