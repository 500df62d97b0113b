//! Taking names away: `unlink(2)`, `rmdir(2)`, `rename(2)` (SEMANTICS 2.5, 3).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use cachefs_mount::{Caller, Errno, Kind, Name, NodeId, RenameFlags, Result};
use rustix::fs::{AtFlags, OFlags};

use super::Cache;
use super::additions::{Added, How};
use super::lookup::{Seen, Step};
use super::name_locks::Change;
use super::own::is_hidden_from;
use super::resolve::{errno, key, kind, open_at, status};
use super::spared::Gone;
use super::spill::is_gone;
use super::tree::{FileKey, Node, RETIRED, USERS};
use super::view::{self, Moment, Reader, Stage, Version};
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
            true => self.anybody_began_before(job.id, at),
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
        rustix::fs::unlinkat(&*directory, name.as_bytes(), AtFlags::empty()).map_err(errno)?;
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
            job.is_listing(folder.id.0) && !self.is_own(job.id, (folder, name), node, |_| true);
        match one_of_many {
            true => self.readers.tick_of_removal(job, caller),
            false => self.readers.tick(),
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
        if removed.is_ok() && job.has_done_with(node.id.0) {
            self.drop_kept_while_listed(job.id, node.id);
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
                rustix::fs::unlinkat(directory, name.as_bytes(), AtFlags::REMOVEDIR)
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
        let added = || None;
        self.return_as(change, (folder, directory, name), (&node, &kept), added)?;
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
            let versions = kept.iter().map(|kept| kept.version.with(kept));
            match view::seen(versions, reader).map(|kept| &kept.version) {
                // Taken away by others: it is there for the listing only.
                Some(Version { stage: Stage::Retired { only: Some(_), .. }, .. }) => empty = false,
                // Made and removed again since then.
                Some(&Version { what, .. })
                    if new_since(what, &name) && !is_live_again(what, &name) =>
                {
                    empty = false
                }
                Some(_) => return Err(Errno::ENOTEMPTY),
                None => {}
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
        let mut how = rustix::fs::RenameFlags::empty();
        how.set(rustix::fs::RenameFlags::EXCHANGE, exchange);
        let no_replace = flags.contains(RenameFlags::NO_REPLACE);
        how.set(rustix::fs::RenameFlags::NOREPLACE, no_replace);
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
            rustix::fs::renameat(&*source.directory, at_name, &*to, to_name).map_err(errno)?;
        } else {
            rustix::fs::renameat_with(&*source.directory, at_name, &*to, to_name, how)
                .map_err(errno)?;
        }
        if let Some(node) = &node {
            let place = super::tree::known_name(&source.name);
            self.tree.add_place(node, new_folder.id, new_name);
            self.tree.remove_place(node, source.folder, place);
        }
        self.hide(&change, &folder, name, job.id);
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

/// What a job removes.
struct Removal<'a> {
    /// As the caller knows `folder`.
    parent: NodeId,
    folder: &'a Arc<Node>,
    directory: &'a OwnedFd,
    name: Name<'a>,
    job: &'a Job,
}

/// Where the source of a rename lies in the store.
struct Source {
    directory: Arc<OwnedFd>,
    folder: NodeId,
    name: Box<[u8]>,
    descriptor: OwnedFd,
    live: bool,
}
