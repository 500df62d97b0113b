//! Opening and making files and directories.

use std::os::windows::io::{BorrowedHandle, OwnedHandle};
use std::path::{Component, Path};

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_CREATE, FILE_DIRECTORY_FILE, FILE_NON_DIRECTORY_FILE, FILE_OPEN, FILE_OPEN_IF,
    FILE_WRITE_THROUGH,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_GENERIC_READ, FILE_GENERIC_WRITE, FILE_READ_ATTRIBUTES, FILE_WRITE_ATTRIBUTES,
};

use super::errno::{Errno, Result};
use super::fd::{AsFd, OwnedFd};
use super::flags::{FileType, Mode, OFlags, ResolveFlags};
use super::information::ftruncate;
use super::names::Arg;
use super::nt::{CWD, EVERYTHING, Place, Status, Way, patiently, self_path};
use super::stat;

/// `openat(2)`. With `PATH` it is opened with all rights that there are, for [`open_again`].
///
/// New files have the rights that the directory hands down, whatever `mode` is.
pub fn openat(directory: impl AsFd, name: impl Arg, flags: OFlags, _: Mode) -> Result<OwnedFd> {
    let (directory, name) = (directory.as_fd(), name.as_path());
    if name == Path::new("..") {
        return open_parent(directory, flags);
    }
    let opened = open_one(directory, name, flags)?;
    let checks = flags.contains(OFlags::NOFOLLOW)
        && (!flags.contains(OFlags::PATH) || flags.contains(OFlags::DIRECTORY));
    if checks && stat::kind_of(&opened)? == FileType::Symlink {
        return Err(if flags.contains(OFlags::DIRECTORY) { Errno::NOTDIR } else { Errno::LOOP });
    }
    if flags.contains(OFlags::TRUNC) {
        ftruncate(&opened, 0)?;
    }
    Ok(opened)
}

/// The rights to ask for, the best first.
fn rights(flags: OFlags) -> &'static [u32] {
    const BOTH: u32 = FILE_GENERIC_READ | FILE_GENERIC_WRITE;
    if flags.contains(OFlags::PATH) {
        return &[
            BOTH,
            FILE_GENERIC_READ | FILE_WRITE_ATTRIBUTES,
            FILE_GENERIC_READ,
            FILE_READ_ATTRIBUTES,
        ];
    }
    if flags.intersects(OFlags::RDWR) {
        return &[BOTH];
    }
    if flags.contains(OFlags::WRONLY) {
        return &[FILE_GENERIC_WRITE | FILE_READ_ATTRIBUTES];
    }
    // Of directories, also to write down what is in them (`fsync`).
    if flags.contains(OFlags::DIRECTORY) {
        &[BOTH, FILE_GENERIC_READ]
    } else {
        &[FILE_GENERIC_READ]
    }
}

fn open_one(directory: BorrowedHandle<'_>, name: &Path, flags: OFlags) -> Result<OwnedHandle> {
    let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
    let mut options = 0;
    if flags.contains(OFlags::DIRECTORY) {
        options |= FILE_DIRECTORY_FILE;
    } else if flags.contains(OFlags::CREATE) || writes {
        options |= FILE_NON_DIRECTORY_FILE;
    }
    if flags.contains(OFlags::DSYNC) {
        options |= FILE_WRITE_THROUGH;
    }
    let disposition = match (flags.contains(OFlags::CREATE), flags.contains(OFlags::EXCL)) {
        (true, true) => FILE_CREATE,
        (true, false) => FILE_OPEN_IF,
        (false, _) => FILE_OPEN,
    };
    let follow = !flags.contains(OFlags::NOFOLLOW);
    let (last, better) = rights(flags).split_last().unwrap_or((&FILE_READ_ATTRIBUTES, &[]));
    let way = |access| Way { access, disposition, options, follow, share: EVERYTHING };
    let place = Place::new(directory, name)?;
    for &access in better {
        match place.open(way(access)) {
            Err(status) if status.may_be_in_use() => {}
            done => return Ok(done?),
        }
    }
    Ok(patiently("open a file", Status::is_in_use, || place.open(way(*last)))?)
}

/// The directory that a directory is in now.
fn open_parent(directory: BorrowedHandle<'_>, flags: OFlags) -> Result<OwnedFd> {
    let path = self_path(directory);
    open_one(CWD, path.parent().ok_or(Errno::NOENT)?, flags)
}

/// `open(2)`.
pub fn open(path: impl Arg, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    openat(CWD, path, flags, mode)
}

/// `openat2(2)` of a path in which nothing is followed, as if by `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`.
pub fn openat2(
    directory: impl AsFd,
    path: impl Arg,
    flags: OFlags,
    mode: Mode,
    _: ResolveFlags,
) -> Result<OwnedFd> {
    let mut found = open_again(directory, OFlags::PATH)?;
    let mut names = path.as_path().components().peekable();
    while let Some(component) = names.next() {
        let Component::Normal(name) = component else {
            match component {
                Component::CurDir => continue,
                _ => return Err(Errno::XDEV),
            }
        };
        let how = match names.peek() {
            Some(_) => OFlags::PATH | OFlags::DIRECTORY,
            None => flags,
        };
        found = openat(&found, name, how | OFlags::NOFOLLOW, mode)?;
    }
    Ok(found)
}

/// Opens once more what is open, in another way; it need not have a name. What was opened with `PATH` is only
/// handed over, with all rights.
pub fn open_again(descriptor: impl AsFd, _: OFlags) -> Result<OwnedFd> {
    descriptor.as_fd().try_clone_to_owned().map_err(Errno::of)
}

/// `mkdirat(2)`. It has the rights that the directory hands down, whatever `mode` is.
pub fn mkdirat(directory: impl AsFd, name: impl Arg, _: Mode) -> Result<()> {
    let way = Way {
        disposition: FILE_CREATE,
        options: FILE_DIRECTORY_FILE,
        ..Way::existing(FILE_READ_ATTRIBUTES, false)
    };
    Place::new(directory.as_fd(), name.as_path())?.open(way)?;
    Ok(())
}
