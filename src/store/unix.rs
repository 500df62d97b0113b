//! What a store asks of Unix alone.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

pub(super) use fs4::TryLockError;
use rustix::fs::{CWD, FlockOperation, IFlags, Mode, OFlags};
use rustix::io::Errno;

use super::DIRECTORY;

/// Locks a file, unless another process has.
pub(super) fn try_lock(file: &File) -> Result<(), TryLockError> {
    fs4::FileExt::try_lock(file)
}

/// Whether a process with this pid runs our program; pids are used again by others.
pub(super) fn is_daemon(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .is_ok_and(|comm| comm.trim_end() == "cachefs")
}

/// Makes the store's own folder ours alone: an adopted directory may have been open to many.
pub(super) fn close_to_others(private: &OwnedFd) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(private)?;
    let me = rustix::process::geteuid();
    if stat.st_uid != me.as_raw() {
        rustix::fs::fchown(private, Some(me), None)?;
    }
    if stat.st_mode & 0o7777 != 0o700 {
        rustix::fs::fchmod(private, Mode::RWXU)?;
    }
    Ok(())
}

/// The folders in it are to lie far from each other. Filesystems that can't do that don't need it.
pub(super) fn spread(staged: &OwnedFd) {
    if let Ok(flags) = rustix::fs::ioctl_getflags(staged) {
        let _ = rustix::fs::ioctl_setflags(staged, flags | IFlags::TOPDIR);
    }
}

/// Whether a directory lies on overlayfs, a filesystem that is stacked on others.
pub(super) fn is_stacked(root: &OwnedFd) -> bool {
    // `OVERLAYFS_SUPER_MAGIC`, statfs(2).
    rustix::fs::fstatfs(root).is_ok_and(|fs| fs.f_type == 0x794c_7630)
}

/// Whether no other user gets into the directory `path` by its name: it, or one above it, is closed to
/// group and others. Where it can't be looked at, it is closed to us too.
pub fn is_closed(path: &Path) -> bool {
    let enter = Mode::XGRP | Mode::XOTH;
    let is_open = |path: &Path| {
        let found = rustix::fs::stat(path);
        found.is_ok_and(|stat| Mode::from_raw_mode(stat.st_mode).intersects(enter))
    };
    !path.ancestors().all(is_open)
}

/// Where there may be room for a spill area.
pub(super) fn temporary_directories() -> Vec<PathBuf> {
    vec![std::env::temp_dir(), "/var/tmp".into(), "/dev/shm".into()]
}

/// Opens the directory `path`, which is ours alone and locked until it is closed; none if it is
/// somebody else's, in use, or missing and not to be made.
pub(super) fn claim(path: &Path, make: bool) -> io::Result<Option<Claimed>> {
    let mut new = false;
    if make {
        match rustix::fs::mkdirat(CWD, path, Mode::RWXU) {
            Ok(()) => new = true,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let Ok(folder) = rustix::fs::openat(CWD, path, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
    else {
        return Ok(None);
    };
    let found = rustix::fs::fstat(&folder)?;
    // Directories for temporary files are open to all: somebody may have been there before us.
    let ours = found.st_uid == rustix::process::geteuid().as_raw() && found.st_mode & 0o077 == 0;
    let lock = FlockOperation::NonBlockingLockExclusive;
    let held = ours
        && match rustix::fs::flock(folder.as_fd(), lock) {
            Ok(()) => true,
            Err(Errno::WOULDBLOCK) => false,
            // Without locks, only one that was not there before is known to be nobody's.
            Err(_) => new,
        };
    Ok(held.then_some(Claimed { folder }))
}

/// A directory that is ours alone.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) folder: OwnedFd,
}

/// Removes a directory and all that is in it.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    std::fs::remove_dir_all(path)
}

/// Where the folders may be that hold the locks of stores which can't hold them themselves, the best first.
pub(super) fn folders_for_locks() -> Vec<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let mut parents = vec![PathBuf::from("/run/cachefs-read-only")];
    parents.extend(
        std::env::var_os("XDG_RUNTIME_DIR").map(|path| Path::new(&path).join("cachefs-read-only")),
    );
    parents.push(std::env::temp_dir().join(format!("cachefs-read-only-{user}")));
    parents
}

/// Whether a folder belongs to this user or to root: others must not answer for a daemon.
pub(super) fn answers_for_us(folder: &OwnedFd) -> io::Result<bool> {
    let owner = rustix::fs::fstat(folder)?.st_uid;
    Ok(owner == 0 || owner == rustix::process::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::super::{Area, PRIVATE, Store, StoreError};
    use super::*;

    #[test]
    fn what_is_open_to_others_is_not_used() {
        let parent = tempfile::tempdir().unwrap();
        let store = Path::new("/a/store");
        let first = Area::make(parent.path(), store).unwrap().path().to_owned();
        fs::create_dir(&first).unwrap();
        fs::set_permissions(&first, fs::Permissions::from_mode(0o777)).unwrap();
        assert_ne!(Area::make(parent.path(), store).unwrap().path(), first);
    }

    #[test]
    fn closed_by_itself_or_by_what_it_lies_in() {
        let home = tempfile::tempdir_in("/tmp").unwrap();
        let (outer, inner) = (home.path().join("a"), home.path().join("a/b"));
        fs::create_dir_all(&inner).unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for (home_mode, outer_mode, inner_mode, closed) in [
            (0o755, 0o755, 0o755, false),
            (0o755, 0o710, 0o701, false),
            (0o755, 0o755, 0o700, true),
            (0o755, 0o700, 0o777, true),
            (0o700, 0o755, 0o755, true),
        ] {
            for (path, mode) in
                [(home.path(), home_mode), (&outer, outer_mode), (&inner, inner_mode)]
            {
                set(path, mode);
            }
            assert_eq!(is_closed(&inner), closed, "{home_mode:o} {outer_mode:o} {inner_mode:o}");
        }
    }

    #[test]
    fn a_link_in_the_place_of_the_private_folder_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), home.path().join(PRIVATE)).unwrap();
        assert!(matches!(Store::open(home.path()), Err(StoreError::Foreign { .. })));
        assert!(fs::read_dir(elsewhere.path()).unwrap().next().is_none());
    }
}
