//! Renaming.

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_RENAME_IGNORE_READONLY_ATTRIBUTE, FILE_RENAME_POSIX_SEMANTICS,
    FILE_RENAME_REPLACE_IF_EXISTS, FileRenameInformation, FileRenameInformationEx,
};
use windows_sys::Win32::Storage::FileSystem::{DELETE, FILE_LIST_DIRECTORY, FILE_READ_ATTRIBUTES};

use super::errno::{Errno, Result};
use super::fd::{AsFd, OwnedFd};
use super::flags::{AtFlags, FileType, RenameFlags, StatxFlags};
use super::graves;
use super::names::Arg;
use super::nt::{Place, Status, Way, patiently};
use super::removing::remove;
use super::stat::{id_of, kind_of, statx};

/// How often a name is looked at that is taken again and again before it can be given.
const TRIES: usize = 100;

/// `renameat(2)`. Whoever has open what is replaced keeps it.
///
/// Where there are no POSIX semantics, and for a directory that replaces an empty one, there is a moment in which the
/// name stands for nothing. A directory can't be renamed while anything below it is open (`ACCESS`).
pub fn renameat(from: impl AsFd, old: impl Arg, to: impl AsFd, new: impl Arg) -> Result<()> {
    renameat_with(from, old, to, new, RenameFlags::empty())
}

/// `renameat2(2)`; `INVAL` for `EXCHANGE`, which there is not.
pub fn renameat_with(
    from: impl AsFd,
    old: impl Arg,
    to: impl AsFd,
    new: impl Arg,
    flags: RenameFlags,
) -> Result<()> {
    if flags.contains(RenameFlags::EXCHANGE) {
        return Err(Errno::INVAL);
    }
    let source = Place::new(from.as_fd(), old.as_path())?;
    let target = Place::new(to.as_fd(), new.as_path())?;
    let way = Way::existing(DELETE | FILE_READ_ATTRIBUTES, false);
    let what = patiently("open what is to be renamed", Status::is_in_use, || source.open(way))?;
    if flags.contains(RenameFlags::NOREPLACE) {
        return Ok(give(&what, &target)?);
    }
    let is_directory = kind_of(&what)? == FileType::Directory;
    for _ in 0..TRIES {
        match replace(&what, is_directory, &target) {
            Err(Errno::EXIST) => {}
            done => return done,
        }
    }
    Err(Errno::BUSY)
}

/// Gives a name that is free.
fn give(what: &OwnedFd, target: &Place<'_>) -> std::result::Result<(), Status> {
    patiently("rename", Status::may_be_in_use, || target.name(what, FileRenameInformation, 0))
}

/// Gives a name, whatever has it. `EXIST` if it was given to something else meanwhile.
fn replace(what: &OwnedFd, is_directory: bool, target: &Place<'_>) -> Result<()> {
    let way = Way::existing(DELETE | FILE_READ_ATTRIBUTES | FILE_LIST_DIRECTORY, false);
    let victim = match target.open(way) {
        Err(status) => match Errno::from(status) {
            Errno::NOENT => return Ok(give(what, target)?),
            Errno::BUSY | Errno::ACCESS => None,
            errno => return Err(errno),
        },
        Ok(victim) => Some(victim),
    };
    let Some(victim) = victim else {
        // Somebody does not share it: let the system say what comes of that.
        return replace_file(what, None, target);
    };
    if id_of(&victim)? == id_of(what)? {
        let names = statx(what, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?.stx_nlink;
        // Two names of one file both stay; the same name in other letters is changed.
        return if names > 1 { Ok(()) } else { Ok(give(what, target)?) };
    }
    match (is_directory, kind_of(&victim)? == FileType::Directory) {
        (true, false) => Err(Errno::NOTDIR),
        (false, true) => Err(Errno::ISDIR),
        (false, false) => replace_file(what, Some(victim), target),
        (true, true) => {
            remove(victim, true)?;
            Ok(give(what, target)?)
        }
    }
}

fn replace_file(what: &OwnedFd, victim: Option<OwnedFd>, target: &Place<'_>) -> Result<()> {
    let flags = FILE_RENAME_REPLACE_IF_EXISTS
        | FILE_RENAME_POSIX_SEMANTICS
        | FILE_RENAME_IGNORE_READONLY_ATTRIBUTE;
    let renamed = patiently("replace a file", Status::may_be_in_use, || {
        target.name(what, FileRenameInformationEx, flags)
    });
    match renamed {
        Err(status) if status.is_unknown() => {}
        renamed => return Ok(renamed?),
    }
    let buried = match victim {
        Some(victim) => graves::bury(victim)?.ok(),
        None => None,
    };
    let Some(buried) = buried else {
        return Ok(patiently("replace a file", Status::may_be_in_use, || {
            target.name(what, FileRenameInformation, FILE_RENAME_REPLACE_IF_EXISTS)
        })?);
    };
    let renamed = give(what, target);
    if let Err(status) = renamed
        && status != Status::OBJECT_NAME_COLLISION
        && let Err(status) = buried.unbury(target)
    {
        tracing::error!("a file that was to be replaced has lost its name ({status:x?})");
    }
    Ok(renamed?)
}
