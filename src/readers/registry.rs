//! Which processes and threads make up which job.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;

use super::job::millis;
use super::removals::Removals;
use super::strangers::Strangers;
use super::system::{Ends, Process, System, Watch};
use super::{Grouping, Job, ReaderOptions};
use crate::cache::view::{During, Moment};

/// So many ancestors of a process are asked whether they belong to a job.
const GENERATIONS: usize = 64;

/// Where jobs have run so long ago, the next one may begin at any moment.
pub(super) const LATELY: Duration = Duration::from_secs(60);

type Ended = Box<dyn Fn(&Job) + Send + Sync>;

/// Locks are taken in this order: `crews`, then one of `threads` or `running` or the system's own.
pub(super) struct Registry {
    system: Arc<dyn System>,
    options: ReaderOptions,
    clock: AtomicU64,
    /// What most requests need: the job of a thread that has been here before.
    threads: DashMap<u32, Seat>,
    crews: Mutex<Crews>,
    /// By [`Job::id`], which is when they began.
    running: Mutex<BTreeMap<u64, Arc<Job>>>,
    /// Those whose pids can't be seen, once there are some.
    unknown: OnceLock<Arc<Job>>,
    strangers: Strangers,
    /// Removals that are going on. Locked after `running`.
    removals: Removals,
    /// When a job ended last, in milliseconds of the clock; 0 if none has.
    last_end: AtomicU64,
    /// How often there came to be someone new who adopts.
    changes: AtomicU64,
    ended: OnceLock<Ended>,
}

/// Where a thread belongs.
#[derive(Clone)]
struct Seat {
    process: u32,
    job: Arc<Job>,
}

#[derive(Default)]
struct Crews {
    processes: HashMap<u32, Member>,
    /// By [`Job::id`].
    jobs: HashMap<u64, Crew>,
    /// The jobs of cgroups, with [`Grouping::Cgroup`].
    groups: HashMap<u64, Arc<Job>>,
}

/// A registered process.
struct Member {
    job: Arc<Job>,
    /// Those that have a seat.
    threads: HashSet<u32>,
}

/// What keeps a job running.
struct Crew {
    /// How many processes are registered.
    processes: usize,
    /// Its cgroup; 0 if it is no cgroup's.
    cgroup: u64,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Registry");
        shown.field("options", &self.options).field("threads", &self.threads.len());
        shown.field("jobs", &self.running.lock().len()).finish_non_exhaustive()
    }
}

impl Registry {
    pub(super) fn new(system: Arc<dyn System>, options: ReaderOptions) -> Registry {
        Registry {
            system,
            options,
            clock: AtomicU64::new(1),
            threads: DashMap::new(),
            crews: Mutex::default(),
            running: Mutex::default(),
            unknown: OnceLock::new(),
            strangers: Strangers::new(),
            removals: Removals::default(),
            last_end: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            ended: OnceLock::new(),
        }
    }

    pub(super) fn job(&self, thread: u32, uid: u32) -> Arc<Job> {
        let found = self.seated(thread).or_else(|| self.find(thread, uid, true));
        found.unwrap_or_else(|| match thread {
            0 => self.unknown(uid),
            // Killed while it asked: a job that has ended before anybody could need it.
            _ => {
                let now = self.tick();
                Arc::new(Job::new(now, (During::NONE, now), thread, uid, self.system.now()))
            }
        })
    }

    pub(super) fn known(&self, thread: u32, uid: u32) -> Option<Arc<Job>> {
        if let Some(job) = self.seated(thread) {
            return Some(job);
        }
        let changes = self.changes.load(Ordering::Acquire);
        let now = self.system.now();
        if self.strangers.has(thread, now, changes) || self.running.lock().is_empty() {
            return None;
        }
        let found = self.find(thread, uid, false);
        if found.is_none() {
            self.strangers.remember(thread, now, changes);
        }
        found
    }

    pub(super) fn process(&self, thread: u32) -> Option<u32> {
        self.threads.get(&thread).map(|seat| seat.process)
    }

    pub(super) fn tick(&self) -> Moment {
        Moment(self.clock.fetch_add(1, Ordering::AcqRel))
    }

    pub(super) fn tick_of_removal(&self, job: u64, process: u32) -> Moment {
        let now = self.system.now();
        let others = self.oldest_besides(job).is_some() || self.ended_lately(now);
        self.removals.go_on((job, process), others, now, || self.tick())
    }

    pub(super) fn leave_removal(&self, job: u64, process: u32) -> bool {
        self.removals.leave(job, process)
    }

    pub(super) fn removal_ended(&self, job: u64) -> bool {
        self.removals.end(job)
    }

    pub(super) fn removals_began(&self) -> Option<Moment> {
        self.removals.began(self.system.now())
    }

    fn oldest_besides(&self, by: u64) -> Option<Moment> {
        let running = self.running.lock();
        running.values().find(|job| job.id != by).map(|job| job.began)
    }

    fn ended_lately(&self, now: Duration) -> bool {
        let last = self.last_end.load(Ordering::Acquire);
        last != 0 && u128::from(millis(now).saturating_sub(last)) < LATELY.as_millis()
    }

    pub(super) fn is_seen_by_others(&self, by: u64, at: Moment) -> bool {
        self.oldest_besides(by).is_some_and(|began| began < at) || self.removals.is_kept(by)
    }

    pub(super) fn runs(&self, id: u64) -> bool {
        self.running.lock().contains_key(&id)
    }

    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        self.running.lock().values().cloned().collect()
    }

    pub(super) fn when_one_ends(&self, ended: Ended) {
        // Called once, as its documentation says.
        let _ = self.ended.set(ended);
    }

    /// The job of a thread that has been here before.
    fn seated(&self, thread: u32) -> Option<Arc<Job>> {
        let job = Arc::clone(&self.threads.get(&thread)?.job);
        if job.touch(self.system.now(), self.options.idle) {
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
        Some(job)
    }

    /// The job of those who can't be told from each other.
    fn unknown(&self, uid: u32) -> Arc<Job> {
        let begin = || {
            let always = Moment(Job::UNKNOWN);
            let job = Arc::new(Job::new(always, (During::NONE, always), 0, uid, self.system.now()));
            self.running.lock().insert(job.id, Arc::clone(&job));
            job
        };
        Arc::clone(self.unknown.get_or_init(begin))
    }

    /// The job of a thread that is here for the first time; if it has none, one that begins now if
    /// it `may_begin`. None for an unknown one, and for one that must not begin.
    fn find(&self, thread: u32, uid: u32, may_begin: bool) -> Option<Arc<Job>> {
        let process = (thread != 0).then(|| self.system.process(thread)).flatten();
        let Some(process) = process else {
            return (thread == 0).then(|| self.unknown.get().cloned()).flatten();
        };
        let cgroup = match self.options.grouping {
            Grouping::Tree => 0,
            Grouping::Cgroup => process.cgroup,
        };
        let mut line = Vec::new();
        let mut next = if cgroup == 0 { process.parent } else { 0 };
        loop {
            {
                let mut crews = self.crews.lock();
                let job = match crews.processes.get(&process.pid) {
                    Some(member) => Some(Arc::clone(&member.job)),
                    None if cgroup != 0 => crews.groups.get(&cgroup).cloned(),
                    None => self.adopter(&crews, &line),
                };
                if job.is_some() || next <= 1 || line.len() == GENERATIONS {
                    return self.join(&mut crews, job, thread, uid, process, cgroup, may_begin);
                }
            }
            // Systems are asked without the lock; what was found before is looked at again then.
            line.push(next);
            next = self.system.process(next).map_or(0, |ancestor| ancestor.parent);
        }
    }

    /// The job that the nearest of these ancestors belong to, and which still adopts.
    fn adopter(&self, crews: &Crews, line: &[u32]) -> Option<Arc<Job>> {
        let now = self.system.now();
        let jobs = line.iter().filter_map(|pid| crews.processes.get(pid)).map(|m| &m.job);
        jobs.filter(|job| job.adopts(now, self.options.idle)).map(Arc::clone).next()
    }

    /// Gives a thread its seat in `job`, or in one that begins now.
    #[expect(clippy::too_many_arguments, reason = "they are what was found out about the thread")]
    fn join(
        &self,
        crews: &mut Crews,
        job: Option<Arc<Job>>,
        thread: u32,
        uid: u32,
        process: Process,
        cgroup: u64,
        may_begin: bool,
    ) -> Option<Arc<Job>> {
        if job.is_none() && !may_begin {
            return None;
        }
        // Before a job begins: one whose end would not be noticed must not.
        if !crews.processes.contains_key(&process.pid) {
            if !self.system.watch(process.pid) {
                return if may_begin {
                    Some(self.unknown(uid))
                } else {
                    self.unknown.get().cloned()
                };
            }
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
        let job = job.unwrap_or_else(|| self.begin(crews, process.pid, uid, cgroup));
        let member = crews.processes.entry(process.pid).or_insert_with(|| {
            if let Some(crew) = crews.jobs.get_mut(&job.id) {
                crew.processes += 1;
            }
            Member { job: Arc::clone(&job), threads: HashSet::new() }
        });
        // The first thread of a process has its number, which nobody else gets before its end.
        let watch =
            if thread == process.pid { Watch::Yes } else { self.system.watch_thread(thread) };
        if watch != Watch::No {
            member.threads.insert(thread);
            self.threads.insert(thread, Seat { process: process.pid, job: Arc::clone(&job) });
        }
        if let Watch::InsteadOf(other) = watch {
            self.leave(crews, other);
        }
        job.touch(self.system.now(), self.options.idle);
        Some(job)
    }

    /// A job that begins now.
    ///
    /// It takes its moment with `running` locked, and is among the running ones when that is
    /// unlocked. So if somebody takes a moment `at` that is later than `began`, this lock was taken
    /// before `began` was (here), `began` before `at` (they come from one counter, each step of
    /// which sees the steps before it), and `at` before they lock `running` to look for
    /// older jobs: they get the lock after us, and find the job, or it has ended by then. What they
    /// do not find began after `at`, or never will run again.
    ///
    /// Who begins while others remove directories sees what those have removed so far, if that was
    /// kept: all of it or nothing.
    fn begin(&self, crews: &mut Crews, pid: u32, uid: u32, cgroup: u64) -> Arc<Job> {
        let now = self.system.now();
        let job = {
            let mut running = self.running.lock();
            let began = self.tick();
            let sees = During::of(self.removals.going_on(now), began);
            let job = Arc::new(Job::new(began, sees, pid, uid, now));
            running.insert(job.id, Arc::clone(&job));
            job
        };
        crews.jobs.insert(job.id, Crew { processes: 0, cgroup });
        if cgroup != 0 {
            crews.groups.insert(cgroup, Arc::clone(&job));
            self.system.watch_group(cgroup, pid);
        }
        job
    }

    /// Takes its seat from a thread.
    fn leave(&self, crews: &mut Crews, thread: u32) {
        let Some((_, seat)) = self.threads.remove(&thread) else { return };
        if let Some(member) = crews.processes.get_mut(&seat.process) {
            member.threads.remove(&thread);
        }
    }

    /// Ends a job that nothing keeps running; returns whether it has ended.
    fn ends(&self, crews: &mut Crews, job: &Job) -> bool {
        let Some(crew) = crews.jobs.get(&job.id) else { return false };
        let cgroup = crew.cgroup;
        let others_run = || cgroup != 0 && self.system.is_populated(cgroup) == Some(true);
        if crew.processes > 0 || others_run() {
            return false;
        }
        crews.jobs.remove(&job.id);
        if cgroup != 0 {
            crews.groups.remove(&cgroup);
            self.system.unwatch_group(cgroup);
        }
        self.last_end.store(millis(self.system.now()), Ordering::Release);
        self.running.lock().remove(&job.id);
        self.removals.end(job.id);
        true
    }

    /// Tells of a job that has ended. No lock is held.
    fn tell(&self, job: &Job) {
        if let Some(ended) = self.ended.get() {
            ended(job);
        }
    }

    /// How many threads, processes, jobs and cgroups there are records of.
    #[cfg(test)]
    pub(super) fn records(&self) -> [usize; 5] {
        let crews = self.crews.lock();
        let (processes, jobs) = (crews.processes.len(), crews.jobs.len());
        let running = self.running.lock().len();
        [self.threads.len(), processes, jobs, crews.groups.len(), running]
    }
}

impl Ends for Registry {
    fn process_ended(&self, process: u32) {
        let job = {
            let mut crews = self.crews.lock();
            let Some(member) = crews.processes.remove(&process) else { return };
            self.removals.leave(member.job.id, process);
            for thread in member.threads {
                self.threads.remove(&thread);
                if thread != process {
                    self.system.unwatch_thread(thread);
                }
            }
            if let Some(crew) = crews.jobs.get_mut(&member.job.id) {
                crew.processes -= 1;
            }
            self.ends(&mut crews, &member.job).then_some(member.job)
        };
        if let Some(job) = job {
            self.tell(&job);
        }
    }

    fn thread_ended(&self, thread: u32) {
        self.leave(&mut self.crews.lock(), thread);
    }

    fn group_emptied(&self, cgroup: u64) {
        let job = {
            let mut crews = self.crews.lock();
            let job = crews.groups.get(&cgroup).cloned();
            job.filter(|job| self.ends(&mut crews, job))
        };
        if let Some(job) = job {
            self.tell(&job);
        }
    }
}
