//! Where everyone finds the socket of a mount (SEMANTICS 5.6): the store is closed to all but the daemon.
//!
//! It lies in a folder that only the daemon's user can write, named after the FUSE connection, which no two mounts
//! of a machine have in common, and which whoever sees the mount, in a container too, finds in its mountinfo:
//! `/run/cachefs/42.sock`; where there is no such place (a daemon that is not root's, or a read-only `/run`),
//! `/tmp/cachefs-UID/42.sock`. If somebody else has put anything there before, it is not used, neither by the
//! daemon nor by clients: then only root and the daemon's user reach it, through the store.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::address;

/// Where the socket of a daemon of user `owner` may lie, best first.
fn folders(owner: u32) -> Vec<PathBuf> {
    let temporary = PathBuf::from(format!("/tmp/cachefs-{owner}"));
    if owner == 0 { vec!["/run/cachefs".into(), temporary] } else { vec![temporary] }
}

fn name(connection: u32) -> String {
    format!("{connection}.sock")
}

/// A folder that is a directory of `owner`, which only that user may write.
fn open(path: &Path, owner: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&folder)?;
    if stat.st_uid != owner || stat.st_mode & 0o022 != 0 {
        let why = format!("{} is not user {owner}'s alone", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(folder)
}

/// A connection to who listens for the mount of `owner` that has this number.
pub(super) fn connect(owner: u32, connection: u32) -> io::Result<UnixStream> {
    let mut result: io::Result<UnixStream> = Err(io::ErrorKind::NotFound.into());
    for path in folders(owner) {
        let connected = open(&path, owner)
            .and_then(|folder| UnixStream::connect(address(folder.as_fd(), name(connection))));
        if connected.is_ok() {
            return connected;
        }
        // That of the better place is kept, unless there was nothing.
        if matches!(&result, Err(e) if e.kind() == io::ErrorKind::NotFound) {
            result = connected;
        }
    }
    result
}

/// The socket for everyone. It goes when this is dropped.
#[derive(Debug)]
pub struct Public {
    folder: OwnedFd,
    name: String,
    /// Its own number, to tell it from one that has come in its place.
    inode: u64,
    listener: Option<UnixListener>,
}

impl Public {
    /// Binds it for the mount with the number `connection`, and removes those that dead daemons have left.
    pub fn bind(connection: u32) -> io::Result<Public> {
        let owner = rustix::process::geteuid().as_raw();
        let mut result = Err(io::ErrorKind::NotFound.into());
        for path in folders(owner) {
            result = create(&path, owner).and_then(|folder| bind_in(folder, connection));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// The folder that it lies in.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// What clients connect to, once.
    pub(super) fn listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

impl Drop for Public {
    fn drop(&mut self) {
        // Once it is unmounted, the number may have gone to another mount.
        let _locked = lock(&self.folder);
        let found = rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|stat| stat.st_ino == self.inode) {
            let _ = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
        }
    }
}

fn create(path: &Path, owner: u32) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => open(path, owner),
        Err(error) => Err(error.into()),
    }
}

fn bind_in(folder: OwnedFd, connection: u32) -> io::Result<Public> {
    let locked = lock(&folder);
    if locked.is_some() {
        clear(&folder)?;
    }
    // It gets its name when it listens: before, it would look like one that is left over.
    let (fresh, name) = (format!(".{connection}.new"), name(connection));
    let _ = rustix::fs::unlinkat(&folder, &fresh, AtFlags::empty());
    let path = address(folder.as_fd(), &fresh);
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    let inode = std::fs::symlink_metadata(&path)?.ino();
    rustix::fs::renameat(&folder, &fresh, &folder, &name)?;
    drop(locked);
    Ok(Public { folder, name, inode, listener: Some(listener) })
}

/// Keeps other daemons from changing the folder. Anyone may hold this lock, so nobody waits for it.
fn lock(folder: &OwnedFd) -> Option<File> {
    // Of another opening, so that it ends with what is given back.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = File::from(rustix::fs::openat(folder, ".", flags, Mode::empty()).ok()?);
    rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(folder)
}

/// Removes the sockets on which nobody listens any more.
fn clear(folder: &OwnedFd) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let is_socket = name.ends_with(b".sock");
        let path = address(folder.as_fd(), std::ffi::OsStr::from_bytes(name));
        if is_socket && is_dead(&path) {
            let _ = rustix::fs::unlinkat(folder, entry.file_name(), AtFlags::empty());
        }
    }
    Ok(())
}

/// Without waiting: one that listens may have a long queue.
fn is_dead(path: &Path) -> bool {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let tried = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .and_then(|socket| rustix::net::connect(&socket, &SocketAddrUnix::new(path)?));
    tried == Err(Errno::CONNREFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(path: &Path) -> io::Result<OwnedFd> {
        create(path, rustix::process::geteuid().as_raw())
    }

    #[test]
    fn what_is_left_over_goes_and_what_answers_stays() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("sockets");
        let alive = bind_in(owned(&path).unwrap(), 1).unwrap();
        drop(UnixListener::bind(path.join("2.sock")).unwrap());
        drop(UnixListener::bind(path.join("3.sock")).unwrap());
        let new = bind_in(owned(&path).unwrap(), 3).unwrap();
        let names = || {
            let mut names: Vec<_> =
                std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["1.sock", "3.sock"]);
        UnixStream::connect(path.join("3.sock")).unwrap();
        // The number goes to another mount before the first daemon has ended.
        let heir = bind_in(owned(&path).unwrap(), 3).unwrap();
        drop(new);
        assert_eq!(names(), ["1.sock", "3.sock"]);
        drop((alive, heir));
        assert!(names().is_empty());
    }

    #[test]
    fn folders_of_others_are_not_used() {
        let home = tempfile::tempdir().unwrap();
        let me = rustix::process::geteuid().as_raw();
        let path = home.path().join("a");
        drop(owned(&path).unwrap());
        assert!(open(&path, me).is_ok());
        assert!(open(&path, me + 1).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(open(&path, me).is_err());
        let link = home.path().join("link");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(open(&link, me).is_err() && owned(&link).is_err());
    }
}
