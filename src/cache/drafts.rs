//! Files that are being written and have no name yet (SEMANTICS 2).
//!
//! A file that is opened to be created or replaced is written in the store's own folder, as a *draft*,
//! which its own job sees by its name to be and nobody else.
//!
//! Two jobs that open one name while nothing has been written get the same draft, because they may
//! mean to lock it. When one of them writes, and nobody locks it, each goes on with one of its own.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cachefs_mount::{Caller, Entry, Errno, Kind, Name, NodeId, OpenFlags, Result};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::Cache;
use super::files::store_flags;
use super::handles::{Handle, Open};
use super::name_locks::Change;
use super::resolve::{errno, key, status};
use super::spill::aside_of;
use super::tree::{ASIDE, Kept, KeptList, Node, Place, USERS, stage, stage_of};
use super::view::{Stage, Version, is_lock_name};
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{AtFlags, Mode, OFlags, Statx};
use crate::readers::Job;

/// After so many numbers, files are written in another folder.
pub(super) const ON_ONE_STAGE: u64 = 4096;

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
    pub(super) folder: Arc<Node>,
    pub(super) name: Box<[u8]>,
    pub(super) node: NodeId,
    /// The one user who is to see it, in a directory that is everyone's.
    pub(super) of: Option<u32>,
    pub(super) making: Making,
    /// The job that began it.
    pub(super) first: u64,
    /// The draft that its author had shared with others before.
    pub(super) origin: Option<Arc<Draft>>,
    /// Whether its first author has written anything; set with `authors` locked.
    pub(super) written: AtomicBool,
    /// It became live because jobs lock it, or write it together: whoever has it open writes it.
    pub(super) common: AtomicBool,
    /// Changed only by who holds the name's lock, which comes before this one.
    pub(super) authors: Mutex<Authors>,
}

/// Whose draft it is; nobody's once it is live or dropped.
#[derive(Debug, Default)]
pub(super) struct Authors {
    pub(super) jobs: SmallVec<[u64; 1]>,
    /// Other jobs have had it open, or have it.
    pub(super) joined: bool,
    /// Those who took the name away while they had it open: what they write has no name.
    pub(super) gone: SmallVec<[u64; 1]>,
}

impl Draft {
    /// Whether another job than that has begun it.
    pub(super) fn is_joined_by(&self, job: u64) -> bool {
        self.first != job
    }

    pub(super) fn is_of(&self, job: u64) -> bool {
        self.authors.lock().jobs.contains(&job)
    }

    /// The versions of its name among which it is one.
    pub(super) fn versions(&self) -> KeptList {
        self.folder.versions_of(self.name(), self.of)
    }

    /// Whether nobody but one user sees what it becomes.
    pub(super) fn is_own(&self) -> bool {
        self.of.is_some() || self.folder.of.is_some()
    }

    pub(super) fn name(&self) -> Name<'_> {
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
    /// Who writes it, if that is known.
    pub(super) uid: Option<u32>,
    /// The one user who is to see it, in a directory that is everyone's.
    pub(super) of: Option<u32>,
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
fn staged_by(kept: &KeptList, job: u64) -> Option<NodeId> {
    kept.iter()
        .find(|kept| kept.version.stage == Stage::Staged { by: job })
        .map(|kept| kept.version.what)
}
impl Cache {
    /// Whether anybody locks a file, or waits to, or did while others had it open who still have: they
    /// may be asking again and again.
    pub(super) fn is_locked(&self, id: NodeId) -> bool {
        self.tree.get(id).is_ok_and(|node| node.is_a_lock(0) || self.is_locked_now(&node))
    }

    fn is_locked_now(&self, node: &Node) -> bool {
        let device = self.kernel.get().map_or((0, 0), |kernel| kernel.device());
        let locked = self.readers.is_locked(device, node.id.0);
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
    /// (SEMANTICS 2.4). `own` handles of whoever asks are counted as open already.
    pub(super) fn is_emptied_in_place(&self, node: &Node, status: &Statx, own: u32) -> bool {
        // What another job is writing; it had been this one's, too, a moment ago.
        if !node.is_live()
            && node.place().is_some_and(|place| {
                let lies = place.parent();
                [ASIDE, USERS].contains(&lies) || stage_of(lies).is_some()
            })
        {
            return false;
        }
        // Without a name: open for long, and reached by a descriptor.
        let Some(place) = node.last_place() else { return true };
        node.is_live() && (status.stx_nlink > 1 || status.stx_size == 0)
            || is_lock_name(&place.name)
            || node.is_open_besides(own) && (node.is_a_lock(own) || self.is_locked_now(node))
            || node.is_live() && node.was_a_lock_lately()
    }

    /// A draft of another job that this one has to share: still empty, or locked. The locked one
    /// becomes live, for it is a lock.
    pub(super) fn share(
        &self,
        change: &Change<'_>,
        drafting: &Drafting<'_>,
    ) -> Result<Option<Start>> {
        let Drafting { folder, name, kept, job, of, .. } = *drafting;
        for draft in self.others(kept, job) {
            if self.is_locked(draft.node) {
                self.publish_common(change, &draft)?;
                return Ok(Some(Start::Live));
            }
            let mut authors = draft.authors.lock();
            if draft.written.load(Ordering::Relaxed) || authors.jobs.is_empty() {
                drop(authors);
                // Locked since it was looked, and then written: who locks it can't let go of it before it is
                // live, for which he waits for this name.
                if self.is_locked(draft.node) {
                    self.publish_common(change, &draft)?;
                    return Ok(Some(Start::Live));
                }
                continue;
            }
            authors.jobs.push(job);
            authors.joined = true;
            drop(authors);
            self.tree.hold(draft.node);
            self.add_version_of(folder, name, draft.node, Stage::Staged { by: job }, of);
            return Ok(Some(Start::Draft(draft)));
        }
        Ok(None)
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
        let Drafting { folder, name, job, of, .. } = *drafting;
        let (lies, text, file) = self.draft_file(drafting, flags, mode)?;
        let status = status(&file, b"")?;
        let place = super::tree::known_name(text.as_bytes());
        let node = self.tree.know(key(&status), Kind::File, lies, place);
        // Who was told of it comes back to this name, whatever has become of it.
        node.note_last_place(folder.id, name);
        let draft = Arc::new(Draft {
            folder: folder.clone(),
            name: name.as_bytes().into(),
            node: node.id,
            of,
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
        self.add_version_of(folder, name, node.id, Stage::Staged { by: job }, of);
        Ok((draft, file))
    }

    /// A new file for a draft: where it lies, its name there, and itself.
    fn draft_file(
        &self,
        drafting: &Drafting<'_>,
        flags: OFlags,
        mode: Mode,
    ) -> Result<(NodeId, String, OwnedFd)> {
        let Drafting { folder, uid, of, .. } = *drafting;
        if let Some(user) = of.or(folder.of) {
            let (text, file) = self.own_file(user, flags, mode)?;
            return Ok((USERS, text, file));
        }
        let always = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if !self.spills_at_once()
            && !self.lies_in_area(folder)
            && !self.is_too_much_in(folder, uid)?
        {
            let number = self.next_number();
            let (number, text) = ((number / ON_ONE_STAGE) as usize, number.to_string());
            let number = number % self.stages.len();
            let made = platform::fs::openat(&*self.stages[number], &*text, flags | always, mode);
            match made.map_err(errno) {
                Err(errno) if self.takes_over(errno) => {}
                made => {
                    let file = made?;
                    self.charge_made_file(uid, &file)?;
                    return Ok((stage(number), text, file));
                }
            }
        }
        let (text, file) = self.spill_file(flags, mode)?;
        Ok((ASIDE, text, file))
    }

    /// One more version of a name; it takes over a reference to `what`.
    pub(super) fn add_version(
        &self,
        folder: &Node,
        name: Name<'_>,
        what: NodeId,
        stage: Stage,
    ) -> u64 {
        self.add_version_of(folder, name, what, stage, None)
    }

    /// As [`Cache::add_version`], for one user alone if there is one.
    pub(super) fn add_version_of(
        &self,
        folder: &Node,
        name: Name<'_>,
        what: NodeId,
        stage: Stage,
        of: Option<u32>,
    ) -> u64 {
        let number = self.next_number();
        let kept = Kept { number, version: Version { what, stage, of } };
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
        let of = self.layer(caller, folder);
        let change = self.names.change(folder.id, name.as_bytes());
        let kept = folder.versions_of(name, of);
        if let Some(own) = staged_by(&kept, job.id) {
            return self.kept_entry(own);
        }
        let (job, uid) = (job.id, Some(caller.uid));
        let drafting = Drafting { folder, name, kept: &kept, job, uid, of };
        let shared = match self.share(&change, &drafting)? {
            Some(Start::Draft(draft)) => draft,
            Some(Start::Live) if let Some(id) = aside_of(&folder.versions_of(name, of), of) => {
                return self.kept_entry(id);
            }
            Some(Start::Live) if of.is_some() => return Err(Errno::ESTALE),
            Some(Start::Live) => {
                let directory = self.directory(folder.id)?;
                return Ok(self.found(folder.id, name, &status(&*directory, name.as_bytes())?));
            }
            None => match self.became_a_lock(folder, name).filter(|_| of.is_none()) {
                Some(live) => return Ok(self.found(folder.id, name, &live)),
                None => self.stage_like(&change, &drafting, old)?,
            },
        };
        self.kept_entry(shared.node)
    }

    /// What is live under a name, if it is to be emptied where it is: before the name was locked, another one may
    /// have made it live that jobs lock.
    fn became_a_lock(&self, folder: &Node, name: Name<'_>) -> Option<Statx> {
        let live = status(&*self.directory(folder.id).ok()?, name.as_bytes()).ok()?;
        // What is not known is not open either.
        let node = self.tree.find(key(&live)).filter(|node| node.kind == Kind::File)?;
        self.is_emptied_in_place(&node, &live, 0).then_some(live)
    }

    /// A draft of a name for one who has opened, under that name, something that was no more there when
    /// he did; none if the directory is gone.
    pub(super) fn stage_aside(
        &self,
        caller: &Caller,
        job: &Job,
        place: &Place,
        node: &Node,
    ) -> Result<Option<Arc<Draft>>> {
        let Ok(folder) = self.tree.get(place.parent()) else { return Ok(None) };
        let (folder, name) = (self.tree.versioned(&folder), super::tree::known_name(&place.name));
        let of = self.layer(caller, &folder);
        let change = self.names.change(folder.id, name.as_bytes());
        let kept = folder.versions_of(name, of);
        if let Some(own) = staged_by(&kept, job.id) {
            return Ok(self.draft_of(own, job.id));
        }
        let (folder, job, uid) = (&folder, job.id, Some(caller.uid));
        let drafting = Drafting { folder, name, kept: &kept, job, uid, of };
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
        if (old.stx_uid, old.stx_gid) != self.own_user {
            let owner = platform::fs::Uid::from_raw(old.stx_uid);
            let group = platform::fs::Gid::from_raw(old.stx_gid);
            // Who may not give files away has a store where all files are his own, or nearly.
            let _ = platform::fs::fchown(&file, Some(owner), Some(group));
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
        let node = self.tree.get(node.id)?;
        let wanted = store_flags(flags | OpenFlags::WRITE);
        let file = File::from(self.open_to_write(&node, wanted, None)?);
        // What another job has begun to write meanwhile is not this one's to empty.
        let own = !draft.is_joined_by(job);
        if own && flags.contains(OpenFlags::TRUNCATE) && draft.written.load(Ordering::Relaxed) {
            self.empty(&file)?;
        }
        Ok(file)
    }

    /// The draft that `job` is making among the versions of a name.
    pub(super) fn own_draft(&self, kept: &KeptList, job: u64) -> Option<Arc<Draft>> {
        staged_by(kept, job).and_then(|own| self.draft_of(own, job))
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
        self.part_from(&change, handle, draft)
    }

    /// A job writes what it shares with others and somebody locks: in place, for all of them.
    fn write_locked(&self, change: &Change<'_>, draft: &Draft, job: u64) -> Result<()> {
        draft.written.store(true, Ordering::Release);
        if draft.is_of(job) {
            return self.publish_common(change, draft);
        }
        if let Some(own) = self.own_draft(&draft.versions(), job) {
            self.give_up(change, &own, job);
        }
        Ok(())
    }

    /// Gives all other jobs that share a draft empty ones of their own, which they see under the name.
    pub(super) fn part_others(
        &self,
        change: &Change<'_>,
        draft: &Arc<Draft>,
        job: u64,
    ) -> Result<()> {
        let others: SmallVec<[u64; 1]> = {
            let authors = draft.authors.lock();
            authors.jobs.iter().copied().filter(|author| *author != job).collect()
        };
        let node = self.tree.get(draft.node)?;
        let mode = self.node_status(&node)?.stx_mode & super::attributes::PERMISSIONS;
        let mode = Mode::from_raw_mode(u32::from(mode));
        for other in others {
            self.give_up(change, draft, other);
            let kept = draft.versions();
            let (folder, name, of) = (&draft.folder, draft.name(), draft.of);
            // Who writes it is seen when he does.
            let (job, uid) = (other, None);
            let drafting = Drafting { folder, name, kept: &kept, job, uid, of };
            let from = Some(draft.clone());
            let (own, _) = self.stage_from(from, &drafting, draft.making, OFlags::RDWR, mode)?;
            if !self.readers.runs(other) {
                // Nobody else would: when it ended, it was not seen to have this one.
                self.give_up(change, &own, other);
            }
        }
        Ok(())
    }

    /// Gives a handle that shares a draft with other jobs one of its own.
    fn part_from(&self, change: &Change<'_>, handle: &Handle, draft: &Arc<Draft>) -> Result<()> {
        let Open::Writing { target, .. } = &handle.open else { return Err(Errno::EBADF) };
        let shared = self.tree.get(draft.node)?;
        let mode = self.node_status(&shared)?.stx_mode & super::attributes::PERMISSIONS;
        let mode = Mode::from_raw_mode(u32::from(mode));
        if draft.is_of(handle.job.id) {
            self.give_up(change, draft, handle.job.id);
        } else if let Ok(file) = self.descriptor(&shared)
            && let Some(place) = shared.place().filter(|place| place.is_public())
            && !draft.is_own()
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
            target.file = Arc::new(self.nameless(draft.of.or(draft.folder.of), mode)?);
            target.draft = None;
            return Ok(());
        }
        let kept = draft.versions();
        let (own, file) = match self.own_draft(&kept, handle.job.id) {
            // It was given one when another one began to write.
            Some(own) => {
                let node = self.tree.get(own.node)?;
                let file = self.open_node(&node, OFlags::RDWR)?;
                (own, file)
            }
            None => {
                let (folder, name) = (&draft.folder, draft.name());
                let (job, uid, of) = (handle.job.id, Some(handle.uid), draft.of);
                let drafting = Drafting { folder, name, kept: &kept, job, uid, of };
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
    fn nameless(&self, of: Option<u32>, mode: Mode) -> Result<File> {
        if let Some(user) = of {
            return self.nameless_own(user, mode);
        }
        let name = self.next_number().to_string();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        if self.spills_at_once() {
            return self.nameless_aside(mode);
        }
        let file = match platform::fs::openat(&*self.stages[0], &*name, flags, mode).map_err(errno)
        {
            Err(errno) if self.takes_over(errno) => return self.nameless_aside(mode),
            made => made?,
        };
        platform::fs::unlinkat(&*self.stages[0], &*name, AtFlags::empty()).map_err(errno)?;
        Ok(File::from(file))
    }
}
