//! The mounts of this machine, from `/proc/self/mountinfo`, and how to undo one.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::UnmountFlags;

/// The filesystem type that our mounts have.
pub const TYPE: &str = "fuse.cachefs";

/// A line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// The mount's number.
    pub id: u64,
    /// The number of the mount it is mounted on.
    pub parent: u64,
    /// Its device, as `major:minor`.
    pub device: String,
    /// Which directory of its filesystem it shows.
    pub root: PathBuf,
    /// Where it is mounted.
    pub path: PathBuf,
    /// Whether mounts made below it later are seen in other namespaces.
    pub shared: bool,
    /// The filesystem's type.
    pub kind: OsString,
    /// What is mounted: for our mounts, the store.
    pub source: PathBuf,
}

impl MountPoint {
    fn parse(line: &[u8]) -> Option<MountPoint> {
        let mut fields = line.split(|&b| b == b' ');
        let mut next = || fields.next().filter(|field| !field.is_empty());
        let text = |field: &[u8]| String::from_utf8(field.to_vec()).ok();
        let id = text(next()?)?.parse().ok()?;
        let parent = text(next()?)?.parse().ok()?;
        let device = text(next()?)?;
        let root = PathBuf::from(unescape(next()?));
        let path = PathBuf::from(unescape(next()?));
        let _options = next()?;
        let mut shared = false;
        loop {
            match next()? {
                b"-" => break,
                field => shared |= field.starts_with(b"shared:"),
            }
        }
        let kind = unescape(next()?);
        // May be empty, which is no reason to overlook the mount.
        let source = PathBuf::from(unescape(fields.next().unwrap_or_default()));
        Some(MountPoint { id, parent, device, root, path, shared, kind, source })
    }

    /// Whether it is a whole mount of ours: a bind mount of a folder of one is not.
    pub fn is_ours(&self) -> bool {
        self.kind == TYPE && self.root == Path::new("/")
    }
}

/// Undoes the kernel's escapes: `\040` is a space.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(plain)
}

/// All mounts, in the order in which they were made.
pub fn all() -> io::Result<Vec<MountPoint>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|&b| b == b'\n').filter_map(MountPoint::parse).collect())
}

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

/// What is mounted exactly at `path`: the topmost, if several are.
pub fn at(path: &Path) -> io::Result<Option<MountPoint>> {
    Ok(all()?.into_iter().rfind(|mount| mount.path == path))
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

/// Unmounts `path` whatever became of its daemon; `lazy`: also while it is in use.
pub fn detach(path: &Path, lazy: bool) -> io::Result<()> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(path, flags | UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::PERM) => detach_by_helper(path, lazy),
        other => Ok(other?),
    }
}

/// Without privileges the setuid helper does it, for mounts of the same user.
fn detach_by_helper(path: &Path, lazy: bool) -> io::Result<()> {
    let mut helper = Command::new("fusermount3");
    helper.arg(if lazy { "-uz" } else { "-u" }).arg("--").arg(path);
    let output = helper.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, said.trim().to_owned()))
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
    fn a_line_is_taken_apart() {
        let line = br"36 35 0:98 / /mnt/a\040b rw,noatime shared:1 master:2 - fuse.cachefs /srv/x\134\011y rw";
        let mount = MountPoint::parse(line).unwrap();
        assert_eq!((mount.id, mount.parent, mount.device.as_str()), (36, 35, "0:98"));
        assert_eq!(mount.path, Path::new("/mnt/a b"));
        assert_eq!(mount.source, Path::new("/srv/x\\\ty"));
        assert!(mount.shared && mount.is_ours());
        assert_eq!(MountPoint::parse(b"36 35 0:98 / /mnt rw"), None);
        let bare = MountPoint::parse(b"1 1 0:2 /sub /mnt rw - fuse.cachefs  rw").unwrap();
        assert!(!bare.shared && !bare.is_ours());
    }

    #[test]
    fn escapes_are_undone_once() {
        assert_eq!(unescape(br"a\134040b"), r"a\040b");
        assert_eq!(unescape(br"\777\04"), r"\777\04");
        assert_eq!(unescape(br"tail\"), r"tail\");
        assert_eq!(unescape(b"\\303\\244").as_bytes(), "ä".as_bytes());
    }

    #[test]
    fn below_is_by_whole_names() {
        let mount = Path::new("/mnt/c");
        assert!(is_below(OsStr::new("/mnt/c"), mount));
        assert!(is_below(OsStr::new("/mnt/c/x"), mount));
        assert!(is_below(OsStr::new("/mnt/c (deleted)"), mount));
        assert!(!is_below(OsStr::new("/mnt/cc"), mount));
    }
}
