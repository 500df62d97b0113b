//! Names: looking them up, making, moving and removing them.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use cachefs_mount::{
    Caller, Entry, Errno, FOREVER, Kind, Lookup, Name, NodeId, RenameFlags, Result,
};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx};

use super::attributes::PERMISSIONS;
use super::resolve::{errno, key, kind, open_at, self_path, status};
use super::view::{self, Moment, Reader, Version};
use super::{Access, Cache};

pub(super) fn mode(permissions: u16) -> Mode {
    Mode::from_raw_mode(u32::from(permissions & PERMISSIONS))
}

impl Cache {
    pub(super) fn lookup(&self, parent: NodeId, name: Name<'_>) -> Result<Lookup> {
        if self.is_private(parent, name) {
            return Ok(Lookup::Absent { valid: FOREVER });
        }
        let directory = self.directory(parent)?;
        let live = match status(&*directory, name.as_bytes()) {
            Ok(status) => Some(status),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        let folder = self.tree.get(parent)?;
        if folder.same_for_all() {
            let Some(status) = live else {
                self.counters.miss();
                return Ok(Lookup::Absent { valid: FOREVER });
            };
            return Ok(Lookup::Found(self.found(parent, name, &status)));
        }
        self.lookup_among(&folder.versions(name), parent, name, live)
    }

    /// The answer where a name has versions that are not live.
    fn lookup_among(
        &self,
        versions: &[Version<NodeId>],
        parent: NodeId,
        name: Name<'_>,
        live: Option<Statx>,
    ) -> Result<Lookup> {
        // Every caller is the same reader as long as none is told from another.
        let reader = Reader { id: 0, began: Moment(0) };
        let live = live.map(|status| self.found(parent, name, &status));
        let id = live.map(|entry| entry.attributes.node);
        let all = versions.iter().copied().chain(id.map(Version::live));
        match (view::seen(all, reader), live) {
            (Some(seen), Some(entry)) if seen == entry.attributes.node => Ok(Lookup::Found(entry)),
            (seen, live) => {
                if let Some(entry) = live {
                    self.forget(entry.attributes.node, 1);
                }
                let Some(seen) = seen else {
                    return Ok(Lookup::Absent { valid: std::time::Duration::ZERO });
                };
                let node = self.tree.get(seen)?;
                let status = self.node_status(&node)?;
                Ok(Lookup::Found(Entry {
                    name_valid: std::time::Duration::ZERO,
                    ..self.found(parent, name, &status)
                }))
            }
        }
    }

    /// The entry of a file that was found under a name; one more lookup of its node.
    pub(super) fn found(&self, parent: NodeId, name: Name<'_>, status: &Statx) -> Entry {
        let node = self.tree.know(key(status), kind(status), parent, name);
        self.entry(node.id, status)
    }

    /// The entry of something just made under a name, which now belongs to its maker.
    fn made(&self, caller: &Caller, parent: NodeId, name: Name<'_>, at: &OwnedFd) -> Result<Entry> {
        if let Some((uid, gid)) = self.owner_of_new(caller) {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(at, name.as_bytes(), Some(uid), Some(gid), flags).map_err(errno)?;
        }
        Ok(self.found(parent, name, &status(at, name.as_bytes())?))
    }

    /// Whom something new is to be given to, if not to the daemon's own user, who makes it.
    pub(super) fn owner_of_new(
        &self,
        caller: &Caller,
    ) -> Option<(rustix::fs::Uid, rustix::fs::Gid)> {
        let owner = (caller.uid, caller.gid);
        let wanted = matches!(self.options.access, Access::Posix) && owner != self.own;
        wanted.then(|| (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1)))
    }

    fn refuse_private(&self, parent: NodeId, name: Name<'_>) -> Result<()> {
        if self.is_private(parent, name) { Err(Errno::EPERM) } else { Ok(()) }
    }

    pub(super) fn make_node(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        kind: Kind,
        permissions: u16,
    ) -> Result<Entry> {
        self.refuse_private(parent, name)?;
        let directory = self.directory(parent)?;
        let (at, bytes, mode) = (&*directory, name.as_bytes(), mode(permissions));
        match kind {
            Kind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(at, bytes, flags | OFlags::NOFOLLOW, mode).map_err(errno)?;
            }
            Kind::Fifo => rustix::fs::mknodat(at, bytes, FileType::Fifo, mode, 0).map_err(errno)?,
            Kind::Socket => {
                rustix::fs::mknodat(at, bytes, FileType::Socket, mode, 0).map_err(errno)?;
            }
            Kind::CharDevice | Kind::BlockDevice => return Err(Errno::EPERM),
            Kind::Directory | Kind::Symlink => return Err(Errno::EINVAL),
        }
        self.made(caller, parent, name, at)
    }

    pub(super) fn make_directory(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        permissions: u16,
    ) -> Result<Entry> {
        self.refuse_private(parent, name)?;
        let directory = self.directory(parent)?;
        rustix::fs::mkdirat(&*directory, name.as_bytes(), mode(permissions)).map_err(errno)?;
        self.made(caller, parent, name, &directory)
    }

    pub(super) fn make_symlink(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        target: &OsStr,
    ) -> Result<Entry> {
        self.refuse_private(parent, name)?;
        let directory = self.directory(parent)?;
        rustix::fs::symlinkat(target.as_bytes(), &*directory, name.as_bytes()).map_err(errno)?;
        self.made(caller, parent, name, &directory)
    }

    pub(super) fn read_link(&self, id: NodeId) -> Result<Vec<u8>> {
        let node = self.tree.get(id)?;
        let descriptor = self.descriptor(&node)?;
        // An empty name means the link that the descriptor is of (readlink(2)).
        let target = rustix::fs::readlinkat(&*descriptor, "", Vec::new()).map_err(errno)?;
        Ok(target.into_bytes())
    }

    pub(super) fn make_link(&self, id: NodeId, parent: NodeId, name: Name<'_>) -> Result<Entry> {
        self.refuse_private(parent, name)?;
        let node = self.tree.get(id)?;
        let directory = self.directory(parent)?;
        let source = self.descriptor(&node)?;
        // By way of /proc, because linking a descriptor itself (`AT_EMPTY_PATH`) takes a privilege.
        let path = self_path(&*source);
        let (bytes, follow) = (name.as_bytes(), AtFlags::SYMLINK_FOLLOW);
        rustix::fs::linkat(rustix::fs::CWD, path, &*directory, bytes, follow).map_err(errno)?;
        Ok(self.found(parent, name, &status(&*directory, bytes)?))
    }

    pub(super) fn remove(&self, parent: NodeId, name: Name<'_>, flags: AtFlags) -> Result<()> {
        if self.is_private(parent, name) {
            return Err(Errno::ENOENT);
        }
        let directory = self.directory(parent)?;
        let bytes = name.as_bytes();
        let victim = open_at(&*directory, bytes, OFlags::PATH)?;
        let _moving = self.moves.read();
        rustix::fs::unlinkat(&*directory, bytes, flags).map_err(errno)?;
        self.unnamed(parent, name, victim)
    }

    /// `victim` has just lost this name, and perhaps its last.
    fn unnamed(&self, parent: NodeId, name: Name<'_>, victim: OwnedFd) -> Result<()> {
        let status = status(&victim, b"")?;
        let key = key(&status);
        if status.stx_nlink == 0 || kind(&status) == Kind::Directory {
            self.tree.orphan(key, victim);
        } else if let Some(node) = self.tree.find(key) {
            self.tree.remove_place(&node, parent, name);
        }
        Ok(())
    }

    pub(super) fn rename(
        &self,
        parent: NodeId,
        name: Name<'_>,
        new_parent: NodeId,
        new_name: Name<'_>,
        flags: RenameFlags,
    ) -> Result<()> {
        if self.is_private(parent, name) {
            return Err(Errno::ENOENT);
        }
        self.refuse_private(new_parent, new_name)?;
        let (from, to) = (self.directory(parent)?, self.directory(new_parent)?);
        let (bytes, new_bytes) = (name.as_bytes(), new_name.as_bytes());
        let moved = key(&status(&*from, bytes)?);
        let replaced = match open_at(&*to, new_bytes, OFlags::PATH) {
            Ok(descriptor) => Some((key(&status(&descriptor, b"")?), descriptor)),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        let mut how = rustix::fs::RenameFlags::empty();
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        how.set(rustix::fs::RenameFlags::EXCHANGE, exchange);
        let no_replace = flags.contains(RenameFlags::NO_REPLACE);
        how.set(rustix::fs::RenameFlags::NOREPLACE, no_replace);

        let _moving = self.moves.read();
        if how.is_empty() {
            // Also for filesystems that know no flags.
            rustix::fs::renameat(&*from, bytes, &*to, new_bytes).map_err(errno)?;
        } else {
            rustix::fs::renameat_with(&*from, bytes, &*to, new_bytes, how).map_err(errno)?;
        }
        if replaced.as_ref().is_some_and(|(key, _)| *key == moved) {
            // Two names of one file: rename(2) does nothing.
            return Ok(());
        }
        if let Some(node) = self.tree.find(moved) {
            self.tree.remove_place(&node, parent, name);
            self.tree.add_place(&node, new_parent, new_name);
        }
        match replaced {
            Some((key, _)) if exchange => {
                if let Some(node) = self.tree.find(key) {
                    self.tree.remove_place(&node, new_parent, new_name);
                    self.tree.add_place(&node, parent, name);
                }
                Ok(())
            }
            Some((_, descriptor)) => self.unnamed(new_parent, new_name, descriptor),
            None => Ok(()),
        }
    }

    pub(super) fn forget(&self, id: NodeId, lookups: u64) -> bool {
        let gone = self.tree.give_back(id, lookups);
        if gone {
            self.descriptors.drop(id);
        }
        gone
    }
}
