//! `cachefs mount`: in the foreground, or by a daemon in the background that is waited for until the
//! mount answers.
//!
//! The daemon is this program, started again with the same words and [`CHILD`] in its environment.
//! What it writes to its standard output is read here: [`READY`], or why it failed.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use super::options::{MountArgs, Settings};
use super::{Failure, daemon, places, show};
use crate::telemetry;

/// This program, wherever it lies, and also after it was replaced.
pub(super) const PROGRAM: &str = "/proc/self/exe";

const CHILD: &str = "CACHEFS_BACKGROUND";
const READY: &[u8] = b"ready\n";

pub(super) fn run(args: MountArgs) -> Result<ExitCode, Failure> {
    let mut settings = args.settings();
    // Before the daemon changes its working directory.
    settings.log = settings.log.map(std::path::absolute).transpose()?;
    settings.spill = settings.spill.map(std::path::absolute).transpose()?;
    if settings.foreground {
        start_log(&args, &settings, false)?;
        let done = daemon::run(&args, &settings, || Ok(()));
        telemetry::finish();
        done?;
        return Ok(ExitCode::SUCCESS);
    }
    if std::env::var_os(CHILD).is_some() {
        return Ok(run_child(&args, &settings));
    }
    telemetry::for_commands();
    let words = std::env::args_os().skip(1);
    start_child(Command::new(PROGRAM).args(words))
}

fn start_log(args: &MountArgs, settings: &Settings, background: bool) -> Result<(), Failure> {
    let log = settings.log.as_deref();
    log.map_or(Ok(()), |log| places::check_log(log, &args.mountpoint))?;
    telemetry::for_daemon(log, background, settings.log_format.unwrap_or_default()).map_err(|e| {
        let log = log.unwrap_or("".as_ref());
        format!("can't write the log {}: {e}; name another file", log.display()).into()
    })
}

/// Starts the daemon, by a command that has its words, and waits for what it says.
pub(super) fn start_child(command: &mut Command) -> Result<ExitCode, Failure> {
    let mut child = command
        .arg0("cachefs")
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("can't start the daemon: {e}; use --foreground"))?;
    let mut said = Vec::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_end(&mut said)?;
    }
    if said == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let ended = child.wait()?;
    if said.is_empty() {
        let how = format!(
            "the daemon ended before the mount answered ({ended}); use --foreground to see why"
        );
        return Err(how.into());
    }
    Err(String::from_utf8_lossy(&said).into_owned().into())
}

/// What the daemon does in the background.
fn run_child(args: &MountArgs, settings: &Settings) -> ExitCode {
    let detached = detach().and_then(|()| start_log(args, settings, true));
    let done = detached.and_then(|()| daemon::run(args, settings, announce));
    telemetry::finish();
    let Err(failure) = done else { return ExitCode::SUCCESS };
    tracing::error!("{failure}");
    // Nobody reads it once the mount has been announced; then the log has it.
    let _ = std::io::stdout().write_all(show::one_line(&failure.to_string()).as_bytes());
    ExitCode::FAILURE
}

/// Leaves the session of whoever started us, and the files that they had left open: whoever waits
/// for the end of a pipe must not wait for the daemon.
fn detach() -> Result<(), Failure> {
    rustix::process::setsid()
        .map_err(|e| format!("can't start a session: {e}; use --foreground"))?;
    // SAFETY: this process has just started and has opened nothing of its own yet but the three
    // standard streams, so that no descriptor closed here belongs to an object of ours.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    Ok(())
}

/// Says that the mount answers, and closes what it is said on. An error: nobody waits any more.
fn announce() -> std::io::Result<()> {
    let mut output = std::io::stdout();
    output.write_all(READY)?;
    output.flush()?;
    let null: OwnedFd = File::options().write(true).open("/dev/null")?.into();
    Ok(rustix::stdio::dup2_stdout(&null)?)
}
