//! Namespaces of mounts and users: how a daemon gets into ones of its own, and how a command gets into the
//! daemon's. What is called between fork and exec makes system calls only.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, LinkNameSpaceType, UnshareFlags};

/// What is written to `/proc/self/{uid,gid}_map`: this user stays what it is, and there is nobody else.
pub(super) struct Maps {
    uid: Vec<u8>,
    gid: Vec<u8>,
}

impl Maps {
    pub(super) fn of_this_user() -> Maps {
        let map = |id: u32| format!("{id} {id} 1\n").into_bytes();
        Maps {
            uid: map(rustix::process::geteuid().as_raw()),
            gid: map(rustix::process::getegid().as_raw()),
        }
    }
}

/// Between fork and exec: into a mount namespace whose mounts nobody else sees.
pub(super) fn leave_as_root() -> io::Result<()> {
    // SAFETY: descriptors stay what they are.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
    own_mounts()
}

/// Between fork and exec: into a user and a mount namespace, where this user may mount.
pub(super) fn leave_as_user(maps: &Maps) -> io::Result<()> {
    // SAFETY: descriptors stay what they are.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)? };
    // A user may map groups only where nobody can leave one.
    write(c"/proc/self/setgroups", b"deny")?;
    write(c"/proc/self/uid_map", &maps.uid)?;
    write(c"/proc/self/gid_map", &maps.gid)?;
    own_mounts()?;
    // Or exec would take away what is needed to mount.
    let needed = CapabilitySet::SYS_ADMIN;
    let mut sets = rustix::thread::capabilities(None)?;
    sets.inheritable |= needed;
    rustix::thread::set_capabilities(None, sets)?;
    Ok(rustix::thread::configure_capability_in_ambient_set(needed, true)?)
}

/// What is mounted elsewhere goes on coming in; nothing goes out.
fn own_mounts() -> io::Result<()> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(mount_change(c"/", flags)?)
}

fn write(path: &CStr, text: &[u8]) -> io::Result<()> {
    let file = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text)?;
    Ok(())
}

/// Between fork and exec, and after all that changes rights (which would undo it): has this process
/// signalled when its parent ends, and fails if it has ended already.
pub(super) fn end_with(parent: u32, signal: Signal) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(signal))?;
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    if now == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

/// The namespaces of another process that this one is not in.
pub(super) struct Namespaces {
    user: Option<File>,
    mounts: Option<File>,
    /// The root directory that process has there.
    root: Option<File>,
}

impl Namespaces {
    pub(super) fn of(process: u32) -> io::Result<Namespaces> {
        let other = |kind: &str| -> io::Result<Option<File>> {
            let path = format!("/proc/{process}/ns/{kind}");
            let own = fs::metadata(format!("/proc/self/ns/{kind}"))?;
            let same = fs::metadata(&path)?.ino() == own.ino();
            if same { Ok(None) } else { File::open(path).map(Some) }
        };
        let (user, mounts) = (other("user")?, other("mnt")?);
        let root = mounts.as_ref().map(|_| File::open(format!("/proc/{process}/root")));
        Ok(Namespaces { user, mounts, root: root.transpose()? })
    }

    /// Between fork and exec: goes there. The working directory is the root then.
    pub(super) fn enter(&self) -> io::Result<()> {
        // The first gives the right to do the second.
        let kinds =
            [(&self.user, LinkNameSpaceType::User), (&self.mounts, LinkNameSpaceType::Mount)];
        for (namespace, kind) in kinds {
            if let Some(namespace) = namespace {
                rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))?;
            }
        }
        // Else whoever is in a chroot would come out of it.
        if let Some(root) = &self.root {
            rustix::process::fchdir(root)?;
            rustix::process::chroot(c".")?;
        }
        Ok(())
    }
}

/// The working directory as a system call takes it; nothing where it was removed.
pub(super) fn current_directory() -> Option<CString> {
    CString::new(std::env::current_dir().ok()?.into_os_string().into_vec()).ok()
}
