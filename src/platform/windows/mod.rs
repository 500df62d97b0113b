//! What the engine asks for, by what NT has: directories are handles, and names are opened relative to them, so that
//! no path is too long and none is followed through a reparse point. Nobody who has a file open keeps another from
//! renaming or removing it: everything is opened for sharing, and names go by POSIX semantics where the filesystem
//! has these.

mod entries;
mod errno;
mod flags;
mod graves;
mod information;
mod links;
mod names;
mod nt;
mod opening;
mod removing;
mod renaming;
mod scan;
mod stat;
#[cfg(test)]
mod tests;

/// Handles, by the names that descriptors have.
pub mod fd {
    pub use std::os::windows::io::{BorrowedHandle as BorrowedFd, OwnedHandle as OwnedFd};

    /// What is open.
    pub trait AsFd {
        /// Its handle.
        fn as_fd(&self) -> BorrowedFd<'_>;
    }

    macro_rules! handles {
        ($($type:ty),+) => {
            $(impl AsFd for $type {
                fn as_fd(&self) -> BorrowedFd<'_> {
                    std::os::windows::io::AsHandle::as_handle(self)
                }
            })+
        };
    }
    handles!(BorrowedFd<'_>, OwnedFd, std::fs::File);

    impl<T: AsFd + ?Sized> AsFd for &T {
        fn as_fd(&self) -> BorrowedFd<'_> {
            (**self).as_fd()
        }
    }

    impl<T: AsFd + ?Sized> AsFd for std::sync::Arc<T> {
        fn as_fd(&self) -> BorrowedFd<'_> {
            (**self).as_fd()
        }
    }
}

/// Names as bytes.
pub mod ffi {
    pub use super::names::{OsStrExt, OsStringExt};
}

/// Files and directories.
pub mod fs {
    pub use super::entries::{Dir, DirEntry, Entries};
    pub use super::flags::{
        AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, SeekFrom,
        StatxFlags, Uid, XattrFlags,
    };
    pub use super::graves::Graves;
    pub use super::information::{
        FileExt, StatVfs, copy_file_range, fallocate, fdatasync, fstatvfs, fsync, ftruncate, seek,
        statvfs,
    };
    pub use super::links::{
        fgetxattr, fsetxattr, getxattr, lgetxattr, link_open, listxattr, lsetxattr, mknodat,
        readlinkat, removexattr, setxattr, symlinkat,
    };
    pub use super::names::Arg;
    pub use super::nt::{CWD, self_path};
    pub use super::opening::{mkdirat, open, open_again, openat, openat2};
    pub use super::removing::unlinkat;
    pub use super::renaming::{renameat, renameat_with};
    pub use super::scan::{RawDir, RawDirEntry};
    pub use super::stat::{
        Dev, Stat, Statx, StatxTimestamp, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, chmod,
        chmodat, chownat, fchmod, fchown, fstat, futimens, makedev, stat, statat, statx, utimensat,
    };
    pub use crate::platform::entry::Entry;
}

/// Reading, writing and what can go wrong.
pub mod io {
    pub use super::errno::{Errno, Result};
    pub use super::information::{read, write};
}

/// Who this process is.
pub mod process {
    use super::fs::{Gid, Uid};

    /// Of users there is one: the daemon's.
    pub fn geteuid() -> Uid {
        Uid::from_raw(0)
    }

    /// The group of the one user.
    pub fn getegid() -> Gid {
        Gid::from_raw(0)
    }
}

/// Clocks.
pub mod time {
    use super::fs::Timespec;

    /// Which clock.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ClockId {
        /// It is never put back, and precise to some 16 milliseconds.
        MonotonicCoarse,
    }

    /// The time since the system was started (`GetTickCount64`).
    pub fn clock_gettime(_: ClockId) -> Timespec {
        // SAFETY: it takes nothing and answers with a number.
        let milliseconds =
            unsafe { windows_sys::Win32::System::SystemInformation::GetTickCount64() };
        let (seconds, rest) = (milliseconds / 1000, milliseconds % 1000);
        Timespec { tv_sec: seconds.cast_signed(), tv_nsec: (rest * 1_000_000).cast_signed() }
    }
}
