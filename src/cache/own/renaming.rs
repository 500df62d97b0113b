//! Names that a user renames, where one of them is in a directory that is everyone's.

use std::sync::Arc;

use cachefs_mount::{Caller, Errno, Kind, Name, NodeId, RenameFlags, Result};

use super::super::Cache;
use super::super::name_locks::Change;
use super::super::resolve::{errno, key, open_at, status};
use super::super::tree::{Node, USERS, known_name, name_for_user};
use super::names::{At, Met, Whose};
use crate::platform;
use crate::platform::fs::OFlags;
use crate::readers::Job;

/// What is everyone's is copied before it is renamed for one user, up to so many bytes: others may be
/// waiting for the directory meanwhile. Tools copy by themselves what can't be renamed.
const MOST_COPIED: u64 = 1 << 20;

impl Cache {
    pub(in crate::cache) fn rename_beside(
        &self,
        caller: &Caller,
        user: u32,
        (parent, name): (NodeId, Name<'_>),
        (new_parent, new_name): (NodeId, Name<'_>),
        flags: RenameFlags,
    ) -> Result<()> {
        if self.is_private(parent, name) {
            return Err(Errno::ENOENT);
        }
        self.refuse_private(new_parent, new_name)?;
        let folder = &self.tree.versioned(&self.tree.get(parent)?);
        let new_folder = &self.tree.versioned(&self.tree.get(new_parent)?);
        let (from, to) = (&self.directory(parent)?, &self.directory(new_parent)?);
        let old = At { user, folder, directory: from, name };
        let new = At { user, folder: new_folder, directory: to, name: new_name };
        let job = self.readers.job(caller);
        let reader = job.reader_as(Some(user));
        self.charge(user, 0, 2)?;
        let change = self.names.change_two((folder.id, name), (new_folder.id, new_name));
        self.publish_own(&change, folder, name, job.id, old.layer())?;
        if flags.contains(RenameFlags::EXCHANGE) {
            self.publish_own(&change, new_folder, new_name, job.id, new.layer())?;
        }
        let source = self.meet(old, reader)?.ok_or(Errno::ENOENT)?;
        let target = self.meet(new, reader);
        let renamed = match &target {
            Err(errno) => Err(*errno),
            Ok(target) => self.check_rename(&job, (old, &source), (new, target.as_ref()), flags),
        };
        let renamed = match (renamed, &target) {
            (Ok(Next::Go), Ok(target)) => self
                .rename_for(caller, &change, &job, (old, &source), (new, target.as_ref()), flags)
                .map(|()| Next::Done),
            (next, _) => next,
        };
        drop(change);
        let copied = match renamed {
            // The kernel looks them up once more, and meets copies.
            Ok(Next::Copy { both }) => {
                let mut copied = self.take_own(caller, user, (folder, name), &source.node, false);
                if let (Ok(()), true, Ok(Some(target))) = (&copied, both, &target) {
                    let name = (new_folder, new_name);
                    copied = self.take_own(caller, user, name, &target.node, false);
                }
                copied.and(Err(Errno::ESTALE))
            }
            Ok(_) => Ok(()),
            Err(errno) => Err(errno),
        };
        for met in target.ok().flatten().into_iter().chain([source]) {
            self.give_back(met.node.id, 1);
        }
        copied
    }

    /// Whether that may be renamed to there, and what has to be done before.
    fn check_rename(
        &self,
        job: &Job,
        (_, source): (At<'_>, &Met),
        (new, target): (At<'_>, Option<&Met>),
        flags: RenameFlags,
    ) -> Result<Next> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let target = target.filter(|target| target.how != Whose::Kept);
        let is_directory = |met: &Met| met.node.kind == Kind::Directory;
        if source.how == Whose::Kept {
            // It is no more there, and there is nowhere to bring it back to.
            return Err(Errno::ENOENT);
        }
        match target {
            None if exchange => return Err(Errno::ENOENT),
            Some(_) if flags.contains(RenameFlags::NO_REPLACE) => return Err(Errno::EEXIST),
            Some(target) if target.node.id == source.node.id => return Ok(Next::Done),
            Some(target) if !exchange => match (is_directory(source), is_directory(target)) {
                (false, true) => return Err(Errno::EISDIR),
                (true, false) => return Err(Errno::ENOTDIR),
                (true, true) => {
                    let reader = job.reader_as(Some(new.user));
                    if !self.is_empty_for(job, reader, &target.node)? {
                        return Err(Errno::ENOTEMPTY);
                    }
                }
                (false, false) => {}
            },
            _ => {}
        }
        let kept = new.folder.versions_of(new.name, new.layer());
        if flags.contains(RenameFlags::NO_REPLACE) && self.is_taken(&kept, job.id) {
            return Err(Errno::EEXIST);
        }
        let is_everyones = |met: &Met| met.how == Whose::Everyones;
        let both = exchange && target.is_some_and(is_everyones);
        if !is_everyones(source) && !both {
            return Ok(Next::Go);
        }
        for met in [Some(source), target.filter(|_| both)].into_iter().flatten() {
            let size = self.node_status(&met.node)?.stx_size;
            let is_copied = matches!(met.node.kind, Kind::File | Kind::Symlink);
            if is_everyones(met) && (!is_copied || size > MOST_COPIED) {
                return Err(Errno::EXDEV);
            }
        }
        Ok(Next::Copy { both })
    }

    fn rename_for(
        &self,
        caller: &Caller,
        change: &Change<'_>,
        job: &Job,
        (old, source): (At<'_>, &Met),
        (new, target): (At<'_>, Option<&Met>),
        flags: RenameFlags,
    ) -> Result<()> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let step = self.steps.take(caller);
        if let Some(target) = target
            && !exchange
            && target.node.kind == Kind::Directory
            && target.node.of.is_none()
        {
            // The kernel takes what is replaced for removed.
            if self.has_to_come_again(caller, step, new.folder, new.name) {
                return Err(Errno::ESTALE);
            }
            if caller.thread == 0 {
                return Err(Errno::EBUSY);
            }
        }
        let kept = new.folder.versions_of(new.name, new.layer());
        if let Some(own) = self.own_draft(&kept, job.id) {
            self.abandon(change, &own, job.id);
        }
        let moment = self.readers.tick();
        let keeps = !exchange
            && self.is_kept(job.id, moment, (old.folder, old.name), || {
                self.is_own(job.id, (old.folder, old.name), source.node.id, |_| true)
            });
        let replaced = target
            .and_then(|target| self.additions.of(target.node.id, new.folder.id, new.name))
            .map(|added| added.at);
        self.detach_own(old, source)?;
        if exchange && let Some(target) = target {
            self.detach_own(new, target)?;
            self.attach_own(old, &target.node)?;
            self.note_moved(&target.node, job, (old.folder.id, old.name), None);
        }
        self.attach_own(new, &source.node)?;
        self.hide_of(old.layer(), change, old.folder, old.name, job.id);
        self.note_moved(&source.node, job, (new.folder.id, new.name), replaced);
        if keeps {
            let what = match source.node.kind {
                // The kernel must not meet one directory in two places.
                Kind::Directory => {
                    let descriptor = self.directory(source.node.id)?.try_clone()?;
                    self.tree.second(source.node.key(), Some(descriptor)).id
                }
                _ => {
                    self.tree.hold(source.node.id);
                    source.node.id
                }
            };
            let kept = (what, None);
            self.keep_for(old.layer(), old.folder, old.name, kept, (moment, job.id));
        }
        for at in [old, new] {
            self.tell_kernel_later(at.folder.id, at.name.as_bytes());
        }
        Ok(())
    }

    /// A name of a user's does not stand for anything any more; what it stood for lies in the folder of
    /// such things, under a number.
    fn detach_own(&self, at: At<'_>, met: &Met) -> Result<()> {
        let At { user, folder, directory, name } = at;
        if met.how == Whose::Own {
            if let Some(node) = self.take_own_version(folder, name, user) {
                // Who has met it holds it.
                self.give_back(node.id, 1);
            }
            if self.is_anything_below(at)? {
                self.note_gone_for(at);
            }
            return Ok(());
        }
        let area = self.users_folder()?;
        let number = name_for_user(user, self.next_number());
        let found = status(directory, name.as_bytes())?;
        let _moving = self.moves.read();
        platform::fs::renameat(directory, name.as_bytes(), &*area, &*number).map_err(errno)?;
        if let Some(node) = self.tree.find(key(&found)) {
            self.tree.add_place(&node, USERS, known_name(number.as_bytes()));
            self.tree.remove_place(&node, folder.id, name);
        }
        Ok(())
    }

    /// A name stands for what is a user's from now on.
    fn attach_own(&self, at: At<'_>, node: &Arc<Node>) -> Result<()> {
        let At { folder, directory, name, .. } = at;
        if folder.of.is_none() {
            self.tree.hold(node.id);
            self.put_own(at, node);
            return Ok(());
        }
        let place = node.places().into_iter().find(Cache::is_own_place).ok_or(Errno::EXDEV)?;
        let area = self.users_folder()?;
        let victim = match open_at(directory, name.as_bytes(), OFlags::PATH) {
            Ok(victim) => Some(victim),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        let _moving = self.moves.read();
        platform::fs::renameat(&*area, &*place.name, directory, name.as_bytes()).map_err(errno)?;
        self.tree.add_place(node, folder.id, name);
        self.tree.remove_place(node, USERS, known_name(&place.name));
        match victim {
            Some(victim) => self.unnamed(folder.id, name, victim),
            None => Ok(()),
        }
    }
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// To rename.
    Go,
    /// Nothing.
    Done,
    /// To copy the source, or what both names stand for.
    Copy { both: bool },
}
