//! Reading `/proc`, of which only some files may be read while a request of the mount waits for the
//! answer: `stat`, `environ`, `exe`, `cwd`, `root`, `ns`, `maps` and `attr` of a process wait for a
//! lock that its `exec` holds while it closes files of the mount.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::Process;

/// A file in the folder of a process or thread; none if that is gone.
pub(super) fn read(task: u32, name: &str) -> Option<Vec<u8>> {
    let mut file = File::open(format!("/proc/{task}/{name}")).ok()?;
    let mut text = Vec::with_capacity(2048);
    file.read_to_end(&mut text).ok()?;
    Some(text)
}

/// A process, by what `/proc/TID/status` says, without its cgroup.
pub(super) fn process(status: &[u8]) -> Option<Process> {
    let number = |name: &[u8]| {
        let mut lines = status.split(|&b| b == b'\n');
        let value = lines.find_map(|line| line.strip_prefix(name))?;
        std::str::from_utf8(value).ok()?.trim().parse::<u32>().ok()
    };
    Some(Process { pid: number(b"Tgid:")?, parent: number(b"PPid:")?, cgroup: 0 })
}

/// The path in the one hierarchy of cgroups (v2), by what `/proc/PID/cgroup` says.
pub(super) fn cgroup_path(cgroups: &[u8]) -> Option<String> {
    let mut lines = cgroups.split(|&b| b == b'\n');
    let path = lines.find_map(|line| line.strip_prefix(b"0::"))?;
    Some(String::from_utf8_lossy(path).into_owned())
}

/// The folder of the cgroup with that path, if the hierarchy is mounted here.
pub(super) fn cgroup_folder(path: &str) -> Option<PathBuf> {
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    let place = hierarchy(&mounts)?;
    Some(place.join(path.trim_start_matches('/')))
}

/// The number of the cgroup that a process is in, as the kernel has it too.
pub(super) fn cgroup(task: u32) -> Option<u64> {
    let path = cgroup_path(&read(task, "cgroup")?)?;
    if path == "/" {
        return None;
    }
    Some(cgroup_folder(&path)?.metadata().ok()?.ino())
}

/// Where the whole hierarchy of cgroups is mounted, by what `/proc/self/mountinfo` says.
fn hierarchy(mounts: &[u8]) -> Option<PathBuf> {
    mounts.split(|&b| b == b'\n').find_map(|line| {
        let end = line.windows(11).position(|w| w == b" - cgroup2 ")?;
        let mut fields = line.get(..end)?.split(|&b| b == b' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        (root == b"/").then(|| PathBuf::from(std::ffi::OsStr::from_bytes(place)))
    })
}

/// Whether there are processes in a cgroup, by what its `cgroup.events` says.
pub(super) fn is_populated(events: &[u8]) -> bool {
    events.split(|&b| b == b'\n').any(|line| line == b"populated 1")
}

/// Whether a process has a descriptor of a file with that inode number. The file itself is not
/// touched.
pub(crate) fn has_open(process: u32, inode: u64) -> bool {
    let line = format!("ino:\t{inode}");
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fdinfo")) else { return false };
    descriptors.flatten().any(|descriptor| {
        let info = fs::read(descriptor.path()).unwrap_or_default();
        info.split(|&b| b == b'\n').any(|found| found == line.as_bytes())
    })
}

/// How often the locks are looked through when the kernel does not tell them in one piece.
const LOOKS: usize = 3;

/// Whether somebody holds a lock on a file of that inode number, or waits for one.
///
/// The kernel tells a piece of the list with each `read(2)`, as much as fits, and counts from the
/// list's beginning where the next one starts. A lock that is dropped in between shifts all the others,
/// and one of them is told by neither piece. A single `read` with room enough tells what it tells at one
/// moment; when that is not all (some seventy locks), the list is looked through again.
pub(super) fn is_locked_now(device: (u32, u32), inode: u64) -> std::io::Result<bool> {
    let mut piece = vec![0; 1 << 16];
    for _ in 0..LOOKS {
        let mut file = File::open("/proc/locks")?;
        let mut pieces = 0;
        loop {
            // Each piece ends with a line.
            let length = file.read(&mut piece)?;
            if length == 0 {
                break;
            }
            if is_locked(&piece[..length], device, inode) {
                return Ok(true);
            }
            pieces += 1;
        }
        if pieces <= 1 {
            break;
        }
    }
    Ok(false)
}

/// Whether somebody holds a lock on a file of that inode number, or waits for one, by what
/// `/proc/locks` says. Leases are no locks.
fn is_locked(locks: &[u8], (major, minor): (u32, u32), inode: u64) -> bool {
    let wanted = format!("{major:02x}:{minor:02x}:{inode}");
    locks.split(|&b| b == b'\n').any(|line| {
        let mut fields = line.split(|&b| b == b' ').filter(|field| !field.is_empty());
        let kind = fields.find(|field| field.first().is_some_and(u8::is_ascii_uppercase));
        if !matches!(kind, Some(b"FLOCK" | b"POSIX" | b"OFDLCK")) {
            return false;
        }
        // ADVISORY, WRITE, pid, then device and inode.
        let file = fields.nth(3).unwrap_or_default();
        file == wanted.as_bytes()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_status_says_which_process() {
        let status = b"Name:\tTgid: 5\nUmask:\t0022\nTgid:\t812\nNgid:\t0\nPid:\t900\nPPid:\t1\n";
        assert_eq!(process(status), Some(Process { pid: 812, parent: 1, cgroup: 0 }));
        assert_eq!(process(b"Name:\tx\n"), None);
    }

    #[test]
    fn cgroups_of_the_second_version_only() {
        let mixed = b"9:name=systemd:/a\n8:pids:/b\n0::/c/d.scope\n";
        assert_eq!(cgroup_path(mixed).as_deref(), Some("/c/d.scope"));
        assert_eq!(cgroup_path(b"8:pids:/b\n"), None);
        let mounts = b"30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
            31 30 0:27 /docker/x /elsewhere rw - cgroup2 cgroup2 rw\n\
            32 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(hierarchy(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn a_group_is_populated_or_not() {
        assert!(is_populated(b"populated 1\nfrozen 0\n"));
        assert!(!is_populated(b"populated 0\nfrozen 1\n"));
    }

    #[test]
    fn locks_and_those_who_wait_for_them() {
        let locks = b"1: FLOCK  ADVISORY  WRITE 1234 00:2f:77 0 EOF\n\
            1: -> FLOCK  ADVISORY  WRITE 1235 00:2f:78 0 EOF\n\
            2: POSIX  ADVISORY  READ  99 08:01:79 1073741826 1073742335\n\
            3: OFDLCK ADVISORY  WRITE -1 08:01:80 0 EOF\n\
            4: LEASE  ACTIVE    READ  99 08:01:81 0 EOF\n";
        let locked = |device| -> Vec<u64> {
            (70..90).filter(|&inode| is_locked(locks, device, inode)).collect()
        };
        assert_eq!((locked((0, 0x2f)), locked((8, 1))), (vec![77, 78], vec![79, 80]));
        assert!(!is_locked(locks, (0, 0x2f), 7));
    }

    /// Locks that come and go shift the list in which the one that stays is looked for.
    #[test]
    fn a_lock_that_is_held_is_seen_at_every_look() {
        let file = tempfile::tempfile().unwrap();
        file.lock().unwrap();
        let status = rustix::fs::fstat(&file).unwrap();
        let device = (rustix::fs::major(status.st_dev), rustix::fs::minor(status.st_dev));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let own = tempfile::tempfile().unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        own.lock().unwrap();
                        own.unlock().unwrap();
                    }
                });
            }
            let looks = (0..10_000).map(|_| is_locked_now(device, status.st_ino).unwrap());
            let seen = looks.filter(|seen| *seen).count();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(seen, 10_000);
        });
    }
}
