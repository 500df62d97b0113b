//! The spill area (SEMANTICS 4.1): a directory of the daemon's own, outside of the store if that can be,
//! for what the store can't take. It is worthless once the daemon is gone, and goes with it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use super::system::Claimed;
use super::{DIRECTORY, system};
use crate::platform;
use crate::platform::fd::{AsFd, BorrowedFd, OwnedFd};
use crate::platform::fs::{Graves, Mode, OFlags};
use crate::platform::io::Errno;

/// The folders in it; all but the first two are used by a store that can't have its own.
const FOLDERS: [&str; 4] = ["spilled", "users", "staged", "retired"];

/// So many daemons may have areas for one store in one directory.
const MOST: usize = 64;

/// Held as long as it lives; dropping it removes it.
#[derive(Debug)]
pub struct Area {
    path: PathBuf,
    claimed: Claimed,
    /// For what is removed while it is open.
    graves: Option<Graves>,
}

impl Area {
    /// Makes an area for the store at `store` in the directory `parent`, and removes those there that
    /// daemons which have died had for it.
    pub(super) fn make(parent: &Path, store: &Path) -> io::Result<Area> {
        let user = platform::process::geteuid().as_raw();
        let stem = format!("cachefs-spill-{user}-{:016x}", digest(store));
        let mut own = None;
        for number in 0..MOST {
            let path = parent.join(format!("{stem}-{number}"));
            let Some(claimed) = system::claim(&path, own.is_none())? else { continue };
            // Ours, and nobody else's: whatever is in it was left by one who died.
            empty(&path)?;
            if own.is_some() {
                std::fs::remove_dir(&path)?;
                continue;
            }
            for name in FOLDERS {
                platform::fs::mkdirat(&claimed.folder, name, Mode::RWXU)?;
            }
            let graves = Some(Graves::open(&claimed.folder)?);
            own = Some(Area { path, claimed, graves });
        }
        own.ok_or_else(|| io::Error::from(Errno::EXIST))
    }

    /// As [`Area::make`], in the best of the directories for temporary files: not on the filesystem of
    /// the store, which may be full, and with the most room.
    pub(super) fn make_somewhere(root: BorrowedFd<'_>, store: &Path) -> io::Result<Area> {
        let of_store = platform::fs::fstat(root)?.st_dev;
        let mut candidates: Vec<(bool, u64, PathBuf)> = system::temporary_directories()
            .into_iter()
            .filter_map(|path| {
                let elsewhere = platform::fs::stat(&path).ok()?.st_dev != of_store;
                let space = platform::fs::statvfs(&path).ok()?;
                Some((elsewhere, space.f_bavail * space.f_frsize, path))
            })
            .collect();
        candidates.sort_by_key(|(elsewhere, free, _)| std::cmp::Reverse((*elsewhere, *free)));
        let mut failed = io::Error::from(Errno::NOENT);
        for (.., path) in candidates {
            match Area::make(&path, store) {
                Ok(area) => return Ok(area),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.claimed.folder.as_fd()
    }

    /// One of its folders: `spilled`, `users`, `staged` or `retired`.
    pub fn folder(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        Ok(platform::fs::openat(&self.claimed.folder, name, flags, Mode::empty())?)
    }

    /// Removes all of it.
    pub(super) fn remove(&self) {
        let removed = empty(&self.path).and_then(|()| std::fs::remove_dir(&self.path));
        // A daemon that is contained can only empty it.
        let harmless = [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
        if let Err(error) = removed
            && !harmless.contains(&error.kind())
        {
            let path = self.path.display();
            tracing::warn!("can't remove the spill area {path}: {error}; the next mount does");
        }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        self.graves = None;
        self.remove();
    }
}

/// Tells stores apart in names.
pub(super) fn digest(store: &Path) -> u64 {
    // Its keys are always the same (`DefaultHasher::new`).
    let mut hasher = DefaultHasher::new();
    store.hash(&mut hasher);
    hasher.finish()
}

fn empty(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            system::remove_tree(&entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn areas(parent: &Path) -> usize {
        fs::read_dir(parent).unwrap().count()
    }

    #[test]
    fn it_is_empty_and_goes_with_its_daemon() {
        let parent = tempfile::tempdir().unwrap();
        let store = Path::new("/a/store");
        let area = Area::make(parent.path(), store).unwrap();
        let other = Area::make(parent.path(), store).unwrap();
        assert_ne!(area.path(), other.path());
        assert_eq!(areas(parent.path()), 2);
        fs::write(area.path().join("spilled/file"), "x").unwrap();
        drop(area);
        drop(other);
        assert_eq!(areas(parent.path()), 0);
    }

    #[test]
    fn what_the_dead_have_left_goes() {
        let parent = tempfile::tempdir().unwrap();
        let store = Path::new("/a/store");
        let (first, second) =
            (Area::make(parent.path(), store).unwrap(), Area::make(parent.path(), store).unwrap());
        fs::write(second.path().join("spilled/file"), "x").unwrap();
        let path = first.path().to_owned();
        for area in [first, second] {
            // As a process that is killed: closed, and not removed.
            let area = std::mem::ManuallyDrop::new(area);
            // SAFETY: each is dropped once, and nothing is used of it again.
            unsafe {
                std::ptr::drop_in_place((&raw const area.claimed).cast_mut());
                std::ptr::drop_in_place((&raw const area.graves).cast_mut());
            }
        }
        let area = Area::make(parent.path(), store).unwrap();
        assert_eq!(area.path(), path);
        assert_eq!(areas(parent.path()), 1);
        assert_eq!(fs::read_dir(area.path().join("spilled")).unwrap().count(), 0);
    }
}
