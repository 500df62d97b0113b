//! What the daemon gives up once it has mounted, so that a fault in it is of little use to anybody.
//!
//! All of this belongs to a thread and to those that it starts later. So it is done between the mount,
//! which needs what is given up, and the first thread.
//!
//! * **No new privileges** (`PR_SET_NO_NEW_PRIVS`): no set-id program can be used.
//! * **Capabilities**: all but the few that the engine needs go, for good.
//! * **Landlock**: of all directories, only those of [`Allowed`] can be opened or changed. Nothing else
//!   can be mounted or unmounted, no other process be looked into or signalled, and no TCP port be
//!   used. What little of that a daemon has to do is done [`outside`](super::outside).
//!
//! There is **no seccomp filter**. What it could forbid over that is what `CAP_SYS_ADMIN` is good for
//! beside mounts, and a user's daemon has no capabilities. A list of what is allowed would have to follow every
//! release of the C library, the async runtime and the kernel, and whatever it forgets is a call that fails in
//! the middle of somebody's build; each call would be slower, and this daemon does little else.
//!
//! Whatever the kernel lacks is left out and told ([`Containment`]): it is no reason not to mount.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde_json::{Value, json};

/// The newest version of landlock whose rules are known here; older ones restrict less.
const NEWEST: ABI = ABI::V6;

/// What a daemon still may use.
#[derive(Debug)]
pub struct Allowed<'a> {
    /// Directories whose files it may read, write, create and remove: the store, and where it spills to.
    pub own: Vec<BorrowedFd<'a>>,
    /// A directory from which it may remove files: where its control socket lies.
    pub remove_from: Option<BorrowedFd<'a>>,
    /// Passthrough takes `CAP_SYS_ADMIN`.
    pub passthrough: bool,
}

/// Directories and files that it may read: processes and their cgroups.
const READ: &[&str] = &["/proc", "/sys/fs/cgroup"];

/// Devices that it may open: another descriptor of the mount, and nothing at all.
const DEVICES: &[&str] = &["/dev/fuse", "/dev/null"];

/// What is given up, and why not if it is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Containment {
    /// No program started from here gets more rights.
    pub no_new_privileges: bool,
    /// The names of the capabilities that are left.
    pub capabilities: Vec<String>,
    /// Whether all others are gone for good.
    pub capabilities_dropped: bool,
    /// Whether landlock restricts it: `full`, `partial` (an older kernel) or `none`.
    pub landlock: &'static str,
    /// Where something could not be given up: what, and why.
    pub lacking: Vec<String>,
}

impl Containment {
    /// For a daemon that was told not to give up anything.
    pub fn none() -> Containment {
        let lacking = vec!["it was started with --no-containment".to_owned()];
        Containment { landlock: "none", lacking, capabilities: left(), ..Containment::default() }
    }

    /// As `cachefs status --json` has it.
    pub fn to_json(&self) -> Value {
        json!({
            "no_new_privileges": self.no_new_privileges,
            "capabilities": self.capabilities,
            "capabilities_dropped": self.capabilities_dropped,
            "landlock": self.landlock,
            "lacking": self.lacking,
        })
    }
}

/// Gives up what the calling thread does not need to serve a mount; says what that came to.
pub fn contain(allowed: &Allowed<'_>) -> Containment {
    let mut lacking = Vec::new();
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads > 1 {
        lacking.push(format!("{} threads that run already keep what they have", threads - 1));
    }
    let capabilities_dropped = match keep_only(needed(allowed.passthrough)) {
        Ok(()) => true,
        Err(error) => {
            lacking.push(format!("capabilities can't be dropped: {error}"));
            false
        }
    };
    // Before landlock, which asks for it.
    let no_new_privileges = match rustix::thread::set_no_new_privs(true) {
        Ok(()) => true,
        Err(error) => {
            lacking.push(format!("PR_SET_NO_NEW_PRIVS is refused: {error}"));
            false
        }
    };
    let landlock = match restrict(allowed) {
        Ok(RulesetStatus::FullyEnforced) => "full",
        Ok(RulesetStatus::PartiallyEnforced) => {
            lacking.push("this kernel's landlock is an older one".into());
            "partial"
        }
        Ok(RulesetStatus::NotEnforced) => {
            lacking.push("this kernel has no landlock, or none that lets files be renamed".into());
            "none"
        }
        Err(error) => {
            lacking.push(format!("landlock is refused: {error}"));
            "none"
        }
    };
    let capabilities = left();
    Containment { no_new_privileges, capabilities, capabilities_dropped, landlock, lacking }
}

/// What a daemon of root needs to serve users whose files it owns or does not own: to act on them as
/// it likes, to give them away, and for passthrough `CAP_SYS_ADMIN`, without which the kernel refuses
/// files to be registered.
fn needed(passthrough: bool) -> CapabilitySet {
    let mut set = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::FOWNER
        // Without it, changing a file's mode takes its set-group-id bit where the group is not ours.
        | CapabilitySet::FSETID;
    set.set(CapabilitySet::SYS_ADMIN, passthrough);
    set
}

/// Leaves the calling thread, at most, the capabilities in `wanted`, and takes all others from whatever
/// it starts.
pub(super) fn keep_only(wanted: CapabilitySet) -> rustix::io::Result<()> {
    let had = rustix::thread::capabilities(None)?;
    let kept = had.permitted & wanted;
    // From the set that bounds what a program can get; takes CAP_SETPCAP, which goes only after that.
    if had.effective.contains(CapabilitySet::SETPCAP) {
        for capability in !wanted {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // One that this kernel does not know.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let _ = rustix::thread::clear_ambient_capability_set();
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

/// The names of the capabilities that the calling thread has.
fn left() -> Vec<String> {
    let sets = rustix::thread::capabilities(None);
    let names = sets.map(|sets| sets.permitted.iter_names().map(|(name, _)| name.to_owned()));
    names.map(Iterator::collect).unwrap_or_default()
}

/// The rules that this kernel knows. The first version of landlock (5.13) is as none: it lets nothing be
/// moved from one directory to another.
fn rules() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(scopes())?
        .create()
}

/// A service manager may listen on an abstract socket (`sd_notify(3)`), which then has to stay.
fn scopes() -> BitFlags<Scope> {
    let notified = std::env::var("NOTIFY_SOCKET").is_ok_and(|to| to.starts_with('@'));
    if notified { Scope::Signal.into() } else { Scope::from_all(NEWEST) }
}

fn restrict(
    allowed: &Allowed<'_>,
) -> Result<RulesetStatus, Box<dyn std::error::Error + Send + Sync>> {
    let mut rules = rules()?;
    for directory in &allowed.own {
        // Programs in the mount are executed through the store's files.
        rules = rules.add_rule(PathBeneath::new(directory, AccessFs::from_all(NEWEST)))?;
    }
    if let Some(directory) = &allowed.remove_from {
        rules = rules.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?;
    }
    let read = READ.iter().map(PathBuf::from).chain(hierarchies());
    for (path, access) in read
        .map(|path| (path, AccessFs::ReadFile | AccessFs::ReadDir))
        .chain(DEVICES.iter().map(|device| (device.into(), device_access())))
    {
        // What is not there needs no rule. For anything else to be left out would be to forbid it.
        match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            _ => rules = rules.add_rule(PathBeneath::new(PathFd::new(&path)?, access))?,
        }
    }
    Ok(rules.restrict_self()?.ruleset)
}

fn device_access() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev
}

/// Where the hierarchies of cgroups are mounted.
fn hierarchies() -> impl Iterator<Item = PathBuf> {
    let mounts = super::mounts::all().unwrap_or_default().into_iter();
    mounts.filter(|mount| mount.kind == "cgroup2").map(|mount| mount.path)
}

/// How much of landlock this kernel has, for `cachefs check`: true for all that is used, false for a
/// part, none for nothing of use.
pub fn landlock_here() -> Option<bool> {
    // Tried in a thread of its own, which alone is restricted and does nothing else.
    let tried = std::thread::spawn(|| {
        let everything = std::fs::File::open("/").ok()?;
        let everything = vec![everything.as_fd()];
        restrict(&Allowed { own: everything, remove_from: None, passthrough: false }).ok()
    });
    match tried.join().ok()?? {
        RulesetStatus::FullyEnforced => Some(true),
        RulesetStatus::PartiallyEnforced => Some(false),
        RulesetStatus::NotEnforced => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{ErrorKind, Write};
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_not_allowed_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir_all(at("own/a")).unwrap();
        fs::create_dir_all(at("own/b")).unwrap();
        fs::create_dir_all(at("sockets")).unwrap();
        for name in ["own/a/file", "sockets/old", "else"] {
            fs::write(at(name), "x").unwrap();
        }
        let (own, sockets) = (File::open(at("own")).unwrap(), File::open(at("sockets")).unwrap());
        let opened_before = File::options().append(true).open(at("else")).unwrap();
        let refused =
            |e: std::io::Error| matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM));
        // It holds for this thread alone.
        let tried = std::thread::spawn(move || {
            let allowed = Allowed {
                own: vec![own.as_fd()],
                remove_from: Some(sockets.as_fd()),
                passthrough: false,
            };
            let held = contain(&allowed);
            let at = |name: &str| home.path().join(name);
            fs::rename(at("own/a/file"), at("own/b/file")).unwrap();
            fs::hard_link(at("own/b/file"), at("own/a/link")).unwrap();
            fs::write(at("own/new"), "x").unwrap();
            fs::remove_dir_all(at("own/b")).unwrap();
            fs::read("/proc/self/mountinfo").unwrap();
            fs::write("/dev/null", "x").unwrap();
            (&opened_before).write_all(b"y").unwrap();
            fs::remove_file(at("sockets/old")).unwrap();
            if held.landlock == "none" {
                return held;
            }
            assert!(fs::read("/etc/passwd").is_err_and(refused));
            assert!(fs::write(at("else"), "x").is_err_and(refused));
            assert!(fs::remove_file(at("else")).is_err_and(refused));
            assert!(fs::write(at("sockets/new"), "x").is_err_and(refused));
            assert!(fs::rename(at("own/new"), at("moved")).is_err());
            assert!(fs::create_dir(at("new")).is_err_and(refused));
            let environment = format!("/proc/{}/environ", std::os::unix::process::parent_id());
            assert!(fs::read(environment).is_err_and(refused));
            assert!(crate::system::mounts::unmount(Path::new("/proc"), false).is_err());
            let connected = std::net::TcpStream::connect("127.0.0.1:9").unwrap_err();
            assert!(held.landlock != "full" || connected.kind() == ErrorKind::PermissionDenied);
            let started = std::process::Command::new("/bin/true").status();
            assert!(started.is_err_and(refused));
            held
        });
        let held = tried.join().unwrap();
        assert!(held.no_new_privileges && held.capabilities_dropped);
        // The other tests' threads, at least the first one.
        assert!(held.lacking.iter().any(|what| what.contains("threads")), "{held:?}");
    }

    #[test]
    fn a_thread_that_only_asks_restricts_nobody() {
        let known = landlock_here();
        assert_eq!(known, landlock_here());
        fs::read("/etc/passwd").unwrap();
    }
}
