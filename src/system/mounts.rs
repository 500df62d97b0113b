//! Which of this machine's mounts are ours, and which of them is meant.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub use cachefs_mount::fuse::mountinfo::{MountPoint, all, at, of};
pub use cachefs_mount::fuse::unmount;

/// Our mounts: one entry for each, however often it is bound elsewhere.
pub fn ours() -> io::Result<Vec<MountPoint>> {
    let mut found: Vec<MountPoint> = Vec::new();
    for mount in all()?.into_iter().filter(MountPoint::is_ours) {
        if found.iter().all(|known| known.device != mount.device) {
            found.push(mount);
        }
    }
    Ok(found)
}

/// Why the mount that was meant can't be told.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum FindError {
    #[error("there is no cachefs mount here; make one with `cachefs mount STORE MOUNTPOINT`")]
    None,
    #[error("{} is neither the mountpoint nor the store of a cachefs mount; `cachefs status` lists them", .0.display())]
    NotOne(PathBuf),
    #[error("there are several cachefs mounts; name one of {0}")]
    Several(String),
    #[error("can't read /proc/self/mountinfo: {0}; mount /proc")]
    Io(#[from] io::Error),
}

/// The mount that is named by its mountpoint or its store; without a name, the only one.
pub fn find(named: Option<&Path>) -> Result<MountPoint, FindError> {
    let mut mounts = ours()?;
    let Some(named) = named else {
        return match mounts.len() {
            0 => Err(FindError::None),
            1 => Ok(mounts.remove(0)),
            _ => {
                let names: Vec<_> = mounts.iter().map(|m| m.path.display().to_string()).collect();
                Err(FindError::Several(names.join(", ")))
            }
        };
    };
    let wanted = resolve(named)?;
    // The last one mounted there is the one that is seen there.
    mounts.reverse();
    let by_path = mounts.iter().position(|m| m.path == wanted);
    let by_store = || mounts.iter().position(|m| m.source == wanted);
    match by_path.or_else(by_store) {
        Some(index) => Ok(mounts.swap_remove(index)),
        None => Err(FindError::NotOne(named.to_owned())),
    }
}

/// The absolute path without symbolic links, also where the last name is missing or is a mount
/// whose daemon is gone.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match std::fs::canonicalize(&absolute) {
        Ok(found) => Ok(found),
        Err(error) => match (absolute.parent(), absolute.file_name()) {
            (Some(parent), Some(name)) => {
                Ok(std::fs::canonicalize(parent).map_or(absolute.clone(), |p| p.join(name)))
            }
            _ => Err(error),
        },
    }
}

/// Whether `error` is what every call on a mount says whose daemon is gone.
pub fn is_stale(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOTCONN)
}

/// Whether `path` is `directory` or lies below it, by name.
pub fn is_below(path: &OsStr, directory: &Path) -> bool {
    // Not `Path::starts_with`: links in `/proc` may end in " (deleted)" and the like.
    let (path, directory) = (path.as_bytes(), directory.as_os_str().as_bytes());
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || rest.starts_with(b" (deleted)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_is_by_whole_names() {
        let mount = Path::new("/mnt/c");
        assert!(is_below(OsStr::new("/mnt/c"), mount));
        assert!(is_below(OsStr::new("/mnt/c/x"), mount));
        assert!(is_below(OsStr::new("/mnt/c (deleted)"), mount));
        assert!(!is_below(OsStr::new("/mnt/cc"), mount));
    }
}
