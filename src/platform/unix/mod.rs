//! On Unix, the engine asks for what there is.

mod entries;

/// Descriptors.
pub mod fd {
    pub use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
}

/// Names as bytes.
pub mod ffi {
    pub use std::os::unix::ffi::{OsStrExt, OsStringExt};
}

/// Files and directories.
pub mod fs {
    use std::path::PathBuf;

    pub use rustix::fs::*;
    pub use std::os::unix::fs::FileExt;

    use super::fd::{AsFd, OwnedFd};
    pub use crate::platform::entry::Entry;
    pub use crate::platform::unix::entries::Entries;

    /// What is removed while it is open needs no place to be.
    #[derive(Debug)]
    pub struct Graves(());

    impl Graves {
        /// Nothing is made in that folder.
        pub fn open(_: impl AsFd) -> std::io::Result<Graves> {
            Ok(Graves(()))
        }
    }

    /// A path by which what is open, with `O_PATH` too, is named again; it need not have a name.
    pub fn self_path(descriptor: impl AsFd) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd()))
    }

    /// Opens once more what is open, in another way; it need not have a name.
    pub fn open_again(descriptor: impl AsFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        open(self_path(descriptor), flags, Mode::empty())
    }

    /// Gives a file that is open one more name in a directory.
    pub fn link_open(
        descriptor: impl AsFd,
        directory: impl AsFd,
        name: &[u8],
    ) -> rustix::io::Result<()> {
        // By way of /proc, because linking a descriptor itself (`AT_EMPTY_PATH`) takes a privilege.
        linkat(CWD, self_path(descriptor), directory, name, AtFlags::SYMLINK_FOLLOW)
    }
}

/// Reading, writing and what can go wrong.
pub mod io {
    pub use rustix::io::{Errno, Result, read, write};
}

/// Who this process is.
pub mod process {
    pub use rustix::process::{getegid, geteuid};
}

/// Clocks.
pub mod time {
    pub use rustix::time::{ClockId, clock_gettime};
}
