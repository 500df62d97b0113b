//! Files that are created, and files that are closed, where the store can't take it.

use std::fs::File;
use std::sync::Arc;

use cachefs_mount::{Caller, Entry, Errno, Kind, Name, NodeId, OpenFlags, Opened, Result};

use super::names::aside;
use crate::cache::Cache;
use crate::cache::additions::How;
use crate::cache::drafts::{Draft, Drafting, Old};
use crate::cache::files::store_flags;
use crate::cache::lookup::NOBODY;
use crate::cache::name_locks::Change;
use crate::cache::namespace::mode;
use crate::cache::resolve::{errno, key, status};
use crate::cache::tree::{ASIDE, Node, known_name};
use crate::cache::view::is_lock_name;
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{AtFlags, Mode, OFlags};

impl Cache {
    /// As [`Cache::create`], for a name that is not what is live, or that the store can't take.
    pub(in crate::cache) fn create_aside(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        permissions: u16,
        flags: OpenFlags,
    ) -> Result<(Entry, Opened)> {
        self.refuse_private(parent, name)?;
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
        let old = self.standing(&folder, &directory, name, |old| match old {
            Some(_) if exclusive => Err(Errno::EEXIST),
            // The kernel looks again and finds what it is.
            Some(old) if old.kind != Kind::File => Err(Errno::ESTALE),
            Some(old) => {
                let in_place = self.is_emptied_in_place(old, &self.node_status(old)?, 0);
                Ok(Some((old.clone(), self.node_status(old)?, in_place)))
            }
            None => Ok(None),
        })?;
        let replaces = flags.intersects(OpenFlags::TRUNCATE | OpenFlags::EXCLUSIVE)
            && flags.contains(OpenFlags::WRITE)
            && !is_lock_name(name.as_bytes());
        if replaces && !old.as_ref().is_some_and(|(.., in_place)| *in_place) {
            let (by, uid) = (job.id, Some(caller.uid));
            let folder = &folder;
            let drafting = Drafting { folder, name, kept: &kept, job: by, uid, of: None };
            let replaced = old.map(|(node, status, _)| Old { status, node: Some(node) });
            let made =
                self.create_draft(caller, &change, &drafting, replaced, permissions, flags)?;
            if let Some((draft, file)) = made {
                let entry = self.kept_entry(draft.node)?;
                let node = self.tree.get(draft.node)?;
                let opened = self.opened_draft(caller, job, &node, flags, file, draft)?;
                return Ok((entry, opened));
            }
        }
        self.publish_for_sharing(&change, &kept, &job)?;
        let (entry, file) =
            self.standing(&folder, &directory, name, |standing| match standing {
                Some(node) => {
                    let wanted = store_flags(flags | OpenFlags::WRITE);
                    let file = File::from(self.open_to_write(node, wanted, Some(&change))?);
                    if flags.contains(OpenFlags::TRUNCATE) {
                        self.empty(&file)?;
                    }
                    Ok((self.kept_entry(node.id)?, file))
                }
                None => {
                    let (number, file) = self.spill_file(store_flags(flags), mode(permissions))?;
                    self.give_to_caller(caller, &file)?;
                    let key = key(&status(&file, b"")?);
                    let number = known_name(number.as_bytes());
                    let node = self.tree.know(key, Kind::File, ASIDE, number);
                    self.put_aside(&folder, name, &node);
                    let how = if exclusive { How::Exclusively } else { How::Shared };
                    self.note_added(node.id, &job, (folder.id, name), how);
                    Ok((self.kept_entry(node.id)?, File::from(file)))
                }
            })?;
        let node = self.tree.get(entry.attributes.node)?;
        let opened = self.opened_for_writing(caller, job, &node, flags, file)?;
        Ok((entry, opened))
    }

    /// Does something with what a name stands for, for everyone, which is known as long as that takes.
    fn standing<T>(
        &self,
        folder: &Arc<Node>,
        directory: &OwnedFd,
        name: Name<'_>,
        act: impl FnOnce(Option<&Arc<Node>>) -> Result<T>,
    ) -> Result<T> {
        match self.here(folder, directory, name, NOBODY)? {
            Some(here) => {
                let done = act(Some(&here.node));
                self.give_back(here.node.id, 1);
                done
            }
            None => act(None),
        }
    }

    /// A draft becomes what its name stands for, without the store having it.
    pub(in crate::cache) fn publish_aside(&self, draft: &Draft, by: u64) -> Result<()> {
        let node = self.tree.get(draft.node)?;
        let directory = self.directory(draft.folder.id)?;
        let old = self.standing(&draft.folder, &directory, draft.name(), |old| match old {
            Some(old) if old.kind == Kind::Directory => Err(Errno::EISDIR),
            old => Ok(old.map(|old| self.additions.of(old.id, draft.folder.id, draft.name()))),
        })?;
        self.note_published(draft, by, node.id, old);
        self.tree.hold(node.id);
        self.put_aside(&draft.folder, draft.name(), &node);
        Ok(())
    }

    /// Empties what a name stands for, if that is a file that the store does not have under it: whether
    /// it is.
    pub(in crate::cache) fn empty_aside(
        &self,
        change: &Change<'_>,
        folder: &Arc<Node>,
        name: Name<'_>,
    ) -> Result<bool> {
        let Some(id) = aside(&folder.versions(name)) else { return Ok(false) };
        let node = self.tree.get(id)?;
        if node.kind != Kind::File {
            return Ok(false);
        }
        let file = self.open_to_write(&node, OFlags::WRONLY, Some(change))?;
        self.empty(&File::from(file))?;
        Ok(true)
    }

    /// A file without a name, for one who goes on writing what he has removed.
    pub(in crate::cache) fn nameless_aside(&self, mode: Mode) -> Result<File> {
        let (name, file) = self.spill_file(OFlags::RDWR, mode)?;
        let area = self.own_folder(ASIDE).ok_or(Errno::EROFS)?;
        platform::fs::unlinkat(&*area, &*name, AtFlags::empty()).map_err(errno)?;
        Ok(File::from(file))
    }
}
