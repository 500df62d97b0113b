//! Where a mount is made: whether the mountpoint is fit, and how it lies to the store.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::store;
use crate::system::mounts::{self, MountPoint, is_stale};

/// Why a mount can't be made there.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub(super) enum PlaceError {
    #[error("{} can't be both store and mountpoint; mount on another, empty directory", .0.display())]
    Same(PathBuf),
    #[error(
        "the mountpoint {} lies inside the store {}, so the cache would contain itself; mount elsewhere",
        mountpoint.display(), store.display()
    )]
    MountpointInStore { mountpoint: PathBuf, store: PathBuf },
    #[error(
        "the store {} lies inside the mountpoint {}, which would hide it; mount elsewhere",
        store.display(), mountpoint.display()
    )]
    StoreInMountpoint { mountpoint: PathBuf, store: PathBuf },
    #[error(
        "{} is already a cachefs mount of {}{}; use it, or end it with `cachefs umount {}`",
        at.display(), store.display(), pid.map(|p| format!(" (pid {p})")).unwrap_or_default(), at.display()
    )]
    AlreadyMounted { at: PathBuf, store: PathBuf, pid: Option<u32> },
    #[error(
        "the mountpoint {} is what another filesystem ({kind}) has left whose server is gone; clear it with \
         `umount -l {}`",
        at.display(), at.display()
    )]
    Stale { at: PathBuf, kind: String },
    #[error("what a dead daemon left at the mountpoint {} can't be unmounted: {source}; run `umount -l {}` as root", at.display(), at.display())]
    Unrepaired { at: PathBuf, source: io::Error },
    #[error("can't create the mountpoint {}: there is no directory {}; create it first", .0.display(), .0.parent().unwrap_or(.0).display())]
    MissingParent(PathBuf),
    #[error("the mountpoint {} is not a directory; name an empty directory, or one to be created", .0.display())]
    NotADirectory(PathBuf),
    #[error("the mountpoint {} is not empty, and a mount would hide what is in it; name an empty directory", .0.display())]
    NotEmpty(PathBuf),
    #[error("the log {} lies inside the mountpoint, where the daemon would wait for itself; put it elsewhere", .0.display())]
    LogInMountpoint(PathBuf),
    #[error("can't use the mountpoint {}: {source}", at.display())]
    Io { at: PathBuf, source: io::Error },
}

/// A mountpoint that is fit.
#[derive(Debug)]
pub(super) struct Place {
    /// Absolute, without symbolic links.
    pub mountpoint: PathBuf,
    /// Whether it was created for this mount.
    pub created: bool,
}

impl Place {
    /// Checks `mountpoint` against `store`, clears what a dead daemon has left there, and creates it
    /// if it is missing.
    pub(super) fn prepare(mountpoint: &Path, store: &Path) -> Result<Place, PlaceError> {
        let io = |source| PlaceError::Io { at: mountpoint.to_owned(), source };
        let at = mounts::resolve(mountpoint).map_err(io)?;
        let store = mounts::resolve(store).map_err(io)?;
        while let Some(mount) =
            mounts::at(&at).map_err(io)?.filter(|m| m.kind == cachefs_mount::fuse::FS_TYPE)
        {
            clear_stale(&at, mount)?;
        }
        check_relation(&at, &store)?;
        let created = match is_empty(&at) {
            Ok(true) => false,
            Ok(false) => return Err(PlaceError::NotEmpty(at)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                create(&at)?;
                true
            }
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                return Err(PlaceError::NotADirectory(at));
            }
            Err(e) if is_stale(&e) => {
                let mount = mounts::at(&at).ok().flatten();
                let kind = mount.map_or("unknown".into(), |m| m.kind.display().to_string());
                return Err(PlaceError::Stale { at, kind });
            }
            Err(source) => return Err(PlaceError::Io { at, source }),
        };
        Ok(Place { mountpoint: at, created })
    }

    /// Removes the mountpoint if it was created for this mount, which has failed.
    pub(super) fn abandon(&self) {
        if self.created {
            let _ = fs::remove_dir(&self.mountpoint);
        }
    }
}

/// A log in the mount would make the daemon wait for itself. To be asked before the log is opened.
pub(super) fn check_log(log: &Path, mountpoint: &Path) -> Result<(), PlaceError> {
    let io = |source| PlaceError::Io { at: mountpoint.to_owned(), source };
    if is_inside(&mounts::resolve(log).map_err(io)?, &mounts::resolve(mountpoint).map_err(io)?) {
        return Err(PlaceError::LogInMountpoint(log.to_owned()));
    }
    Ok(())
}

/// Unmounts `mount` if its daemon is gone; an error if it is alive.
fn clear_stale(at: &Path, mount: MountPoint) -> Result<(), PlaceError> {
    match fs::symlink_metadata(at) {
        Err(error) if is_stale(&error) => {}
        _ => {
            let pid = store::holder(&mount.source);
            return Err(PlaceError::AlreadyMounted { at: at.to_owned(), store: mount.source, pid });
        }
    }
    tracing::warn!(
        mountpoint = %at.display(), store = %mount.source.display(),
        "unmounting what a daemon that is gone has left here",
    );
    mounts::unmount(at, true).map_err(|source| PlaceError::Unrepaired { at: at.to_owned(), source })
}

fn check_relation(mountpoint: &Path, store: &Path) -> Result<(), PlaceError> {
    let (inside, around) = (is_inside(mountpoint, store), is_inside(store, mountpoint));
    let (mountpoint, store) = (mountpoint.to_owned(), store.to_owned());
    match (inside, around) {
        (true, true) => Err(PlaceError::Same(store)),
        (true, false) => Err(PlaceError::MountpointInStore { mountpoint, store }),
        (false, true) => Err(PlaceError::StoreInMountpoint { mountpoint, store }),
        (false, false) => Ok(()),
    }
}

/// Whether `path` is `directory` or lies below it: by name, or by identity, since one directory may
/// have several names (bind mounts).
fn is_inside(path: &Path, directory: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let wanted = identity(directory);
    path.ancestors()
        .any(|above| above == directory || (wanted.is_some() && identity(above) == wanted))
}

fn is_empty(directory: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(directory)?.next().transpose()?.is_none())
}

fn create(at: &Path) -> Result<(), PlaceError> {
    fs::DirBuilder::new().mode(0o755).create(at).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => PlaceError::MissingParent(at.to_owned()),
        _ => PlaceError::Io { at: at.to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_told_apart() {
        let home = tempfile::tempdir().unwrap();
        let home = fs::canonicalize(home.path()).unwrap();
        let (store, other) = (home.join("store"), home.join("store2"));
        fs::create_dir(&store).unwrap();
        assert!(matches!(check_relation(&store, &store), Err(PlaceError::Same(_))));
        assert!(matches!(
            check_relation(&store.join("m"), &store),
            Err(PlaceError::MountpointInStore { .. })
        ));
        assert!(matches!(check_relation(&home, &store), Err(PlaceError::StoreInMountpoint { .. })));
        assert!(check_relation(&other, &store).is_ok());
    }

    #[test]
    fn a_mountpoint_made_in_vain_goes() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().join("m");
        let place = Place::prepare(&at, &home.path().join("s")).unwrap();
        assert!(at.is_dir());
        place.abandon();
        assert!(!at.exists());
        let missing = Place::prepare(&home.path().join("a/b"), &home.path().join("s"));
        assert!(matches!(missing, Err(PlaceError::MissingParent(_))));
    }
}
