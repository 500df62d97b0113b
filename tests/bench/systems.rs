//! What is measured: a plain directory, a mount, and, when asked for, rivals.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::options::Options;
use crate::scratch::Scratch;
use crate::{Result, environment, options};

/// A directory that programs can work in.
pub(crate) trait System {
    /// What the tables call it.
    fn name(&self) -> &str;
    /// The directory.
    fn root(&self) -> &Path;
    /// What it says of itself: version, features in use.
    fn about(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
    /// The number of its FUSE connection, if it is one.
    fn connection(&self) -> Option<u64> {
        None
    }
    /// The process that serves it.
    fn daemon(&self) -> Option<u32> {
        None
    }
    /// How many requests it has had, by its own count.
    fn requests(&self) -> Option<BTreeMap<String, u64>> {
        None
    }
}

/// Those that `options` ask for; the first is the plain directory.
pub(crate) fn start(options: &Options, scratch: &Scratch) -> Result<Vec<Box<dyn System>>> {
    let mut systems: Vec<Box<dyn System>> =
        vec![Box::new(Plain { root: scratch.directory("plain")? })];
    if !options.leaves_out("mount") {
        systems
            .push(Box::new(Mounted::start("mount", scratch, |store, at| cachefs(store, at, ""))?));
    }
    for rival in &options.rivals {
        systems.push(match (rival.as_str(), rival.strip_prefix("mount ")) {
            (_, Some(more)) => {
                Box::new(Mounted::start(rival, scratch, |store, at| cachefs(store, at, more))?)
            }
            ("bindfs", _) => Box::new(Mounted::start(rival, scratch, bindfs)?),
            // A second plain directory: what the benchmark itself gets wrong.
            ("plain", _) => Box::new(Plain { root: scratch.directory("plain-again")? }),
            _ => return Err(format!("no rival called {rival} is known").into()),
        });
    }
    Ok(systems)
}

struct Plain {
    root: PathBuf,
}

impl System for Plain {
    fn name(&self) -> &str {
        "plain"
    }
    fn root(&self) -> &Path {
        &self.root
    }
}

/// A FUSE filesystem over a directory, served by a child of this process.
struct Mounted {
    name: String,
    mountpoint: PathBuf,
    log: PathBuf,
    daemon: Child,
}

fn cachefs(store: &Path, mountpoint: &Path, more: &str) -> Command {
    let mut command = Command::new(options::cachefs());
    command.arg("mount").arg(store).arg(mountpoint).arg("--foreground");
    command.args(more.split_whitespace());
    command
}

fn bindfs(store: &Path, mountpoint: &Path) -> Command {
    let mut command = Command::new("bindfs");
    command.args(["-f", "--multithreaded", "-o"]);
    command.arg("entry_timeout=3600,attr_timeout=3600,negative_timeout=3600");
    command.arg(store).arg(mountpoint);
    command
}

impl Mounted {
    /// Starts what `command(store, mountpoint)` says and waits until it is mounted.
    fn start(
        name: &str,
        scratch: &Scratch,
        command: impl FnOnce(&Path, &Path) -> Command,
    ) -> Result<Mounted> {
        let directory = name.replace(' ', "");
        let store = scratch.directory(&format!("{directory}-store"))?;
        let mountpoint = scratch.directory(&directory)?;
        let log = scratch.path().join(format!("{directory}.log"));
        let mut command = command(&store, &mountpoint);
        let output = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        environment::dies_with_us(&mut command);
        let daemon = command
            .spawn()
            .map_err(|why| format!("{:?} does not start: {why}", command.get_program()))?;
        let mut mounted = Mounted { name: name.to_owned(), mountpoint, log, daemon };
        mounted.wait_until_mounted(fs::metadata(&store)?.dev())?;
        Ok(mounted)
    }

    fn wait_until_mounted(&mut self, device_below: u64) -> Result<()> {
        let started = Instant::now();
        while fs::metadata(&self.mountpoint)?.dev() == device_below {
            if let Some(status) = self.daemon.try_wait()? {
                return Err(format!("{} ended: {status}\n{}", self.name, self.said()).into());
            }
            if started.elapsed() > Duration::from_secs(10) {
                return Err(format!("{} does not mount\n{}", self.name, self.said()).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What `cachefs status --json` says of this mount.
    fn status(&self) -> Option<serde_json::Value> {
        if !self.name.starts_with("mount") {
            return None;
        }
        let output = Command::new(options::cachefs())
            .args(["status", "--json"])
            .arg(&self.mountpoint)
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let mut status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(status["mounts"][0].take()).filter(serde_json::Value::is_object)
    }
}

impl System for Mounted {
    fn name(&self) -> &str {
        &self.name
    }
    fn root(&self) -> &Path {
        &self.mountpoint
    }
    fn about(&self) -> serde_json::Value {
        self.status().map_or(
            serde_json::Value::Null,
            |status| serde_json::json!({ "access": status["access"], "kernel": status["kernel"] }),
        )
    }
    fn connection(&self) -> Option<u64> {
        let device = fs::metadata(&self.mountpoint).ok()?.dev();
        Some(u64::from(rustix::fs::minor(device)))
    }
    fn daemon(&self) -> Option<u32> {
        Some(self.daemon.id())
    }
    fn requests(&self) -> Option<BTreeMap<String, u64>> {
        match &self.status()?["requests"] {
            serde_json::Value::Number(all) => {
                Some(BTreeMap::from([("all".to_owned(), all.as_u64()?)]))
            }
            serde_json::Value::Object(kinds) => {
                kinds.iter().map(|(kind, count)| Some((kind.clone(), count.as_u64()?))).collect()
            }
            _ => None,
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A clean end first: the daemon unmounts.
        if let Some(pid) = rustix::process::Pid::from_raw(self.daemon.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(5) {
            match self.daemon.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                _ => break,
            }
        }
        detach(&self.mountpoint);
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Takes away whatever is mounted there, even if its daemon hangs or somebody is in it.
pub(crate) fn detach(mountpoint: &Path) {
    use rustix::mount::{UnmountFlags, unmount};
    // Forcing a FUSE mount breaks the connection off, so that nobody waits for it any more.
    let _ = unmount(mountpoint, UnmountFlags::FORCE);
    if unmount(mountpoint, UnmountFlags::DETACH)
        .is_err_and(|error| error != rustix::io::Errno::INVAL)
    {
        let _ = Command::new("fusermount3")
            .args(["-u", "-z"])
            .arg(mountpoint)
            .stderr(Stdio::null())
            .status();
    }
}
