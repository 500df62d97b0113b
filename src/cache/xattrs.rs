//! Extended attributes: those of the `user` namespace (`xattr(7)`).
//!
//! The others have meanings that a cache shared by everyone must not have (capabilities), or that
//! the kernel would have to enforce (access control lists).

use std::ffi::OsStr;
use std::path::Path;

use cachefs_mount::{Errno, Kind, NodeId, Result, SetXattr};

use super::Cache;
use super::quota::MARK;
use super::resolve::errno;
use super::tree::Node;
use crate::platform;
use crate::platform::fd::AsFd;
use crate::platform::ffi::OsStrExt;
use crate::platform::fs::XattrFlags;

const NAMESPACE: &[u8] = b"user.";

/// The largest value or list of names that Linux has, in bytes.
const MAX: usize = 64 * 1024;

fn checked(name: &OsStr) -> Result<&[u8]> {
    let bytes = name.as_bytes();
    if is_shown(bytes) { Ok(bytes) } else { Err(Errno::EOPNOTSUPP) }
}

fn is_shown(name: &[u8]) -> bool {
    name.starts_with(NAMESPACE) && name != MARK
}

impl Cache {
    /// Does something by a path to the node itself.
    fn at_path<T>(
        &self,
        id: NodeId,
        act: impl FnOnce(&Path) -> platform::io::Result<T>,
    ) -> Result<T> {
        let node = self.tree.get(id)?;
        let descriptor = self.descriptor(&node)?;
        act(&platform::fs::self_path(&*descriptor)).map_err(errno)
    }

    /// As [`Cache::at_path`], for what the store may refuse: a file then goes on in the spill area.
    fn change_at_path(
        &self,
        id: NodeId,
        act: impl Fn(&Path) -> platform::io::Result<()>,
    ) -> Result<()> {
        let node = self.tree.get(id)?;
        let changed = match self.is_out_of_reach(&node) {
            true => Err(Errno::EROFS),
            false => self.at_path(id, &act),
        };
        if let Err(errno) = changed
            && node.kind == Kind::File
            && node.of.is_none()
            && self.takes_over(errno)
        {
            self.move_node(&node, errno, None)?;
            return self.at_path(id, act);
        }
        changed
    }

    pub(super) fn xattr(&self, id: NodeId, name: &OsStr) -> Result<Vec<u8>> {
        let name = checked(name)?;
        let mut value = vec![0; MAX];
        let length = self.at_path(id, |path| platform::fs::getxattr(path, name, &mut value[..]))?;
        value.truncate(length);
        Ok(value)
    }

    pub(super) fn list_xattrs(&self, id: NodeId) -> Result<Vec<u8>> {
        let mut names = vec![0; MAX];
        let length = self.at_path(id, |path| platform::fs::listxattr(path, &mut names[..]))?;
        names.truncate(length);
        let ours = |name: &&[u8]| is_shown(name.strip_suffix(b"\0").unwrap_or(name));
        Ok(names.split_inclusive(|&byte| byte == 0).filter(ours).flatten().copied().collect())
    }

    pub(super) fn set_xattr(
        &self,
        id: NodeId,
        name: &OsStr,
        value: &[u8],
        how: SetXattr,
    ) -> Result<()> {
        let name = checked(name)?;
        let flags = match how {
            SetXattr::Any => XattrFlags::empty(),
            SetXattr::Create => XattrFlags::CREATE,
            SetXattr::Replace => XattrFlags::REPLACE,
        };
        self.change_at_path(id, |path| platform::fs::setxattr(path, name, value, flags))
    }

    pub(super) fn remove_xattr(&self, id: NodeId, name: &OsStr) -> Result<()> {
        let name = checked(name)?;
        self.change_at_path(id, |path| platform::fs::removexattr(path, name))
    }

    /// Gives a file the attributes of another, as far as the store's filesystem has them.
    pub(super) fn copy_xattrs(&self, from: &Node, to: impl AsFd) {
        let Ok(names) = self.list_xattrs(from.id) else { return };
        for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            if let Ok(value) = self.xattr(from.id, OsStr::from_bytes(name)) {
                let _ = platform::fs::fsetxattr(&to, name, &value, XattrFlags::empty());
            }
        }
    }
}
