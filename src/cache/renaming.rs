//! Giving what there is another name: `rename(2)` (SEMANTICS 2.5, 3).

use std::sync::Arc;

use cachefs_mount::{Caller, Errno, Kind, Name, NodeId, RenameFlags, Result};

use super::Cache;
use super::additions::{Added, How};
use super::lookup::Seen;
use super::name_locks::Change;
use super::resolve::{errno, key, kind, open_at, status};
use super::spared::Gone;
use super::tree::{FileKey, Node, RETIRED, USERS};
use super::view::{self, Moment};
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::OFlags;
use crate::readers::Job;

impl Cache {
    pub(super) fn rename(
        &self,
        caller: &Caller,
        (parent, name): (NodeId, Name<'_>),
        (new_parent, new_name): (NodeId, Name<'_>),
        flags: RenameFlags,
    ) -> Result<()> {
        if self.is_private(parent, name) {
            return Err(Errno::ENOENT);
        }
        self.refuse_private(new_parent, new_name)?;
        let folder = self.tree.versioned(&self.tree.get(parent)?);
        let new_folder = self.tree.versioned(&self.tree.get(new_parent)?);
        let (from, to) = (self.directory(parent)?, self.directory(new_parent)?);
        let job = self.readers.job(caller);
        if self.readers.leave_removal(&job, caller) {
            self.retired.wake();
        }
        if new_folder.of.is_none() {
            self.bring_back_what_it_names(&job, &new_folder, (&from, name));
        }
        let change = self.names.change_two((folder.id, name), (new_folder.id, new_name));
        self.publish_own(&change, &folder, name, job.id, None)?;
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        if exchange {
            self.publish_own(&change, &new_folder, new_name, job.id, None)?;
        }
        let source = self.source(&job, &folder, &from, name)?;
        let moved = key(&status(&source.descriptor, b"")?);
        if source.live
            && !exchange
            && caller.thread != 0
            && let Some(node) = self.tree.find(moved)
            && self.has_to_be_parted(&job, &node, &source.descriptor)
        {
            return Err(Errno::ESTALE);
        }
        let mut target = match open_at(&*to, new_name.as_bytes(), OFlags::PATH) {
            Ok(descriptor) => Some((status(&descriptor, b"")?, descriptor)),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        let new_kept = new_folder.versions(new_name);
        match &target {
            // What is only seen because it is kept can't change places with anything.
            None if exchange => return Err(Errno::EINVAL),
            None => self.check_kept_target(&job, &new_folder, new_name)?,
            Some((status, _)) if key(status) == moved && !exchange => return Ok(()),
            Some((status, _))
                if kind(status) == Kind::Directory
                    && !exchange
                    && kind(&self::status(&source.descriptor, b"")?) != Kind::Directory =>
            {
                return Err(Errno::EISDIR);
            }
            Some((status, _)) if kind(status) == Kind::Directory && !exchange => {
                if self.make_way(&change, &job, (&new_folder, &to, new_name), key(status))? {
                    target = None;
                }
            }
            Some(_) => {}
        }
        if flags.contains(RenameFlags::NO_REPLACE) && self.is_taken(&new_kept, job.id) {
            return Err(Errno::EEXIST);
        }
        if !exchange
            && !target.as_ref().is_some_and(|(status, _)| kind(status) == Kind::Directory)
            && let Some(own) = self.own_draft(&new_kept, job.id)
        {
            self.abandon(&change, &own, job.id);
        }
        let replaced = target.as_ref().map(|(status, _)| {
            let node = self.tree.number(key(status));
            let added = self.additions.of(node, new_folder.id, new_name);
            added.map_or(Moment(0), |added| added.at)
        });
        let at = self.readers.tick();
        let node = self.tree.find(moved);
        let mut keeps = source.live
            && self.is_kept(job.id, at, (&folder, name), || {
                self.is_own(job.id, (&folder, name), self.tree.number(moved), |_| true)
            });
        let mut how = platform::fs::RenameFlags::empty();
        how.set(platform::fs::RenameFlags::EXCHANGE, exchange);
        let no_replace = flags.contains(RenameFlags::NO_REPLACE);
        how.set(platform::fs::RenameFlags::NOREPLACE, no_replace);
        let moving = self.moves.read();
        folder.note_thinned();
        let while_listed = source.live
            && !keeps
            && !exchange
            && self.is_listed_beside(&job, &folder, Gone::InPassing);
        keeps |= while_listed;
        let (at_name, to_name) = (&*source.name, new_name.as_bytes());
        if how.is_empty() {
            // Also for filesystems that know no flags.
            platform::fs::renameat(&*source.directory, at_name, &*to, to_name).map_err(errno)?;
        } else {
            platform::fs::renameat_with(&*source.directory, at_name, &*to, to_name, how)
                .map_err(errno)?;
        }
        if let Some(node) = &node {
            let place = super::tree::known_name(&source.name);
            self.tree.add_place(node, new_folder.id, new_name);
            self.tree.remove_place(node, source.folder, place);
        }
        self.hide(&change, &folder, name, job.id);
        if !source.live
            && let Some(node) = node.as_ref().filter(|node| node.kind == Kind::Directory)
        {
            self.keep_apart(&change, &folder, name, (node, &source.descriptor))?;
        }
        if let Some(node) = &node {
            self.note_moved(node, &job, (new_folder.id, new_name), replaced);
        }
        match target {
            Some((status, _)) if exchange => {
                if let Some(node) = self.tree.find(key(&status)) {
                    self.tree.add_place(&node, folder.id, name);
                    self.tree.remove_place(&node, new_folder.id, new_name);
                    self.note_moved(&node, &job, (folder.id, name), None);
                }
            }
            Some((_, descriptor)) => self.unnamed(new_folder.id, new_name, descriptor)?,
            None => {}
        }
        let is_directory = node.as_ref().is_some_and(|node| node.kind == Kind::Directory);
        if keeps && !exchange {
            self.keep_moved(&folder, name, &source, node, (at, job.id))?;
            if while_listed {
                self.keep_while_listed(&change, &job, &folder, name, Gone::InPassing);
            }
        }
        // The kernel moves what it has cached of the old name, with the time for which it believes it.
        for (folder, name) in [(&folder, name), (&new_folder, new_name)] {
            if !folder.is_plain(name) {
                self.tell_kernel_later(folder.id, name.as_bytes());
            }
        }
        drop((moving, change));
        if folder.of.is_some() {
            // Nothing of it is seen by others.
        } else if is_directory {
            self.note_product(&job, new_folder.id, new_name, true);
            self.complete(&job, &new_folder, new_name);
        } else {
            self.bring_back_what_is_named(&job, &new_folder, new_name);
        }
        Ok(())
    }

    /// `job` has moved a node to that name, which was added at `before` if it is not new.
    pub(super) fn note_moved(
        &self,
        node: &Node,
        job: &Job,
        name: (NodeId, Name<'_>),
        before: Option<Moment>,
    ) {
        let now = self.readers.tick();
        let added = Added::new(node.id, (job.id, before.unwrap_or(now)), How::Moved);
        self.note_addition(name, added);
        if node.kind == Kind::Directory {
            self.note_parted_moved(node.id, name.0, name.1);
            self.additions.note_moved(node.id, now);
        }
    }

    /// Where what a job sees under a name lies in the store.
    fn source(
        &self,
        job: &Job,
        folder: &Arc<Node>,
        directory: &Arc<OwnedFd>,
        name: Name<'_>,
    ) -> Result<Source> {
        match open_at(&**directory, name.as_bytes(), OFlags::PATH) {
            Ok(descriptor) => Ok(Source {
                directory: directory.clone(),
                folder: folder.id,
                name: name.as_bytes().into(),
                descriptor,
                live: true,
            }),
            Err(Errno::ENOENT) => {
                let seen = self.choose(&folder.versions(name), None, job.reader());
                let Seen::Kept(node) = seen else { return Err(Errno::ENOENT) };
                let lies = [RETIRED, USERS];
                let node = self.tree.get(node)?;
                let place = node.place().filter(|p| lies.contains(&p.parent()));
                // The old name of something that lives elsewhere can't be moved once more.
                let place = place.ok_or(Errno::ENOENT)?;
                let lies = self.own_folder(place.parent()).ok_or(Errno::ENOENT)?;
                let descriptor = open_at(&*lies, &place.name, OFlags::PATH)?;
                Ok(Source {
                    directory: lies,
                    folder: place.parent(),
                    name: place.name,
                    descriptor,
                    live: false,
                })
            }
            Err(errno) => Err(errno),
        }
    }

    /// What a job sees only because it is kept gives way unless it is a directory with something in.
    fn check_kept_target(&self, job: &Job, folder: &Arc<Node>, name: Name<'_>) -> Result<()> {
        if let Seen::Kept(node) = self.choose(&folder.versions(name), None, job.reader())
            && let node = self.tree.get(node)?
            && node.kind == Kind::Directory
            && !self.is_empty_for(job, job.reader(), &node)?
        {
            return Err(Errno::ENOTEMPTY);
        }
        Ok(())
    }

    /// A directory that is to be replaced has to be empty for the job. True: others see something in
    /// it, and it was kept for them.
    fn make_way(
        &self,
        change: &Change<'_>,
        job: &Job,
        (folder, directory, name): (&Arc<Node>, &OwnedFd, Name<'_>),
        victim: FileKey,
    ) -> Result<bool> {
        let Some(node) = self.tree.find(victim) else { return Ok(false) };
        if !self.is_empty_for(job, job.reader(), &node)? {
            return Err(Errno::ENOTEMPTY);
        }
        if !node.has_shared_versions() {
            // rename(2) removes it by itself.
            return Ok(false);
        }
        let at = self.readers.tick();
        self.retire(change, folder, directory, name, (at, job.id), true)?;
        Ok(true)
    }

    fn keep_moved(
        &self,
        folder: &Arc<Node>,
        name: Name<'_>,
        source: &Source,
        node: Option<Arc<Node>>,
        removal: (view::Moment, u64),
    ) -> Result<()> {
        let Some(node) = node else { return Ok(()) };
        let what = if node.kind == Kind::Directory {
            // The kernel must not meet one directory in two places.
            let descriptor = source.descriptor.try_clone()?;
            self.tree.second(node.key(), Some(descriptor)).id
        } else {
            self.tree.hold(node.id);
            node.id
        };
        self.keep_old_name(folder, name, what, removal);
        Ok(())
    }
}

/// Where the source of a rename lies in the store.
struct Source {
    directory: Arc<OwnedFd>,
    folder: NodeId,
    name: Box<[u8]>,
    descriptor: OwnedFd,
    live: bool,
}
