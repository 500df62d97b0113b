//! Names that are removed or renamed where the store can't take it, or does not have them.

use std::sync::Arc;

use cachefs_mount::{Caller, Errno, Kind, Name, NodeId, RenameFlags, Result};

use super::names::{Here, Lies, aside, is_gone};
use crate::cache::Cache;
use crate::cache::name_locks::Change;
use crate::cache::resolve::{errno, key, kind, open_at, status};
use crate::cache::tree::{ASIDE, Node, known_name};
use crate::cache::view::Moment;
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{AtFlags, OFlags};
use crate::readers::Job;

/// A name, and what it is in.
#[derive(Clone, Copy)]
struct At<'a> {
    folder: &'a Arc<Node>,
    directory: &'a OwnedFd,
    name: Name<'a>,
}

impl Cache {
    pub(in crate::cache) fn remove_file_aside(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
    ) -> Result<()> {
        let folder = &self.tree.versioned(&self.tree.get(parent)?);
        let directory = &self.directory(parent)?;
        let at = At { folder, directory, name };
        let job = self.readers.job(caller);
        let change = self.names.change(folder.id, name.as_bytes());
        let own = self.own_draft(&folder.versions(name), job.id);
        if let Some(draft) = &own {
            self.abandon(&change, draft, job.id);
        }
        let Some(here) = self.here(folder, directory, name, job.reader())? else {
            return if own.is_some() { Ok(()) } else { Err(Errno::ENOENT) };
        };
        let removed = if here.node.kind == Kind::Directory {
            if own.is_some() { Ok(()) } else { Err(Errno::EISDIR) }
        } else {
            let moment = self.readers.tick();
            let kept = self.is_kept(job.id, moment, (folder, name), || {
                self.is_temporary(&job, at.folder, name, &here.node)
            });
            self.take_out(&change, at, &here, &job, kept.then_some(moment))
        };
        self.give_back(here.node.id, 1);
        removed
    }

    /// A lock, or what somebody made for himself.
    pub(in crate::cache) fn is_temporary(
        &self,
        job: &Job,
        folder: &Arc<Node>,
        name: Name<'_>,
        node: &Arc<Node>,
    ) -> bool {
        use crate::cache::additions::How;
        let made = |how| matches!(how, How::Exclusively | How::Shared);
        node.is_open() && self.is_locked(node.id)
            || self.is_own(job.id, (folder, name), node.id, made)
    }

    /// `again`: the caller has looked it up twice, or need not.
    pub(in crate::cache) fn remove_directory_aside(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        again: bool,
    ) -> Result<()> {
        let folder = &self.tree.versioned(&self.tree.get(parent)?);
        let directory = &self.directory(parent)?;
        let at = At { folder, directory, name };
        let job = self.readers.job(caller);
        let step = self.steps.take(caller);
        let change = self.names.change(folder.id, name.as_bytes());
        let here = self.here(folder, directory, name, job.reader())?.ok_or(Errno::ENOENT)?;
        let remove = || {
            if here.node.kind != Kind::Directory {
                return Err(Errno::ENOTDIR);
            }
            let moment = self.readers.tick();
            let is_empty = self.is_empty_for(&job, job.reader(), &here.node)?;
            let kept = !is_empty
                || here.how == Lies::Kept
                || self.is_kept(job.id, moment, (folder, name), || false);
            if !again && kept && self.has_to_come_again(caller, step, folder, name) {
                return Err(Errno::ESTALE);
            }
            self.take_out(&change, at, &here, &job, kept.then_some(moment))
        };
        let removed = remove();
        drop(change);
        if removed.is_ok() {
            self.has_done_with(&job, here.node.id);
        }
        self.give_back(here.node.id, 1);
        removed
    }

    /// Takes what a name stands for out of the view; from `kept` on, if those who began before are to see
    /// it still.
    fn take_out(
        &self,
        change: &Change<'_>,
        at: At<'_>,
        here: &Here,
        job: &Job,
        kept: Option<Moment>,
    ) -> Result<()> {
        let At { folder, directory, name } = at;
        let was = self.take_aside(folder, name);
        // In any case, what lies below must not come up again.
        if !is_gone(&folder.versions(name)) && status(directory, name.as_bytes()).is_ok() {
            let kept = kept.filter(|_| was.is_none());
            self.remove_live(change, at, here, job, kept)?;
        }
        self.hide(change, folder, name, job.id);
        let Some(node) = was else { return Ok(()) };
        match kept {
            Some(moment) => {
                let place = node.places().into_iter().find(|place| !place.is_public());
                let lies = place.map(|place| place.name);
                // It takes over the reference.
                self.keep_elsewhere(folder, name, node.id, lies, (moment, job.id));
            }
            None => self.discard(&node),
        }
        Ok(())
    }

    /// Removes the live version in the store, or notes that it is gone.
    fn remove_live(
        &self,
        change: &Change<'_>,
        at: At<'_>,
        here: &Here,
        job: &Job,
        kept: Option<Moment>,
    ) -> Result<()> {
        let At { folder, directory, name } = at;
        let removed = match (kept, here.node.kind, here.how) {
            _ if self.is_out_of_reach(folder) => Err(Errno::EROFS),
            // What it does not stand for may be anything: a directory with something in it.
            (_, _, Lies::Aside) => {
                let moment = self.readers.tick();
                self.retire(change, folder, directory, name, (moment, job.id), false)
            }
            (Some(moment), ..) => {
                self.retire(change, folder, directory, name, (moment, job.id), true)
            }
            (None, kind, _) => self.unlink_live(at, kind),
        };
        match removed {
            // Something in it is gone only for us.
            Err(Errno::ENOTEMPTY) => {}
            Err(errno) if self.is_for_the_area(errno) => {}
            done => return done,
        }
        self.note_gone(folder, name);
        if let Some(moment) = kept {
            self.tree.hold(here.node.id);
            self.keep_old_name(folder, name, here.node.id, (moment, job.id));
        }
        Ok(())
    }

    fn unlink_live(&self, At { folder, directory, name }: At<'_>, kind: Kind) -> Result<()> {
        let victim = open_at(directory, name.as_bytes(), OFlags::PATH)?;
        let flags = if kind == Kind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let _moving = self.moves.read();
        platform::fs::unlinkat(directory, name.as_bytes(), flags).map_err(errno)?;
        self.unnamed(folder.id, name, victim)
    }

    /// Takes a name out of the view for an administrator, or to make room, as [`Cache::retire`] does.
    pub(in crate::cache) fn retire_wherever(
        &self,
        change: &Change<'_>,
        (folder, directory, name): (&Arc<Node>, &OwnedFd, Name<'_>),
        (moment, by): (Moment, u64),
        seen: bool,
    ) -> Result<()> {
        let was = self.take_aside(folder, name);
        let seen_live = seen && was.is_none();
        let is_there =
            !is_gone(&folder.versions(name)) && status(directory, name.as_bytes()).is_ok();
        let removed = match is_there {
            false => Err(Errno::ENOENT),
            true if self.is_out_of_reach(folder) => Err(Errno::EROFS),
            true => self.retire(change, folder, directory, name, (moment, by), seen_live),
        };
        match removed {
            Err(errno) if is_there && self.is_for_the_area(errno) => {
                let found = status(directory, name.as_bytes())?;
                let node = self.tree.know(key(&found), kind(&found), folder.id, name);
                self.note_gone(folder, name);
                match seen_live {
                    // It takes over the reference.
                    true => self.keep_old_name(folder, name, node.id, (moment, by)),
                    false => drop(self.give_back(node.id, 1)),
                }
            }
            Err(Errno::ENOENT) if was.is_some() => {}
            done => done?,
        }
        match was {
            Some(node) if seen => {
                let place = node.places().into_iter().find(|place| !place.is_public());
                let lies = place.map(|place| place.name);
                self.keep_elsewhere(folder, name, node.id, lies, (moment, by));
            }
            Some(node) => self.discard(&node),
            None => {}
        }
        Ok(())
    }

    pub(in crate::cache) fn rename_aside(
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
        let folder = &self.tree.versioned(&self.tree.get(parent)?);
        let new_folder = &self.tree.versioned(&self.tree.get(new_parent)?);
        let (from, to) = (&self.directory(parent)?, &self.directory(new_parent)?);
        let old = At { folder, directory: from, name };
        let new = At { folder: new_folder, directory: to, name: new_name };
        let job = self.readers.job(caller);
        let change = self.names.change_two((folder.id, name), (new_folder.id, new_name));
        self.publish_own(&change, folder, name, job.id, None)?;
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        if exchange {
            self.publish_own(&change, new_folder, new_name, job.id, None)?;
        }
        let source = self.here(folder, from, name, job.reader())?.ok_or(Errno::ENOENT)?;
        let target = self.here(new_folder, to, new_name, job.reader());
        let renamed = match &target {
            Err(errno) => Err(*errno),
            Ok(target) => {
                self.rename_here(&change, &job, (old, &source), (new, target.as_ref()), flags)
            }
        };
        for here in target.ok().flatten().into_iter().chain([source]) {
            self.give_back(here.node.id, 1);
        }
        renamed?;
        for (folder, name) in [(folder, name), (new_folder, new_name)] {
            if !folder.is_plain(name) {
                self.tell_kernel_later(folder.id, name.as_bytes());
            }
        }
        Ok(())
    }

    fn rename_here(
        &self,
        change: &Change<'_>,
        job: &Job,
        (old, source): (At<'_>, &Here),
        (new, target): (At<'_>, Option<&Here>),
        flags: RenameFlags,
    ) -> Result<()> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let directory = source.node.kind == Kind::Directory;
        if source.how == Lies::Kept {
            // It is no more there, and there is nowhere to bring it back to.
            return Err(Errno::ENOENT);
        }
        match target {
            None if exchange => return Err(Errno::ENOENT),
            Some(Here { how: Lies::Aside | Lies::Live, .. })
                if flags.contains(RenameFlags::NO_REPLACE) =>
            {
                return Err(Errno::EEXIST);
            }
            Some(target) if target.node.id == source.node.id => return Ok(()),
            Some(target) if !exchange => match (directory, target.node.kind == Kind::Directory) {
                (false, true) => return Err(Errno::EISDIR),
                (true, false) => return Err(Errno::ENOTDIR),
                (true, true) => {
                    self.is_empty_for(job, job.reader(), &target.node)?;
                }
                (false, false) => {}
            },
            _ => {}
        }
        let kept = new.folder.versions(new.name);
        if flags.contains(RenameFlags::NO_REPLACE) && self.is_taken(&kept, job.id) {
            return Err(Errno::EEXIST);
        }
        if let Some(own) = self.own_draft(&kept, job.id) {
            self.abandon(change, &own, job.id);
        }
        let moment = self.readers.tick();
        let keeps = source.how != Lies::Kept
            && !exchange
            && self.is_kept(job.id, moment, (old.folder, old.name), || {
                self.is_own(job.id, (old.folder, old.name), source.node.id, |_| true)
            });
        let replaced = target
            .and_then(|target| self.additions.of(target.node.id, new.folder.id, new.name))
            .map(|added| added.at);
        self.detach(change, old, job)?;
        if exchange && let Some(target) = target {
            self.detach(change, new, job)?;
            self.attach(old, &target.node);
            self.note_moved(&target.node, job, (old.folder.id, old.name), None);
        }
        self.attach(new, &source.node);
        self.hide(change, old.folder, old.name, job.id);
        self.note_moved(&source.node, job, (new.folder.id, new.name), replaced);
        if keeps {
            let what = match directory {
                // The kernel must not meet one directory in two places.
                true => {
                    let descriptor = self.directory(source.node.id)?.try_clone()?;
                    self.tree.second(source.node.key(), Some(descriptor)).id
                }
                false => {
                    self.tree.hold(source.node.id);
                    source.node.id
                }
            };
            self.keep_old_name(old.folder, old.name, what, (moment, job.id));
        }
        Ok(())
    }

    /// A name does not stand for anything any more; what it stood for stays where it is, or lies in the
    /// area under a number.
    fn detach(&self, change: &Change<'_>, at: At<'_>, job: &Job) -> Result<()> {
        let At { folder, directory, name } = at;
        if let Some(node) = self.take_aside(folder, name) {
            // Who has it holds it.
            self.give_back(node.id, 1);
            if !is_gone(&folder.versions(name)) && status(directory, name.as_bytes()).is_ok() {
                let moment = self.readers.tick();
                let retired = match self.is_out_of_reach(folder) {
                    true => Err(Errno::EROFS),
                    false => self.retire(change, folder, directory, name, (moment, job.id), false),
                };
                match retired {
                    Err(errno) if self.takes_over(errno) => self.note_gone(folder, name),
                    done => done?,
                }
            }
            return Ok(());
        }
        if !self.lies_in_area(folder) {
            self.note_gone(folder, name);
            return Ok(());
        }
        let area = self.spill.folder().ok_or(Errno::EROFS)?;
        let number = self.next_number().to_string();
        let found = status(directory, name.as_bytes())?;
        let _moving = self.moves.read();
        platform::fs::renameat(directory, name.as_bytes(), &*area, &*number).map_err(errno)?;
        if let Some(node) = self.tree.find(key(&found)) {
            self.tree.add_place(&node, ASIDE, known_name(number.as_bytes()));
            self.tree.remove_place(&node, folder.id, name);
        }
        Ok(())
    }

    /// A name stands for a node from now on.
    fn attach(&self, at: At<'_>, node: &Arc<Node>) {
        let At { folder, name, .. } = at;
        if self.lies_in_area(folder)
            && aside(&folder.versions(name)).is_none()
            && self.move_into(at, node).is_ok()
        {
            return;
        }
        self.tree.hold(node.id);
        self.put_aside(folder, name, node);
    }

    /// Moves what lies in the area under a number to a directory there.
    fn move_into(&self, At { folder, directory, name }: At<'_>, node: &Arc<Node>) -> Result<()> {
        let place = node.place().filter(|place| place.parent() == ASIDE).ok_or(Errno::EXDEV)?;
        let area = self.spill.folder().ok_or(Errno::EROFS)?;
        let victim = match open_at(directory, name.as_bytes(), OFlags::PATH) {
            Ok(victim) => Some(victim),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        if let Some(victim) = &victim
            && kind(&status(victim, b"")?) == Kind::Directory
            && self
                .tree
                .find(key(&status(victim, b"")?))
                .is_some_and(|node| node.has_shared_versions())
        {
            return Err(Errno::ENOTEMPTY);
        }
        let _moving = self.moves.read();
        platform::fs::renameat(&*area, &*place.name, directory, name.as_bytes()).map_err(errno)?;
        self.tree.add_place(node, folder.id, name);
        self.tree.remove_place(node, ASIDE, known_name(&place.name));
        match victim {
            Some(victim) => self.unnamed(folder.id, name, victim),
            None => Ok(()),
        }
    }
}
