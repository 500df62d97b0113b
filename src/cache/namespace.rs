//! Making names.

use std::ffi::OsStr;
use std::sync::Arc;

use cachefs_mount::{Caller, Entry, Errno, Kind, Name, NodeId, Result};

use super::additions::{Added, How};
use super::attributes::PERMISSIONS;
use super::name_locks::Change;
use super::resolve::{errno, status};
use super::tree::Node;
use super::{Access, Cache};
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::ffi::OsStrExt;
use crate::platform::fs::{AtFlags, FileType, Mode, OFlags};
use crate::readers::Job;

pub(super) fn mode(permissions: u16) -> Mode {
    Mode::from_raw_mode(u32::from(permissions & PERMISSIONS))
}

impl Cache {
    /// The entry of something just made under a name, which now belongs to its maker.
    fn made(
        &self,
        caller: &Caller,
        (job, folder): (&Job, &Node),
        parent: NodeId,
        name: Name<'_>,
        at: &OwnedFd,
    ) -> Result<Entry> {
        if let Some((uid, gid)) = self.owner_of_new(caller) {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            platform::fs::chownat(at, name.as_bytes(), Some(uid), Some(gid), flags)
                .map_err(errno)?;
        }
        let found = status(at, name.as_bytes())?;
        let entry = self.found(parent, name, &found);
        self.charge_made(Some(caller.uid), &found, (at, name.as_bytes()));
        self.note_added(entry.attributes.node, job, (folder.id, name), How::Exclusively);
        if entry.attributes.kind == Kind::Directory && folder.of.is_none() {
            self.note_product(job, folder.id, name, false);
        }
        Ok(entry)
    }

    /// `job` has just given a node that name.
    pub(super) fn note_added(&self, node: NodeId, job: &Job, name: (NodeId, Name<'_>), how: How) {
        let at = self.readers.tick();
        self.note_addition(name, Added::new(node, (job.id, at), how));
    }

    /// Locks a name in which something is to be made, unless another job is just making it.
    pub(super) fn making(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
    ) -> Result<(Arc<Job>, Arc<Node>, Change<'_>)> {
        self.refuse_private(parent, name)?;
        let folder = self.tree.versioned(&self.tree.get(parent)?);
        let job = self.readers.job(caller);
        let change = self.names.change(folder.id, name.as_bytes());
        if self.is_taken(&folder.versions(name), job.id) {
            return Err(Errno::EEXIST);
        }
        self.note_named(folder.id, name, job.id);
        Ok((job, folder, change))
    }

    /// Whom something new is to be given to, if not to the daemon's own user, who makes it.
    pub(super) fn owner_of_new(
        &self,
        caller: &Caller,
    ) -> Option<(platform::fs::Uid, platform::fs::Gid)> {
        let owner = (caller.uid, caller.gid);
        let wanted = matches!(self.options.access, Access::Posix) && owner != self.own_user;
        wanted.then(|| (platform::fs::Uid::from_raw(owner.0), platform::fs::Gid::from_raw(owner.1)))
    }

    pub(super) fn refuse_private(&self, parent: NodeId, name: Name<'_>) -> Result<()> {
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
        let (job, folder, _change) = self.making(caller, parent, name)?;
        if folder.of.is_none()
            && matches!(self.options.access, Access::Scoped { .. })
            && matches!(kind, Kind::Fifo | Kind::Socket)
        {
            // The kernel lets everyone write to these without asking.
            return Err(Errno::EPERM);
        }
        let directory = self.directory(parent)?;
        let (at, bytes, mode) = (&*directory, name.as_bytes(), mode(permissions));
        match kind {
            Kind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                platform::fs::openat(at, bytes, flags | OFlags::NOFOLLOW, mode).map_err(errno)?;
            }
            Kind::Fifo => {
                platform::fs::mknodat(at, bytes, FileType::Fifo, mode, 0).map_err(errno)?
            }
            Kind::Socket => {
                platform::fs::mknodat(at, bytes, FileType::Socket, mode, 0).map_err(errno)?;
            }
            Kind::CharDevice | Kind::BlockDevice => return Err(Errno::EPERM),
            Kind::Directory | Kind::Symlink => return Err(Errno::EINVAL),
        }
        self.made(caller, (&job, &folder), parent, name, at)
    }

    pub(super) fn make_directory(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        permissions: u16,
    ) -> Result<Entry> {
        let directory = self.directory(parent)?;
        let (job, folder, change) = self.making(caller, parent, name)?;
        if !folder.versions(name).is_empty() {
            drop(change);
            if self.bring_back(&folder, &directory, name, (&job, How::Exclusively))? {
                let mode = mode(permissions);
                let flags = AtFlags::empty();
                // Nothing is lost if that fails: it was made with a mode of its own.
                let _ = platform::fs::chmodat(&*directory, name.as_bytes(), mode, flags);
                return self.made(caller, (&job, &folder), parent, name, &directory);
            }
            let _change = self.names.change(folder.id, name.as_bytes());
            platform::fs::mkdirat(&*directory, name.as_bytes(), mode(permissions))
                .map_err(errno)?;
            return self.made(caller, (&job, &folder), parent, name, &directory);
        }
        platform::fs::mkdirat(&*directory, name.as_bytes(), mode(permissions)).map_err(errno)?;
        self.made(caller, (&job, &folder), parent, name, &directory)
    }

    pub(super) fn make_symlink(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        target: &OsStr,
    ) -> Result<Entry> {
        let (job, folder, change) = self.making(caller, parent, name)?;
        let directory = self.directory(parent)?;
        platform::fs::symlinkat(target.as_bytes(), &*directory, name.as_bytes()).map_err(errno)?;
        let made = self.made(caller, (&job, &folder), parent, name, &directory);
        drop(change);
        if folder.of.is_none() {
            self.bring_back_what_is_named(&job, &folder, name);
        }
        made
    }

    pub(super) fn read_link(&self, id: NodeId) -> Result<Vec<u8>> {
        let node = self.tree.get(id)?;
        let descriptor = self.descriptor(&node)?;
        // An empty name means the link that the descriptor is of (readlink(2)).
        let target = platform::fs::readlinkat(&*descriptor, "", Vec::new()).map_err(errno)?;
        Ok(target.into_bytes())
    }

    pub(super) fn make_link(
        &self,
        caller: &Caller,
        id: NodeId,
        parent: NodeId,
        name: Name<'_>,
    ) -> Result<Entry> {
        self.publish_node(id, self.readers.job(caller).id)?;
        let (job, folder, _change) = self.making(caller, parent, name)?;
        let node = self.tree.get(id)?;
        let directory = self.directory(parent)?;
        let source = self.descriptor(&node)?;
        platform::fs::link_open(&*source, &*directory, name.as_bytes()).map_err(errno)?;
        let entry = self.found(parent, name, &status(&*directory, name.as_bytes())?);
        self.note_added(entry.attributes.node, &job, (folder.id, name), How::Exclusively);
        Ok(entry)
    }
}
