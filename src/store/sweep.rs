//! Removes what a crash has left in the store's own folder, without making the mount wait for it.

use std::io;
use std::path::PathBuf;

use super::system;
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{AtFlags, FileType, Mode, RenameFlags};
use crate::platform::io::Errno;

/// The folders for versions that are not live.
const FOLDERS: [&str; 3] = ["staged", "retired", "spilled"];

/// Where leftovers are moved to, as a whole, to be removed at leisure.
const SWEPT: &str = "swept";

/// Gives every folder empty: what was in them is moved away.
pub(super) fn prepare(private: &OwnedFd) -> io::Result<()> {
    make(private, SWEPT)?;
    for folder in FOLDERS {
        if !is_empty(private, folder)? {
            move_away(private, folder)?;
        }
        make(private, folder)?;
    }
    Ok(())
}

/// Removes what was moved away, in a thread of its own.
pub(super) fn sweep(private: &OwnedFd) -> io::Result<()> {
    if !is_empty(private, SWEPT)? {
        let private = private.try_clone()?;
        std::thread::Builder::new().name("sweep".into()).spawn(move || {
            if let Err(error) = empty(&path(&private, SWEPT)) {
                tracing::warn!("can't remove what a crash left in .cachefs/{SWEPT}: {error}");
            }
        })?;
    }
    Ok(())
}

fn make(private: &OwnedFd, folder: &str) -> io::Result<()> {
    match platform::fs::mkdirat(private, folder, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// A path that leads through the open directory, wherever that lies and whatever it is called.
fn path(private: &OwnedFd, folder: &str) -> PathBuf {
    platform::fs::self_path(private).join(folder)
}

/// True also for a folder that is missing; false for anything that is not a folder.
fn is_empty(private: &OwnedFd, folder: &str) -> io::Result<bool> {
    match platform::fs::statat(private, folder, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(true),
        Err(e) => return Err(e.into()),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
            return Ok(false);
        }
        Ok(_) => {}
    }
    Ok(std::fs::read_dir(path(private, folder))?.next().is_none())
}

fn move_away(private: &OwnedFd, folder: &str) -> io::Result<()> {
    for number in 0u32.. {
        let to = format!("{SWEPT}/{folder}.{number}");
        match platform::fs::renameat_with(private, folder, private, &to, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::EXIST.into())
}

fn empty(folder: &std::path::Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            system::remove_tree(&entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
