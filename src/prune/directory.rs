//! Looking into directories of a store in use: never through a symbolic link, never waiting for a fifo,
//! and without leaving an access time behind, which would pass for a use.

use std::io;

use crate::platform;
use crate::platform::fd::{AsFd, OwnedFd};
use crate::platform::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Statx, StatxFlags};
use crate::platform::io::Errno;

/// How a name is opened.
const ALWAYS: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

fn open(at: impl AsFd, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    // Only the owner and root may leave no trace.
    match platform::fs::openat(&at, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => platform::fs::openat(&at, name, flags, Mode::empty()),
        other => other,
    }
}

/// A directory in a directory, for listing.
pub(crate) fn open_directory(at: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    open(at, name, ALWAYS | OFlags::DIRECTORY)
}

/// `statx(2)` of a name, which is not followed.
pub(super) fn status(at: impl AsFd, name: &[u8]) -> Result<Statx, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    platform::fs::statx(at, name, flags, StatxFlags::BASIC_STATS)
}

/// `statx(2)` of what is open.
pub(super) fn status_of(open: impl AsFd) -> Result<Statx, Errno> {
    platform::fs::statx(open, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

pub(super) fn kind(status: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(status.stx_mode))
}

/// Calls `each` with every name in a directory and its kind, which not every filesystem tells.
pub(crate) fn list(
    directory: impl AsFd,
    mut each: impl FnMut(&[u8], FileType),
) -> Result<(), Errno> {
    // Not on the stack, which walks go down by recursion.
    let mut buffer = Vec::with_capacity(8192);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(Errno::INTR) => continue,
            // The directory itself was removed meanwhile.
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            each(name, entry.file_type());
        }
    }
    Ok(())
}

/// Up to `most` bytes from the beginning of a regular file.
pub(super) fn head(at: impl AsFd, name: &[u8], most: usize) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let file = open(at, name, ALWAYS)?;
    if kind(&status_of(&file)?) != FileType::RegularFile {
        return Err(Errno::INVAL.into());
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a symbolic link says.
pub(super) fn target(at: impl AsFd, name: &[u8]) -> Result<Vec<u8>, Errno> {
    platform::fs::readlinkat(at, name, Vec::new()).map(std::ffi::CString::into_bytes)
}
