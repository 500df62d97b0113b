//! Live -> retired -> reclaimed (SEMANTICS 3).
//!
//! What is removed while somebody runs who may go on using it is moved into the store's own folder,
//! as it is: a whole directory in one rename. Who began before the removal, and is not the one who
//! removed it, sees it as before. When the last of them has ended it is reclaimed, in the background.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, SyncSender};
use std::time::{Duration, Instant};

use cachefs_mount::{Errno, Kind, Name, NodeId, Result};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::Cache;
use super::additions::How;
use super::name_locks::Change;
use super::reaper::Wake;
use super::resolve::{errno, key, kind, open_at, status};
use super::tree::{Kept, Node, RETIRED, USERS, known_name, name_for_user};
use super::view::{self, Moment, Stage, Version, is_lock_name};
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{OFlags, Statx};
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
pub(super) use crate::readers::ADMINISTRATOR;

/// Something that was removed.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) at: Moment,
    /// Who does not see it although they began before: first of all who removed it.
    pub(super) hidden: SmallVec<[u64; 1]>,
    /// The only ones it is kept for, if it is not kept for all that began before.
    pub(super) only: Option<SmallVec<[u64; 1]>>,
    /// Where it was; none if nobody saw it any more when it was removed.
    pub(super) seen_as: Option<(Arc<Node>, Box<[u8]>)>,
    pub(super) node: NodeId,
    /// Its name in the folder of what is retired; none if it lies elsewhere.
    pub(super) lies: Option<Box<[u8]>>,
    pub(super) since: Instant,
    /// A directory is measured after it was removed.
    pub(super) amount: Option<Amount>,
}

/// All that was removed and is not reclaimed.
#[derive(Debug, Default)]
pub(super) struct Retired {
    /// By the number of the version that it is, and so in the order of removals.
    pub(super) records: Mutex<BTreeMap<u64, Record>>,
    /// When anything was removed last.
    newest: AtomicU64,
    pub(super) reaper: Mutex<Option<Sender<Wake>>>,
    /// To whoever tells the kernel of names that it has to ask for again.
    pub(super) herald: Mutex<Option<Sender<Changed>>>,
}

/// What the herald is told.
#[derive(Debug)]
pub(super) enum Changed {
    /// A name that stands for something else now, without the kernel's knowledge.
    Name(NodeId, Box<[u8]>),
    /// Somebody waits until the kernel knows all that came before.
    Until(SyncSender<()>),
}

/// Nobody waits longer for the kernel to know: it may itself be waiting for an answer.
const HERALD_TIME: Duration = Duration::from_millis(200);

impl Retired {
    /// When anything was removed last and kept.
    pub(super) fn newest(&self) -> Moment {
        Moment(self.newest.load(Ordering::Acquire))
    }

    /// Has the reaper look for what nobody needs any more.
    pub(super) fn wake(&self) {
        self.tell_reaper(Wake::ToReclaim);
    }

    fn tell_reaper(&self, wake: Wake) {
        if let Some(reaper) = &*self.reaper.lock() {
            // It ends with the cache; then there is nothing to wake.
            let _ = reaper.send(wake);
        }
    }
}

impl Retired {
    /// Has the kernel told of a name, soon.
    pub(super) fn tell_later(&self, folder: NodeId, name: &[u8]) {
        if let Some(herald) = &*self.herald.lock() {
            // It ends with the cache; then the kernel has gone, too.
            let _ = herald.send(Changed::Name(folder, name.into()));
        }
    }

    /// Waits until the kernel has been told of all names so far, or for a short time.
    fn wait_for_herald(&self) {
        let (done, is_done) = std::sync::mpsc::sync_channel(1);
        let sent =
            self.herald.lock().as_ref().is_some_and(|h| h.send(Changed::Until(done)).is_ok());
        if sent && is_done.recv_timeout(HERALD_TIME).is_err() {
            tracing::debug!("the kernel is slow to hear of names that have changed");
        }
    }
}

pub(super) fn amount(status: &Statx) -> Amount {
    // Units of 512 bytes, whatever the filesystem (statx(2)).
    Amount { bytes: status.stx_blocks * 512, files: 1 }
}

impl Amount {
    pub(super) fn add(&mut self, other: Amount) {
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
        (folder, name): (&Arc<Node>, Name<'_>),
        temporary: impl FnOnce() -> bool,
    ) -> bool {
        self.readers.is_seen_by_others(job, at) && !self.is_lock(folder, name) && !temporary()
    }

    /// Whether a name is one by which tools lock; not where the directory was renamed since the daemon
    /// was started, or one above it: it is a part of something then, and not in use as a lock.
    pub(super) fn is_lock(&self, folder: &Arc<Node>, name: Name<'_>) -> bool {
        is_lock_name(name.as_bytes()) && self.moved_since(folder, Moment(0)) == Some(false)
    }

    /// Whether a directory, or one above it, was renamed after a moment; none if that can't be told. One that
    /// was removed is where it was.
    pub(super) fn moved_since(&self, folder: &Arc<Node>, at: Moment) -> Option<bool> {
        let mut above = folder.clone();
        loop {
            if self.additions.moved(above.id).is_some_and(|moved| moved > at) {
                return Some(true);
            }
            let Some(place) = above.last_place() else { return Some(false) };
            above = self.tree.get(place.parent()).ok()?;
        }
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
        self.moved_since(folder, added.at) != Some(true)
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
        let (lies, text) = match folder.of {
            Some(user) => (USERS, name_for_user(user, number)),
            None => (RETIRED, number.to_string()),
        };
        // Until it has a version again, for who lists the directory meanwhile.
        let moving = self.moves.read();
        folder.note_thinned();
        let (from, to) = (directory, &*self.own_folder(lies).ok_or(Errno::EROFS)?);
        platform::fs::renameat(from, name.as_bytes(), to, &*text).map_err(errno)?;
        let node = self.tree.know(key, kind, lies, known_name(text.as_bytes()));
        if kind != Kind::Directory {
            self.tree.remove_place(&node, folder.id, name);
        }
        node.note_last_place(folder.id, name);
        self.retired.newest.fetch_max(at.0, Ordering::AcqRel);
        let hidden = SmallVec::from_elem(by, 1);
        let version = match seen {
            true => {
                let stage = Stage::Retired { at, hidden: hidden.clone(), only: None };
                self.add_version(folder, name, node.id, stage)
            }
            false => self.next_number(),
        };
        drop(moving);
        let seen_as = seen.then(|| (folder.clone(), name.as_bytes().into()));
        let amount = (kind != Kind::Directory).then(|| amount(&status));
        let (lies, since) = (Some(text.as_bytes().into()), Instant::now());
        let (node, only) = (node.id, None);
        let record = Record { at, hidden, only, seen_as, node, lies, since, amount };
        self.retired.records.lock().insert(version, record);
        if kind == Kind::Directory {
            self.retired.tell_reaper(Wake::ToMeasure(version));
        }
        if !seen {
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
        self.keep_elsewhere(folder, name, node, None, (at, by));
    }

    /// Keeps what lies under that name in one of our own folders, or elsewhere.
    pub(super) fn keep_elsewhere(
        &self,
        folder: &Arc<Node>,
        name: Name<'_>,
        node: NodeId,
        lies: Option<Box<[u8]>>,
        (at, by): (Moment, u64),
    ) {
        self.keep_for(None, folder, name, (node, lies), (at, by));
    }

    /// As [`Cache::keep_elsewhere`], for one user alone if there is one.
    pub(super) fn keep_for(
        &self,
        of: Option<u32>,
        folder: &Arc<Node>,
        name: Name<'_>,
        (node, lies): (NodeId, Option<Box<[u8]>>),
        (at, by): (Moment, u64),
    ) {
        let hidden = SmallVec::from_elem(by, 1);
        let stage = Stage::Retired { at, hidden: hidden.clone(), only: None };
        let version = self.add_version_of(folder, name, node, stage, of);
        let seen_as = Some((folder.clone(), name.as_bytes().into()));
        let (since, amount) = (Instant::now(), Some(Amount::default()));
        let record = Record { at, hidden, only: None, seen_as, node, lies, since, amount };
        self.retired.records.lock().insert(version, record);
    }

    /// Others who see a directory that was removed under that name go on seeing it by a number of its own: a job has
    /// moved it to where it is live. The kernel must not meet one directory in two places, and who removes what is in
    /// it by its old name does not mean what has another one by now.
    pub(super) fn keep_apart(
        &self,
        _: &Change<'_>,
        folder: &Node,
        name: Name<'_>,
        (node, descriptor): (&Node, &OwnedFd),
    ) -> Result<()> {
        let is_it = |kept: &Kept| kept.version.what == node.id;
        if !folder.every_version(name).iter().any(is_it) {
            return Ok(());
        }
        let second = self.tree.second(node.key(), Some(descriptor.try_clone()?)).id;
        let mut numbers = SmallVec::<[u64; 1]>::new();
        self.tree.change_versions(folder, name.as_bytes(), |list| {
            for kept in list.iter_mut().filter(|kept| is_it(kept)) {
                kept.version.what = second;
                numbers.push(kept.number);
            }
        });
        // Each version holds what it is.
        for _ in 1..numbers.len() {
            self.tree.hold(second);
        }
        let mut records = self.retired.records.lock();
        for number in &numbers {
            if let Some(record) = records.get_mut(number) {
                record.node = second;
                (record.lies, record.amount) = (None, Some(Amount::default()));
            }
        }
        drop(records);
        self.give_back(node.id, numbers.len() as u64);
        Ok(())
    }

    /// What was kept last under a name is kept for those only.
    pub(super) fn keep_only_for(
        &self,
        _: &Change<'_>,
        folder: &Node,
        name: Name<'_>,
        jobs: &SmallVec<[u64; 1]>,
    ) {
        let mut number = None;
        self.tree.change_versions(folder, name.as_bytes(), |list| {
            let kept = list.iter_mut().filter(|kept| kept.version.of.is_none());
            let newest = kept.max_by_key(|kept| match kept.version.stage {
                Stage::Retired { .. } => kept.number,
                _ => 0,
            });
            if let Some(kept) = newest
                && let Stage::Retired { only, .. } = &mut kept.version.stage
            {
                *only = Some(jobs.clone());
                number = Some(kept.number);
            }
        });
        let mut records = self.retired.records.lock();
        if let Some(record) = number.and_then(|number| records.get_mut(&number)) {
            record.only = Some(jobs.clone());
        }
    }

    /// `job` does not see any kept version of a name any more.
    pub(super) fn hide(&self, change: &Change<'_>, folder: &Node, name: Name<'_>, job: u64) {
        self.hide_of(None, change, folder, name, job);
    }

    /// As [`Cache::hide`], of what is there for one user alone if there is one.
    pub(super) fn hide_of(
        &self,
        of: Option<u32>,
        _: &Change<'_>,
        folder: &Node,
        name: Name<'_>,
        job: u64,
    ) {
        if folder.versions_of(name, of).is_empty() {
            return;
        }
        let mut numbers = SmallVec::<[u64; 1]>::new();
        self.tree.change_versions(folder, name.as_bytes(), |list| {
            for kept in list.iter_mut() {
                if kept.version.of == of
                    && let Stage::Retired { hidden, .. } = &mut kept.version.stage
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
        let here = node.place().is_some_and(|place| [RETIRED, USERS].contains(&place.parent()));
        (node.kind == Kind::Directory && here).then(|| (node, newest.1.clone()))
    }

    /// Brings a retired directory back under its name, empty for all but those who see what was in it
    /// (SEMANTICS 3.4). False: there is none.
    pub(super) fn bring_back(
        &self,
        folder: &Arc<Node>,
        directory: &OwnedFd,
        name: Name<'_>,
        by: (&Job, How),
    ) -> Result<bool> {
        loop {
            let Some((node, kept)) = self.retired_directory(folder, name) else {
                return Ok(false);
            };
            // Not under the name's lock: these names have locks of their own.
            if self.retire_contents(&node, &kept.version.stage)? {
                // The kernel has believed in them for ever: for those who still see them, they were
                // as good as live. Whoever comes now gets the same directory from it.
                self.retired.wait_for_herald();
            }
            // Before anybody can make others in their places.
            self.return_held_locks(&node, by.0)?;
            let change = self.names.change(folder.id, name.as_bytes());
            let still = self.retired_directory(folder, name);
            if still.is_some_and(|(_, now)| now.number == kept.number) {
                self.return_to(&change, folder, directory, name, (&node, &kept), by)?;
                return Ok(true);
            }
        }
    }

    /// Gives the locks in a retired directory that somebody holds their names back: whoever comes to it when it
    /// is back waits for them, as those do who see it still.
    fn return_held_locks(&self, node: &Arc<Node>, job: &Job) -> Result<()> {
        let is_held = |kept: &&Kept| {
            let for_all = matches!(kept.version.stage, Stage::Retired { only: None, .. });
            let lock = self.tree.get(kept.version.what);
            for_all && lock.is_ok_and(|lock| lock.is_open() && self.is_locked(lock.id))
        };
        for (name, _) in node.all_versions().iter().filter(|(name, _)| is_lock_name(name)) {
            let name = known_name(name);
            let change = self.names.change(node.id, name.as_bytes());
            let kept = node.versions(name);
            let Some(held) = kept.iter().find(is_held) else { continue };
            let lock = self.tree.get(held.version.what)?;
            let directory = self.directory(node.id)?;
            let (lock, by) = ((&*lock, held), (job, How::Moved));
            match self.return_to(&change, node, &directory, name, lock, by) {
                // There is another one.
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            drop(change);
            self.tell_kernel_later(node.id, name.as_bytes());
        }
        Ok(())
    }

    /// Gives what was removed its name back; by whom that is, and by doing what.
    pub(super) fn return_to(
        &self,
        change: &Change<'_>,
        folder: &Node,
        directory: &OwnedFd,
        name: Name<'_>,
        (node, kept): (&Node, &Kept),
        (job, how): (&Job, How),
    ) -> Result<()> {
        self.put_back(change, (folder, directory, name), node)?;
        // After it is there, or who lists the directory before that would have to know of it; and before the
        // name is unlocked, for which who removes the directory waits.
        self.note_added(node.id, job, (folder.id, name), how);
        self.forget_retired(folder, name, (node, kept));
        Ok(())
    }

    /// Gives what should not have been removed its name back, as if it had not been.
    pub(super) fn undo_retiring(
        &self,
        change: &Change<'_>,
        (folder, directory, name): (&Node, &OwnedFd, Name<'_>),
        (node, kept): (&Node, &Kept),
    ) -> Result<()> {
        self.put_back(change, (folder, directory, name), node)?;
        self.forget_retired(folder, name, (node, kept));
        Ok(())
    }

    /// Moves what is retired to its name again.
    fn put_back(
        &self,
        _: &Change<'_>,
        (folder, directory, name): (&Node, &OwnedFd, Name<'_>),
        node: &Node,
    ) -> Result<()> {
        let place = node.place().ok_or(Errno::ESTALE)?;
        let _moving = self.moves.read();
        let flags = platform::fs::RenameFlags::NOREPLACE;
        let from = self.own_folder(place.parent()).ok_or(Errno::ESTALE)?;
        platform::fs::renameat_with(&*from, &*place.name, directory, name.as_bytes(), flags)
            .map_err(errno)?;
        self.tree.add_place(node, folder.id, name);
        if node.kind != Kind::Directory {
            self.tree.remove_place(node, place.parent(), known_name(&place.name));
        }
        Ok(())
    }

    fn forget_retired(&self, folder: &Node, name: Name<'_>, (node, kept): (&Node, &Kept)) {
        self.remove_retired(folder, name, node.id, kept.number);
        self.retired.records.lock().remove(&kept.number);
    }

    /// Takes a kept version out of its directory, and gives back what it held.
    pub(super) fn remove_retired(&self, folder: &Node, name: Name<'_>, what: NodeId, version: u64) {
        let mut removed = 0;
        self.tree.change_versions(folder, name.as_bytes(), |list| {
            let before = list.len();
            list.retain(|kept| kept.number != version);
            removed = before - list.len();
        });
        self.give_back(what, removed as u64);
    }

    /// All that is live in a retired directory becomes retired as the directory is; whether there was
    /// anything.
    fn retire_contents(&self, node: &Arc<Node>, stage: &Stage) -> Result<bool> {
        let Stage::Retired { at, hidden, only } = stage else { return Ok(false) };
        // Nobody sees more in it than sees the directory itself.
        for (name, _) in node.all_versions() {
            self.tree.change_versions(node, &name, |list| {
                for kept in list.iter_mut() {
                    if let Stage::Retired { at: removed, hidden: unseen, only: for_them } =
                        &mut kept.version.stage
                    {
                        *removed = (*removed).min(*at);
                        unseen.extend(hidden.iter().copied());
                        if let Some(only) = only {
                            let both = for_them.get_or_insert_with(|| only.clone());
                            both.retain(|job| only.contains(job));
                        }
                    }
                }
            });
        }
        let directory = self.directory(node.id)?;
        let names = self.names_in(&directory)?;
        for name in &names {
            let name = known_name(name);
            let change = self.names.change(node.id, name.as_bytes());
            let by = hidden.first().copied().unwrap_or(ADMINISTRATOR);
            match self.retire(&change, node, &directory, name, (*at, by), true) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
            if let Some(only) = only {
                self.keep_only_for(&change, node, name, only);
            }
            self.retired.tell_later(node.id, name.as_bytes());
            for &job in hidden.iter().skip(1) {
                self.hide(&change, node, name, job);
            }
        }
        Ok(!names.is_empty())
    }

    /// The names in a folder of the store.
    pub(super) fn names_in(&self, directory: &OwnedFd) -> Result<Vec<Box<[u8]>>> {
        let listed = open_at(directory, b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in platform::fs::Dir::new(listed).map_err(errno)? {
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
                let stage = Stage::Retired {
                    at: record.at,
                    hidden: record.hidden.clone(),
                    only: record.only.clone(),
                };
                let version = Version::shared((), stage);
                if record.seen_as.is_some() && view::seen([version], job.reader()).is_some() {
                    all.add(record.amount.unwrap_or_default());
                }
            }
            all
        };
        jobs.into_iter().map(|job| Holding { retired: held(&job), job }).collect()
    }
}
