//! Taking names away.

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_DISPOSITION_DELETE, FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE,
    FILE_DISPOSITION_INFORMATION, FILE_DISPOSITION_INFORMATION_EX,
    FILE_DISPOSITION_POSIX_SEMANTICS, FileDispositionInformation, FileDispositionInformationEx,
};
use windows_sys::Win32::Storage::FileSystem::{DELETE, FILE_LIST_DIRECTORY, FILE_READ_ATTRIBUTES};

use super::errno::{Errno, Result};
use super::fd::{AsFd, OwnedFd};
use super::flags::{AtFlags, FileType};
use super::graves;
use super::names::Arg;
use super::nt::{Place, Status, Way, patiently, set};
use super::scan::names_in;
use super::stat::kind_of;

/// `unlinkat(2)`: whoever has it open keeps it.
pub fn unlinkat(directory: impl AsFd, name: impl Arg, flags: AtFlags) -> Result<()> {
    let place = Place::new(directory.as_fd(), name.as_path())?;
    let removes_directory = flags.contains(AtFlags::REMOVEDIR);
    let mut access = DELETE | FILE_READ_ATTRIBUTES;
    if removes_directory {
        access |= FILE_LIST_DIRECTORY;
    }
    let way = Way::existing(access, false);
    let victim = patiently("open what is to be removed", Status::is_in_use, || place.open(way))?;
    match (kind_of(&victim)? == FileType::Directory, removes_directory) {
        (true, false) => Err(Errno::ISDIR),
        (false, true) => Err(Errno::NOTDIR),
        (is_directory, _) => remove(victim, is_directory),
    }
}

/// Takes the name away by which something was opened, with the right to do that.
pub(super) fn remove(victim: OwnedFd, is_directory: bool) -> Result<()> {
    let what = FILE_DISPOSITION_INFORMATION_EX {
        Flags: FILE_DISPOSITION_DELETE
            | FILE_DISPOSITION_POSIX_SEMANTICS
            | FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE,
    };
    let length = size_of_val(&what);
    // SAFETY: that is the structure of that class, and that long.
    let removed = patiently("remove a name", Status::may_be_in_use, || unsafe {
        set(victim.as_fd(), FileDispositionInformationEx, &raw const what, length)
    });
    match removed {
        Err(status) if status.is_unknown() => remove_old(victim, is_directory),
        removed => Ok(removed?),
    }
}

/// As [`remove`], where there are no POSIX semantics.
fn remove_old(victim: OwnedFd, is_directory: bool) -> Result<()> {
    if is_directory && !names_in(&victim)?.is_empty() {
        return Err(Errno::NOTEMPTY);
    }
    let Err(victim) = graves::bury(victim)? else { return Ok(()) };
    let what = FILE_DISPOSITION_INFORMATION { DeleteFile: true };
    let length = size_of_val(&what);
    // SAFETY: that is the structure of that class, and that long.
    Ok(unsafe { set(victim, FileDispositionInformation, &raw const what, length) }?)
}
