//! Files that a user opens and creates, and copies of what is everyone's.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cachefs_mount::{Caller, Entry, Errno, Kind, Name, NodeId, OpenFlags, Opened, Result};

use super::super::Cache;
use super::super::additions::How;
use super::super::attributes::PERMISSIONS;
use super::super::drafts::{Draft, Drafting, Old};
use super::super::files::store_flags;
use super::super::handles::Open;
use super::super::lookup::Step;
use super::super::namespace::mode;
use super::super::resolve::{errno, key, status};
use super::super::tree::{Node, Place, USERS, known_name, name_for_user};
use super::super::view::is_lock_name;
use super::names::{At, Whose};
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{FileExt, Mode, OFlags, Statx};
use crate::readers::Job;

/// How a database begins that is read and written under locks (<https://sqlite.org/fileformat.html>).
const DATABASE: &[u8] = b"SQLite format 3\0";

/// So many may wait while something is copied for their user.
const MOST_WAITING: usize = 64;

impl Cache {
    /// Opens a file that is everyone's, for one who may not change it.
    pub(in crate::cache) fn open_foreign(
        &self,
        caller: &Caller,
        job: Arc<Job>,
        node: &Arc<Node>,
        flags: OpenFlags,
        step: Option<Step>,
    ) -> Result<Opened> {
        let status = self.node_status(node)?;
        if !flags.intersects(OpenFlags::WRITE | OpenFlags::TRUNCATE) && !self.binds(node, &status) {
            return self.opened(caller, job, node, Open::Reading);
        }
        let again = match step {
            Some(Step::Own { node: was, opening: true, .. } | Step::Replace { node: was, .. }) => {
                was == node.id
            }
            _ => false,
        };
        // The kernel has looked no name up: it was opened by a descriptor. And those who can't be seen can't
        // be told from each other.
        if again || caller.thread == 0 {
            return Err(Errno::EACCES);
        }
        let empty = flags.contains(OpenFlags::TRUNCATE);
        let step = match empty && self.has_to_replace(caller, node)? {
            true => Step::Replace { node: node.id, at: node.last_place() },
            false => Step::Own { node: node.id, empty, opening: true },
        };
        self.steps.set(caller, step);
        Err(Errno::ESTALE)
    }

    /// Whether somebody who locks a file, for which it need only be open for reading, may keep others
    /// waiting: then each user has his own. Locks lie with the kernel, which has them by the node.
    fn binds(&self, node: &Node, found: &Statx) -> bool {
        let name = node.last_place().map(|place| place.name).unwrap_or_default();
        if is_lock_name(&name) || *name == *b"lock" || node.was_locked() {
            return true;
        }
        if found.stx_size == 0 {
            // As Cargo's `.package-cache`; those that mean something by being there are many.
            return name.starts_with(b".");
        }
        let mut beginning = [0; DATABASE.len()];
        let read = self
            .open_node(node, OFlags::RDONLY)
            .map(|file| File::from(file).read_exact_at(&mut beginning, 0).is_ok());
        read == Ok(true) && beginning == DATABASE
    }

    /// Has a user have a copy of a file that is everyone's, under the name by which he met it, unless he
    /// sees another one there by now. Takes as long as copying does. No name may be locked.
    pub(in crate::cache) fn take_own(
        &self,
        caller: &Caller,
        user: u32,
        (folder, name): (&Arc<Node>, Name<'_>),
        node: &Arc<Node>,
        empty: bool,
    ) -> Result<()> {
        let account = self.account(user);
        if account.waiting.fetch_add(1, Ordering::Relaxed) >= MOST_WAITING {
            account.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(errno(platform::io::Errno::AGAIN));
        }
        let copied = {
            let _one = account.copying.lock();
            self.copy_for(user, node, empty)
        };
        account.waiting.fetch_sub(1, Ordering::Relaxed);
        let copy = copied?;
        let directory = &self.directory(folder.id)?;
        let at = At { user, folder, directory, name };
        let reader = self.readers.job(caller).reader_as(Some(user));
        let _change = self.names.change(folder.id, name.as_bytes());
        let met = self.meet(at, reader);
        let is_same =
            matches!(&met, Ok(Some(met)) if met.node.id == node.id && met.how == Whose::Everyones);
        if let Ok(Some(met)) = &met {
            self.give_back(met.node.id, 1);
        }
        if is_same {
            // It takes over the reference.
            self.put_own(at, &copy);
        } else {
            self.discard(&copy);
        }
        met.map(drop)
    }

    /// A copy of what is everyone's: its node, with one reference.
    fn copy_for(&self, user: u32, node: &Arc<Node>, empty: bool) -> Result<Arc<Node>> {
        let found = self.node_status(node)?;
        if node.kind == Kind::Symlink {
            self.charge(user, 0, 1)?;
            let area = self.own.folder().ok_or(Errno::EROFS)?;
            let number = name_for_user(user, self.next_number());
            platform::fs::symlinkat(&*self.read_link(node.id)?, &*area, &*number).map_err(errno)?;
            let copy = status(&*area, number.as_bytes())?;
            let name = known_name(number.as_bytes());
            return Ok(self.tree.know(key(&copy), Kind::Symlink, USERS, name));
        }
        if node.kind != Kind::File {
            return Err(Errno::EXDEV);
        }
        if !empty {
            self.charge(user, found.stx_size, 0)?;
        }
        let mode = Mode::from_raw_mode(u32::from(found.stx_mode & PERMISSIONS));
        let (number, file) = self.own_file(user, OFlags::RDWR, mode)?;
        let file = File::from(file);
        let place = Place::new(USERS, known_name(number.as_bytes()));
        let copy =
            self.tree.know(key(&status(&file, b"")?), Kind::File, USERS, known_name(&place.name));
        let copied = match empty {
            true => Ok(()),
            false => self
                .open_node(node, OFlags::RDONLY)
                .and_then(|from| self.copy_contents(&from, &file, found.stx_size)),
        };
        if let Err(errno) = copied {
            self.discard(&copy);
            return Err(errno);
        }
        self.copy_looks(&found, Some(node), &file);
        Ok(copy)
    }

    /// As [`Cache::create`], in a directory that is everyone's, for one user.
    pub(in crate::cache) fn create_beside(
        &self,
        caller: &Caller,
        user: u32,
        (parent, name): (NodeId, Name<'_>),
        permissions: u16,
        flags: OpenFlags,
    ) -> Result<(Entry, Opened)> {
        self.refuse_private(parent, name)?;
        self.steps.take(caller);
        let folder = &self.tree.versioned(&self.tree.get(parent)?);
        let directory = &self.directory(parent)?;
        let at = At { user, folder, directory, name };
        let job = self.readers.job(caller);
        let change = self.names.change(folder.id, name.as_bytes());
        let kept = folder.versions_of(name, Some(user));
        if let Some(own) = self.own_draft(&kept, job.id) {
            return self.create_again(caller, job, own, change, flags);
        }
        let exclusive = flags.contains(OpenFlags::EXCLUSIVE);
        if exclusive && self.is_taken(&kept, job.id) {
            return Err(Errno::EEXIST);
        }
        let reader = job.reader_as(Some(user));
        let met = self.meet(at, reader)?.filter(|met| {
            // What he sees only because it is kept is not there for who creates.
            let there = met.how != Whose::Kept;
            if !there {
                self.give_back(met.node.id, 1);
            }
            there
        });
        let old = match &met {
            Some(_) if exclusive => Err(Errno::EEXIST),
            // The kernel looks again and finds what it is.
            Some(met) if met.node.kind != Kind::File => Err(Errno::ESTALE),
            Some(met) => self.node_status(&met.node).map(|status| {
                let in_place = self.is_emptied_in_place(&met.node, &status, 0);
                Some((met.node.clone(), met.how, status, in_place))
            }),
            None => Ok(None),
        };
        if let Some(met) = &met {
            self.give_back(met.node.id, 1);
        }
        let old = old?;
        let replaces = flags.intersects(OpenFlags::TRUNCATE | OpenFlags::EXCLUSIVE)
            && flags.contains(OpenFlags::WRITE)
            && !is_lock_name(name.as_bytes());
        if replaces && !old.as_ref().is_some_and(|(.., in_place)| *in_place) {
            let (job_id, of) = (job.id, Some(user));
            let drafting = Drafting { folder, name, kept: &kept, job: job_id, uid: of, of };
            let replaced = old.map(|(node, _, status, _)| Old { status, node: Some(node) });
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
        let (entry, file) = match self.meet(at, reader)? {
            Some(met) => {
                let opened = match met.how {
                    Whose::Own => self.open_own(&met.node, flags),
                    // He opens it, and gets a copy then.
                    _ => Err(Errno::ESTALE),
                };
                self.give_back(met.node.id, 1);
                (self.kept_entry(met.node.id)?, opened?)
            }
            None => {
                let (number, file) = self.own_file(user, store_flags(flags), mode(permissions))?;
                let key = key(&status(&file, b"")?);
                let number = known_name(number.as_bytes());
                let node = self.tree.know(key, Kind::File, USERS, number);
                self.put_own(at, &node);
                let how = if exclusive { How::Exclusively } else { How::Shared };
                self.note_added(node.id, &job, (folder.id, name), how);
                (self.kept_entry(node.id)?, File::from(file))
            }
        };
        let node = self.tree.get(entry.attributes.node)?;
        let opened = self.opened_for_writing(caller, job, &node, flags, file)?;
        Ok((entry, opened))
    }

    fn open_own(&self, node: &Arc<Node>, flags: OpenFlags) -> Result<File> {
        let file = File::from(self.open_node(node, store_flags(flags | OpenFlags::WRITE))?);
        if flags.contains(OpenFlags::TRUNCATE) {
            platform::fs::ftruncate(&file, 0).map_err(errno)?;
        }
        Ok(file)
    }

    /// A draft becomes what its name stands for, for one user.
    pub(in crate::cache) fn publish_own_part(
        &self,
        draft: &Draft,
        by: u64,
        user: u32,
    ) -> Result<()> {
        let node = self.tree.get(draft.node)?;
        let (folder, name) = (&draft.folder, draft.name());
        let directory: &OwnedFd = &*self.directory(folder.id)?;
        let at = At { user, folder, directory, name };
        // Who reads as nobody sees nothing that is kept.
        let reader =
            super::super::view::Reader { user: Some(user), ..super::super::lookup::NOBODY };
        let old = match self.meet(at, reader)? {
            Some(met) => {
                self.give_back(met.node.id, 1);
                if met.node.kind == Kind::Directory {
                    return Err(Errno::EISDIR);
                }
                Some(self.additions.of(met.node.id, folder.id, name))
            }
            None => None,
        };
        self.note_published(draft, by, node.id, old);
        self.tree.hold(node.id);
        self.put_own(at, &node);
        Ok(())
    }
}
