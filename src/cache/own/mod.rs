//! What a user who is not trusted has to himself (SEMANTICS 5.3).
//!
//! It lies in a folder of the spill area, each thing under a name that begins with the user's number, and
//! is a *version aside* of its name for that user alone: it hides what is everyone's from him. Where he
//! has removed something, a version says that it is *gone*, for him. Below a directory that is his own all
//! is as in any directory. Nothing of that outlives the mount.
//!
//! A node is everyone's or one user's, from its first moment to its last: so nothing that the kernel caches
//! of one is ever shown to another. A file that is everyone's is copied before it is changed.
//!
//! * `account`: how much a user has, and how much he may have.
//! * `names`: making names that one user sees.
//! * `files`: opening and creating files, and copies of what is everyone's.
//! * `removal`: removing names, for one user.
//! * `renaming`: the same for `rename(2)`.

mod account;
mod files;
mod names;
mod removal;
mod renaming;

pub(super) use names::is_hidden_from;

use std::io;
use std::sync::Arc;

use cachefs_mount::{Errno, Result};
use dashmap::DashMap;
use parking_lot::Mutex;

use self::account::Account;
use super::quota::Quotas;
use super::resolve::{errno, key, status};
use super::tree::{FileKey, Node, USERS, name_for_user};
use super::{Access, Cache, CacheOptions};
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{AtFlags, Mode, OFlags};
use crate::store::Store;

/// What users have to themselves.
#[derive(Debug)]
pub(super) struct Own {
    /// Where it lies; none: nobody has anything to himself.
    folder: Option<Arc<OwnedFd>>,
    /// The folder, or nothing that there is.
    pub(super) key: FileKey,
    quotas: Quotas,
    accounts: DashMap<u32, Arc<Account>>,
    /// Directories that are no more, in which users had something.
    left: Mutex<Vec<Arc<Node>>>,
}

impl Own {
    pub(super) fn new(store: &Store, options: &CacheOptions) -> io::Result<Own> {
        let folder = match &options.access {
            Access::Scoped { .. } => Some(Arc::new(store.users()?)),
            _ => None,
        };
        let failed = |errno: Errno| io::Error::from_raw_os_error(errno.raw());
        let key = match &folder {
            Some(folder) => key(&status(&**folder, b"").map_err(failed)?),
            None => FileKey { device: 0, inode: 1 },
        };
        let quotas = options.quotas.clone();
        Ok(Own { folder, key, quotas, accounts: DashMap::new(), left: Mutex::default() })
    }

    pub(super) fn folder(&self) -> Option<Arc<OwnedFd>> {
        self.folder.clone()
    }
}

impl Cache {
    fn users_folder(&self) -> Result<Arc<OwnedFd>> {
        self.own.folder().ok_or(Errno::EROFS)
    }

    /// Makes a file for a user: its name in the folder, and the file.
    pub(super) fn own_file(
        &self,
        user: u32,
        flags: OFlags,
        mode: Mode,
    ) -> Result<(String, OwnedFd)> {
        let folder = self.users_folder()?;
        self.charge(user, 0, 1)?;
        let name = name_for_user(user, self.next_number());
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = platform::fs::openat(&*folder, &*name, flags, mode).map_err(errno)?;
        Ok((name, file))
    }

    /// A file without a name, for one who goes on writing what he has removed.
    pub(super) fn nameless_own(&self, user: u32, mode: Mode) -> Result<std::fs::File> {
        let (name, file) = self.own_file(user, OFlags::RDWR, mode)?;
        let folder = self.users_folder()?;
        platform::fs::unlinkat(&*folder, &*name, AtFlags::empty()).map_err(errno)?;
        Ok(file.into())
    }

    /// A file has lost its last name, or a directory its only one. `descriptor` keeps it reachable until
    /// nobody knows it.
    pub(super) fn lose(&self, file: FileKey, descriptor: OwnedFd) {
        let node = self.tree.find(file);
        if let Some(node) = &node {
            self.leave(node);
        }
        // Until it is charged to nobody, no other file may get its number.
        let _kept = self.quota.as_ref().map(|_| descriptor.try_clone());
        match node.as_ref().and_then(|node| node.of) {
            None => self.tree.orphan(file, descriptor),
            Some(user) => {
                let counted = self.count_nameless(user);
                let kept = counted.map(|counted| (descriptor, Some(counted)));
                self.tree.orphan_counted(file, kept);
            }
        }
        // Only now: who closes it either finds that it has no name, or was seen to have it open.
        self.charge_lost(file, node.as_deref());
    }

    /// A directory is about to be no more: what users have in it goes, later.
    fn leave(&self, node: &Arc<Node>) {
        if node.of.is_none() && !node.same_for_all() && self.own.folder.is_some() {
            self.own.left.lock().push(node.clone());
            self.retired.wake();
        }
    }

    /// Removes what users had in directories that are no more.
    pub(super) fn drop_left(&self) {
        let left = std::mem::take(&mut *self.own.left.lock());
        for folder in left {
            self.forget_within(&folder, None);
        }
    }

    /// Whether a place is in the folder of what users have to themselves.
    fn is_own_place(place: &super::tree::Place) -> bool {
        place.parent() == USERS
    }
}
