//! `cachefs try`: a demonstration with real processes in a temporary directory.
//!
//! This process only starts others and looks: the daemon is a process of its own, as always.

use std::fmt::Write;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Failure, show, status};
use crate::control::client::Client;
use crate::store::PRIVATE;
use crate::system::mounts;

/// How many jobs write at once.
const JOBS: usize = 4;

/// No job of the demonstration takes longer, unless something is very wrong.
const JOB_TIME: Duration = Duration::from_secs(120);

pub(super) fn run() -> Result<ExitCode, Failure> {
    let stage = Stage::new()?;
    let shown = demonstrate(&stage);
    // Also when a step has failed: nothing stays.
    let cleaned = stage.clear();
    shown?;
    cleaned?;
    show::print("\nEverything worked, and nothing of it is left.\n")
}

fn demonstrate(stage: &Stage) -> Result<(), Failure> {
    let (store, mount) = (&stage.store, &stage.mountpoint);
    say(&format!("1. Mounting {} at {}", store.display(), mount.display()))?;
    stage.cachefs(&["mount"], &[store, mount])?;

    say("2. A job writes through the mount; the store holds plain files")?;
    stage.shell(
        "mkdir -p wheels && echo one > wheels/a && ln wheels/a wheels/b && ln -s a wheels/c",
    )?;
    compare(stage)?;

    say(&format!("3. {JOBS} jobs append to one file under one lock, and add files of their own"))?;
    write_at_once(stage)?;
    compare(stage)?;

    say("4. Tools that people use")?;
    use_tools(stage)?;
    compare(stage)?;

    say("5. What the daemon says of itself (`cachefs status`)")?;
    let mut daemon = Client::connect(store)?;
    let told = daemon.ask(&crate::control::Command::Status)?;
    show::print(&indent(&status::describe(&told)))?;
    drop(daemon);

    say("6. Unmounting gives back a plain directory")?;
    let before = listing(store)?;
    stage.cachefs(&["umount"], &[mount])?;
    expect(listing(store)? == before, "the store is not what the mount was")?;
    expect(fs::read_dir(mount)?.next().is_none(), "the mountpoint is not empty")?;
    note(&format!("{} names in the store, as before; the mountpoint is empty", before.len()))
}

/// Temporary directories, and whatever is mounted in them.
struct Stage {
    home: TempDir,
    store: PathBuf,
    mountpoint: PathBuf,
}

impl Stage {
    fn new() -> Result<Stage, Failure> {
        let home = tempfile::Builder::new()
            .prefix("cachefs-try-")
            .tempdir()
            .map_err(|e| format!("can't create a temporary directory: {e}; set TMPDIR"))?;
        let path = fs::canonicalize(home.path())?;
        Ok(Stage { home, store: path.join("store"), mountpoint: path.join("mount") })
    }

    /// Unmounts what is still mounted, before the directories go: removing them must never reach
    /// through a mount.
    fn clear(self) -> Result<(), Failure> {
        if mounts::at(&self.mountpoint)?.is_some()
            && self.cachefs(&["umount", "--lazy"], &[&self.mountpoint]).is_err()
        {
            mounts::unmount(&self.mountpoint, true)?;
        }
        Ok(self.home.close()?)
    }

    /// Runs this program.
    fn cachefs(&self, words: &[&str], places: &[&PathBuf]) -> Result<String, Failure> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("cachefs").args(words).args(places).current_dir("/");
        finish(command)
    }

    /// Runs a script at the mountpoint.
    fn shell(&self, script: &str) -> Result<String, Failure> {
        finish(self.script(script))
    }

    fn script(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-ec").arg(script).current_dir(&self.mountpoint);
        command
    }
}

/// Runs a command to its end; what it printed.
fn finish(mut command: Command) -> Result<String, Failure> {
    let shown = format!("{command:?}");
    let run = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = run.map_err(|e| format!("can't run {shown}: {e}"))?;
    let watchdog = Watchdog::start(child.id());
    let output = child.wait_with_output()?;
    drop(watchdog);
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{shown} failed ({}): {}", output.status, why.trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Ends a process that takes too long.
struct Watchdog(Option<std::sync::mpsc::Sender<()>>);

impl Watchdog {
    fn start(pid: u32) -> Watchdog {
        let (called_off, over) = std::sync::mpsc::channel::<()>();
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        // By its descriptor: a pid may name another process by then.
        let process = pid.and_then(|pid| {
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
        });
        std::thread::spawn(move || {
            let in_time = over.recv_timeout(JOB_TIME);
            if let (Err(std::sync::mpsc::RecvTimeoutError::Timeout), Some(process)) =
                (in_time, process)
            {
                let _ = rustix::process::pidfd_send_signal(process, rustix::process::Signal::KILL);
            }
        });
        Watchdog(Some(called_off))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

fn write_at_once(stage: &Stage) -> Result<(), Failure> {
    const LINES: usize = 100;
    let started = Instant::now();
    let script = |job: usize| {
        format!(
            "i=0; while [ $i -lt {LINES} ]; do \
               (flock 9; echo \"job {job} line $i\" >> log) 9> log.lock; \
               echo $i > f.{job}.$i.new; mv f.{job}.$i.new f.{job}.$i; i=$((i+1)); done"
        )
    };
    at_once(stage, script)?;
    let log = fs::read_to_string(stage.store.join("log"))?;
    let whole =
        log.lines().filter(|line| line.starts_with("job ") && line.contains(" line ")).count();
    expect(whole == JOBS * LINES, "lines of the shared log are lost or mixed")?;
    note(&format!(
        "{whole} lines, none lost, none mixed; {} files renamed into place; {:.1} s",
        JOBS * LINES,
        started.elapsed().as_secs_f64()
    ))
}

/// Lets real tools keep their caches there; none needs a network.
fn use_tools(stage: &Stage) -> Result<(), Failure> {
    if stage.shell("python3 -c 'import zipfile'").is_err() {
        return note("python3 is not on PATH: nothing to show here");
    }
    let python = "PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$PWD/bytecode \
                  python3 -c 'import json, email, http.client'";
    at_once(stage, |_| python.to_owned())?;
    let compiled = listing(&stage.store.join("bytecode"))?.len();
    note(&format!("{JOBS} times python3 at once: {compiled} names in its bytecode cache"))?;
    if stage.shell("uv --version").is_err() {
        return note("uv is not on PATH: nothing more to show here");
    }
    stage.shell(&format!("python3 -c '{WHEEL}' ../demo-1.0-py3-none-any.whl"))?;
    at_once(stage, |job| {
        format!(
            "UV_CACHE_DIR=$PWD/uv uv pip install --offline --no-index --link-mode copy --no-progress \
             --target ../installed.{job} ../demo-1.0-py3-none-any.whl"
        )
    })?;
    let kept = listing(&stage.store.join("uv"))?.len();
    note(&format!("{JOBS} times `uv pip install` at once: {kept} names in its cache"))
}

/// Python, without single quotes: writes the smallest wheel to the path that it is given.
const WHEEL: &str = r#"
import sys, zipfile
info = "demo-1.0.dist-info/"
files = {
    "demo.py": "answer = 42\n",
    info + "METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
    info + "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
files[info + "RECORD"] = "".join(name + ",,\n" for name in [*files, info + "RECORD"])
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    for name, text in files.items():
        wheel.writestr(name, text)
"#;

/// Runs a script for each of the jobs, all at the same time.
fn at_once(stage: &Stage, script: impl Fn(usize) -> String) -> Result<(), Failure> {
    let scripts: Vec<String> = (0..JOBS).map(script).collect();
    std::thread::scope(|scope| {
        let jobs: Vec<_> =
            scripts.iter().map(|script| scope.spawn(move || stage.shell(script))).collect();
        jobs.into_iter().try_for_each(|job| {
            job.join().map_err(|_| "a job of the demonstration failed")??;
            Ok(())
        })
    })
}

/// Compares what the mount shows with what the store holds.
fn compare(stage: &Stage) -> Result<(), Failure> {
    let (in_mount, in_store) = (listing(&stage.mountpoint)?, listing(&stage.store)?);
    expect(in_mount == in_store, "the mount and the store differ")?;
    note(&format!("mount and store agree on {} names and their contents", in_mount.len()))
}

/// Every name below a directory with what it stands for, but for what is the store's own.
fn listing(root: &Path) -> Result<Vec<(PathBuf, Content)>, Failure> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(root.join(&folder))
            .map_err(|e| format!("can't list {}: {e}", root.join(&folder).display()))?
        {
            let entry = entry?;
            let name = folder.join(entry.file_name());
            if name == Path::new(PRIVATE) {
                continue;
            }
            let kind = entry.file_type()?;
            found.push((
                name.clone(),
                if kind.is_dir() {
                    left.push(name);
                    Content::Folder
                } else if kind.is_symlink() {
                    Content::Link(fs::read_link(entry.path())?)
                } else {
                    Content::File(fs::read(entry.path())?)
                },
            ));
        }
    }
    found.sort();
    Ok(found)
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Content {
    Folder,
    Link(PathBuf),
    File(Vec<u8>),
}

fn expect(is_so: bool, otherwise: &str) -> Result<(), Failure> {
    if is_so { Ok(()) } else { Err(format!("{otherwise}; please report this").into()) }
}

fn say(what: &str) -> Result<(), Failure> {
    show::print(&format!("{what}\n")).map(drop)
}

fn note(what: &str) -> Result<(), Failure> {
    show::print(&indent(what)).map(drop)
}

fn indent(text: &str) -> String {
    text.lines().fold(String::new(), |mut out, line| {
        let _ = writeln!(out, "   {line}");
        out
    })
}
