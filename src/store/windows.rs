//! What a store asks of Windows alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::AsRawHandle;
use std::path::{Path, PathBuf};

use windows_sys::Win32::Foundation::{
    CloseHandle, ERROR_LOCK_VIOLATION, ERROR_SHARING_VIOLATION, GetLastError,
};
use windows_sys::Win32::Storage::FileSystem::{
    DELETE, FILE_DISPOSITION_INFO, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT,
    FILE_GENERIC_READ, FILE_GENERIC_WRITE, FILE_SHARE_READ, FILE_SHARE_WRITE, FileDispositionInfo,
    LOCKFILE_EXCLUSIVE_LOCK, LOCKFILE_FAIL_IMMEDIATELY, LockFileEx, SetFileInformationByHandle,
};
use windows_sys::Win32::System::IO::OVERLAPPED;
use windows_sys::Win32::System::Threading::{
    OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION, QueryFullProcessImageNameW,
};

use crate::platform::fd::OwnedFd;
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
pub(super) fn claim(path: &Path, make: bool) -> io::Result<Option<OwnedFd>> {
    if make
        && let Err(error) = std::fs::create_dir(path)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    // Who may delete it, and does not share that, is the only one.
    let opened = OpenOptions::new()
        .access_mode(FILE_GENERIC_READ | FILE_GENERIC_WRITE | DELETE)
        .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT)
        .open(path);
    match opened {
        Ok(folder) if folder.metadata()?.is_dir() => Ok(Some(folder.into())),
        Ok(_) => Ok(None),
        Err(error) => match error.raw_os_error().map(i32::cast_unsigned) {
            Some(ERROR_SHARING_VIOLATION) => Ok(None),
            _ if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => Err(error),
        },
    }
}

/// Removes a directory that was claimed, and is empty, once it is closed.
pub(super) fn remove_claimed(_: &Path, folder: &OwnedFd) -> io::Result<()> {
    let what = FILE_DISPOSITION_INFO { DeleteFile: true };
    let length = size_of_val(&what) as u32;
    let (handle, what) = (folder.as_raw_handle(), (&raw const what).cast());
    // SAFETY: that is the structure of that class, and that long.
    match unsafe { SetFileInformationByHandle(handle, FileDispositionInfo, what, length) } {
        // SAFETY: it takes nothing.
        0 => Err(io::Error::from_raw_os_error(unsafe { GetLastError() }.cast_signed())),
        _ => Ok(()),
    }
}

/// Where the folders may be that hold the locks of stores which can't hold them themselves.
pub(super) fn folders_for_locks() -> Vec<PathBuf> {
    vec![std::env::temp_dir().join("cachefs-read-only")]
}

/// Directories for temporary files are closed to other users: what is there is ours.
pub(super) fn answers_for_us(_: &OwnedFd) -> io::Result<bool> {
    Ok(true)
}
