//! Where the lock and the control socket of a store are that can't have a folder of its own.

use std::io;
use std::path::{Path, PathBuf};

use super::area::digest;
use super::{DIRECTORY, system};
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{CWD, Mode, OFlags};
use crate::platform::io::Errno;

/// The folders that may be it, the best first.
fn candidates(store: &Path) -> Vec<PathBuf> {
    let name = format!("{:016x}", digest(store));
    let parents = system::folders_for_locks();
    parents.into_iter().map(|parent| parent.join(&name)).collect()
}

/// Makes the folder, for this user alone.
pub(super) fn make(store: &Path) -> io::Result<(PathBuf, OwnedFd)> {
    let mut failed = io::Error::from(Errno::NOENT);
    for path in candidates(store) {
        let made = path.parent().map_or(Ok(()), |parent| make_one(parent, 0o755));
        match made.and_then(|()| make_one(&path, 0o700)).and_then(|()| open(&path)) {
            Ok(folder) => return Ok((path, folder)),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// The folder that a daemon has made for the store, if one has.
pub fn find(store: &Path) -> Option<OwnedFd> {
    candidates(store).into_iter().find_map(|path| open(&path).ok())
}

/// Removes the folder, and the one that it is in if nothing else is in that. A daemon that is contained
/// can only empty it.
pub(super) fn remove(path: &Path) {
    let _ = system::remove_tree(path);
    let _ = path.parent().map(std::fs::remove_dir);
}

fn make_one(path: &Path, mode: u32) -> io::Result<()> {
    match platform::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Only what belongs to this user or to root: others must not answer for a daemon.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let folder = platform::fs::openat(CWD, path, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    if system::answers_for_us(&folder)? { Ok(folder) } else { Err(Errno::PERM.into()) }
}
