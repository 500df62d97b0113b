//! Live -> retired -> reclaimed (SEMANTICS 3).
//!
//! What is removed while somebody runs who may go on using it is moved into the store's own folder,
//! as it is: a whole directory in one rename. Who began before the removal, and is not the one who
//! removed it, sees it as before. When the last of them has ended it is reclaimed, in the background.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use cachefs_mount::{Errno, Kind, Name, NodeId, Result};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, OFlags, Statx};
use smallvec::SmallVec;

use super::Cache;
use super::additions::How;
use super::name_locks::Change;
use super::resolve::{errno, key, kind, open_at, status};
use super::tree::{Kept, Node, Place, RETIRED, known_name};
use super::view::{self, Moment, Stage, Version, is_lock_name};
use crate::readers::Job;

/// How much there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Space taken, in bytes.
    pub bytes: u64,
    /// Files, directories and whatever else has a name.
    pub files: u64,
}

/// A running job, and what is kept for it.
#[derive(Clone, Debug)]
pub struct Holding {
    /// The job.
    pub job: Arc<Job>,
    /// What was removed and is kept because this job still sees it.
    pub retired: Amount,
}

/// What `clean` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Names taken out of the live view.
    pub names: u64,
    /// How many jobs still see what was removed; its space is free when they have ended.
    pub seen_by: usize,
}

/// Why `clean` removed nothing.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// The path leads out of the mount, or is no path of it.
    #[error("{} is not a path in the mount; give paths relative to it", .0.display())]
    NotInside(PathBuf),
    /// There is nothing of that name.
    #[error("there is no {} in the mount", .0.display())]
    Absent(PathBuf),
    /// The store refuses.
    #[error("can't remove {}: {error}", path.display())]
    Store {
        /// What was to be removed.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
}

/// How long what was removed is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// At most so long for any job.
    pub retain_for: Duration,
    /// So long for callers whose pids the daemon can't see.
    pub grace: Duration,
}

impl Default for Keep {
    fn default() -> Keep {
        Keep { retain_for: Duration::from_secs(24 * 3600), grace: Duration::from_secs(600) }
    }
}

/// The remover's number where no job removes, but an administrator.
pub(super) const ADMINISTRATOR: u64 = u64::MAX;

/// Something that was removed.
#[derive(Clone, Debug)]
struct Record {
    at: Moment,
    /// Who does not see it although they began before: first of all who removed it.
    hidden: SmallVec<[u64; 1]>,
    /// Where it was; none if nobody saw it any more when it was removed.
    seen_as: Option<(Arc<Node>, Box<[u8]>)>,
    node: NodeId,
    /// Its name in the folder of what is retired; none if it lies elsewhere.
    lies: Option<Box<[u8]>>,
    since: Instant,
    /// A directory is measured after it was removed.
    amount: Option<Amount>,
}

/// All that was removed and is not reclaimed.
#[derive(Debug, Default)]
pub(super) struct Retired {
    /// By the number of the version that it is, and so in the order of removals.
    records: Mutex<BTreeMap<u64, Record>>,
    reaper: Mutex<Option<Sender<()>>>,
    /// To whoever tells the kernel of names that it has to ask for again.
    herald: Mutex<Option<Sender<Changed>>>,
}

/// A name that stands for something else now, without the kernel's knowledge.
type Changed = (NodeId, Box<[u8]>);

/// An open directory, the names in it that are still to be removed, and its own.
type Emptied = (OwnedFd, Vec<Box<[u8]>>, Box<[u8]>);

impl Retired {
    /// Has the reaper look for what nobody needs any more.
    pub(super) fn wake(&self) {
        if let Some(reaper) = &*self.reaper.lock() {
            // It ends with the cache; then there is nothing to wake.
            let _ = reaper.send(());
        }
    }
}

impl Retired {
    /// Has the kernel told of a name, soon.
    pub(super) fn tell_later(&self, folder: NodeId, name: &[u8]) {
        if let Some(herald) = &*self.herald.lock() {
            // It ends with the cache; then the kernel has gone, too.
            let _ = herald.send((folder, name.into()));
        }
    }
}

fn amount(status: &Statx) -> Amount {
    // Units of 512 bytes, whatever the filesystem (statx(2)).
    Amount { bytes: status.stx_blocks * 512, files: 1 }
}

impl Amount {
    fn add(&mut self, other: Amount) {
        self.bytes += other.bytes;
        self.files += other.files;
    }
}

impl Cache {
    /// Whether a name that `job` takes away now, at this moment, has to be kept for others.
    pub(super) fn is_kept(
        &self,
        job: u64,
        at: Moment,
        name: Name<'_>,
        temporary: impl FnOnce() -> bool,
    ) -> bool {
        self.readers.oldest_besides(job).is_some_and(|began| began < at)
            && !is_lock_name(name.as_bytes())
            && !temporary()
    }

    /// Whether `job` itself gave that name to a node, and neither it nor any directory above it was
    /// renamed since.
    pub(super) fn is_own(
        &self,
        job: u64,
        (folder, name): (&Arc<Node>, Name<'_>),
        node: NodeId,
        wanted: impl FnOnce(How) -> bool,
    ) -> bool {
        let Some(added) = self.additions.of(node, folder.id, name) else { return false };
        if added.by != job || added.how == How::Moved || !wanted(added.how) {
            return false;
        }
        let mut above = folder.clone();
        loop {
            if self.additions.moved(above.id).is_some_and(|moved| moved > added.at) {
                return false;
            }
            let Some(place) = above.place() else { return true };
            match self.tree.get(place.parent()) {
                Ok(parent) => above = parent,
                Err(_) => return true,
            }
        }
    }

    /// Takes `name` out of the live view and keeps it: for all who began before, if `seen`.
    pub(super) fn retire(
        &self,
        _: &Change<'_>,
        folder: &Arc<Node>,
        directory: &OwnedFd,
        name: Name<'_>,
        (at, by): (Moment, u64),
        seen: bool,
    ) -> Result<()> {
        let status = status(directory, name.as_bytes())?;
        let (key, kind) = (key(&status), kind(&status));
        let number = self.next_number();
        let text = number.to_string();
        let node = {
            let _moving = self.moves.read();
            let (from, to) = (directory, &*self.retired_folder);
            rustix::fs::renameat(from, name.as_bytes(), to, &*text).map_err(errno)?;
            let node = self.tree.know(key, kind, RETIRED, known_name(text.as_bytes()));
            if kind != Kind::Directory {
                self.tree.remove_place(&node, folder.id, name);
            }
            node.note_last_place(folder.id, name);
            node
        };
        let hidden = SmallVec::from_elem(by, 1);
        let version = match seen {
            true => {
                let stage = Stage::Retired { at, hidden: hidden.clone() };
                self.add_version(folder, name, node.id, stage)
            }
            false => self.next_number(),
        };
        let seen_as = seen.then(|| (folder.clone(), name.as_bytes().into()));
        let amount = (kind != Kind::Directory).then(|| amount(&status));
        let (lies, since) = (Some(text.as_bytes().into()), Instant::now());
        let record = Record { at, hidden, seen_as, node: node.id, lies, since, amount };
        self.retired.records.lock().insert(version, record);
        if !seen || kind == Kind::Directory {
            self.retired.wake();
        }
        Ok(())
    }

    /// Keeps the old name of something that was renamed.
    pub(super) fn keep_old_name(
        &self,
        folder: &Arc<Node>,
        name: Name<'_>,
        node: NodeId,
        (at, by): (Moment, u64),
    ) {
        let hidden = SmallVec::from_elem(by, 1);
        let stage = Stage::Retired { at, hidden: hidden.clone() };
        let version = self.add_version(folder, name, node, stage);
        let seen_as = Some((folder.clone(), name.as_bytes().into()));
        let (since, amount) = (Instant::now(), Some(Amount::default()));
        let record = Record { at, hidden, seen_as, node, lies: None, since, amount };
        self.retired.records.lock().insert(version, record);
    }

    /// `job` does not see any kept version of a name any more.
    pub(super) fn hide(&self, _: &Change<'_>, folder: &Node, name: Name<'_>, job: u64) {
        if folder.versions(name).is_empty() {
            return;
        }
        let mut numbers = SmallVec::<[u64; 1]>::new();
        self.tree.change_versions(folder, name.as_bytes(), |list| {
            for kept in list.iter_mut() {
                if let Stage::Retired { hidden, .. } = &mut kept.version.stage
                    && !hidden.contains(&job)
                {
                    hidden.push(job);
                    numbers.push(kept.number);
                }
            }
        });
        let mut records = self.retired.records.lock();
        for number in &numbers {
            if let Some(record) = records.get_mut(number) {
                record.hidden.push(job);
            }
        }
        drop(records);
        if !numbers.is_empty() {
            self.retired.wake();
        }
    }

    /// The directory that was removed last under this name and is still kept.
    fn retired_directory(&self, folder: &Node, name: Name<'_>) -> Option<(Arc<Node>, Kept)> {
        let kept = folder.versions(name);
        let newest = kept
            .iter()
            .filter_map(|kept| match kept.version.stage {
                Stage::Retired { at, .. } => Some((at, kept)),
                _ => None,
            })
            .max_by_key(|(at, _)| *at)?;
        let node = self.tree.get(newest.1.version.what).ok()?;
        let here = node.place().is_some_and(|place| place.parent() == RETIRED);
        (node.kind == Kind::Directory && here).then(|| (node, newest.1.clone()))
    }

    /// Brings a retired directory back under its name, empty for all but those who see what was in it
    /// (SEMANTICS 3.4). False: there is none.
    pub(super) fn bring_back(
        &self,
        folder: &Arc<Node>,
        directory: &OwnedFd,
        name: Name<'_>,
    ) -> Result<bool> {
        loop {
            let Some((node, kept)) = self.retired_directory(folder, name) else {
                return Ok(false);
            };
            // Not under the name's lock: these names have locks of their own.
            self.retire_contents(&node, &kept.version.stage)?;
            let _change = self.names.change(folder.id, name.as_bytes());
            let still = self.retired_directory(folder, name);
            let still = still.is_some_and(|(_, now)| now.number == kept.number);
            let Some(place) = node.place().filter(|_| still) else { continue };
            {
                let _moving = self.moves.read();
                let flags = rustix::fs::RenameFlags::NOREPLACE;
                let from = &*self.retired_folder;
                rustix::fs::renameat_with(from, &*place.name, directory, name.as_bytes(), flags)
                    .map_err(errno)?;
                self.tree.add_place(&node, folder.id, name);
            }
            self.remove_retired(folder, name, node.id, kept.number);
            self.retired.records.lock().remove(&kept.number);
            return Ok(true);
        }
    }

    /// Takes a kept version out of its directory, and gives back what it held.
    fn remove_retired(&self, folder: &Node, name: Name<'_>, what: NodeId, version: u64) {
        let mut removed = 0;
        self.tree.change_versions(folder, name.as_bytes(), |list| {
            let before = list.len();
            list.retain(|kept| kept.number != version);
            removed = before - list.len();
        });
        self.give_back(what, removed as u64);
    }

    /// All that is live in a retired directory becomes retired as the directory is.
    fn retire_contents(&self, node: &Arc<Node>, stage: &Stage) -> Result<()> {
        let Stage::Retired { at, hidden } = stage else { return Ok(()) };
        // Nobody sees more in it than sees the directory itself.
        for (name, _) in node.all_versions() {
            self.tree.change_versions(node, &name, |list| {
                for kept in list.iter_mut() {
                    if let Stage::Retired { at: removed, hidden: unseen } = &mut kept.version.stage
                    {
                        *removed = (*removed).min(*at);
                        unseen.extend(hidden.iter().copied());
                    }
                }
            });
        }
        let directory = self.directory(node.id)?;
        for name in self.names_in(&directory)? {
            let name = known_name(&name);
            let change = self.names.change(node.id, name.as_bytes());
            let by = hidden.first().copied().unwrap_or(ADMINISTRATOR);
            match self.retire(&change, node, &directory, name, (*at, by), true) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
            for &job in hidden.iter().skip(1) {
                self.hide(&change, node, name, job);
            }
        }
        Ok(())
    }

    /// The names in a folder of the store.
    pub(super) fn names_in(&self, directory: &OwnedFd) -> Result<Vec<Box<[u8]>>> {
        let listed = open_at(directory, b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(listed).map_err(errno)? {
            let entry = entry.map_err(errno)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.into());
            }
        }
        Ok(names)
    }

    /// What was removed and is still there for running jobs, or on its way out.
    pub fn retired(&self) -> Amount {
        let mut all = Amount::default();
        for record in self.retired.records.lock().values() {
            all.add(record.amount.unwrap_or_default());
        }
        all
    }

    /// The running jobs, the oldest first, and what each holds.
    pub fn readers(&self) -> Vec<Holding> {
        let jobs = self.readers.all();
        let records: Vec<Record> = self.retired.records.lock().values().cloned().collect();
        let held = |job: &Job| {
            let mut all = Amount::default();
            for record in &records {
                let version = Version {
                    what: (),
                    stage: Stage::Retired { at: record.at, hidden: record.hidden.clone() },
                };
                if record.seen_as.is_some() && view::seen([version], job.reader()).is_some() {
                    all.add(record.amount.unwrap_or_default());
                }
            }
            all
        };
        jobs.into_iter().map(|job| Holding { retired: held(&job), job }).collect()
    }

    /// Starts what reclaims in the background.
    pub(super) fn start_reaper(self: &Arc<Self>) -> std::io::Result<()> {
        let (wake, woken) = std::sync::mpsc::channel();
        *self.retired.reaper.lock() = Some(wake);
        let cache = Arc::downgrade(self);
        std::thread::Builder::new().name("reaper".into()).spawn(move || {
            loop {
                let Some(cache) = cache.upgrade() else { return };
                let next = cache.reclaim();
                drop(cache);
                // What has to be reclaimed because of the time is due then, at the earliest.
                let wait = next.map_or(IDLE, |next| next.saturating_duration_since(Instant::now()));
                match woken.recv_timeout(wait) {
                    Ok(()) | Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                    Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
                }
                while woken.try_recv().is_ok() {}
            }
        })?;
        Ok(())
    }

    /// Starts what tells the kernel of names, on behalf of those who answer it.
    pub(super) fn start_herald(self: &Arc<Self>) -> std::io::Result<()> {
        let (tell, told) = std::sync::mpsc::channel::<Changed>();
        *self.retired.herald.lock() = Some(tell);
        let cache = Arc::downgrade(self);
        std::thread::Builder::new().name("herald".into()).spawn(move || {
            while let Ok((folder, name)) = told.recv() {
                let Some(cache) = cache.upgrade() else { return };
                cache.tell_kernel(folder, &name);
            }
        })?;
        Ok(())
    }

    /// Reclaims what nobody needs any more, in the order in which it was removed; when the next is due
    /// in any case.
    pub(super) fn reclaim(&self) -> Option<Instant> {
        self.measure();
        let records: Vec<(u64, Record)> =
            self.retired.records.lock().iter().map(|(n, record)| (*n, record.clone())).collect();
        // Only now: whoever needs one of these began before it was removed.
        let needs = Needs::new(self.readers.all(), self.options.keep);
        let now = Instant::now();
        let (due, kept): (Vec<_>, Vec<_>) = records
            .into_iter()
            .partition(|(_, record)| needs.until(record).is_none_or(|until| until <= now));
        let next = kept.iter().filter_map(|(_, record)| needs.until(record)).min();
        for (number, record) in due {
            if needs.holders(&record).next().is_some() {
                tracing::warn!(
                    name = %record.name(), kept_for = %needs.names(&record),
                    "kept for as long as --retain-for allows; running jobs may miss it now",
                );
            }
            self.reclaim_one(number, &record);
            self.retired.records.lock().remove(&number);
        }
        next
    }

    fn reclaim_one(&self, number: u64, record: &Record) {
        let Ok(node) = self.tree.get(record.node) else { return };
        let still_lies = match &record.seen_as {
            Some((folder, name)) => {
                let name = known_name(name);
                let _change = self.names.change(folder.id, name.as_bytes());
                if !folder.versions(name).iter().any(|kept| kept.number == number) {
                    // Brought back meanwhile.
                    return;
                }
                let still_lies = record.still_lies(&node);
                self.remove_retired(folder, name, record.node, number);
                still_lies
            }
            None => {
                let still_lies = record.still_lies(&node);
                self.give_back(record.node, 1);
                still_lies
            }
        };
        let Some(place) = record.lies.as_ref().filter(|_| still_lies) else { return };
        let removed = match node.kind {
            Kind::Directory => self.remove_tree(place),
            _ => self.unlink_in((RETIRED, &self.retired_folder), place),
        };
        if let Err(errno) = removed {
            tracing::warn!(%errno, name = %record.name(), "can't reclaim; the next mount does");
        }
    }

    /// Removes a directory of the folder of what is retired, with everything in it.
    fn remove_tree(&self, name: &[u8]) -> Result<()> {
        // Not by recursion: trees may be deeper than a stack.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let top = open_at(&*self.retired_folder, name, flags)?;
        let mut open: Vec<Emptied> = Vec::new();
        let names = self.names_in(&top)?;
        open.push((top, names, name.into()));
        while let Some((directory, names, _)) = open.last_mut() {
            if let Some(next) = names.pop() {
                match open_at(&*directory, &next, flags) {
                    Ok(below) => {
                        let names = self.names_in(&below)?;
                        open.push((below, names, next));
                    }
                    Err(Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO | Errno::EACCES) => {
                        // Its node is found by its other names, if it has any.
                        self.unlink_in((NodeId(0), directory), &next)?;
                    }
                    Err(Errno::ENOENT) => {}
                    Err(errno) => return Err(errno),
                }
                continue;
            }
            let Some((directory, _, name)) = open.pop() else { break };
            let above = open.last().map_or(&*self.retired_folder, |(above, ..)| above);
            rustix::fs::unlinkat(above, &*name, AtFlags::REMOVEDIR).map_err(errno)?;
            self.tree.orphan(key(&status(&directory, b"")?), directory);
        }
        Ok(())
    }

    /// Finds out how much there is of the directories that were removed.
    fn measure(&self) {
        loop {
            let next = {
                let records = self.retired.records.lock();
                let unmeasured = records.iter().find(|(_, record)| record.amount.is_none());
                unmeasured.map(|(number, record)| (*number, record.node))
            };
            let Some((number, node)) = next else { return };
            let amount = self.directory(node).and_then(|top| self.amount_in(&top));
            if let Some(record) = self.retired.records.lock().get_mut(&number) {
                record.amount = Some(amount.unwrap_or_default());
            }
        }
    }

    fn amount_in(&self, top: &OwnedFd) -> Result<Amount> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut all = amount(&status(top, b"")?);
        let mut open = vec![(open_at(top, b".", flags)?, self.names_in(top)?)];
        while let Some((directory, names)) = open.last_mut() {
            let Some(name) = names.pop() else {
                open.pop();
                continue;
            };
            let Ok(found) = status(&*directory, &name) else { continue };
            all.add(amount(&found));
            if kind(&found) == Kind::Directory
                && let Ok(below) = open_at(&*directory, &name, flags)
            {
                let names = self.names_in(&below)?;
                open.push((below, names));
            }
        }
        Ok(all)
    }
}

/// How long the reaper sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

impl Record {
    /// Whether it is still where it was put: it may have been moved to somewhere else.
    fn still_lies(&self, node: &Node) -> bool {
        let is_here =
            |place: &Place| place.parent() == RETIRED && Some(&place.name) == self.lies.as_ref();
        node.places().iter().any(is_here)
    }

    fn name(&self) -> String {
        let name = self.seen_as.as_ref().map(|(_, name)| String::from_utf8_lossy(name));
        name.unwrap_or_default().into_owned()
    }
}

/// For whom things have to be kept.
struct Needs {
    /// The jobs that can be seen, the oldest first.
    jobs: Vec<Arc<Job>>,
    /// There are callers whose pids can't be seen.
    unknown: bool,
    keep: Keep,
}

impl Needs {
    fn new(mut jobs: Vec<Arc<Job>>, keep: Keep) -> Needs {
        let all = jobs.len();
        jobs.retain(|job| job.id != Job::UNKNOWN);
        Needs { unknown: jobs.len() < all, jobs, keep }
    }

    /// The jobs that can be seen and that need it.
    fn holders(&self, record: &Record) -> impl Iterator<Item = &Arc<Job>> {
        let older = self.jobs.iter().take_while(|job| job.began < record.at);
        older.filter(|job| record.seen_as.is_some() && !record.hidden.contains(&job.id))
    }

    /// Until when it is kept at the longest; none: nobody needs it.
    fn until(&self, record: &Record) -> Option<Instant> {
        if self.holders(record).next().is_some() {
            return Some(record.since + self.keep.retain_for);
        }
        let unknown = self.unknown && record.seen_as.is_some();
        let unknown = unknown && !record.hidden.contains(&Job::UNKNOWN);
        unknown.then(|| record.since + self.keep.grace.min(self.keep.retain_for))
    }

    fn names(&self, record: &Record) -> String {
        self.holders(record).map(|job| format!("pid {}", job.pid)).collect::<Vec<_>>().join(", ")
    }
}
