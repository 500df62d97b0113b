//! Where the lock and the control socket of a store are that can't have a folder of its own.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::DIRECTORY;
use super::area::digest;

/// The folders that may be it, the best first.
fn candidates(store: &Path) -> Vec<PathBuf> {
    let name = format!("{:016x}", digest(store));
    let user = rustix::process::geteuid().as_raw();
    let mut parents = vec![PathBuf::from("/run/cachefs-read-only")];
    parents.extend(
        std::env::var_os("XDG_RUNTIME_DIR").map(|path| Path::new(&path).join("cachefs-read-only")),
    );
    parents.push(std::env::temp_dir().join(format!("cachefs-read-only-{user}")));
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
    let _ = std::fs::remove_dir_all(path);
    let _ = path.parent().map(std::fs::remove_dir);
}

fn make_one(path: &Path, mode: u32) -> io::Result<()> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Only what belongs to this user or to root: others must not answer for a daemon.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let user = rustix::process::geteuid().as_raw();
    let folder = rustix::fs::openat(CWD, path, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    match rustix::fs::fstat(&folder)?.st_uid {
        0 => Ok(folder),
        owner if owner == user => Ok(folder),
        _ => Err(Errno::PERM.into()),
    }
}
