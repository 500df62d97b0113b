//! Further names of files, and what NTFS has none of: links to paths that anybody may make, pipes and sockets with
//! names, and extended attributes in the sense of Unix.

use std::ffi::CString;

use windows_sys::Wdk::Storage::FileSystem::FileLinkInformation;

use super::errno::{Errno, Result};
use super::fd::AsFd;
use super::flags::{AtFlags, FileType, Mode, StatxFlags, XattrFlags};
use super::names::Arg;
use super::nt::{Place, Status, patiently};
use super::stat::{Dev, statx};

/// Gives a file that is open one more name in a directory; `NOENT` if it has none.
pub fn link_open(descriptor: impl AsFd, directory: impl AsFd, name: &[u8]) -> Result<()> {
    let found = statx(descriptor.as_fd(), "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    if found.stx_nlink == 0 {
        return Err(Errno::NOENT);
    }
    let place = Place::new(directory.as_fd(), name.as_path())?;
    Ok(patiently("link a file", Status::is_in_use, || {
        place.name(descriptor.as_fd(), FileLinkInformation, 0)
    })?)
}

/// `symlinkat(2)`: `PERM`, as on a filesystem that has none. NTFS has such that take a privilege to make.
pub fn symlinkat(_: impl Arg, _: impl AsFd, _: impl Arg) -> Result<()> {
    Err(Errno::PERM)
}

/// `readlinkat(2)`: `INVAL`, as of what is no link. Reparse points are left alone, whatever they say.
pub fn readlinkat(_: impl AsFd, _: impl Arg, _: Vec<u8>) -> Result<CString> {
    Err(Errno::INVAL)
}

/// `mknodat(2)`: `OPNOTSUPP`.
pub fn mknodat(_: impl AsFd, _: impl Arg, _: FileType, _: Mode, _: Dev) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}

/// `getxattr(2)`: `OPNOTSUPP`, like all that follow.
pub fn getxattr(_: impl Arg, _: impl Arg, _: &mut [u8]) -> Result<usize> {
    Err(Errno::OPNOTSUPP)
}

/// `lgetxattr(2)`.
pub fn lgetxattr(path: impl Arg, name: impl Arg, value: &mut [u8]) -> Result<usize> {
    getxattr(path, name, value)
}

/// `fgetxattr(2)`.
pub fn fgetxattr(_: impl AsFd, _: impl Arg, _: &mut [u8]) -> Result<usize> {
    Err(Errno::OPNOTSUPP)
}

/// `setxattr(2)`.
pub fn setxattr(_: impl Arg, _: impl Arg, _: &[u8], _: XattrFlags) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}

/// `lsetxattr(2)`.
pub fn lsetxattr(path: impl Arg, name: impl Arg, value: &[u8], flags: XattrFlags) -> Result<()> {
    setxattr(path, name, value, flags)
}

/// `fsetxattr(2)`.
pub fn fsetxattr(_: impl AsFd, _: impl Arg, _: &[u8], _: XattrFlags) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}

/// `listxattr(2)`.
pub fn listxattr(_: impl Arg, _: &mut [u8]) -> Result<usize> {
    Err(Errno::OPNOTSUPP)
}

/// `removexattr(2)`.
pub fn removexattr(_: impl Arg, _: impl Arg) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}
