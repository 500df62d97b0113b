//! What the demonstration runs on: temporary directories, and other processes.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::Failure;
use crate::system::mounts;

/// No job of the demonstration takes longer, unless something is very wrong.
const JOB_TIME: Duration = Duration::from_secs(120);

/// Temporary directories, and whatever is mounted in them.
pub(super) struct Stage {
    home: TempDir,
    pub(super) store: PathBuf,
    pub(super) mountpoint: PathBuf,
    /// What the mount is compared with.
    pub(super) plain: PathBuf,
}

impl Stage {
    pub(super) fn new() -> Result<Stage, Failure> {
        let home = tempfile::Builder::new()
            .prefix("cachefs-try-")
            .tempdir()
            .map_err(|e| format!("can't create a temporary directory: {e}; set TMPDIR"))?;
        let path = fs::canonicalize(home.path())?;
        let plain = path.join("plain");
        fs::create_dir(&plain)?;
        Ok(Stage { home, store: path.join("store"), mountpoint: path.join("mount"), plain })
    }

    /// Unmounts what is still mounted, before the directories go: removing them must never reach
    /// through a mount.
    pub(super) fn clear(self) -> Result<(), Failure> {
        if mounts::at(&self.mountpoint)?.is_some()
            && self.cachefs(&["umount", "--lazy"], &[&self.mountpoint]).is_err()
        {
            mounts::unmount(&self.mountpoint, true)?;
        }
        Ok(self.home.close()?)
    }

    /// Runs this program.
    pub(super) fn cachefs(&self, words: &[&str], places: &[&PathBuf]) -> Result<String, Failure> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("cachefs").args(words).args(places).current_dir("/");
        finish(command)
    }

    /// Runs a script at the mountpoint.
    pub(super) fn shell(&self, text: &str) -> Result<String, Failure> {
        self.shell_in(&self.mountpoint, text)
    }

    /// Runs a script in a directory.
    pub(super) fn shell_in(&self, directory: &Path, text: &str) -> Result<String, Failure> {
        finish(script(directory, text))
    }
}

pub(super) fn script(directory: &Path, text: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-ec").arg(text).current_dir(directory);
    command
}

/// Runs a command to its end; what it printed.
pub(super) fn finish(mut command: Command) -> Result<String, Failure> {
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

/// A job that says `ready`, and goes on when it is told to.
pub(super) struct Waiting {
    child: Child,
    _watchdog: Watchdog,
}

impl Waiting {
    pub(super) fn start(mut command: Command) -> Result<Waiting, Failure> {
        let shown = format!("{command:?}");
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().map_err(|e| format!("can't run {shown}: {e}"))?;
        let watchdog = Watchdog::start(child.id());
        let mut said = [0; READY.len()];
        let heard = child.stdout.as_mut().map(|stdout| stdout.read_exact(&mut said));
        let waiting = Waiting { child, _watchdog: watchdog };
        match heard {
            Some(Ok(())) if said == READY => Ok(waiting),
            _ => Err(format!("{shown} failed before it was ready").into()),
        }
    }

    /// What it prints from here on to its end; its complaints if it failed.
    pub(super) fn go_on(&mut self) -> Result<Result<String, String>, Failure> {
        if let Some(mut stdin) = self.child.stdin.take() {
            stdin.write_all(b"go\n")?;
        }
        let (mut said, mut complaints) = (String::new(), String::new());
        // One after the other: neither is more than a pipe holds.
        if let Some(stdout) = &mut self.child.stdout {
            stdout.read_to_string(&mut said)?;
        }
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut complaints)?;
        }
        Ok(if self.child.wait()?.success() { Ok(said) } else { Err(complaints) })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Fails where it has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const READY: &[u8] = b"ready\n";

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
