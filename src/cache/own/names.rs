//! Names that one user sees.

use std::ffi::OsStr;
use std::sync::Arc;

use cachefs_mount::{Caller, Entry, Errno, Kind, Name, NodeId, Result};

use super::super::Cache;
use super::super::additions::How;
use super::super::lookup::{NOBODY, Seen};
use super::super::namespace::mode;
use super::super::resolve::{errno, key, kind, status};
use super::super::spill::aside_of;
use super::super::tree::{KeptList, Node, USERS, known_name, name_for_user};
use super::super::view::{Reader, Stage};
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::ffi::OsStrExt;
use crate::platform::fs::{FileType, OFlags};

/// Whether what is everyone's is gone for a user, by his versions.
pub(in crate::cache) fn is_hidden_from(kept: &KeptList, user: Option<u32>) -> bool {
    user.is_some() && kept.iter().any(|kept| kept.version.is(&Stage::Gone, user))
}

/// A name in a directory that is everyone's, or his own, for a user.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) user: u32,
    pub(super) folder: &'a Arc<Node>,
    pub(super) directory: &'a OwnedFd,
    pub(super) name: Name<'a>,
}

impl At<'_> {
    /// Whose versions he makes there.
    pub(super) fn layer(&self) -> Option<u32> {
        if self.folder.of.is_some() { None } else { Some(self.user) }
    }
}

/// What a name stands for, for a user; with one reference to its node.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) node: Arc<Node>,
    pub(super) how: Whose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// His, in a directory that is everyone's.
    Own,
    /// His, in a directory that is his.
    Inside,
    /// Everyone's.
    Everyones,
    /// Nobody's any more, and kept for him.
    Kept,
}

impl Cache {
    /// What a name stands for.
    pub(super) fn meet(&self, at: At<'_>, reader: Reader) -> Result<Option<Met>> {
        let At { user, folder, directory, name } = at;
        let kept = folder.every_version(name);
        let held = |id: NodeId, how: Whose| -> Result<Option<Met>> {
            match self.tree.hold(id) {
                true => Ok(Some(Met { node: self.tree.get(id)?, how })),
                false => Ok(None),
            }
        };
        if let Some(id) = aside_of(&kept, Some(user)) {
            return held(id, Whose::Own);
        }
        if !is_hidden_from(&kept, Some(user))
            && let Some(here) = self.here(folder, directory, name, NOBODY)?
        {
            let how = if folder.of.is_some() { Whose::Inside } else { Whose::Everyones };
            return Ok(Some(Met { node: here.node, how }));
        }
        match self.choose(&kept, None, reader) {
            Seen::Kept(id) => held(id, Whose::Kept),
            _ => Ok(None),
        }
    }

    /// For a user, a name stands for a node of his; takes over a reference to it.
    pub(super) fn put_own(&self, At { user, folder, name, .. }: At<'_>, node: &Node) {
        node.note_aside(folder.id, name);
        if let Some(old) = self.take_own_version(folder, name, user) {
            self.discard(&old);
        }
        let mut gone = 0;
        self.tree.change_versions(folder, name.as_bytes(), |list| {
            let before = list.len();
            // What hides it is what he has there now.
            list.retain(|kept| !kept.version.is(&Stage::Gone, Some(user)));
            gone = before - list.len();
        });
        self.account(user).note_not_gone(gone as u64);
        self.add_version_of(folder, name, node.id, Stage::Aside, Some(user));
        // The kernel may believe for ever what it was told before.
        self.tell_kernel_later(folder.id, name.as_bytes());
    }

    /// Takes a user's own version away from a name: its node, with the reference that it had.
    pub(super) fn take_own_version(
        &self,
        folder: &Arc<Node>,
        name: Name<'_>,
        user: u32,
    ) -> Option<Arc<Node>> {
        let mut found = None;
        self.tree.change_versions(folder, name.as_bytes(), |list| {
            let at = list.iter().position(|kept| kept.version.is(&Stage::Aside, Some(user)));
            found = at.map(|at| list.remove(at).version.what);
        });
        self.tree.get(found?).ok()
    }

    /// For a user, what is everyone's under a name is gone.
    pub(super) fn note_gone_for(&self, At { user, folder, name, .. }: At<'_>) {
        if is_hidden_from(&folder.versions_of(name, Some(user)), Some(user)) {
            return;
        }
        // Of nothing, there is nothing to hold on to.
        self.add_version_of(folder, name, NodeId(0), Stage::Gone, Some(user));
        self.account(user).note_gone();
        self.tell_kernel_later(folder.id, name.as_bytes());
    }

    /// Whether there is anything of everyone's under a name.
    pub(super) fn is_anything_below(&self, at: At<'_>) -> Result<bool> {
        if !at.folder.versions(at.name).is_empty() {
            return Ok(true);
        }
        match status(at.directory, at.name.as_bytes()) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Forgets all that a user, or any, has in a directory that is everyone's and that he does not see any
    /// more.
    pub(super) fn forget_within(&self, folder: &Arc<Node>, user: Option<u32>) {
        for (name, kept) in folder.all_versions() {
            let his = |of: Option<u32>| of.is_some() && (user.is_none() || of == user);
            if !kept.iter().any(|kept| his(kept.version.of)) {
                continue;
            }
            let change = self.names.change(folder.id, &name);
            let mut gone = Vec::new();
            self.tree.change_versions(folder, &name, |list| {
                list.retain(|kept| {
                    let goes = his(kept.version.of)
                        && matches!(kept.version.stage, Stage::Aside | Stage::Gone);
                    if goes {
                        gone.push(kept.version.clone());
                    }
                    !goes
                });
            });
            // It may take long, and others wait for the name.
            drop(change);
            for version in gone {
                let Some(of) = version.of else { continue };
                if version.stage == Stage::Gone {
                    self.account(of).note_not_gone(1);
                } else if let Ok(node) = self.tree.get(version.what) {
                    self.discard_own(&node);
                }
            }
        }
    }

    /// As [`Cache::discard`], with everything in it.
    fn discard_own(&self, node: &Arc<Node>) {
        if node.kind == Kind::Directory
            && let Some(place) = node.places().into_iter().find(Cache::is_own_place)
            && let Ok(folder) = self.users_folder()
            && let Err(errno) = self.remove_tree(&folder, &place.name)
        {
            tracing::warn!(%errno, "can't remove what a user had; unmounting does");
        }
        match node.kind {
            Kind::Directory => drop(self.give_back(node.id, 1)),
            _ => self.discard(node),
        }
    }

    /// Makes something for a user under a name of a directory that is everyone's: `make` makes it, under
    /// the name that it gets in the folder of such things.
    fn make_beside(
        &self,
        caller: &Caller,
        user: u32,
        (parent, name): (NodeId, Name<'_>),
        make: impl FnOnce(&OwnedFd, &str) -> Result<()>,
    ) -> Result<Entry> {
        self.refuse_private(parent, name)?;
        let folder = &self.tree.versioned(&self.tree.get(parent)?);
        let directory = &self.directory(parent)?;
        let at = At { user, folder, directory, name };
        let job = self.readers.job(caller);
        self.charge(user, 0, 1)?;
        let _change = self.names.change(folder.id, name.as_bytes());
        self.refuse_taken(at, job.id, job.reader_as(Some(user)))?;
        let area = self.users_folder()?;
        let number = name_for_user(user, self.next_number());
        make(&area, &number)?;
        let found = status(&*area, number.as_bytes())?;
        let node = self.tree.know(key(&found), kind(&found), USERS, known_name(number.as_bytes()));
        self.put_own(at, &node);
        self.note_added(node.id, &job, (folder.id, name), How::Exclusively);
        self.kept_entry(node.id)
    }

    /// `EEXIST` if there is something under a name, or another job of his is just making it.
    fn refuse_taken(&self, at: At<'_>, job: u64, reader: Reader) -> Result<()> {
        if self.is_taken(&at.folder.versions_of(at.name, Some(at.user)), job) {
            return Err(Errno::EEXIST);
        }
        if let Some(met) = self.meet(at, reader)? {
            self.give_back(met.node.id, 1);
            if met.how != Whose::Kept {
                return Err(Errno::EEXIST);
            }
        }
        Ok(())
    }

    pub(in crate::cache) fn make_directory_beside(
        &self,
        caller: &Caller,
        user: u32,
        at: (NodeId, Name<'_>),
        permissions: u16,
    ) -> Result<Entry> {
        self.make_beside(caller, user, at, |area, number| {
            platform::fs::mkdirat(area, number, mode(permissions)).map_err(errno)
        })
    }

    pub(in crate::cache) fn make_symlink_beside(
        &self,
        caller: &Caller,
        user: u32,
        at: (NodeId, Name<'_>),
        target: &OsStr,
    ) -> Result<Entry> {
        self.make_beside(caller, user, at, |area, number| {
            platform::fs::symlinkat(target.as_bytes(), area, number).map_err(errno)
        })
    }

    pub(in crate::cache) fn make_node_beside(
        &self,
        caller: &Caller,
        user: u32,
        at: (NodeId, Name<'_>),
        kind: Kind,
        permissions: u16,
    ) -> Result<Entry> {
        self.make_beside(caller, user, at, |area, number| {
            let mode = mode(permissions);
            let special = |kind| platform::fs::mknodat(area, number, kind, mode, 0).map_err(errno);
            match kind {
                Kind::File => {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    platform::fs::openat(area, number, flags, mode).map(drop).map_err(errno)
                }
                Kind::Fifo => special(FileType::Fifo),
                Kind::Socket => special(FileType::Socket),
                Kind::CharDevice | Kind::BlockDevice => Err(Errno::EPERM),
                Kind::Directory | Kind::Symlink => Err(Errno::EINVAL),
            }
        })
    }

    /// One more name, in a directory that is everyone's, of a file that is his own.
    pub(in crate::cache) fn make_link_beside(
        &self,
        caller: &Caller,
        user: u32,
        id: NodeId,
        (parent, name): (NodeId, Name<'_>),
    ) -> Result<Entry> {
        self.refuse_private(parent, name)?;
        let job = self.readers.job(caller);
        self.publish_node(id, job.id)?;
        let folder = &self.tree.versioned(&self.tree.get(parent)?);
        let directory = &self.directory(parent)?;
        let at = At { user, folder, directory, name };
        self.charge(user, 0, 1)?;
        let _change = self.names.change(folder.id, name.as_bytes());
        self.refuse_taken(at, job.id, job.reader_as(Some(user)))?;
        let node = self.tree.get(id)?;
        let area = self.users_folder()?;
        let number = name_for_user(user, self.next_number());
        let source = self.descriptor(&node)?;
        platform::fs::link_open(&*source, &*area, number.as_bytes()).map_err(errno)?;
        self.tree.add_place(&node, USERS, known_name(number.as_bytes()));
        self.tree.hold(id);
        self.put_own(at, &node);
        self.note_added(id, &job, (folder.id, name), How::Exclusively);
        self.kept_entry(id)
    }
}
