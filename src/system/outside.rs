//! What a daemon that is [contained](super::containment) can't do itself: another process does it, which
//! is started before and knows to do only that, for one mountpoint and one store.
//!
//! Landlock forbids to unmount, and to look into processes that are not restricted likewise; without new
//! privileges, `fusermount3` is of no use. A thread that is not restricted would do as well, but whoever takes over
//! a process has all of its threads. And no process may use the mount that it serves, as is needed to look up
//! the paths of working directories, contained or not.
//!
//! One JSON document a line each way, on two pairs of sockets: what a request of the mount waits for is not
//! asked where looking for who is using the mount may wait for that request.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::thread::CapabilitySet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::busy::{self, User};
use super::{containment, mounts};
use crate::cache::Usher;
use crate::readers::Witness;

/// It runs before all others, by its nice value (`setpriority(2)`).
const FIRST: i32 = -20;

/// The command that the process is started by.
pub const COMMAND: &str = "outside";

/// So often is it tried to clear away a mount that has failed, with this time between.
const ATTEMPTS: u32 = 40;
const ATTEMPT_TIME: Duration = Duration::from_millis(50);

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Ready,
    Unmount { lazy: bool },
    Users,
    Stat(u32),
    HasOpen { process: u32, inode: u64 },
    Lost { device: (u32, u32) },
    LookUp { path: Vec<u8> },
    Abandon { store: bool, mountpoint: bool },
}

/// Why something could not be done, as it was.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    number: Option<i32>,
    text: String,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal { number: error.raw_os_error(), text: error.to_string() }
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> io::Error {
        match refusal.number {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::new(io::ErrorKind::PermissionDenied, refusal.text),
        }
    }
}

/// The process outside, as the daemon has it. It ends when this is dropped.
#[derive(Debug)]
pub struct Outside {
    /// For what may take its time.
    slow: Mutex<BufReader<UnixStream>>,
    /// For what requests of the mount wait for.
    quick: Mutex<BufReader<UnixStream>>,
    process: Mutex<Child>,
    id: u32,
    has_complained: AtomicBool,
}

impl Outside {
    /// Starts it, for a mount of `store` that will be made at `mountpoint`; both as the kernel names them.
    /// It removes the directories `leftovers` if they are empty when the daemon ends.
    pub fn start(mountpoint: &Path, store: &Path, leftovers: &[PathBuf]) -> io::Result<Outside> {
        let (slow, its_slow) = UnixStream::pair()?;
        let (quick, its_quick) = UnixStream::pair()?;
        let process = Command::new("/proc/self/exe")
            .arg0("cachefs")
            .args([COMMAND.as_ref(), mountpoint.as_os_str(), store.as_os_str()])
            .args(leftovers)
            .current_dir("/")
            .stdin(OwnedFd::from(its_slow))
            .stdout(OwnedFd::from(its_quick))
            .stderr(Stdio::null())
            .spawn()?;
        let outside = Outside {
            slow: Mutex::new(BufReader::new(slow)),
            quick: Mutex::new(BufReader::new(quick)),
            id: process.id(),
            process: Mutex::new(process),
            has_complained: AtomicBool::new(false),
        };
        for stream in [&outside.slow, &outside.quick] {
            outside.ask::<()>(stream, &Request::Ready)?;
        }
        Ok(outside)
    }

    /// Unmounts the mount, if it is there.
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        let done: Result<(), Refusal> = self.ask(&self.slow, &Request::Unmount { lazy })?;
        Ok(done?)
    }

    /// Who keeps the mount busy.
    pub fn users(&self) -> Vec<User> {
        self.ask(&self.slow, &Request::Users).unwrap_or_default()
    }

    /// Clears away a mount that has failed: what is left of it, and its directories, if they are empty.
    pub fn abandon(&self, store: bool, mountpoint: bool) {
        let _: io::Result<()> = self.ask(&self.slow, &Request::Abandon { store, mountpoint });
    }

    fn ask<T: DeserializeOwned>(
        &self,
        stream: &Mutex<BufReader<UnixStream>>,
        request: &Request,
    ) -> io::Result<T> {
        let asked = || {
            let mut stream = stream.lock();
            say(stream.get_mut(), request)?;
            hear(&mut stream)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        };
        asked().inspect_err(|error| {
            if !self.has_complained.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    "the process that unmounts for this daemon does not answer ({error}): unmount \
                     by `umount` as root"
                );
            }
        })
    }
}

impl Witness for Outside {
    fn stat(&self, task: u32) -> Option<Vec<u8>> {
        let text: io::Result<Option<String>> = self.ask(&self.quick, &Request::Stat(task));
        // What is shown to everyone tells most of it.
        let Ok(text) = text else { return std::fs::read(format!("/proc/{task}/stat")).ok() };
        text.map(String::into_bytes)
    }

    fn has_open(&self, process: u32, inode: u64) -> bool {
        self.ask(&self.quick, &Request::HasOpen { process, inode }).unwrap_or(false)
    }
}

impl Usher for Outside {
    fn process(&self) -> u32 {
        self.id
    }

    fn lost(&self, device: (u32, u32)) -> Vec<u64> {
        self.ask(&self.slow, &Request::Lost { device }).unwrap_or_default()
    }

    fn look_up(&self, path: &Path) {
        let path = path.as_os_str().as_bytes().to_vec();
        let _: io::Result<()> = self.ask(&self.slow, &Request::LookUp { path });
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for stream in [&self.slow, &self.quick] {
            let _ = stream.lock().get_ref().shutdown(std::net::Shutdown::Both);
        }
        let _ = self.process.lock().wait();
    }
}

fn say(stream: &mut UnixStream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// None at the end.
fn hear<T: DeserializeOwned>(stream: &mut BufReader<UnixStream>) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

/// Is the process outside, with its two sockets in the place of standard input and output, until the
/// daemon ends.
pub fn run(mountpoint: &Path, store: &Path, leftovers: &[PathBuf]) -> ExitCode {
    let ended = prepare().and_then(|(slow, quick)| {
        let job = Job { mountpoint: mountpoint.to_owned(), store: store.to_owned() };
        let quickly = std::thread::Builder::new().name("quick".into());
        let second = Job { mountpoint: mountpoint.to_owned(), store: store.to_owned() };
        // Whichever hears of the daemon's end first ends both: the other one may wait for the mount.
        let left = leftovers.to_vec();
        quickly.spawn(move || {
            let served = second.serve(quick);
            remove_empty(&left);
            std::process::exit(i32::from(served.is_err()))
        })?;
        let served = job.serve(slow);
        remove_empty(leftovers);
        served
    });
    ExitCode::from(u8::from(ended.is_err()))
}

/// Removes those directories that are empty.
fn remove_empty(directories: &[PathBuf]) {
    for path in directories {
        let _ = std::fs::remove_dir(path);
    }
}

/// Keeps only what it needs; its two sockets.
fn prepare() -> io::Result<(UnixStream, UnixStream)> {
    let _ = rustix::thread::set_name(c"cachefs-outside");
    // Somebody fails at what it is too late for. Not everybody may.
    let _ = rustix::process::setpriority_process(None, FIRST);
    // They may come to the daemon and all that it has started, and then it is the daemon that decides.
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: no handler of ours is installed, and there are no other threads yet.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let slow = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let quick = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let has = rustix::thread::capabilities(None)?.effective;
    if has.contains(CapabilitySet::SYS_ADMIN) {
        // To unmount, to look into all processes, and to find the mountpoint and the store.
        let needed = CapabilitySet::SYS_ADMIN
            | CapabilitySet::SYS_PTRACE
            | CapabilitySet::DAC_OVERRIDE
            | CapabilitySet::DAC_READ_SEARCH;
        containment::keep_only(needed)?;
        rustix::thread::set_no_new_privs(true)?;
    }
    Ok((slow, quick))
}

/// What it may do.
struct Job {
    mountpoint: PathBuf,
    store: PathBuf,
}

impl Job {
    /// Does what it is asked until the daemon ends; an error when it is asked what it does not know.
    fn serve(&self, stream: UnixStream) -> io::Result<()> {
        let mut answers = stream.try_clone()?;
        let mut stream = BufReader::new(stream);
        while let Some(request) = hear(&mut stream)? {
            match request {
                Request::Ready => say(&mut answers, &())?,
                Request::Unmount { lazy } => {
                    say(&mut answers, &self.unmount(lazy).map_err(Refusal::from))?
                }
                Request::Users => say(&mut answers, &busy::users(&self.mountpoint))?,
                Request::Stat(task) => {
                    let stat = std::fs::read(format!("/proc/{task}/stat")).ok();
                    let text = stat.map(|stat| String::from_utf8_lossy(&stat).into_owned());
                    say(&mut answers, &text)?;
                }
                Request::HasOpen { process, inode } => {
                    say(&mut answers, &crate::readers::has_open(process, inode))?;
                }
                Request::Lost { device } => say(&mut answers, &busy::lost(device))?,
                Request::LookUp { path } => {
                    // Whether it is still there is no matter.
                    let _ = rustix::fs::lstat(self.mountpoint.join(OsStr::from_bytes(&path)));
                    say(&mut answers, &())?;
                }
                Request::Abandon { store, mountpoint } => {
                    self.unmount_at_last();
                    for (created, path) in [(store, &self.store), (mountpoint, &self.mountpoint)] {
                        if created {
                            let _ = std::fs::remove_dir(path);
                        }
                    }
                    say(&mut answers, &())?;
                }
            }
        }
        Ok(())
    }

    /// What failed may have failed for too many threads, of which `fusermount3` would be one more: waits
    /// until the daemon's are gone.
    fn unmount_at_last(&self) {
        for _ in 0..ATTEMPTS {
            match self.unmount(true) {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    std::thread::sleep(ATTEMPT_TIME);
                }
                // Who asks has told of all else already.
                Ok(()) | Err(_) => return,
            }
        }
    }

    /// Nobody else's mount that may be in its place.
    fn unmount(&self, lazy: bool) -> io::Result<()> {
        match mounts::at(&self.mountpoint)? {
            Some(mount) if mount.is_ours() && mount.source == self.store => {
                mounts::unmount(&self.mountpoint, lazy)
            }
            _ => Ok(()),
        }
    }
}
