//! `cachefs check`: whether this machine and a store are fit, each finding with its mend.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{Access, CWD, Mode, OFlags, ResolveFlags};
use rustix::thread::CapabilitySet;
use serde::Serialize;
use serde_json::json;

use super::{Failure, show};
use crate::store::{self, PRIVATE};
use crate::system::containment::landlock_here;
use crate::system::mounts;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The store to check as well; it is not changed
    store: Option<PathBuf>,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// It works, with a drawback.
    Warning,
    /// It does not work.
    Error,
}

#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    what: String,
    /// What to do about it.
    mend: Option<String>,
}

fn ok(what: impl Into<String>) -> Finding {
    Finding { level: Level::Ok, what: what.into(), mend: None }
}

fn warning(what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { level: Level::Warning, what: what.into(), mend: Some(mend.into()) }
}

fn error(what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { level: Level::Error, what: what.into(), mend: Some(mend.into()) }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut findings =
        vec![device(), kernel(), look_up(), descriptors(), namespace(), propagation()];
    findings.extend(privileges());
    findings.push(containment());
    if let Some(store) = &args.store {
        findings.extend(check_store(store));
    }
    let fit = findings.iter().all(|finding| finding.level != Level::Error);
    if args.json {
        show::print(&format!("{:#}\n", json!({"version": 1, "fit": fit, "findings": findings})))?;
    } else {
        show::print(&findings.iter().map(describe).collect::<String>())?;
    }
    Ok(if fit { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn describe(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Ok => "ok      ",
        Level::Warning => "warning ",
        Level::Error => "error   ",
    };
    let mend = finding.mend.as_ref().map(|mend| format!("\n        -> {mend}"));
    format!("{level}{}{}\n", finding.what, mend.unwrap_or_default())
}

fn device() -> Finding {
    match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => ok("/dev/fuse can be opened"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => error(
            "there is no /dev/fuse",
            "run `modprobe fuse` as root; in a container, start it with `--device /dev/fuse`",
        ),
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {
            error("/dev/fuse has no driver", "run `modprobe fuse` as root")
        }
        Err(e) => error(
            format!("/dev/fuse can't be opened: {e}"),
            "run `chmod 666 /dev/fuse` as root, as is usual; in a container, start it with `--device /dev/fuse`",
        ),
    }
}

/// A kernel's version and what it brings; all else works from the first one on.
const KERNELS: &[(u32, u32, &str)] = &[
    (5, 15, "mounting"),
    (6, 2, "names that expire without disturbing working directories"),
    (6, 9, "passthrough: reading at the speed of the store"),
];

fn kernel() -> Finding {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let missing: Vec<_> =
        KERNELS.iter().filter(|&&(major, minor, _)| version < (major, minor)).collect();
    match missing[..] {
        [] => ok(format!("Linux {release} has everything that is used")),
        [(major, minor, _), ..] if missing.len() == KERNELS.len() => error(
            format!("Linux {release} is too old"),
            format!("use Linux {major}.{minor} or newer"),
        ),
        _ => {
            let lacks: Vec<_> = missing.iter().map(|(_, _, what)| *what).collect();
            warning(
                format!("Linux {release} lacks {}", lacks.join(" and ")),
                "it works without; use Linux 6.9 or newer to have it",
            )
        }
    }
}

fn look_up() -> Finding {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = rustix::fs::open("/", flags | OFlags::DIRECTORY, Mode::empty())
        .and_then(|root| rustix::fs::openat2(root, ".", flags, Mode::empty(), resolve));
    match opened {
        Ok(_) => ok("openat2 is allowed"),
        Err(e) => error(
            format!("openat2 is refused: {e}"),
            "allow it in the container's seccomp profile (those of Docker 20.10.10 and newer do)",
        ),
    }
}

fn descriptors() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    match limit {
        Some(limit) if limit < 16 * 1024 => warning(
            format!("a process may open no more than {limit} files"),
            "it works; `ulimit -Hn 65536` (LimitNOFILE= in a unit) lets more jobs have files open at once",
        ),
        _ => ok("enough files may be open at once"),
    }
}

/// The inode number of the first pid namespace's file (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

fn namespace() -> Finding {
    match fs::metadata("/proc/self/ns/pid") {
        Err(e) => error(format!("/proc can't be read: {e}"), "mount /proc"),
        Ok(found) if found.ino() == FIRST_PID_NAMESPACE => {
            ok("mounted from here, all processes are known")
        }
        Ok(_) => warning(
            "this is a pid namespace of its own: from a mount made here, processes outside are not known",
            "mount on the host, or start the container with `--pid=host`",
        ),
    }
}

fn propagation() -> Finding {
    let here = std::env::current_dir().ok();
    let mounts = mounts::all().unwrap_or_default();
    let around =
        |mount: &&mounts::MountPoint| here.as_ref().is_none_or(|h| h.starts_with(&mount.path));
    match mounts.iter().filter(around).max_by_key(|m| m.path.as_os_str().len()) {
        Some(mount) if !mount.shared => warning(
            format!(
                "{} is a private mount: containers that run already don't see mounts made below it",
                mount.path.display()
            ),
            format!(
                "mount before they start, or run `mount --make-rshared {}` as root",
                mount.path.display()
            ),
        ),
        _ => ok("mounts made here are seen by containers that have this directory shared"),
    }
}

fn privileges() -> Vec<Finding> {
    let capabilities = rustix::thread::capabilities(None);
    if capabilities.is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN)) {
        return vec![ok("mounting is permitted (CAP_SYS_ADMIN)")];
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let helper = std::env::split_paths(&path)
        .map(|folder| folder.join("fusermount3"))
        .find_map(|file| fs::metadata(file).ok());
    let mut findings = vec![match helper {
        None => error(
            "without root, mounting needs fusermount3, which is not there",
            "install the package `fuse3`, or run as root",
        ),
        Some(file) if file.mode() & libc::S_ISUID == 0 || file.uid() != 0 => error(
            "fusermount3 has lost its rights to mount",
            "run `chown root: $(which fusermount3) && chmod u+s $(which fusermount3)` as root",
        ),
        Some(_) => ok("mounting is permitted by fusermount3"),
    }];
    let configuration = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    findings.push(if configuration.lines().any(|line| line.trim() == "user_allow_other") {
        ok("other users may use the mount")
    } else {
        warning(
            "without root, only you can use the mount",
            "write the line `user_allow_other` into /etc/fuse.conf as root, or mount as root",
        )
    });
    findings
}

fn containment() -> Finding {
    match landlock_here() {
        Some(true) => ok("a daemon is confined to its store (landlock)"),
        Some(false) => warning(
            "a daemon is confined to its store in part only: this kernel's landlock is an older one",
            "it works; use Linux 6.12 or newer for all of it",
        ),
        None => warning(
            "a daemon can't be confined to its store: the kernel has no landlock that is fit",
            "it works; use Linux 5.19 or newer with `landlock` in its parameter `lsm=`, and in a container a \
             seccomp profile that allows it",
        ),
    }
}

/// Whether others get past the mount to what it stands for (SEMANTICS 5.4).
fn closed(store: &Path) -> Finding {
    let shown = store.display();
    if store::is_closed(store) {
        return ok(format!("the store {shown} is closed to other users"));
    }
    warning(
        format!(
            "the store {shown} is open to other users, who can get at its files past the mount"
        ),
        format!("run `chmod 700 {shown}`, or move it into a directory that is closed"),
    )
}

/// Filesystems on other machines: slow, and their locks may not hold.
const REMOTE: &[&str] = &["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs"];

fn check_store(store: &Path) -> Vec<Finding> {
    let shown = store.display();
    let mut findings = Vec::new();
    let Ok(path) = mounts::resolve(store) else {
        return vec![error(format!("the store {shown} can't be found"), "name a directory")];
    };
    let (existing, is_new) = match fs::metadata(&path) {
        Ok(found) if found.is_dir() => (path.clone(), false),
        Ok(_) => {
            return vec![error(
                format!("the store {shown} is not a directory"),
                "name a directory",
            )];
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => match path.parent().filter(|p| p.is_dir())
        {
            Some(parent) => (parent.to_owned(), true),
            None => {
                return vec![error(
                    format!("the store {shown} and its parent are missing"),
                    "create the parent",
                )];
            }
        },
        Err(e) => {
            return vec![error(
                format!("the store {shown} can't be read: {e}"),
                "run as its owner or as root",
            )];
        }
    };
    findings.push(
        match rustix::fs::accessat(
            CWD,
            &existing,
            Access::WRITE_OK | Access::EXEC_OK | Access::READ_OK,
            rustix::fs::AtFlags::EACCESS,
        ) {
            Ok(()) if is_new => ok(format!("the store {shown} can be created")),
            Ok(()) => ok(format!("the store {shown} can be written")),
            Err(e) => error(
                format!("the store {shown} can't be written: {e}"),
                "run as its owner or as root; remount its filesystem if it is read-only",
            ),
        },
    );
    if !is_new {
        findings.push(closed(&path));
    }
    findings.extend(format(&path));
    findings.extend(filesystem(&existing));
    findings.extend(space(&existing));
    findings
}

fn format(store: &Path) -> Option<Finding> {
    let text = fs::read_to_string(store.join(PRIVATE).join("format")).ok()?;
    let (shown, known) = (store.display(), store::FORMAT);
    Some(match text.trim().parse::<u32>() {
        Ok(found) if found > known => error(
            format!(
                "the store {shown} was written by a newer cachefs (format {found}, this one knows {known})"
            ),
            "use the newer program",
        ),
        Ok(_) => match store::holder(store) {
            Some(pid) => ok(format!("the store {shown} is in use by a daemon (pid {pid})")),
            None => ok(format!("the store {shown} is not in use")),
        },
        Err(_) => error(
            format!("{shown}/{PRIVATE}/format is not what cachefs writes"),
            format!("move {shown}/{PRIVATE} out of the way; the cached files stay"),
        ),
    })
}

fn filesystem(path: &Path) -> Option<Finding> {
    let mounts = mounts::all().ok()?;
    let mount = mounts
        .iter()
        .filter(|m| path.starts_with(&m.path))
        .max_by_key(|m| m.path.as_os_str().len())?;
    let kind = mount.kind.to_string_lossy();
    Some(if mount.kind == cachefs_mount::fuse::FS_TYPE {
        error(format!("{} is itself on a cachefs mount", path.display()), "use a local directory")
    } else if REMOTE.iter().any(|remote| OsStr::from_bytes(remote.as_bytes()) == mount.kind) {
        warning(
            format!("the store is on {kind}, which other machines may change as well"),
            "let just one machine mount it, or use a local filesystem",
        )
    } else {
        ok(format!("the store's filesystem is {kind}"))
    })
}

fn space(path: &Path) -> Option<Finding> {
    let space = rustix::fs::statvfs(path).ok()?;
    let (all, free) = (space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize);
    let said = format!("{} of {} free", show::bytes(free), show::bytes(all));
    Some(if free < all / 20 {
        warning(format!("little space: {said}"), "make room, or use another filesystem")
    } else {
        ok(said)
    })
}
