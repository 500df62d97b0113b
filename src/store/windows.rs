//! What a store asks of Windows alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::AsRawHandle;
use std::path::{Path, PathBuf};

use windows_sys::Win32::Foundation::{
    CloseHandle, ERROR_ACCESS_DENIED, ERROR_LOCK_VIOLATION, ERROR_SHARING_VIOLATION,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_DELETE_ON_CLOSE, LOCKFILE_EXCLUSIVE_LOCK, LOCKFILE_FAIL_IMMEDIATELY, LockFileEx,
};
use windows_sys::Win32::System::IO::OVERLAPPED;
use windows_sys::Win32::System::Threading::{
    OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION, QueryFullProcessImageNameW,
};

use super::DIRECTORY;
use super::area::digest;
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{CWD, Mode, OFlags};
use crate::platform::io::Errno;

/// Why a file could not be locked.
#[derive(Debug)]
pub(super) enum TryLockError {
    /// Another process has locked it.
    WouldBlock,
    /// It can't be locked.
    Error(io::Error),
}

/// Locks a file, unless another process has. Others can read it all the same: Windows keeps them from what is locked,
/// and that is a byte where there never is one.
pub(super) fn try_lock(file: &File) -> Result<(), TryLockError> {
    const AT: u32 = 1 << 30;
    let mut at = OVERLAPPED::default();
    at.Anonymous.Anonymous.OffsetHigh = AT;
    let flags = LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY;
    // SAFETY: the file is open, and the structure lives until the call returns: it does not wait.
    if unsafe { LockFileEx(file.as_raw_handle(), flags, 0, 1, 0, &raw mut at) } != 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error().map(i32::cast_unsigned) {
        Some(ERROR_LOCK_VIOLATION) => Err(TryLockError::WouldBlock),
        _ => Err(TryLockError::Error(error)),
    }
}

/// Whether a process with this pid runs our program; pids are used again by others.
pub(super) fn is_daemon(pid: u32) -> bool {
    use std::os::windows::ffi::OsStringExt;
    let mut path = [0; 1024];
    let mut length = path.len() as u32;
    // SAFETY: it writes at most `length` units, and the process is closed again.
    let found = unsafe {
        let process = OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, pid);
        if process.is_null() {
            return false;
        }
        let found = QueryFullProcessImageNameW(process, 0, path.as_mut_ptr(), &raw mut length);
        CloseHandle(process);
        found
    };
    let path = PathBuf::from(std::ffi::OsString::from_wide(&path[..length as usize]));
    found != 0 && path.file_stem().is_some_and(|name| name.eq_ignore_ascii_case("cachefs"))
}

/// Leaves the store's own folder as it is: whoever may write in the store may write in it. What is made in it is moved
/// into the store, and is to have the rights that the store hands down.
pub(super) fn close_to_others(_: &OwnedFd) -> Result<(), Errno> {
    Ok(())
}

/// NTFS lays out its files by itself.
pub(super) fn spread(_: &OwnedFd) {}

/// Nothing is stacked on another filesystem.
pub(super) fn is_stacked(_: &OwnedFd) -> bool {
    false
}

/// Where there may be room for a spill area.
pub(super) fn temporary_directories() -> Vec<PathBuf> {
    vec![std::env::temp_dir()]
}

/// Opens the directory `path`, which nobody else can claim until it is closed; none if somebody has, or if it is
/// missing and not to be made. Directories for temporary files are closed to other users.
pub(super) fn claim(path: &Path, make: bool) -> io::Result<Option<Claimed>> {
    // Who has it open is the only one, and it goes when he closes it, or dies.
    let lock = std::env::temp_dir().join(format!("cachefs-{:016x}.lock", digest(path)));
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .share_mode(0)
        .custom_flags(FILE_FLAG_DELETE_ON_CLOSE)
        .open(lock);
    let lock = match opened {
        Ok(lock) => lock,
        Err(error) => {
            return match error.raw_os_error().map(i32::cast_unsigned) {
                Some(ERROR_SHARING_VIOLATION | ERROR_ACCESS_DENIED) => Ok(None),
                _ => Err(error),
            };
        }
    };
    if make
        && let Err(error) = std::fs::create_dir(path)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    let flags = DIRECTORY | OFlags::NOFOLLOW;
    match platform::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(folder) => Ok(Some(Claimed { folder, _lock: lock })),
        Err(_) => Ok(None),
    }
}

/// A directory that is ours alone.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) folder: OwnedFd,
    _lock: File,
}

/// Removes a directory and all that is in it, as far as nobody has it open.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    // Not by the library's function: that tries again and again while something is open where there are no POSIX
    // semantics.
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::remove_dir(path)
}

/// Where the folders may be that hold the locks of stores which can't hold them themselves.
pub(super) fn folders_for_locks() -> Vec<PathBuf> {
    vec![std::env::temp_dir().join("cachefs-read-only")]
}

/// Directories for temporary files are closed to other users: what is there is ours.
pub(super) fn answers_for_us(_: &OwnedFd) -> io::Result<bool> {
    Ok(true)
}
