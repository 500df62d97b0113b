//! Opening, reading and writing files.

use std::fs::File;
use std::io;
use std::sync::Arc;

use cachefs_mount::{
    AllocateFlags, Caller, Entry, Errno, HandleId, Kind, Name, NodeId, OpenFlags, Opened, Result,
    Seek,
};

use super::Cache;
use super::additions::How;
use super::drafts::{Draft, Drafting, Making, Old, Start};
use super::handles::{Handle, Open, Target};
use super::lookup::Step;
use super::name_locks::Change;
use super::namespace::mode;
use super::quota::Stretch;
use super::resolve::{errno, key, kind, open_at, status};
use super::tree::Node;
use super::view::is_lock_name;
use crate::platform;
use crate::platform::fd::{AsFd, OwnedFd};
use crate::platform::fs::{FallocateFlags, FileExt, Mode, OFlags, SeekFrom, Statx};
use crate::readers::Job;

/// Set-id bits of a mode.
const SET_ID: u32 = Mode::SUID.union(Mode::SGID).bits();

pub(super) fn store_flags(flags: OpenFlags) -> OFlags {
    let mut wanted = if flags.contains(OpenFlags::READ) { OFlags::RDWR } else { OFlags::WRONLY };
    wanted.set(OFlags::DSYNC, flags.contains(OpenFlags::SYNC));
    wanted
}

impl Cache {
    pub(super) fn open(&self, caller: &Caller, id: NodeId, flags: OpenFlags) -> Result<Opened> {
        let node = self.tree.get(id)?;
        match node.kind {
            Kind::File => {}
            Kind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::ENXIO),
        }
        let foreign = self.is_foreign(caller, &node)?;
        self.count_hit(&node);
        let job = self.readers.job(caller);
        let step = self.steps.take(caller);
        let replaces = flags.contains(OpenFlags::TRUNCATE);
        if node.is_renumbered() && !replaces && step.is_none() && caller.thread != 0 {
            // It is found under its new number. Who replaces it has to come again in any case, and the kernel
            // does so once only.
            self.steps.set(caller, Step::Reopen);
            return Err(Errno::ESTALE);
        }
        if foreign {
            return self.open_foreign(caller, job, &node, flags, step);
        }
        if !flags.intersects(OpenFlags::WRITE | OpenFlags::TRUNCATE) {
            // Nothing is opened before its first use, which passthrough never comes to.
            return self.opened(caller, job, &node, Open::Reading);
        }
        if let Some(draft) = self.draft_of(id, job.id) {
            let file = self.open_draft(&draft, &node, job.id, flags)?;
            return self.opened_draft(caller, job, &node, flags, file, draft);
        }
        // Counted before it is asked whether others have it open: one of two who open it at the same
        // time sees the other.
        let _opening = Opening::of(&node);
        if replaces && self.has_to_replace(caller, &node)? {
            let Some(Step::Replace { node: was, at }) = step else {
                self.steps.set(caller, Step::Replace { node: id, at: node.last_place() });
                return Err(Errno::ESTALE);
            };
            // The kernel does not come a third time. If it has looked nothing up, it has no name for
            // it; else what it was told of has become another's just now.
            if was != id
                && let Some(at) = at
                && let Some(draft) = self.stage_aside(caller, &job, &at, &node)?
            {
                let staged = self.tree.get(draft.node)?;
                let file = self.open_draft(&draft, &staged, job.id, flags)?;
                return self.opened_draft(caller, job, &node, flags, file, draft);
            }
        }
        let wanted = store_flags(flags | OpenFlags::WRITE);
        let mut file = File::from(self.open_to_write(&node, wanted, None)?);
        drop_set_id(&file)?;
        if replaces && let Err(errno) = self.empty(&file) {
            if node.of.is_some() || !self.takes_over(errno) {
                return Err(errno);
            }
            self.move_node(&node, errno, None)?;
            file = File::from(self.open_node(&node, wanted)?);
            self.empty(&file)?;
        }
        self.opened_for_writing(caller, job, &node, flags, file)
    }

    /// Whether one who opens a file with `O_TRUNC` is to be given a draft.
    pub(super) fn has_to_replace(&self, caller: &Caller, node: &Node) -> Result<bool> {
        // Those who can't be seen can't be told from each other.
        Ok(caller.thread != 0 && !self.is_emptied_in_place(node, &self.node_status(node)?, 1))
    }

    pub(super) fn opened(
        &self,
        caller: &Caller,
        job: Arc<Job>,
        node: &Node,
        open: Open,
    ) -> Result<Opened> {
        let user = self.user(caller);
        self.admit(user)?;
        let of = match &open {
            Open::Writing { target, .. } => target.read().draft.as_ref().map(|draft| draft.node),
            _ => None,
        };
        let (wants_flush, alone, process) = match &open {
            // Stores through a shared mapping reach the file at the latest when it is flushed.
            Open::Writing { target, .. } => {
                let target = target.read();
                let aside = target.draft.as_ref().is_some_and(|draft| draft.node != node.id);
                (true, aside || target.joined, self.readers.process(caller))
            }
            _ => (false, false, 0),
        };
        node.opened();
        if node.of.is_none() {
            self.note_use(node, job.id);
        }
        let uid = caller.uid;
        let handle = self.handles.insert(Handle { node: node.id, job, process, uid, user, open });
        if self.spill.has_moved() {
            let known = self.handles.get(handle)?;
            if let Err(errno) = self.follow_moved(of.unwrap_or(node.id), &known) {
                self.release(handle);
                return Err(errno);
            }
        }
        let counted = node.of.is_some();
        Ok(Opened { handle, wants_flush, alone, counted, moves: node.moves() })
    }

    pub(super) fn opened_for_writing(
        &self,
        caller: &Caller,
        job: Arc<Job>,
        node: &Node,
        flags: OpenFlags,
        file: File,
    ) -> Result<Opened> {
        if !flags.contains(OpenFlags::WRITE) {
            // `O_RDONLY | O_TRUNC`, or a new file opened for reading: the deed is done.
            return self.opened(caller, job, node, Open::Reading);
        }
        self.opened(caller, job, node, Open::writing(flags, file))
    }

    pub(super) fn opened_draft(
        &self,
        caller: &Caller,
        job: Arc<Job>,
        node: &Node,
        flags: OpenFlags,
        file: File,
        draft: Arc<Draft>,
    ) -> Result<Opened> {
        if !flags.contains(OpenFlags::WRITE) {
            // Nothing more will be written by it: the file is empty now.
            self.publish_node(draft.node, job.id)?;
            return self.opened(caller, job, node, Open::Reading);
        }
        let author = flags.intersects(OpenFlags::TRUNCATE | OpenFlags::EXCLUSIVE);
        let joined = draft.is_joined_by(job.id);
        let target = Target { file: Arc::new(file), draft: Some(draft), author, joined };
        self.opened(caller, job, node, Open::writing_to(flags, target))
    }

    pub(super) fn release(&self, id: HandleId) {
        let Some(handle) = self.handles.remove(id) else { return };
        self.dismiss(handle.user);
        if let Ok(node) = self.tree.get(handle.node) {
            node.closed();
        }
        if let Err(errno) = self.close_draft(&handle, None) {
            tracing::warn!(%errno, "a file that was written could not be given its name");
        }
        self.charge_closed(&handle);
        if let Open::Writing { target, .. } = &handle.open {
            self.note_written_use(&handle, &target.read().file.clone());
        }
    }

    /// A file that was open for writing is closed: by now it has its name, and so a unit.
    fn note_written_use(&self, handle: &Handle, file: &File) {
        if self.user_of(handle.node).is_some() {
            // It is in no unit, and takes no room of the store's.
            return;
        }
        self.note_stored_by(handle.node, handle.job.id);
        if self.keeps_limits()
            && let Ok(status) = status(file, b"")
        {
            self.note_stored(status.stx_blocks * 512);
        }
    }

    /// Opens a node again for a handle of another process, as [`Cache::open`] did there.
    pub(super) fn reopen(&self, id: NodeId, flags: OpenFlags) -> Result<Open> {
        if !flags.contains(OpenFlags::WRITE) {
            return Ok(Open::Reading);
        }
        let node = self.tree.get(id)?;
        Ok(Open::writing(flags, File::from(self.open_node(&node, store_flags(flags))?)))
    }

    pub(super) fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        permissions: u16,
        flags: OpenFlags,
    ) -> Result<(Entry, Opened)> {
        self.refuse_private(parent, name)?;
        self.steps.take(caller);
        let folder = self.tree.versioned(&self.tree.get(parent)?);
        let directory = self.directory(parent)?;
        let job = self.readers.job(caller);
        let change = self.names.change(folder.id, name.as_bytes());
        let kept = folder.versions(name);
        if let Some(own) = self.own_draft(&kept, job.id) {
            return self.create_again(caller, job, own, change, flags);
        }
        let exclusive = flags.contains(OpenFlags::EXCLUSIVE);
        if exclusive && self.is_taken(&kept, job.id) {
            return Err(Errno::EEXIST);
        }
        let replaces = flags.intersects(OpenFlags::TRUNCATE | OpenFlags::EXCLUSIVE)
            && flags.contains(OpenFlags::WRITE)
            && !is_lock_name(name.as_bytes());
        let live = match status(&*directory, name.as_bytes()) {
            Ok(_) if exclusive => return Err(Errno::EEXIST),
            // The kernel looks again and finds what it is.
            Ok(live) if kind(&live) != Kind::File => return Err(Errno::ESTALE),
            Ok(live) => Some(live),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        // The kernel had not seen it when it decided to create.
        let old = live.map(|live| self.tree.know(key(&live), Kind::File, parent, name));
        let in_place = |(old, live): (&Arc<Node>, Statx)| self.is_emptied_in_place(old, &live, 0);
        let created = if replaces && !old.as_ref().zip(live).is_some_and(in_place) {
            let (by, uid) = (job.id, Some(caller.uid));
            let folder = &folder;
            let drafting = Drafting { folder, name, kept: &kept, job: by, uid, of: None };
            let replaced = live.map(|status| Old { status, node: old.clone() });
            self.create_draft(caller, &change, &drafting, replaced, permissions, flags)
        } else {
            Ok(None)
        };
        if let Some(old) = &old {
            self.give_back(old.id, 1);
        }
        if let Some((draft, file)) = created? {
            let entry = self.kept_entry(draft.node)?;
            let node = self.tree.get(draft.node)?;
            let opened = self.opened_draft(caller, job, &node, flags, file, draft)?;
            return Ok((entry, opened));
        }
        self.publish_for_sharing(&change, &kept, &job)?;
        if self.is_hidden(folder.id, name) {
            // The store did not take what others were writing.
            drop(change);
            return self.create_aside(caller, parent, name, permissions, flags);
        }
        let live = live.or_else(|| status(&*directory, name.as_bytes()).ok());
        let file = self.create_here(caller, &directory, name, permissions, flags)?;
        let entry = self.found(parent, name, &status(&file, b"")?);
        let node = self.tree.get(entry.attributes.node)?;
        if live.is_none() {
            self.charge_made_file(Some(caller.uid), &file)?;
            let how = if exclusive { How::Exclusively } else { How::Shared };
            self.note_added(node.id, &job, (folder.id, name), how);
        }
        Ok((entry, self.opened_for_writing(caller, job, &node, flags, file)?))
    }

    /// A draft for one who creates a file; none if what is live is to be written instead.
    pub(super) fn create_draft(
        &self,
        caller: &Caller,
        change: &Change<'_>,
        drafting: &Drafting<'_>,
        old: Option<Old>,
        permissions: u16,
        flags: OpenFlags,
    ) -> Result<Option<(Arc<Draft>, File)>> {
        let exclusive = flags.contains(OpenFlags::EXCLUSIVE);
        let shared = if exclusive { None } else { self.share(change, drafting)? };
        let draft = match (shared, old) {
            (Some(Start::Live), _) => return Ok(None),
            (Some(Start::Draft(draft)), _) => draft,
            (None, Some(old)) => self.stage_like(change, drafting, &old)?,
            (None, None) => {
                let making = if exclusive { Making::Exclusive } else { Making::New };
                let (flags, mode) = (store_flags(flags), mode(permissions));
                let (draft, file) = self.stage(change, drafting, making, flags, mode)?;
                self.give_to_caller(caller, &file)?;
                return Ok(Some((draft, File::from(file))));
            }
        };
        let node = self.tree.get(draft.node)?;
        let file = self.open_draft(&draft, &node, drafting.job, flags)?;
        Ok(Some((draft, file)))
    }

    /// The caller's own job has just created the name. What it has of it can't become another's before it is
    /// open here: `change` ends then.
    pub(super) fn create_again(
        &self,
        caller: &Caller,
        job: Arc<Job>,
        own: Arc<Draft>,
        change: Change<'_>,
        flags: OpenFlags,
    ) -> Result<(Entry, Opened)> {
        if flags.contains(OpenFlags::EXCLUSIVE) {
            return Err(Errno::EEXIST);
        }
        let entry = self.kept_entry(own.node)?;
        let node = self.tree.get(own.node)?;
        let file = self.open_draft(&own, &node, job.id, flags)?;
        drop(change);
        Ok((entry, self.opened_draft(caller, job, &node, flags, file, own)?))
    }

    pub(super) fn give_to_caller(&self, caller: &Caller, file: impl AsFd) -> Result<()> {
        match self.owner_of_new(caller) {
            Some((uid, gid)) => platform::fs::fchown(file, Some(uid), Some(gid)).map_err(errno),
            None => Ok(()),
        }
    }

    /// Creates a file under its name, or opens the one that is there.
    fn create_here(
        &self,
        caller: &Caller,
        directory: &OwnedFd,
        name: Name<'_>,
        permissions: u16,
        flags: OpenFlags,
    ) -> Result<File> {
        let wanted = store_flags(flags) | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let new = wanted | OFlags::CREATE | OFlags::EXCL;
        match platform::fs::openat(directory, name.as_bytes(), new, mode(permissions)) {
            Ok(descriptor) => {
                self.give_to_caller(caller, &descriptor)?;
                Ok(File::from(descriptor))
            }
            Err(platform::io::Errno::EXIST) if !flags.contains(OpenFlags::EXCLUSIVE) => {
                let file = File::from(open_at(directory, name.as_bytes(), wanted)?);
                if flags.contains(OpenFlags::TRUNCATE) {
                    self.empty(&file)?;
                }
                Ok(file)
            }
            Err(error) => Err(errno(error)),
        }
    }

    /// Empties a file.
    pub(super) fn empty(&self, file: &File) -> Result<()> {
        self.charging(None, file, || platform::fs::ftruncate(file, 0).map_err(errno))
    }

    /// A descriptor of an open file: its own, or for reading any that is kept for the node.
    pub(super) fn file(&self, handle: &Handle) -> Result<Arc<File>> {
        match &handle.open {
            Open::Writing { target, .. } => Ok(target.read().file.clone()),
            Open::Reading => self.file_for_reading(handle.node),
            Open::Directory(_) => Err(Errno::EISDIR),
        }
    }

    fn file_for_reading(&self, id: NodeId) -> Result<Arc<File>> {
        if let Some(kept) = self.descriptors.file(id) {
            return Ok(kept);
        }
        let node = self.tree.get(id)?;
        let _all = self.nothing_moves();
        let file = Arc::new(File::from(self.open_node(&node, OFlags::RDONLY)?));
        self.descriptors.keep_file(id, file.clone());
        if self.tree.get(id).is_err() {
            self.descriptors.drop(id);
        }
        Ok(file)
    }

    /// A descriptor for passthrough; or, when the mount finds that the file is too small for that,
    /// the one by which it will be read.
    pub(super) fn backing(&self, id: HandleId) -> Result<Arc<File>> {
        self.file(&*self.handles.get(id)?)
    }

    pub(super) fn read(&self, id: HandleId, offset: u64, into: &mut [u8]) -> Result<usize> {
        let file = self.file(&*self.handles.get(id)?)?;
        let mut done = 0;
        while done < into.len() {
            match file.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(length) => done += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.numbers.read(done);
        Ok(done)
    }

    /// To be called before a handle changes what it writes.
    fn before_writing(&self, handle: &Handle) -> Result<()> {
        let Open::Writing { target, .. } = &handle.open else { return Err(Errno::EBADF) };
        let (draft, joined) = {
            let target = target.read();
            (target.draft.clone(), target.joined)
        };
        if let Some(draft) = draft {
            self.before_first_write(handle, &draft, joined)?;
        }
        Ok(())
    }

    pub(super) fn write(&self, id: HandleId, offset: u64, data: &[u8]) -> Result<usize> {
        let handle = self.handles.get(id)?;
        self.before_writing(&handle)?;
        self.charge_bytes(handle.node, data.len() as u64)?;
        let mut done = 0;
        let stretch = Stretch { offset, length: data.len() as u64 };
        let written = self.writing(&handle, stretch, |file| {
            while done < data.len() {
                match file.write_at(&data[done..], offset + done as u64) {
                    Ok(0) => break,
                    Ok(length) => done += length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        });
        match written {
            // What was taken before is taken; the next write meets the error.
            Err(errno) if done == 0 => return Err(errno),
            _ => self.note_written(done, handle.job.id),
        }
        self.numbers.written(done);
        Ok(done)
    }

    pub(super) fn sync(&self, id: HandleId, data_only: bool) -> Result<()> {
        let file = self.file(&*self.handles.get(id)?)?;
        Ok(if data_only { file.sync_data() } else { file.sync_all() }?)
    }

    pub(super) fn allocate(
        &self,
        id: HandleId,
        offset: u64,
        length: u64,
        flags: AllocateFlags,
    ) -> Result<()> {
        let handle = self.handles.get(id)?;
        self.before_writing(&handle)?;
        let mut stretch = Stretch::NONE;
        if !flags.contains(AllocateFlags::PUNCH_HOLE) {
            self.charge_bytes(handle.node, length)?;
            stretch = Stretch { offset, length };
        }
        let flags = FallocateFlags::from_bits_retain(flags.bits());
        self.writing(&handle, stretch, |file| {
            platform::fs::fallocate(file, flags, offset, length).map_err(errno)
        })
    }

    pub(super) fn seek(&self, id: HandleId, offset: u64, seek: Seek) -> Result<u64> {
        let file = self.file(&*self.handles.get(id)?)?;
        let to = match seek {
            Seek::Data => SeekFrom::Data(offset),
            Seek::Hole => SeekFrom::Hole(offset),
        };
        // Others may share the descriptor: but nobody reads or writes at its own offset.
        platform::fs::seek(&*file, to).map_err(errno)
    }

    pub(super) fn copy_range(
        &self,
        (from, mut from_offset): (HandleId, u64),
        (to, mut to_offset): (HandleId, u64),
        length: u64,
    ) -> Result<usize> {
        let from = self.handles.get(from)?;
        let to = self.handles.get(to)?;
        self.before_writing(&to)?;
        let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
        self.charge_copy(to.node, &*self.file(&from)?, from_offset, length)?;
        let stretch = Stretch { offset: to_offset, length: length as u64 };
        let copied = self.writing(&to, stretch, |file| {
            let (at, to_at) = (Some(&mut from_offset), Some(&mut to_offset));
            let source = self.file(&from)?;
            platform::fs::copy_file_range(&*source, at, file, to_at, length).map_err(errno)
        })?;
        self.note_written(copied, to.job.id);
        Ok(copied)
    }
}

/// A handle that is being opened.
struct Opening<'a>(&'a Node);

impl Opening<'_> {
    fn of(node: &Node) -> Opening<'_> {
        node.opened();
        Opening(node)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.closed();
    }
}

/// A file that is written has no set-id bits. The kernel leaves it to the volume to see to that.
fn drop_set_id(file: &File) -> Result<()> {
    let mode = u32::from(status(file, b"")?.stx_mode);
    if mode & SET_ID != 0 {
        let plain = Mode::from_raw_mode(mode & 0o7777 & !SET_ID);
        platform::fs::fchmod(file, plain).map_err(errno)?;
    }
    Ok(())
}
