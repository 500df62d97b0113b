//! Staged -> live (SEMANTICS 2): a draft takes its name in one rename when its writer closes it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cachefs_mount::{Caller, Errno, Kind, Name, NodeId, Result};

use super::Cache;
use super::additions::{Added, How};
use super::drafts::{Draft, Making};
use super::handles::{Handle, Open};
use super::name_locks::Change;
use super::resolve::{errno, key, kind, open_at, status};
use super::tree::Node;
use super::view::{Moment, Stage};
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{AtFlags, Mode, OFlags};
use crate::readers::Fate;

impl Cache {
    /// Makes a draft live that jobs lock, or write together.
    pub(super) fn publish_common(&self, change: &Change<'_>, draft: &Draft) -> Result<()> {
        draft.common.store(true, Ordering::Release);
        self.publish(change, draft)
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
        let taken = match draft.of {
            Some(user) => self.publish_own_part(draft, by, user),
            None if self.is_out_of_reach(&draft.folder) => Err(Errno::EROFS),
            None if self.has_to_stay_aside(draft) => Err(Errno::EXDEV),
            None => self.take_name(draft, by),
        };
        let result = match taken {
            taken if draft.is_own() => taken,
            Ok(()) => {
                self.unhide(&draft.folder, draft.name());
                Ok(())
            }
            // What lies in the area can't have a name in the store.
            Err(Errno::EXDEV) if self.spill.is_used() => self.publish_aside(draft, by),
            Err(errno) if self.takes_over(errno) => self.publish_aside(draft, by),
            failed => failed,
        };
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
        self.note_named(parent, name, by);
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
            let from = self.own_folder(place.parent()).ok_or(Errno::ESTALE)?;
            let file = self.has_to_be_renumbered(draft)?;
            platform::fs::renameat(&*from, &*place.name, &*directory, name.as_bytes())
                .map_err(errno)?;
            match file {
                Some(file) => id = self.tree.renumber(&node, file, parent, name),
                None => {
                    self.tree.add_place(&node, parent, name);
                    let staged = super::tree::known_name(&place.name);
                    self.tree.remove_place(&node, place.parent(), staged);
                }
            }
            if let Some(victim) = replaced {
                let replaced = self.tree.number(key(&status(&victim, b"")?));
                old = Some(self.additions.of(replaced, parent, name));
                self.unnamed(parent, name, victim)?;
            }
        }
        self.note_published(draft, by, id, old);
        Ok(())
    }

    /// `by` has made a draft live; the name had been given before by `old`, if it is not new.
    pub(super) fn note_published(
        &self,
        draft: &Draft,
        by: u64,
        id: NodeId,
        old: Option<Option<Added>>,
    ) {
        self.numbers.published();
        let (name, parent) = (draft.name(), draft.folder.id);
        let added = match old {
            // Whoever made the name has made it.
            Some(Some(old)) if old.by == by => (old.at, old.how),
            Some(old) => (old.map_or(Moment(0), |old| old.at), How::Moved),
            None if draft.making == Making::Exclusive && by == draft.first => {
                (self.readers.tick(), How::Exclusively)
            }
            None => (self.readers.tick(), How::Written),
        };
        self.note_addition((parent, name), Added::new(id, (by, added.0), added.1));
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
        let from = self.own_folder(place.parent()).ok_or(Errno::ESTALE)?;
        open_at(&*from, &place.name, OFlags::PATH).map(Some)
    }

    /// Removes a draft's file; those who have it open keep it.
    fn discard_file(&self, draft: &Draft) {
        let Ok(node) = self.tree.get(draft.node) else { return };
        let Some(place) = node.place() else { return };
        if place.is_public() {
            return;
        }
        if let Err(errno) = self.remove_own(&place) {
            tracing::warn!(%errno, "can't remove a draft; the next mount does");
        }
    }

    /// `job` gives a draft up: nothing is left of it, unless others share it.
    pub(super) fn give_up(&self, _: &Change<'_>, draft: &Draft, job: u64) {
        let is_nobodys = {
            let mut authors = draft.authors.lock();
            authors.jobs.retain(|author| *author != job);
            authors.jobs.is_empty()
        };
        // Not while the authors are locked: who goes through all drafts asks each for them.
        if is_nobodys && self.drafts.remove(&draft.node.0).is_some() {
            self.discard_file(draft);
        }
        self.remove_staged(draft, Some(job));
    }

    /// As [`Cache::give_up`], with what the job may have been given instead just now, when another one wrote.
    fn give_up_whole(&self, draft: &Draft, job: u64) {
        let change = self.names.change(draft.folder.id, &draft.name);
        self.give_up(&change, draft, job);
        if let Some(own) = self.own_draft(&draft.versions(), job) {
            self.give_up(&change, &own, job);
        }
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
        let Open::Writing { target, closed, .. } = &handle.open else { return Ok(()) };
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
                let Some(own) = self.own_draft(&draft.versions(), job) else { return Ok(()) };
                own
            }
            false => return Ok(()),
        };
        if let Some(caller) = caller {
            // Others, who inherited the descriptor, close their copies of it.
            if self.readers.process(caller) != handle.process {
                return Ok(());
            }
            closed.store(true, Ordering::Release);
            if self.readers.fate(caller) == Fate::Killed {
                target.write().author = false;
                self.give_up_whole(&draft, job);
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
            if !closed.load(Ordering::Acquire) {
                self.give_up_whole(&draft, job);
                return Ok(());
            }
            return self.close_unwritten(&draft, job);
        }
        if !draft.is_own()
            && let Some(place) = self.tree.get(draft.node).ok().and_then(|node| node.place())
            && let Some(lies) = self.own_folder(place.parent())
        {
            let staged = (&*lies, super::tree::known_name(&place.name));
            self.bring_back_what_it_names(&handle.job, &draft.folder, staged);
        }
        let change = self.names.change(draft.folder.id, &draft.name);
        if !draft.is_of(job) {
            return Ok(());
        }
        self.publish(&change, &draft)?;
        drop(change);
        if !draft.is_own() {
            self.bring_back_what_is_named(&handle.job, &draft.folder, draft.name());
        }
        Ok(())
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
        if draft.of.is_some() {
            return self.publish(&change, draft);
        }
        if self.empty_aside(&change, &draft.folder, draft.name())? {
            self.give_up(&change, draft, job);
            return Ok(());
        }
        if !is_file || self.goes_aside(draft.folder.id, draft.name()) {
            return self.publish(&change, draft);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let emptied = platform::fs::openat(
            &*directory,
            &*draft.name,
            flags | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::from_raw_mode(0o644),
        );
        if let Err(error) = emptied
            && !draft.is_own()
            && self.takes_over(errno(error))
        {
            return self.publish(&change, draft);
        }
        self.give_up(&change, draft, job);
        self.charge_emptied(emptied.map_err(errno)?)
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
        of: Option<u32>,
    ) -> Result<()> {
        match self.own_draft(&folder.versions_of(name, of), job) {
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
        platform::fs::unlinkat(folder, name, AtFlags::empty()).map_err(errno)?;
        self.unnamed(id, super::tree::known_name(name), victim)
    }
}
