//! `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`): which mounts there are, without asking any of
//! them, so that a mount that does not answer can't keep anybody waiting.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::FS_TYPE;

/// A line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// The mount's number.
    pub id: u64,
    /// The number of the mount it is mounted on.
    pub parent: u64,
    /// Its device, major and minor number; a FUSE connection's number is the minor.
    pub device: (u32, u32),
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
    /// For a FUSE mount: who made it. The kernel or `fusermount3` writes that, so that a user can't
    /// pass off a mount as somebody else's.
    pub owner: Option<u32>,
}

impl MountPoint {
    fn parse(line: &[u8]) -> Option<MountPoint> {
        let mut fields = line.split(|&b| b == b' ');
        let mut next = || fields.next().filter(|field| !field.is_empty());
        let text = |field: &[u8]| String::from_utf8(field.to_vec()).ok();
        let id = text(next()?)?.parse().ok()?;
        let parent = text(next()?)?.parse().ok()?;
        let device = text(next()?)?;
        let (major, minor) = device.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
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
        let options = fields.next().unwrap_or_default();
        let owner = options.split(|&b| b == b',').find_map(|o| o.strip_prefix(b"user_id="));
        let owner = owner.and_then(text).and_then(|uid| uid.parse().ok());
        Some(MountPoint { id, parent, device, root, path, shared, kind, source, owner })
    }

    /// Whether it is a whole mount of ours: a bind mount of a folder of one is not.
    pub fn is_ours(&self) -> bool {
        self.kind == FS_TYPE && self.root == Path::new("/")
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
    read("/proc/self/mountinfo")
}

/// All mounts that a process has, which may be others than the caller's.
pub fn of(pid: u32) -> io::Result<Vec<MountPoint>> {
    read(&format!("/proc/{pid}/mountinfo"))
}

fn read(file: &str) -> io::Result<Vec<MountPoint>> {
    let text = std::fs::read(file)?;
    Ok(text.split(|&b| b == b'\n').filter_map(MountPoint::parse).collect())
}

/// What is mounted exactly at `path`: the topmost, if several are.
pub fn at(path: &Path) -> io::Result<Option<MountPoint>> {
    Ok(all()?.into_iter().rfind(|mount| mount.path == path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = br"36 35 0:98 / /mnt/a\040b rw,noatime shared:1 master:2 - fuse.cachefs /srv/x\134\011y rw,user_id=7,group_id=8";
        let mount = MountPoint::parse(line).unwrap();
        assert_eq!((mount.id, mount.parent, mount.device), (36, 35, (0, 98)));
        assert_eq!(mount.path, Path::new("/mnt/a b"));
        assert_eq!(mount.source, Path::new("/srv/x\\\ty"));
        assert!(mount.shared && mount.is_ours());
        assert_eq!(mount.owner, Some(7));
        assert_eq!(MountPoint::parse(b"36 35 0:98 / /mnt rw"), None);
        let bare = MountPoint::parse(b"1 1 0:2 /sub /mnt rw - fuse.cachefs  rw").unwrap();
        assert!(!bare.shared && !bare.is_ours());
        assert_eq!(bare.owner, None);
    }

    #[test]
    fn escapes_are_undone_once() {
        assert_eq!(unescape(br"a\134040b"), r"a\040b");
        assert_eq!(unescape(br"\777\04"), r"\777\04");
        assert_eq!(unescape(br"tail\"), r"tail\");
        assert_eq!(unescape(b"\\303\\244").as_bytes(), "ä".as_bytes());
    }
}
