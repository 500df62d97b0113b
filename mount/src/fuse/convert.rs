//! Between fuser's vocabulary and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{
    Attributes, Caller, Entry, Errno, Kind, NodeId, OpenFlags, Result, Seek, SetTime, SetXattr,
};

pub(super) fn caller(request: &fuser::Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), thread: request.pid() }
}

pub(super) fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw())
}

pub(super) fn kind(kind: Kind) -> fuser::FileType {
    match kind {
        Kind::File => fuser::FileType::RegularFile,
        Kind::Directory => fuser::FileType::Directory,
        Kind::Symlink => fuser::FileType::Symlink,
        Kind::Fifo => fuser::FileType::NamedPipe,
        Kind::Socket => fuser::FileType::Socket,
        Kind::CharDevice => fuser::FileType::CharDevice,
        Kind::BlockDevice => fuser::FileType::BlockDevice,
    }
}

pub(super) fn attributes(from: &Attributes) -> fuser::FileAttr {
    fuser::FileAttr {
        ino: fuser::INodeNo(from.node.0),
        size: from.size,
        blocks: from.blocks,
        atime: from.accessed,
        mtime: from.modified,
        ctime: from.changed,
        crtime: from.changed,
        kind: kind(from.kind),
        perm: from.permissions,
        nlink: from.links,
        uid: from.uid,
        gid: from.gid,
        rdev: from.device,
        blksize: from.block_size,
        flags: 0,
    }
}

/// The entry that tells the kernel to remember that a name stands for nothing: node id 0.
pub(super) fn absent() -> fuser::FileAttr {
    fuser::FileAttr {
        ino: fuser::INodeNo(0),
        size: 0,
        blocks: 0,
        atime: std::time::UNIX_EPOCH,
        mtime: std::time::UNIX_EPOCH,
        ctime: std::time::UNIX_EPOCH,
        crtime: std::time::UNIX_EPOCH,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// fuser has one time for name and attributes in some replies: the shorter one is right for both.
pub(super) fn shared_validity(entry: &Entry) -> Duration {
    entry.name_valid.min(entry.attributes_valid)
}

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

pub(super) fn set_time(time: fuser::TimeOrNow) -> SetTime {
    match time {
        fuser::TimeOrNow::Now => SetTime::Now,
        fuser::TimeOrNow::SpecificTime(at) => SetTime::At(after_floor(at)),
    }
}

/// fuser takes the nanoseconds of a time before 1970 for a part of its distance from there; but
/// they count forward from the second, as in every `timespec`.
fn after_floor(at: SystemTime) -> SystemTime {
    match at.duration_since(UNIX_EPOCH) {
        Ok(_) => at,
        Err(before) => {
            let nanoseconds = Duration::from_nanos(u64::from(before.duration().subsec_nanos()));
            at + nanoseconds + nanoseconds
        }
    }
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

pub(super) fn node(ino: fuser::INodeNo) -> NodeId {
    NodeId(ino.0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_second_before_1970() {
        // The kernel says -1 s and 500,000,000 ns; fuser makes -1.5 s of it.
        let by_fuser = UNIX_EPOCH - Duration::from_millis(1500);
        let right = UNIX_EPOCH - Duration::from_millis(500);
        assert_eq!(set_time(fuser::TimeOrNow::SpecificTime(by_fuser)), SetTime::At(right));
        let whole = UNIX_EPOCH - Duration::from_secs(3);
        assert_eq!(set_time(fuser::TimeOrNow::SpecificTime(whole)), SetTime::At(whole));
    }
}
