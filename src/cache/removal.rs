//! Taking names away: `unlink(2)`, `rmdir(2)` (SEMANTICS 3).

use std::sync::Arc;

use cachefs_mount::{Caller, Errno, Kind, Name, NodeId, Result};

use super::Cache;
use super::additions::{Added, How};
use super::lookup::{Seen, Step};
use super::name_locks::Change;
use super::own::is_hidden_from;
use super::resolve::{errno, key, kind, open_at, status};
use super::spared::Gone;
use super::spill::is_gone;
use super::tree::Node;
use super::view::{self, Moment, Reader, Stage};
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{AtFlags, OFlags};
use crate::readers::Job;

impl Cache {
    pub(super) fn remove_file(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
    ) -> Result<()> {
        if self.is_private(parent, name) {
            return Err(Errno::ENOENT);
        }
        let folder = self.tree.versioned(&self.tree.get(parent)?);
        let directory = self.directory(parent)?;
        let job = self.readers.job(caller);
        let change = self.names.change(folder.id, name.as_bytes());
        let kept = folder.versions(name);
        let own = self.own_draft(&kept, job.id);
        if let Some(draft) = &own {
            self.abandon(&change, draft, job.id);
        }
        let victim = match open_at(&*directory, name.as_bytes(), OFlags::PATH) {
            Ok(victim) => victim,
            Err(Errno::ENOENT) => {
                let reader = job.reader();
                return match self.choose(&folder.versions(name), None, reader) {
                    Seen::Kept(_) => {
                        self.hide(&change, &folder, name, job.id);
                        Ok(())
                    }
                    _ if own.is_some() => Ok(()),
                    _ => Err(Errno::ENOENT),
                };
            }
            Err(errno) => return Err(errno),
        };
        let status = status(&victim, b"")?;
        let number = self.tree.number(key(&status));
        let at = self.moment_of_removal(caller, &job, (&folder, name), number);
        if kind(&status) == Kind::Directory {
            return if own.is_some() { Ok(()) } else { Err(Errno::EISDIR) };
        }
        if self.is_spared(caller, &job, (parent, &folder), name) {
            return Ok(());
        }
        self.hide(&change, &folder, name, job.id);
        let node = self.tree.find(key(&status));
        let is_held = node.as_ref().is_some_and(|node| node.is_open() && self.is_locked(node.id));
        let in_passing = job.is_listing(folder.id.0);
        // A lock, or what somebody made for himself.
        let temporary = || {
            let made = |how| matches!(how, How::Exclusively | How::Shared);
            is_held || self.is_own(job.id, (&folder, name), number, made)
        };
        // A lock is not given up by going through its directory: who holds it, and who waits for it, goes on.
        let kept = match is_held && in_passing {
            true => self.readers.is_seen_by_others(job.id, at),
            false => self.is_kept(job.id, at, (&folder, name), temporary),
        };
        if kept {
            let removal =
                Removal { parent, folder: &folder, directory: &directory, name, job: &job };
            return self.retire_unless_spared(&change, caller, &removal, at).map(drop);
        }
        let moving = self.moves.read();
        folder.note_thinned();
        let gone = match in_passing {
            true => Gone::InPassing,
            false if is_held || self.is_lock(&folder, name) => Gone::Lock,
            false => Gone::File,
        };
        if self.is_listed_beside(&job, &folder, gone) {
            drop(moving);
            self.retire(&change, &folder, &directory, name, (at, job.id), true)?;
            self.keep_while_listed(&change, &job, &folder, name, gone);
            return Ok(());
        }
        platform::fs::unlinkat(&*directory, name.as_bytes(), AtFlags::empty()).map_err(errno)?;
        self.unnamed(folder.id, name, victim)
    }

    /// The moment at which `job` removes a name: one of many, if it lists the directory; unless it clears up what
    /// it had made for itself, of which nobody else may see a half. Who begins meanwhile would see half of what
    /// others remove, if they began before that and have finished.
    fn moment_of_removal(
        &self,
        caller: &Caller,
        job: &Job,
        (folder, name): (&Arc<Node>, Name<'_>),
        node: NodeId,
    ) -> Moment {
        job.note_removal();
        let one_of_many =
            job.goes_through(folder.id.0) && !self.is_own(job.id, (folder, name), node, |_| true);
        match one_of_many {
            true => self.readers.tick_of_removal(job, caller),
            false => self.readers.tick(),
        }
    }

    /// A job has removed a directory, which it need not have closed.
    pub(super) fn has_done_with(&self, job: &Job, directory: NodeId) {
        if job.has_done_with(directory.0) {
            self.drop_kept_while_listed(job.id, directory);
        }
        self.removes_no_more(job);
    }

    /// A job has done with a directory, and with its removal, if that was the last.
    pub(super) fn removes_no_more(&self, job: &Job) {
        if !job.goes_through_any() && self.readers.removal_ended(job) {
            self.retired.wake();
        }
    }

    /// `victim` has just lost this name, and perhaps its last. To be called before [`Cache::moves`] is
    /// unlocked.
    pub(super) fn unnamed(&self, parent: NodeId, name: Name<'_>, victim: OwnedFd) -> Result<()> {
        let status = status(&victim, b"")?;
        let key = key(&status);
        if status.stx_nlink == 0 || kind(&status) == Kind::Directory {
            self.lose(key, victim);
        } else if let Some(node) = self.tree.find(key) {
            self.tree.remove_place(&node, parent, name);
        }
        Ok(())
    }

    pub(super) fn remove_directory(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
    ) -> Result<()> {
        if self.is_private(parent, name) {
            return Err(Errno::ENOENT);
        }
        let folder = self.tree.versioned(&self.tree.get(parent)?);
        let directory = self.directory(parent)?;
        let job = self.readers.job(caller);
        let step = self.steps.take(caller);
        let change = self.names.change(folder.id, name.as_bytes());
        let victim = match open_at(&*directory, name.as_bytes(), OFlags::PATH) {
            Ok(victim) => Some(victim),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        // Known as long as this takes, so that what is known of it counts.
        let node = match &victim {
            Some(victim) => {
                let status = status(victim, b"")?;
                if kind(&status) != Kind::Directory {
                    return Err(Errno::ENOTDIR);
                }
                self.tree.know(key(&status), Kind::Directory, folder.id, name)
            }
            None => match self.choose(&folder.versions(name), None, job.reader()) {
                Seen::Kept(node) if self.tree.hold(node) => self.tree.get(node)?,
                _ => return Err(Errno::ENOENT),
            },
        };
        let removal = Removal { parent, folder: &folder, directory: &directory, name, job: &job };
        let removed = self.remove_known(caller, step, &change, &removal, victim, &node);
        drop(change);
        if removed.is_ok() {
            self.has_done_with(&job, node.id);
        }
        self.give_back(node.id, 1);
        removed
    }

    fn remove_known(
        &self,
        caller: &Caller,
        step: Option<Step>,
        change: &Change<'_>,
        removal: &Removal<'_>,
        victim: Option<OwnedFd>,
        node: &Arc<Node>,
    ) -> Result<()> {
        let Removal { parent, folder, directory, name, job } = *removal;
        if node.kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let is_live = victim.is_some();
        let at = self.moment_of_removal(caller, job, (folder, name), node.id);
        let spared = self.has_spared_in(caller, job, node);
        if is_live && (spared || self.is_spared(caller, job, (parent, folder), name)) {
            self.note_spared_in(caller, job, folder);
            let again = self.has_to_come_again(caller, step, folder, name);
            return if again { Err(Errno::ESTALE) } else { Ok(()) };
        }
        let is_empty = spared || self.is_empty_for(job, job.reader(), node)?;
        let own = || self.is_own(job.id, (folder, name), node.id, |how| how == How::Exclusively);
        let kept = !is_live
            || !is_empty
            || self.is_anything_seen_in(node)
            || self.is_kept(job.id, at, (folder, name), own);
        let moving = self.moves.read();
        folder.note_thinned();
        let while_listed = !kept && self.is_listed_beside(job, folder, Gone::Directory(node));
        match victim {
            Some(victim) if !kept && !while_listed => {
                self.hide(change, folder, name, job.id);
                platform::fs::unlinkat(directory, name.as_bytes(), AtFlags::REMOVEDIR)
                    .map_err(errno)?;
                return self.unnamed(folder.id, name, victim);
            }
            _ => drop(moving),
        }
        if self.has_to_come_again(caller, step, folder, name) {
            return Err(Errno::ESTALE);
        }
        self.hide(change, folder, name, job.id);
        if is_live && !self.retire_unless_spared(change, caller, removal, at)? {
            self.note_spared_in(caller, job, folder);
            return Ok(());
        }
        if while_listed {
            self.keep_while_listed(change, job, folder, name, Gone::Directory(node));
        }
        self.show_who_is_in(node);
        Ok(())
    }

    /// Retires what a removal takes away; unless another job has moved the directory meanwhile, or named what is in
    /// it. Whether it is retired.
    ///
    /// Both note what they do before they look what the other one did: who moves or names a directory brings back
    /// what is missing in it then, so that one of the two finds the other.
    fn retire_unless_spared(
        &self,
        change: &Change<'_>,
        caller: &Caller,
        removal: &Removal<'_>,
        at: Moment,
    ) -> Result<bool> {
        let Removal { parent, folder, directory, name, job } = *removal;
        self.retire(change, folder, directory, name, (at, job.id), true)?;
        if !self.is_spared(caller, job, (parent, folder), name) {
            return Ok(true);
        }
        let newest = folder.versions(name).into_iter().max_by_key(|kept| kept.number);
        let kept = newest.ok_or(Errno::ESTALE)?;
        let node = self.tree.get(kept.version.what)?;
        self.undo_retiring(change, (folder, directory, name), (&node, &kept))?;
        self.tell_kernel_later(folder.id, name.as_bytes());
        Ok(false)
    }

    /// Something in a directory was spared: so is the directory.
    fn note_spared_in(&self, caller: &Caller, job: &Job, folder: &Node) {
        let first = self.tree.number(folder.key());
        job.note_spared(&[first.0], self.readers.process(caller));
    }

    /// A directory was removed that is held here, and that others go on seeing.
    fn show_who_is_in(&self, node: &Node) {
        // It is held as a version, too.
        if self.tree.is_used_directory(node.id, 2) {
            self.ushering.show(node.id);
        }
    }

    /// Whether a running job sees a version in a directory that is not live there.
    fn is_anything_seen_in(&self, node: &Arc<Node>) -> bool {
        let versions = self.tree.versioned(node).all_versions_for(None);
        let mut kept = versions.iter().flat_map(|(_, kept)| kept);
        let jobs = self.readers.all();
        kept.any(|kept| {
            let version = || [kept.version.clone()];
            jobs.iter().any(|job| view::seen(version(), job.reader()).is_some())
        })
    }

    /// Whether the caller has to look the directory up once more before it is taken away, so that the
    /// node that dies of it is nobody else's.
    pub(super) fn has_to_come_again(
        &self,
        caller: &Caller,
        step: Option<Step>,
        folder: &Node,
        name: Name<'_>,
    ) -> bool {
        let again = matches!(
            &step,
            Some(Step::Remove { folder: was, name: was_name })
                if *was == folder.id && **was_name == *name.as_bytes()
        );
        // Those who can't be seen can't be told from each other.
        if again || caller.thread == 0 {
            return false;
        }
        let (folder, name) = (folder.id, name.as_bytes().into());
        self.steps.set(caller, Step::Remove { folder, name });
        true
    }

    /// Whether a job sees nothing in a directory that would keep it from being removed; an error if it
    /// sees something. False: there is something that others have added since it looked.
    pub(super) fn is_empty_for(&self, job: &Job, reader: Reader, node: &Arc<Node>) -> Result<bool> {
        let node = &self.tree.versioned(node);
        let listed = job.listed(node.id.0);
        let directory = self.directory(node.id)?;
        // It is known by the first number that it had, under whatever number it is seen here.
        let first_number = |what: NodeId| {
            let known = self.tree.get(what).ok().filter(|node| node.face != 0);
            known.map_or(what, |node| self.tree.number(node.key()))
        };
        let new_since = |what: NodeId, name: &[u8]| {
            let what = first_number(what);
            let added = self.additions.of(what, node.id, super::tree::known_name(name));
            let after = |(added, listed): (Added, Moment)| added.by != job.id && added.at > listed;
            added.zip(listed).is_some_and(after)
        };
        // What was moved away and back: what is noted of the name is that it came back.
        let is_live_again = |what: NodeId, name: &[u8]| {
            status(&*directory, name)
                .is_ok_and(|live| self.tree.number(key(&live)) == first_number(what))
        };
        let mut empty = true;
        for (name, kept) in node.all_versions_for(reader.user) {
            // Also what it does not see any more for something newer: it has not taken that away.
            for kept in
                kept.iter().filter(|kept| view::seen([kept.version.clone()], reader).is_some())
            {
                let what = kept.version.what;
                // Taken away by others: it is there for the listing only. Or made and removed again since then.
                let is_for_the_listing =
                    matches!(kept.version.stage, Stage::Retired { only: Some(_), .. });
                if !is_for_the_listing && (!new_since(what, &name) || is_live_again(what, &name)) {
                    return Err(Errno::ENOTEMPTY);
                }
                empty = false;
            }
        }
        for name in self.names_in(&directory)? {
            if self.is_private(node.id, super::tree::known_name(&name)) {
                continue;
            }
            let name = super::tree::known_name(&name);
            let own = node.versions_of(name, reader.user);
            if is_gone(&node.versions(name)) || is_hidden_from(&own, reader.user) {
                continue;
            }
            let Ok(status) = status(&*directory, name.as_bytes()) else { continue };
            let found = self.tree.number_below(key(&status), kind(&status), node.face);
            empty = false;
            if new_since(found, name.as_bytes()) {
                continue;
            }
            // Who has just made it may not have noted yet that he did.
            self.names.let_finish(node.id, name.as_bytes());
            let there = self::status(&*directory, name.as_bytes());
            let found = there.map(|s| self.tree.number_below(key(&s), kind(&s), node.face));
            if found.is_ok_and(|found| !new_since(found, name.as_bytes())) {
                return Err(Errno::ENOTEMPTY);
            }
        }
        Ok(empty)
    }
}

/// What a job removes.
struct Removal<'a> {
    /// As the caller knows `folder`.
    parent: NodeId,
    folder: &'a Arc<Node>,
    directory: &'a OwnedFd,
    name: Name<'a>,
    job: &'a Job,
}
