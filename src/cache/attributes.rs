//! What `stat(2)` tells, and changing it.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cachefs_mount::{
    Attributes, Caller, Entry, Errno, FOREVER, HandleId, Kind, NodeId, OpenFlags, Result,
    SetAttributes, SetTime,
};

use super::handles::Open;
use super::quota::Stretch;
use super::resolve::{errno, kind, status};
use super::tree::Node;
use super::{Access, Cache};
use crate::platform;
use crate::platform::fd::{AsFd, BorrowedFd, OwnedFd};
use crate::platform::fs::{
    AtFlags, Gid, Mode, OFlags, Statx, StatxTimestamp, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
    Uid,
};

/// The mode bits that a mount has: no set-id bits (SEMANTICS 5.4).
pub(super) const PERMISSIONS: u16 = 0o1777;

fn time(stamp: StatxTimestamp) -> SystemTime {
    let seconds = Duration::from_secs(stamp.tv_sec.unsigned_abs());
    let whole = if stamp.tv_sec < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    whole.unwrap_or(SystemTime::UNIX_EPOCH) + Duration::from_nanos(u64::from(stamp.tv_nsec))
}

fn timespec(time: Option<SetTime>) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, UTIME_OMIT),
        Some(SetTime::Now) => (0, UTIME_NOW),
        Some(SetTime::At(at)) => match at.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => (after.as_secs() as i64, i64::from(after.subsec_nanos())),
            Err(before) => {
                let before = before.duration();
                match (before.as_secs() as i64, i64::from(before.subsec_nanos())) {
                    (seconds, 0) => (-seconds, 0),
                    (seconds, nanoseconds) => (-seconds - 1, 1_000_000_000 - nanoseconds),
                }
            }
        },
    };
    Timespec { tv_sec, tv_nsec }
}

/// The root's links, less the one of the store's own folder; some filesystems count no folders.
fn without_private(links: u32) -> u32 {
    if links > 2 { links - 1 } else { links }
}

impl Cache {
    /// What the mount tells of a file of the store.
    pub(super) fn describe(&self, node: NodeId, status: &Statx) -> Attributes {
        let (uid, gid) = match self.options.access {
            Access::Posix => (status.stx_uid, status.stx_gid),
            Access::Shared { owner } => owner,
            Access::Scoped { owner, .. } => (self.user_of(node).unwrap_or(owner.0), owner.1),
        };
        let mut attributes = Attributes {
            node,
            kind: kind(status),
            permissions: status.stx_mode & PERMISSIONS,
            links: if node == NodeId::ROOT {
                without_private(status.stx_nlink)
            } else {
                status.stx_nlink
            },
            uid,
            gid,
            size: status.stx_size,
            blocks: status.stx_blocks,
            block_size: status.stx_blksize,
            device: 0,
            accessed: time(status.stx_atime),
            modified: time(status.stx_mtime),
            changed: time(status.stx_ctime),
        };
        self.retouch(&mut attributes, matches!(self.options.access, Access::Posix));
        attributes
    }

    /// The answer to a lookup of a name that is the same for everyone.
    pub(super) fn entry(&self, node: NodeId, status: &Statx) -> Entry {
        let attributes = self.describe(node, status);
        let attributes_valid = self.believed(node, attributes.kind);
        Entry { attributes, name_valid: FOREVER, attributes_valid }
    }

    /// How long attributes may be believed: those of a directory in which something takes its name
    /// without the kernel's knowledge, not at all.
    fn believed(&self, node: NodeId, kind: Kind) -> Duration {
        let changes = kind == Kind::Directory
            && self.tree.get(node).is_ok_and(|node| !self.tree.versioned(&node).same_for_all());
        if changes { Duration::ZERO } else { FOREVER }
    }

    /// The status by way of whatever is open already, or else by name.
    pub(super) fn attributes(&self, id: NodeId) -> Result<(Attributes, Duration)> {
        let node = self.tree.get(id)?;
        let status = self.node_status(&node)?;
        Ok((self.describe(id, &status), self.believed(id, node.kind)))
    }

    pub(super) fn set_attributes(
        &self,
        caller: &Caller,
        id: NodeId,
        handle: Option<HandleId>,
        changes: &SetAttributes,
    ) -> Result<(Attributes, Duration)> {
        let node = self.tree.get(id)?;
        if self.is_foreign(caller, &node)? && !self.is_written_by(handle) {
            if node.kind != Kind::File {
                // Ownership never makes a tool fail, but what is everyone's stays as it is.
                return self.attributes(id);
            }
            return self.wants_own(caller, &node, changes.size == Some(0));
        }
        if let Some(size) = changes.size {
            self.charge_growth(&node, size)?;
            self.resize(&node, handle, size)?;
        }
        let others = SetAttributes { size: None, ..*changes };
        if others == SetAttributes::default() {
            return self.attributes(id);
        }
        let descriptor = self.descriptor(&node)?;
        let changed = match self.is_out_of_reach(&node) {
            true => Err(Errno::EROFS),
            false => self.change_attributes(descriptor.as_fd(), node.kind, changes),
        };
        match changed {
            Err(errno) if node.of.is_none() && self.takes_over(errno) => {
                self.touch(&node, changes);
            }
            changed => changed?,
        }
        let status = status(&*descriptor, b"")?;
        Ok((self.describe(id, &status), self.believed(id, node.kind)))
    }

    /// Changes all attributes but the size.
    pub(super) fn change_attributes(
        &self,
        descriptor: BorrowedFd<'_>,
        kind: Kind,
        changes: &SetAttributes,
    ) -> Result<()> {
        if changes.uid.is_some() || changes.gid.is_some() {
            self.change_owner(descriptor, changes.uid, changes.gid)?;
        }
        if let Some(permissions) = changes.permissions {
            if kind == Kind::Symlink {
                return Err(Errno::EOPNOTSUPP);
            }
            let mode = Mode::from_raw_mode(u32::from(permissions & PERMISSIONS));
            platform::fs::chmod(platform::fs::self_path(descriptor), mode).map_err(errno)?;
        }
        if changes.accessed.is_some() || changes.modified.is_some() {
            let times = Timestamps {
                last_access: timespec(changes.accessed),
                last_modification: timespec(changes.modified),
            };
            platform::fs::utimensat(descriptor, "", &times, AtFlags::EMPTY_PATH).map_err(errno)?;
        }
        Ok(())
    }

    fn resize(&self, node: &Arc<Node>, handle: Option<HandleId>, size: u64) -> Result<()> {
        if let Some(handle) = handle
            && let handle = self.handles.get(handle)?
            && let Open::Writing { flags, .. } = &handle.open
            && flags.contains(OpenFlags::WRITE)
        {
            return self.writing(&handle, Stretch::NONE, |file| {
                platform::fs::ftruncate(file, size).map_err(errno)
            });
        }
        let resize = |file: OwnedFd| {
            let file = File::from(file);
            self.charging(None, &file, || platform::fs::ftruncate(&file, size).map_err(errno))
        };
        match resize(self.open_to_write(node, OFlags::WRONLY, None)?) {
            Err(errno) if node.of.is_none() && self.takes_over(errno) => {
                self.move_node(node, errno, None)?;
                resize(self.open_node(node, OFlags::WRONLY)?)
            }
            done => done,
        }
    }

    /// In `shared` everything belongs to the mount's owner, and changing that changes nothing.
    fn change_owner(
        &self,
        descriptor: BorrowedFd<'_>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<()> {
        match self.options.access {
            Access::Shared { .. } | Access::Scoped { .. } => Ok(()),
            Access::Posix => platform::fs::chownat(
                descriptor,
                "",
                uid.map(Uid::from_raw),
                gid.map(Gid::from_raw),
                AtFlags::EMPTY_PATH,
            )
            .map(|()| self.charge_given(descriptor))
            .map_err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(tv_sec: i64, tv_nsec: u32) -> (i64, i64) {
        // Only the kernel makes these; any will do to begin with.
        let mut stamp = status(platform::fs::CWD, b".").unwrap().stx_atime;
        (stamp.tv_sec, stamp.tv_nsec) = (tv_sec, tv_nsec);
        let spec = timespec(Some(SetTime::At(time(stamp))));
        (spec.tv_sec, spec.tv_nsec)
    }

    #[test]
    fn times_before_and_after_the_epoch_survive() {
        for (seconds, nanoseconds) in
            [(0, 0), (0, 999_999_900), (-1, 0), (-1, 100), (-86_400, 500), (1 << 33, 700)]
        {
            assert_eq!(there_and_back(seconds, nanoseconds), (seconds, i64::from(nanoseconds)));
        }
    }
}
