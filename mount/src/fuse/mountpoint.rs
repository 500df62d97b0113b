//! Mounting and unmounting.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::{FS_TYPE, MountError, Options, Unmounter, mountinfo};

/// Where something is mounted, and how it is got rid of.
pub(super) struct Place {
    mountpoint: PathBuf,
    device: (u32, u32),
    rootless: bool,
    everyone: bool,
    unmounter: Option<Unmounter>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (mountpoint, device) = (&self.mountpoint, &self.device);
        f.debug_struct("Place")
            .field("mountpoint", mountpoint)
            .field("device", device)
            .finish_non_exhaustive()
    }
}

impl Place {
    pub(super) fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    pub(super) fn device(&self) -> (u32, u32) {
        self.device
    }

    pub(super) fn connection(&self) -> u32 {
        self.device.1
    }

    pub(super) fn rootless(&self) -> bool {
        self.rootless
    }

    pub(super) fn everyone(&self) -> bool {
        self.everyone
    }

    /// Whether the topmost mount on the mountpoint is still this one.
    fn is_mounted(&self) -> io::Result<bool> {
        Ok(mountinfo::at(&self.mountpoint)?.is_some_and(|mount| mount.device == self.device))
    }

    pub(super) fn unmount(&self, lazy: bool) -> io::Result<()> {
        match &self.unmounter {
            Some(unmounter) => unmounter(&self.mountpoint, lazy),
            None if self.is_mounted()? => unmount(&self.mountpoint, lazy),
            None => Ok(()),
        }
    }

    /// As a last resort: what goes wrong is logged.
    pub(super) fn abandon(&self) {
        if let Err(error) = self.unmount(true) {
            tracing::error!(mountpoint = %self.mountpoint.display(), %error, "left mounted");
        }
    }
}

/// Takes away what is mounted on `mountpoint`, whatever became of its daemon; `lazy`: also while it is
/// in use. By `umount2(2)`, or for a user's own mount by `fusermount3`.
pub fn unmount(mountpoint: &Path, lazy: bool) -> io::Result<()> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(mountpoint, flags | UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::PERM) => unmount_by_helper(mountpoint, lazy),
        other => Ok(other?),
    }
}

fn unmount_by_helper(mountpoint: &Path, lazy: bool) -> io::Result<()> {
    let output = Command::new("fusermount3")
        .arg(if lazy { "-uz" } else { "-u" })
        .arg("--")
        .arg(mountpoint)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, said.trim().to_owned()))
}

pub(super) fn mount(
    mountpoint: &Path,
    options: &Options,
    unmounter: Option<Unmounter>,
) -> Result<(Place, OwnedFd), MountError> {
    let not_mounted =
        |error: io::Error| MountError::NotMounted { mountpoint: mountpoint.to_path_buf(), error };
    // Now, as the path will lead to the mount afterwards.
    let mountpoint = mountpoint.canonicalize().map_err(not_mounted)?;
    let everyone_if_rootless = || user_allow_other(Path::new("/etc/fuse.conf"));
    let (device, rootless, everyone) = match mount_directly(&mountpoint, options) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::NoDevice(error));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let everyone = everyone_if_rootless();
            match mount_by_helper(&mountpoint, options, everyone) {
                Ok(device) => (device, true, everyone),
                Err(by_helper) => {
                    return Err(MountError::NotPermitted {
                        mountpoint,
                        reason: format!("mount(2): {error}; fusermount3: {by_helper}"),
                        mend: what_lets_a_user_mount(&by_helper),
                    });
                }
            }
        }
        Err(error) => return Err(MountError::NotMounted { mountpoint, error }),
        Ok(device) => (device, false, true),
    };
    let found = mountinfo::at(&mountpoint).and_then(|found| {
        let lost = || io::Error::other("it was mounted, but is not to be found");
        found.filter(|mount| mount.kind == FS_TYPE).ok_or_else(lost)
    });
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            // What is there can only be what was just mounted.
            let _ = unmount(&mountpoint, true);
            return Err(not_mounted(error));
        }
    };
    Ok((Place { mountpoint, device: found.device, rootless, everyone, unmounter }, device))
}

/// `mount(2)`; `NotFound` means that there is no `/dev/fuse`.
fn mount_directly(mountpoint: &Path, options: &Options) -> io::Result<OwnedFd> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| match errno {
            rustix::io::Errno::NODEV | rustix::io::Errno::NXIO => {
                io::Error::new(io::ErrorKind::NotFound, io::Error::from(errno))
            }
            errno => errno.into(),
        })?;
    let mode = rustix::fs::stat(mountpoint)?.st_mode & libc::S_IFMT;
    let data = format!(
        "fd={},rootmode={mode:o},user_id={},group_id={},allow_other{}",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
        if options.check_permissions { ",default_permissions" } else { "" },
    );
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOEXEC, options.no_exec);
    let data = CString::new(data).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // `mount(2)` says ENODEV when the kernel has no FUSE, and never ENOENT for a mountpoint that was
    // just looked at.
    rustix::mount::mount(options.source.as_os_str(), mountpoint, FS_TYPE, flags, data.as_c_str())?;
    Ok(device)
}

fn what_lets_a_user_mount(by_helper: &io::Error) -> &'static str {
    let read_write = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
    if by_helper.kind() == io::ErrorKind::NotFound {
        "install fuse3, whose `fusermount3` mounts for users"
    } else if rustix::fs::access("/dev/fuse", read_write).is_err() {
        "let users open the device (`chmod a+rw /dev/fuse`)"
    } else {
        "do what fusermount3 says"
    }
}

/// Whether `fusermount3` lets a user open a mount to others.
fn user_allow_other(config: &Path) -> bool {
    std::fs::read_to_string(config)
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"))
}

/// `fusermount3`, which is set-uid root, mounts for a user and sends the descriptor over a socket
/// that it is told of by `_FUSE_COMMFD` (`fusermount3(1)`, `util/fusermount.c` of libfuse).
fn mount_by_helper(mountpoint: &Path, options: &Options, everyone: bool) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
    let mut wanted = OsString::from("nosuid,nodev,subtype=cachefs,fsname=");
    wanted.push(escape(&options.source));
    for (asked, word) in [
        (options.check_permissions, ",default_permissions"),
        (options.read_only, ",ro"),
        (options.no_exec, ",noexec"),
    ] {
        if asked {
            wanted.push(word);
        }
    }
    if everyone {
        wanted.push(",allow_other");
    }
    let output = Command::new("fusermount3")
        .arg("-o")
        .arg(wanted)
        .arg("--")
        .arg(mountpoint)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .output()?;
    drop(theirs);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(said.trim().to_owned()));
    }
    receive_descriptor(&ours)
}

/// Commas separate mount options; a backslash keeps one from doing so.
fn escape(source: &OsStr) -> OsString {
    let mut out = Vec::new();
    for &byte in source.as_bytes() {
        if byte == b',' || byte == b'\\' {
            out.push(b'\\');
        }
        out.push(byte);
    }
    OsString::from_vec(out)
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8; 1];
    rustix::net::recvmsg(
        socket.as_fd(),
        &mut [io::IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(descriptor);
        }
    }
    Err(io::Error::other("fusermount3 mounted but sent no descriptor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_a_path_do_not_end_an_option() {
        assert_eq!(escape(OsStr::new("/a,b\\c")), OsStr::new("/a\\,b\\\\c"));
    }

    #[test]
    fn only_the_word_itself_opens_a_mount_to_others() {
        let file = std::env::temp_dir().join(format!("cachefs-fuse-conf-{}", std::process::id()));
        for (text, wanted) in
            [("#user_allow_other\n", false), ("mount_max = 9\n user_allow_other \n", true)]
        {
            std::fs::write(&file, text).unwrap();
            assert_eq!(user_allow_other(&file), wanted);
        }
        std::fs::remove_file(&file).unwrap();
        assert!(!user_allow_other(&file));
    }
}
