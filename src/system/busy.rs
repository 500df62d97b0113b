//! Who keeps a mount from being unmounted.
//!
//! Never to be called while a request of the mount waits for the answer: some files in `/proc` wait
//! for a process that itself may be waiting for the mount.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::mounts::{self, MountPoint, is_below};

/// What keeps a mount busy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// A process.
    Process {
        /// Its id.
        pid: u32,
        /// Its name.
        command: String,
        /// In which way.
        how: String,
    },
    /// Another mount on a directory of this one.
    Mount(PathBuf),
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Process { pid, command, how } => write!(f, "{command} (pid {pid}, {how})"),
            User::Mount(path) => write!(f, "a mount on {}", path.display()),
        }
    }
}

/// The inodes of a device in which processes work although they have no name that the kernel knows.
pub fn lost(device: (u32, u32)) -> Vec<u64> {
    let device = rustix::fs::makedev(device.0, device.1);
    let mut found = HashSet::new();
    for pid in pids() {
        let cwd = format!("/proc/{pid}/cwd");
        // As the kernel says it; a directory may be called so, too, and then nothing is lost.
        let is_lost = fs::read_link(&cwd)
            .is_ok_and(|path| path.as_os_str().as_bytes().ends_with(b" (deleted)"));
        if is_lost
            && let Ok(status) = rustix::fs::stat(&*cwd)
            && status.st_dev == device
        {
            found.insert(status.st_ino);
        }
    }
    found.into_iter().collect()
}

/// Everyone found who keeps the mount at `path` busy.
pub fn users(path: &Path) -> Vec<User> {
    let Ok(mounts) = mounts::all() else { return Vec::new() };
    let Some(mount) = mounts.iter().rfind(|m| m.path == path) else { return Vec::new() };
    let on_it = mounts.iter().filter(|m| m.parent == mount.id && m.id != mount.id);
    let mut found: Vec<User> = on_it.map(|m| User::Mount(m.path.clone())).collect();
    for pid in pids().filter(|&pid| pid != std::process::id()) {
        if let Some(how) = uses(pid, mount) {
            found.push(User::Process { pid, command: command(pid), how: how.to_owned() });
        }
    }
    found
}

/// Who keeps a mount that is gone from here in a mount namespace of its own, as a container does that has it
/// bound: one process for each of them.
pub fn elsewhere(mount: &MountPoint) -> Vec<User> {
    let mut seen = HashSet::from([namespace("self")]);
    let mut found = Vec::new();
    for pid in pids() {
        let space = namespace(&pid.to_string());
        if space.is_none() || !seen.insert(space) {
            continue;
        }
        let mounts = mounts::of(pid).unwrap_or_default();
        if mounts.iter().any(|m| m.device == mount.device) {
            found.push(User::Process {
                pid,
                command: command(pid),
                how: "mounts of its own".to_owned(),
            });
        }
    }
    found
}

/// Which mount namespace a process is in; none if that can't be told.
fn namespace(pid: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
}

fn pids() -> impl Iterator<Item = u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten();
    processes.filter_map(|p| p.ok()?.file_name().to_str()?.parse().ok())
}

fn command(pid: u32) -> String {
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    command.trim_end().to_owned()
}

/// The first few of `users`, for a message; empty when nobody was found.
pub fn list(users: &[User]) -> String {
    const SHOWN: usize = 5;
    let mut names: Vec<String> = users.iter().take(SHOWN).map(User::to_string).collect();
    if users.len() > SHOWN {
        names.push(format!("{} more", users.len() - SHOWN));
    }
    names.join(", ")
}

fn uses(pid: u32, mount: &MountPoint) -> Option<&'static str> {
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}"));
    let is_in = |name| link(name).is_ok_and(|to| is_below(to.as_os_str(), &mount.path));
    if is_in("cwd") {
        return Some("working directory");
    }
    if is_in("root") {
        return Some("root directory");
    }
    let number = format!("mnt_id:\t{}", mount.id);
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    for descriptor in descriptors {
        let info = fs::read_to_string(descriptor.path()).unwrap_or_default();
        if info.lines().any(|line| line == number) {
            return Some("open file");
        }
    }
    let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mapped = |line: &[u8]| {
        // address, permissions, offset, device, inode, then the path after any number of spaces
        line.splitn(6, |&b| b == b' ')
            .nth(5)
            .is_some_and(|path| is_below(OsStr::from_bytes(path.trim_ascii_start()), &mount.path))
    };
    maps.split(|&b| b == b'\n').any(mapped).then_some("mapped file")
}
