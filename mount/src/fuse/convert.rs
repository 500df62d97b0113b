//! Between the kernel's flags and ours.

use crate::{Errno, Kind, OpenFlags, Result, Seek, SetXattr};

pub(super) fn open_flags(raw: i32) -> OpenFlags {
    let mut flags = match raw & libc::O_ACCMODE {
        libc::O_RDONLY => OpenFlags::READ,
        libc::O_WRONLY => OpenFlags::WRITE,
        // The fourth value means neither; it may still be used for ioctl. Nothing is lost by
        // treating it like the third.
        _ => OpenFlags::READ | OpenFlags::WRITE,
    };
    for (bit, flag) in [
        (libc::O_TRUNC, OpenFlags::TRUNCATE),
        (libc::O_APPEND, OpenFlags::APPEND),
        (libc::O_EXCL, OpenFlags::EXCLUSIVE),
        (libc::O_DSYNC, OpenFlags::SYNC),
        (libc::O_DIRECT, OpenFlags::DIRECT),
    ] {
        flags.set(flag, raw & bit == bit);
    }
    flags
}

/// `setxattr(2)`'s flags.
pub(super) fn set_xattr(flags: i32) -> Result<SetXattr> {
    match flags {
        0 => Ok(SetXattr::Any),
        libc::XATTR_CREATE => Ok(SetXattr::Create),
        libc::XATTR_REPLACE => Ok(SetXattr::Replace),
        _ => Err(Errno::EINVAL),
    }
}

/// `lseek(2)`'s `whence`, of which the kernel answers the others by itself.
pub(super) fn seek(whence: i32) -> Result<Seek> {
    match whence {
        libc::SEEK_DATA => Ok(Seek::Data),
        libc::SEEK_HOLE => Ok(Seek::Hole),
        _ => Err(Errno::EINVAL),
    }
}

/// `mknod(2)`'s type bits; an absent type means a regular file.
pub(super) fn node_kind(mode: u32) -> Kind {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => Kind::Directory,
        libc::S_IFLNK => Kind::Symlink,
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFCHR => Kind::CharDevice,
        libc::S_IFBLK => Kind::BlockDevice,
        _ => Kind::File,
    }
}
