//! Staged -> live (SEMANTICS 2).
//!
//! A file that is opened to be created or replaced is written in the store's own folder, and takes
//! its name in one rename when its writer closes it. Until then it is a *draft*, which its own job
//! sees by that name and nobody else.
//!
//! Two jobs that open one name while nothing has been written get the same draft, because they may
//! mean to lock it. The first of them to write an unlocked one is given a draft of his own.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cachefs_mount::{Caller, Entry, Errno, Kind, Name, NodeId, OpenFlags, Result};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, Statx};
use smallvec::SmallVec;

use super::Cache;
use super::additions::{Added, How};
use super::files::store_flags;
use super::handles::{Handle, Open};
use super::name_locks::Change;
use super::resolve::{errno, key, kind, open_at, status};
use super::tree::{Kept, KeptList, Node, Place, STAGED};
use super::view::{Moment, Stage, Version, is_lock_name};
use crate::readers::{Fate, Job};

/// What a draft is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Making {
    /// A file whose name nobody else may take meanwhile (`O_EXCL`).
    Exclusive,
    /// A file where there was none.
    New,
    /// Other contents of a file that there is.
    Other,
}

/// A file that is being written and has no name yet.
#[derive(Debug)]
pub(super) struct Draft {
    /// The directory's node, the one that has its versions.
    folder: Arc<Node>,
    name: Box<[u8]>,
    pub(super) node: NodeId,
    making: Making,
    /// The job that began it.
    first: u64,
    /// The draft that its author had shared with others before.
    origin: Option<Arc<Draft>>,
    /// Whether its first author has written anything; set with `authors` locked.
    written: AtomicBool,
    /// It became live because jobs lock it, or write it together: whoever has it open writes it.
    common: AtomicBool,
    /// Changed only by who holds the name's lock, which comes before this one.
    authors: Mutex<Authors>,
}

/// Whose draft it is; nobody's once it is live or dropped.
#[derive(Debug, Default)]
struct Authors {
    jobs: SmallVec<[u64; 1]>,
    /// Other jobs have had it open, or have it.
    joined: bool,
    /// Those who took the name away while they had it open: what they write has no name.
    gone: SmallVec<[u64; 1]>,
}

impl Draft {
    /// Whether another job than that has begun it.
    pub(super) fn is_joined_by(&self, job: u64) -> bool {
        self.first != job
    }

    fn is_of(&self, job: u64) -> bool {
        self.authors.lock().jobs.contains(&job)
    }

    fn name(&self) -> Name<'_> {
        // It was a name when the draft was made.
        super::tree::known_name(&self.name)
    }
}

/// Who begins to write what.
pub(super) struct Drafting<'a> {
    pub(super) folder: &'a Arc<Node>,
    pub(super) name: Name<'a>,
    /// The versions that the name has, besides the live one.
    pub(super) kept: &'a KeptList,
    pub(super) job: u64,
}

/// A file that is to be replaced.
pub(super) struct Old {
    pub(super) status: Statx,
    /// If it is known still.
    pub(super) node: Option<Arc<Node>>,
}

/// What becomes of an open that creates or replaces.
pub(super) enum Start {
    /// It writes a draft, of which it gets a descriptor with the next open.
    Draft(Arc<Draft>),
    /// It writes what is live.
    Live,
}

/// The version that `job` is staging.
pub(super) fn staged_by(kept: &KeptList, job: u64) -> Option<NodeId> {
    kept.iter()
        .find(|kept| kept.version.stage == Stage::Staged { by: job })
        .map(|kept| kept.version.what)
}

impl Cache {
    /// Whether anybody locks a file, or waits to, or did while others had it open who still have: they
    /// may be asking again and again.
    pub(super) fn is_locked(&self, id: NodeId) -> bool {
        let Ok(node) = self.tree.get(id) else { return false };
        if node.is_a_lock() {
            return true;
        }
        let device = self.kernel.get().map_or((0, 0), |kernel| kernel.device());
        let locked = self.readers.is_locked(device, id.0);
        if locked {
            node.note_locked();
        }
        locked
    }

    /// The drafts that others are making of a name.
    fn others(&self, kept: &KeptList, job: u64) -> SmallVec<[Arc<Draft>; 1]> {
        kept.iter()
            .filter(|kept| matches!(kept.version.stage, Stage::Staged { by } if by != job))
            .filter_map(|kept| self.drafts.get(&kept.version.what.0).map(|draft| draft.clone()))
            .collect()
    }

    /// Whether another job is creating the name exclusively: nobody may create it then.
    pub(super) fn is_taken(&self, kept: &KeptList, job: u64) -> bool {
        self.others(kept, job).iter().any(|draft| draft.making == Making::Exclusive)
    }

    /// Whether an open with `O_TRUNC` empties a file where it is, instead of staging another
    /// (SEMANTICS 2.4).
    pub(super) fn is_emptied_in_place(&self, node: &Node, status: &Statx) -> bool {
        // What another job is writing; it had been this one's, too, a moment ago.
        if node.place().is_some_and(|place| place.parent() == STAGED) {
            return false;
        }
        // Without a name: open for long, and reached by a descriptor.
        let Some(place) = node.last_place() else { return true };
        let live = node.place().is_some_and(|place| place.is_public());
        live && (status.stx_nlink > 1 || status.stx_size == 0)
            || is_lock_name(&place.name)
            || node.is_open() && self.is_locked(node.id)
    }

    /// A draft of another job that this one has to share: still empty, or locked. The locked one
    /// becomes live, for it is a lock.
    pub(super) fn share(
        &self,
        change: &Change<'_>,
        drafting: &Drafting<'_>,
    ) -> Result<Option<Start>> {
        let Drafting { folder, name, kept, job } = *drafting;
        for draft in self.others(kept, job) {
            if self.is_locked(draft.node) {
                self.publish_common(change, &draft)?;
                return Ok(Some(Start::Live));
            }
            let mut authors = draft.authors.lock();
            if draft.written.load(Ordering::Relaxed) || authors.jobs.is_empty() {
                continue;
            }
            authors.jobs.push(job);
            authors.joined = true;
            drop(authors);
            self.tree.hold(draft.node);
            self.add_version(folder, name, draft.node, Stage::Staged { by: job });
            return Ok(Some(Start::Draft(draft)));
        }
        Ok(None)
    }

    /// Makes a draft live that jobs lock, or write together.
    fn publish_common(&self, change: &Change<'_>, draft: &Draft) -> Result<()> {
        draft.common.store(true, Ordering::Release);
        self.publish(change, draft)
    }

    /// Makes a draft still unwritten, or locked, live for one who opens the name without `O_TRUNC`.
    pub(super) fn publish_for_sharing(
        &self,
        change: &Change<'_>,
        kept: &KeptList,
        job: &Job,
    ) -> Result<()> {
        for draft in self.others(kept, job.id) {
            let unwritten = !draft.written.load(Ordering::Relaxed);
            if unwritten || self.is_locked(draft.node) {
                return self.publish_common(change, &draft);
            }
        }
        Ok(())
    }

    /// Begins a draft of a name: the file, open as `flags` say.
    pub(super) fn stage(
        &self,
        _: &Change<'_>,
        drafting: &Drafting<'_>,
        making: Making,
        flags: OFlags,
        mode: Mode,
    ) -> Result<(Arc<Draft>, OwnedFd)> {
        self.stage_from(None, drafting, making, flags, mode)
    }

    /// As [`Cache::stage`], with the draft that its author had shared with others before.
    fn stage_from(
        &self,
        origin: Option<Arc<Draft>>,
        drafting: &Drafting<'_>,
        making: Making,
        flags: OFlags,
        mode: Mode,
    ) -> Result<(Arc<Draft>, OwnedFd)> {
        let Drafting { folder, name, job, .. } = *drafting;
        let number = self.next_number();
        let text = number.to_string();
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&*self.staged, &*text, flags, mode).map_err(errno)?;
        let status = status(&file, b"")?;
        let place = super::tree::known_name(text.as_bytes());
        let node = self.tree.know(key(&status), Kind::File, STAGED, place);
        let draft = Arc::new(Draft {
            folder: folder.clone(),
            name: name.as_bytes().into(),
            node: node.id,
            making,
            first: job,
            origin,
            written: AtomicBool::new(false),
            common: AtomicBool::new(false),
            authors: Mutex::new(Authors {
                jobs: SmallVec::from_elem(job, 1),
                ..Authors::default()
            }),
        });
        self.drafts.insert(node.id.0, draft.clone());
        self.add_version(folder, name, node.id, Stage::Staged { by: job });
        Ok((draft, file))
    }

    /// One more version of a name; it takes over a reference to `what`.
    pub(super) fn add_version(
        &self,
        folder: &Node,
        name: Name<'_>,
        what: NodeId,
        stage: Stage,
    ) -> u64 {
        let number = self.next_number();
        let kept = Kept { number, version: Version { what, stage } };
        self.tree.change_versions(folder, name.as_bytes(), |list| list.push(kept));
        number
    }

    /// The answer to one who begins to replace a file that he met as `name`: the draft.
    pub(super) fn begin_replacing(
        &self,
        caller: &Caller,
        folder: &Arc<Node>,
        name: Name<'_>,
        old: &Old,
    ) -> Result<Entry> {
        let job = self.readers.job(caller);
        let change = self.names.change(folder.id, name.as_bytes());
        let kept = folder.versions(name);
        if let Some(own) = staged_by(&kept, job.id) {
            return self.kept_entry(own);
        }
        let drafting = Drafting { folder, name, kept: &kept, job: job.id };
        let shared = match self.share(&change, &drafting)? {
            Some(Start::Draft(draft)) => draft,
            Some(Start::Live) => {
                let directory = self.directory(folder.id)?;
                return Ok(self.found(folder.id, name, &status(&*directory, name.as_bytes())?));
            }
            None => self.stage_like(&change, &drafting, old)?,
        };
        self.kept_entry(shared.node)
    }

    /// A draft of a name for one who has opened, under that name, something that was no more there when
    /// he did; none if the directory is gone.
    pub(super) fn stage_aside(
        &self,
        job: &Job,
        place: &Place,
        node: &Node,
    ) -> Result<Option<Arc<Draft>>> {
        let Ok(folder) = self.tree.get(place.parent()) else { return Ok(None) };
        let (folder, name) = (self.tree.versioned(&folder), super::tree::known_name(&place.name));
        let change = self.names.change(folder.id, name.as_bytes());
        let kept = folder.versions(name);
        if let Some(own) = staged_by(&kept, job.id) {
            return Ok(self.draft_of(own, job.id));
        }
        let drafting = Drafting { folder: &folder, name, kept: &kept, job: job.id };
        let old = Old { status: self.node_status(node)?, node: self.tree.get(node.id).ok() };
        self.stage_like(&change, &drafting, &old).map(Some)
    }

    /// A draft that has the owner, the mode and the extended attributes of what it is to replace.
    pub(super) fn stage_like(
        &self,
        change: &Change<'_>,
        drafting: &Drafting<'_>,
        Old { status: old, node }: &Old,
    ) -> Result<Arc<Draft>> {
        let mode = Mode::from_raw_mode(u32::from(old.stx_mode & super::attributes::PERMISSIONS));
        let (making, flags) = (Making::Other, OFlags::RDWR);
        let (draft, file) = self.stage(change, drafting, making, flags, mode)?;
        if (old.stx_uid, old.stx_gid) != self.own {
            let owner = rustix::fs::Uid::from_raw(old.stx_uid);
            let group = rustix::fs::Gid::from_raw(old.stx_gid);
            // Who may not give files away has a store where all files are his own, or nearly.
            let _ = rustix::fs::fchown(&file, Some(owner), Some(group));
        }
        if let Some(node) = node {
            self.copy_xattrs(node, &file);
        }
        Ok(draft)
    }

    /// Opens a draft that the caller's job is making. `O_TRUNC` has been obeyed when this returns.
    pub(super) fn open_draft(
        &self,
        draft: &Arc<Draft>,
        node: &Node,
        job: u64,
        flags: OpenFlags,
    ) -> Result<File> {
        let file = File::from(self.open_node(node, store_flags(flags | OpenFlags::WRITE))?);
        // What another job has begun to write meanwhile is not this one's to empty.
        let own = !draft.is_joined_by(job);
        if own && flags.contains(OpenFlags::TRUNCATE) && draft.written.load(Ordering::Relaxed) {
            rustix::fs::ftruncate(&file, 0).map_err(errno)?;
        }
        Ok(file)
    }

    /// The draft under that number, if `job` is one of its authors.
    pub(super) fn draft_of(&self, node: NodeId, job: u64) -> Option<Arc<Draft>> {
        let draft = self.drafts.get(&node.0)?.clone();
        draft.is_of(job).then_some(draft)
    }

    /// To be called before a handle writes that was opened to write a draft; `joined`: one that
    /// another job had begun.
    pub(super) fn before_first_write(
        &self,
        handle: &Handle,
        draft: &Arc<Draft>,
        joined: bool,
    ) -> Result<()> {
        if draft.common.load(Ordering::Acquire) {
            return Ok(());
        }
        if !joined && draft.written.load(Ordering::Acquire) {
            return Ok(());
        }
        if !joined {
            let authors = draft.authors.lock();
            if !authors.joined {
                // Nobody joins from now on.
                draft.written.store(true, Ordering::Release);
                return Ok(());
            }
        }
        let change = self.names.change(draft.folder.id, &draft.name);
        if draft.common.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.is_locked(draft.node) {
            return self.write_locked(&change, draft, handle.job.id);
        }
        if !joined && draft.is_of(handle.job.id) {
            self.part_others(&change, draft, handle.job.id)?;
            draft.written.store(true, Ordering::Release);
            return Ok(());
        }
        self.part(&change, handle, draft)
    }

    /// A job writes what it shares with others and somebody locks: in place, for all of them.
    fn write_locked(&self, change: &Change<'_>, draft: &Draft, job: u64) -> Result<()> {
        draft.written.store(true, Ordering::Release);
        if draft.is_of(job) {
            return self.publish_common(change, draft);
        }
        let own = staged_by(&draft.folder.versions(draft.name()), job);
        if let Some(own) = own.and_then(|own| self.draft_of(own, job)) {
            self.give_up(change, &own, job);
        }
        Ok(())
    }

    /// Gives all other jobs that share a draft empty ones of their own, which they see under the name.
    fn part_others(&self, change: &Change<'_>, draft: &Arc<Draft>, job: u64) -> Result<()> {
        let others: SmallVec<[u64; 1]> = {
            let authors = draft.authors.lock();
            authors.jobs.iter().copied().filter(|author| *author != job).collect()
        };
        let node = self.tree.get(draft.node)?;
        let mode = self.node_status(&node)?.stx_mode & super::attributes::PERMISSIONS;
        let mode = Mode::from_raw_mode(u32::from(mode));
        for other in others {
            self.give_up(change, draft, other);
            let kept = draft.folder.versions(draft.name());
            let (folder, name) = (&draft.folder, draft.name());
            let drafting = Drafting { folder, name, kept: &kept, job: other };
            let from = Some(draft.clone());
            self.stage_from(from, &drafting, draft.making, OFlags::RDWR, mode)?;
        }
        Ok(())
    }

    /// Gives a handle that shares a draft with other jobs one of its own.
    fn part(&self, change: &Change<'_>, handle: &Handle, draft: &Arc<Draft>) -> Result<()> {
        let Open::Writing { target, .. } = &handle.open else { return Err(Errno::EBADF) };
        let shared = self.tree.get(draft.node)?;
        let mode = self.node_status(&shared)?.stx_mode & super::attributes::PERMISSIONS;
        let mode = Mode::from_raw_mode(u32::from(mode));
        if draft.is_of(handle.job.id) {
            self.give_up(change, draft, handle.job.id);
        } else if let Ok(file) = self.descriptor(&shared)
            && let Some(place) = shared.place().filter(|place| place.is_public())
        {
            // Live already, and empty: not to be written by this one.
            let _moving = self.moves.read();
            let folder = place.parent();
            self.tree.renumber(
                &shared,
                file.try_clone()?,
                folder,
                super::tree::known_name(&place.name),
            );
        }
        if draft.authors.lock().gone.contains(&handle.job.id) {
            let mut target = target.write();
            target.file = Arc::new(self.nameless(mode)?);
            target.draft = None;
            return Ok(());
        }
        let kept = draft.folder.versions(draft.name());
        let own = staged_by(&kept, handle.job.id).and_then(|own| self.draft_of(own, handle.job.id));
        let (own, file) = match own {
            // It was given one when another one began to write.
            Some(own) => {
                let node = self.tree.get(own.node)?;
                let file = self.open_node(&node, OFlags::RDWR)?;
                (own, file)
            }
            None => {
                let (folder, name) = (&draft.folder, draft.name());
                let drafting = Drafting { folder, name, kept: &kept, job: handle.job.id };
                self.stage(change, &drafting, draft.making, OFlags::RDWR, mode)?
            }
        };
        own.written.store(true, Ordering::Release);
        let mut target = target.write();
        target.file = Arc::new(File::from(file));
        target.draft = Some(own);
        target.joined = false;
        Ok(())
    }

    /// A file for one who goes on writing what he has removed.
    fn nameless(&self, mode: Mode) -> Result<File> {
        let name = self.next_number().to_string();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&*self.staged, &*name, flags, mode).map_err(errno)?;
        rustix::fs::unlinkat(&*self.staged, &*name, AtFlags::empty()).map_err(errno)?;
        Ok(File::from(file))
    }

    /// Takes the records of a draft, of one author or all, out of its directory.
    fn remove_staged(&self, draft: &Draft, job: Option<u64>) {
        let mut removed = 0;
        self.tree.change_versions(&draft.folder, &draft.name, |list| {
            let before = list.len();
            list.retain(|kept| {
                let Stage::Staged { by } = kept.version.stage else { return true };
                kept.version.what != draft.node || job.is_some_and(|job| job != by)
            });
            removed = before - list.len();
        });
        self.give_back(draft.node, removed as u64);
    }

    /// Makes a draft what its name stands for.
    pub(super) fn publish(&self, _: &Change<'_>, draft: &Draft) -> Result<()> {
        let authors = std::mem::take(&mut draft.authors.lock().jobs);
        let Some(&by) = authors.first() else { return Ok(()) };
        self.drafts.remove(&draft.node.0);
        let result = self.take_name(draft, by);
        if result.is_err() {
            self.discard_file(draft);
        }
        self.remove_staged(draft, None);
        match result {
            // The directory is gone, and everything in it with it.
            Err(Errno::ENOENT | Errno::ESTALE) => Ok(()),
            result => result,
        }
    }

    fn take_name(&self, draft: &Draft, by: u64) -> Result<()> {
        let (name, parent) = (draft.name(), draft.folder.id);
        let directory = self.directory(parent)?;
        let node = self.tree.get(draft.node)?;
        let place = node.place().ok_or(Errno::ESTALE)?;
        let mut id = node.id;
        let mut old = None;
        let replaced = match open_at(&*directory, name.as_bytes(), OFlags::PATH) {
            Ok(victim) => Some(victim),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        {
            let _moving = self.moves.read();
            let (from, to) = (&*self.staged, &*directory);
            let file = self.has_to_be_renumbered(draft)?;
            rustix::fs::renameat(from, &*place.name, to, name.as_bytes()).map_err(errno)?;
            match file {
                Some(file) => id = self.tree.renumber(&node, file, parent, name),
                None => {
                    self.tree.add_place(&node, parent, name);
                    let staged = super::tree::known_name(&place.name);
                    self.tree.remove_place(&node, STAGED, staged);
                }
            }
            if let Some(victim) = replaced {
                let replaced = self.tree.number(key(&status(&victim, b"")?));
                old = Some(self.additions.of(replaced, parent, name));
                self.unnamed(parent, name, victim)?;
            }
        }
        let added = match old {
            // Whoever made the name has made it.
            Some(Some(old)) if old.by == by => (old.at, old.how),
            Some(old) => (old.map_or(Moment(0), |old| old.at), How::Moved),
            None if draft.making == Making::Exclusive && by == draft.first => {
                (self.readers.tick(), How::Exclusively)
            }
            None => (self.readers.tick(), How::Written),
        };
        self.additions.note((parent, name), Added::new(id, (by, added.0), added.1));
        Ok(())
    }

    /// A draft that other jobs have open, too, and may write in their own ways, is not the node that is
    /// live then: the kernel has one size for each node. Its file, if so.
    fn has_to_be_renumbered(&self, draft: &Draft) -> Result<Option<OwnedFd>> {
        let alone = !draft.authors.lock().joined;
        let unwritten = !draft.written.load(Ordering::Acquire);
        if alone || unwritten || draft.common.load(Ordering::Acquire) {
            return Ok(None);
        }
        let node = self.tree.get(draft.node)?;
        let place = node.place().ok_or(Errno::ESTALE)?;
        open_at(&*self.staged, &place.name, OFlags::PATH).map(Some)
    }

    /// Removes a draft's file; those who have it open keep it.
    fn discard_file(&self, draft: &Draft) {
        let Ok(node) = self.tree.get(draft.node) else { return };
        let Some(place) = node.place() else { return };
        if let Err(errno) = self.unlink_in((STAGED, &self.staged), &place.name) {
            tracing::warn!(%errno, "can't remove a draft; the next mount does");
        }
    }

    /// `job` gives a draft up: nothing is left of it, unless others share it.
    pub(super) fn give_up(&self, _: &Change<'_>, draft: &Draft, job: u64) {
        let last = {
            let mut authors = draft.authors.lock();
            authors.jobs.retain(|author| *author != job);
            authors.jobs.is_empty() && self.drafts.remove(&draft.node.0).is_some()
        };
        if last {
            self.discard_file(draft);
        }
        self.remove_staged(draft, Some(job));
    }

    /// `job` takes the name of its draft away. It may have it open still.
    pub(super) fn abandon(&self, change: &Change<'_>, draft: &Draft, job: u64) {
        for draft in std::iter::once(draft).chain(draft.origin.as_deref()) {
            draft.authors.lock().gone.push(job);
        }
        self.give_up(change, draft, job);
    }

    /// What `close(2)` means for a handle that writes a draft; `caller` is none when the last
    /// descriptor is gone.
    pub(super) fn close_draft(&self, handle: &Handle, caller: Option<&Caller>) -> Result<()> {
        let Open::Writing { target, .. } = &handle.open else { return Ok(()) };
        let (draft, joined) = {
            let target = target.read();
            match &target.draft {
                Some(draft) if target.author => (draft.clone(), target.joined),
                _ => return Ok(()),
            }
        };
        let job = handle.job.id;
        let draft = match draft.is_of(job) {
            true => draft,
            // It was given one of its own when another one began to write.
            false if joined => {
                let own = staged_by(&draft.folder.versions(draft.name()), job);
                let Some(own) = own.and_then(|own| self.draft_of(own, job)) else { return Ok(()) };
                own
            }
            false => return Ok(()),
        };
        if let Some(caller) = caller {
            // Others, who inherited the descriptor, close their copies of it.
            if self.readers.process(caller) != handle.process {
                return Ok(());
            }
            if self.readers.fate(caller) == Fate::Killed {
                let change = self.names.change(draft.folder.id, &draft.name);
                self.give_up(&change, &draft, job);
                return Ok(());
            }
        }
        // Written through a mapping, it may be, which nobody has told us of.
        let size = target.read().file.metadata()?.len();
        if joined || size == 0 && !draft.written.load(Ordering::Acquire) {
            // Perhaps it was only moved to another number, as shells do.
            if caller.is_some() && self.readers.has_open(handle.process, draft.node.0) {
                return Ok(());
            }
            return self.close_unwritten(&draft, job);
        }
        let change = self.names.change(draft.folder.id, &draft.name);
        if draft.is_of(job) { self.publish(&change, &draft) } else { Ok(()) }
    }

    /// The file is empty now, on the inode that it had, if it had one (SEMANTICS 2.4).
    fn close_unwritten(&self, draft: &Arc<Draft>, job: u64) -> Result<()> {
        let change = self.names.change(draft.folder.id, &draft.name);
        if !draft.is_of(job) {
            return Ok(());
        }
        if draft.written.load(Ordering::Acquire) {
            // Another job has written it meanwhile, who is later.
            self.give_up(&change, draft, job);
            return Ok(());
        }
        let shared = draft.authors.lock().jobs.len() > 1;
        let directory = self.directory(draft.folder.id)?;
        let live = status(&*directory, &draft.name).ok();
        let is_file = live.is_some_and(|live| kind(&live) == Kind::File);
        if shared && self.is_locked(draft.node) {
            return self.publish_common(&change, draft);
        }
        if shared {
            // Others may be about to lock it.
            self.part_others(&change, draft, job)?;
            return self.publish(&change, draft);
        }
        if !is_file {
            return self.publish(&change, draft);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let emptied = rustix::fs::openat(
            &*directory,
            &*draft.name,
            flags | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::from_raw_mode(0o644),
        );
        self.give_up(&change, draft, job);
        emptied.map(drop).map_err(errno)
    }

    /// Drops what a job that has ended was writing: what it closed is live, and the rest it was told of
    /// and never came for.
    pub(super) fn drop_drafts_of(&self, job: u64) {
        let drafts: Vec<_> = self
            .drafts
            .iter()
            .filter(|draft| draft.is_of(job))
            .map(|draft| draft.clone())
            .collect();
        for draft in drafts {
            let change = self.names.change(draft.folder.id, &draft.name);
            self.give_up(&change, &draft, job);
        }
    }

    /// Makes what a job has under this name live, if that is a draft, so that it can be moved or
    /// linked like anything else.
    pub(super) fn publish_own(
        &self,
        change: &Change<'_>,
        folder: &Node,
        name: Name<'_>,
        job: u64,
    ) -> Result<()> {
        match staged_by(&folder.versions(name), job).and_then(|own| self.draft_of(own, job)) {
            Some(draft) => self.publish_alone(change, &draft, job),
            None => Ok(()),
        }
    }

    /// As [`Cache::publish_own`], for one that is known by its node.
    pub(super) fn publish_node(&self, node: NodeId, job: u64) -> Result<()> {
        let Some(draft) = self.draft_of(node, job) else { return Ok(()) };
        let change = self.names.change(draft.folder.id, &draft.name);
        if draft.is_of(job) { self.publish_alone(&change, &draft, job) } else { Ok(()) }
    }

    /// Makes a draft live for one of its authors; the others go on with their own, unless they lock it.
    fn publish_alone(&self, change: &Change<'_>, draft: &Arc<Draft>, job: u64) -> Result<()> {
        if self.is_shared(draft) && !self.is_locked(draft.node) {
            self.part_others(change, draft, job)?;
        }
        self.publish(change, draft)
    }

    fn is_shared(&self, draft: &Draft) -> bool {
        draft.authors.lock().jobs.len() > 1
    }

    /// Removes a file by its name in a folder of the store; those who have it open keep it.
    pub(super) fn unlink_in(&self, (id, folder): (NodeId, &OwnedFd), name: &[u8]) -> Result<()> {
        let victim = open_at(folder, name, OFlags::PATH)?;
        let _moving = self.moves.read();
        rustix::fs::unlinkat(folder, name, AtFlags::empty()).map_err(errno)?;
        self.unnamed(id, super::tree::known_name(name), victim)
    }
}
