//! What the daemon tells the kernel without being asked.
//!
//! Written to the connection's device as they are, because fuser knows neither names that expire
//! nor any flags. The numbers are those of `linux/fuse.h`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Weak;

use rustix::io::Errno;

use crate::{NodeId, Notify};

const INVALIDATE_INODE: i32 = 2;
const INVALIDATE_ENTRY: i32 = 3;

/// Ask for the name again, but leave alone who has it open or works in it.
const EXPIRE_ONLY: u32 = 1;

/// Tells the kernel of one connection.
#[derive(Debug)]
pub(super) struct Notifier {
    /// Whoever serves the connection holds it: when nobody does any more, its last descriptor has to
    /// go, so that the kernel gives up on requests that nobody will answer.
    pub(super) device: Weak<OwnedFd>,
    /// The kernel knows [`EXPIRE_ONLY`]. (Linux 6.2.)
    pub(super) can_expire: bool,
    /// What the mount's files have as their device.
    pub(super) mounted_as: (u32, u32),
}

impl Notifier {
    fn send(&self, message: &[u8]) -> io::Result<()> {
        let Some(device) = self.device.upgrade() else { return Ok(()) };
        match rustix::io::write(&*device, message) {
            // A message is taken whole or not at all.
            Ok(_) => Ok(()),
            // Not known, or known as something else: there is nothing to be forgotten.
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Notify for Notifier {
    fn expire(&self, parent: NodeId, name: &OsStr) -> io::Result<()> {
        self.send(&invalidate_entry(parent, name, self.can_expire))
    }

    fn device(&self) -> (u32, u32) {
        self.mounted_as
    }

    fn changed(&self, node: NodeId) -> io::Result<()> {
        self.send(&invalidate_inode(node))
    }
}

/// `struct fuse_notify_inval_entry_out`, then the name with a NUL at its end.
fn invalidate_entry(parent: NodeId, name: &OsStr, expire_only: bool) -> Vec<u8> {
    let name = name.as_bytes();
    let mut body = Vec::with_capacity(32 + name.len() + 1);
    body.extend(parent.0.to_ne_bytes());
    // No name is longer than 255 bytes; the kernel would refuse one that is.
    body.extend((name.len() as u32).to_ne_bytes());
    body.extend((if expire_only { EXPIRE_ONLY } else { 0 }).to_ne_bytes());
    body.extend(name);
    body.push(0);
    message(INVALIDATE_ENTRY, &body)
}

/// `struct fuse_notify_inval_inode_out`, from offset 0 to the end: attributes and pages, which are
/// a directory's listing.
fn invalidate_inode(node: NodeId) -> Vec<u8> {
    let mut body = node.0.to_ne_bytes().to_vec();
    body.extend([0; 16]);
    message(INVALIDATE_INODE, &body)
}

/// `struct fuse_out_header`, whose `error` says which notification it is, as `unique` is 0; and `body`.
fn message(code: i32, body: &[u8]) -> Vec<u8> {
    let length = 16 + body.len();
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(code.to_ne_bytes());
    message.extend(0u64.to_ne_bytes());
    message.extend(body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_kernel_reads_them() {
        let expire = invalidate_entry(NodeId(7), OsStr::new("ab"), true);
        assert_eq!(expire.len(), 16 + 16 + 3);
        assert_eq!(expire[..4], 35u32.to_ne_bytes());
        assert_eq!(expire[4..8], 3i32.to_ne_bytes());
        assert_eq!(expire[16..24], 7u64.to_ne_bytes());
        assert_eq!(expire[24..28], 2u32.to_ne_bytes());
        assert_eq!(expire[28..32], 1u32.to_ne_bytes());
        assert_eq!(&expire[32..], b"ab\0");
        assert_eq!(invalidate_entry(NodeId(7), OsStr::new("ab"), false)[28..32], [0; 4]);
        let changed = invalidate_inode(NodeId(7));
        assert_eq!(changed.len(), 40);
        assert_eq!(changed[16..24], 7u64.to_ne_bytes());
    }

    #[test]
    fn nobody_is_told_when_nobody_serves() {
        let notifier = Notifier { device: Weak::new(), can_expire: true, mounted_as: (0, 9) };
        notifier.expire(NodeId::ROOT, OsStr::new("a")).unwrap();
        notifier.changed(NodeId::ROOT).unwrap();
    }
}
