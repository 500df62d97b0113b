//! The process that keeps a mount for all who run something with it.
//!
//! It is started with a listening socket as its standard input. Whoever is connected there has a share in
//! the mount; when nobody is any more, it takes the mount away, and ends.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal};

use super::lease::Answer;
use super::namespace;
use crate::cli::{Failure, mount, show};

/// The command that the process is started by.
pub(in crate::cli) const KEEPER: &str = "keeper";

/// A daemon has so long to mount.
const MOUNT_TIME: Duration = Duration::from_secs(30);

/// What the command has left running may use the mount for so long after the daemon was told to end; it
/// unmounts lazily before that.
const END_TIME: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// What to mount
    store: PathBuf,
    /// Where
    at: PathBuf,
}

/// Mounts, keeps the mount as long as somebody has a share in it, and takes it away.
pub(in crate::cli) fn keep(args: &Args) -> Result<ExitCode, Failure> {
    // What is typed at the terminal is for the command.
    rustix::process::setsid()?;
    let listener = UnixListener::from(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?);
    listener.set_nonblocking(true)?;
    let created = !args.at.exists();
    let mut daemon = match start(&args.store, &args.at) {
        Ok(daemon) => daemon,
        Err(why) => {
            answer_all(&listener, &Answer::Failed(show::one_line(&why.to_string())));
            return Ok(ExitCode::FAILURE);
        }
    };
    let mountpoint = args.at.clone();
    let clients = serve(&listener, &Answer::Mounted { mountpoint, daemon: daemon.id() }, &daemon)?;
    stop(&mut daemon)?;
    if created {
        // Fails where something was put there, beneath the mount.
        let _ = fs::remove_dir(&args.at);
    }
    // Only now: whoever tries again finds the store free.
    drop(listener);
    drop(clients);
    Ok(ExitCode::SUCCESS)
}

/// Starts the daemon: in namespaces of its own, else by `fusermount3` where everybody is.
fn start(store: &Path, at: &Path) -> Result<Child, Failure> {
    let apart = start_daemon(store, at, true);
    // Root needs no help.
    if apart.is_ok() || rustix::process::geteuid().is_root() {
        return apart;
    }
    let refused = apart.map(drop).err().map(|e| e.to_string()).unwrap_or_default();
    start_daemon(store, at, false).map_err(|e| {
        format!("{e} (and without fusermount3, in namespaces of its own: {refused})").into()
    })
}

/// Starts a daemon and waits until its mount answers.
fn start_daemon(store: &Path, at: &Path, apart: bool) -> Result<Child, Failure> {
    let user = !rustix::process::geteuid().is_root();
    let name = format!("cachefs-keeper-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    socket.set_nonblocking(true)?;
    let mut log = tempfile::tempfile()?;
    let mut command = Command::new(mount::PROGRAM);
    command.arg0("cachefs").args(["mount", "--foreground"]);
    if apart && user {
        // The kernel has it for the first user namespace only.
        command.arg("--no-passthrough");
    }
    command.arg("--").args([store, at]).env("NOTIFY_SOCKET", format!("@{name}"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.try_clone()?);
    let (parent, maps) = (std::process::id(), namespace::Maps::of_this_user());
    // SAFETY: only system calls are made between fork and exec.
    unsafe {
        command.pre_exec(move || {
            match (apart, user) {
                (true, true) => namespace::leave_as_user(&maps)?,
                (true, false) => namespace::leave_as_root()?,
                (false, _) => {}
            }
            // It unmounts, should this process be killed.
            namespace::end_with(parent, Signal::TERM)
        });
    }
    let mut daemon = command.spawn()?;
    let until = Instant::now() + MOUNT_TIME;
    loop {
        match socket.recv(&mut [0; 64]) {
            Ok(_) => return Ok(daemon),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
        let why = if daemon.try_wait()?.is_some() {
            said(&mut log)?
        } else if Instant::now() > until {
            stop(&mut daemon)?;
            format!("the mount does not answer after {MOUNT_TIME:?}")
        } else {
            std::thread::sleep(PAUSE);
            continue;
        };
        return Err(why.into());
    }
}

/// The last thing that a daemon has said, which is why it has ended.
fn said(log: &mut File) -> io::Result<String> {
    let mut text = Vec::new();
    log.rewind()?;
    log.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no word from it");
    Ok(last.strip_prefix("cachefs: ").unwrap_or(last).to_owned())
}

/// Answers everyone who connects, until nobody is connected any more. Those who are let go of at the very end
/// learn by it that the mount is gone.
fn serve(
    listener: &UnixListener,
    answer: &Answer,
    daemon: &Child,
) -> Result<Vec<UnixStream>, Failure> {
    let pid = Pid::from_child(daemon);
    let daemon = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let mut clients: Vec<UnixStream> = Vec::new();
    loop {
        accept_all(listener, answer, &mut clients)?;
        if clients.is_empty() {
            // Whoever this was started for has ended meanwhile.
            return Ok(clients);
        }
        let ended = wait(listener, &daemon, &clients)?;
        // In the last place first, so that the others stay where they are.
        for index in ended.clients.into_iter().rev() {
            if clients.len() == 1 {
                accept_all(listener, answer, &mut clients)?;
            }
            if clients.len() == 1 {
                return Ok(clients);
            }
            clients.swap_remove(index);
        }
        if ended.daemon {
            return Ok(clients);
        }
    }
}

/// What has ended.
struct Ended {
    clients: Vec<usize>,
    daemon: bool,
}

/// Waits for somebody to connect or to end.
fn wait(listener: &UnixListener, daemon: &OwnedFd, clients: &[UnixStream]) -> io::Result<Ended> {
    let everyone = [listener.as_fd(), daemon.as_fd()];
    let everyone = everyone.into_iter().chain(clients.iter().map(AsFd::as_fd));
    let mut watched: Vec<_> =
        everyone.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    match poll(&mut watched, None) {
        Err(rustix::io::Errno::INTR) => return Ok(Ended { clients: Vec::new(), daemon: false }),
        other => other?,
    };
    let happened = |fd: &PollFd<'_>| !fd.revents().is_empty();
    let ended = watched[2..].iter().enumerate().filter(|(_, fd)| happened(fd));
    Ok(Ended { clients: ended.map(|(index, _)| index).collect(), daemon: happened(&watched[1]) })
}

/// Takes in all who wait.
fn accept_all(
    listener: &UnixListener,
    answer: &Answer,
    clients: &mut Vec<UnixStream>,
) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => clients.extend(tell(stream, answer)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// The connection, if it is one of this user's who can still be told.
fn tell(mut stream: UnixStream, answer: &Answer) -> Option<UnixStream> {
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    if peer.uid != rustix::process::geteuid() {
        return None;
    }
    let line = serde_json::to_string(answer).ok()? + "\n";
    stream.write_all(line.as_bytes()).ok().map(|()| stream)
}

fn answer_all(listener: &UnixListener, answer: &Answer) {
    let mut told = Vec::new();
    // Who can't be told sees that the connection ends.
    let _ = accept_all(listener, answer, &mut told);
}

/// Tells the daemon to unmount and waits for its end; ends it at once when that takes too long.
fn stop(daemon: &mut Child) -> io::Result<()> {
    let pid = Pid::from_child(daemon);
    for _ in 0..2 {
        if daemon.try_wait()?.is_some() {
            return Ok(());
        }
        rustix::process::kill_process(pid, Signal::TERM)?;
        let until = Instant::now() + END_TIME;
        while Instant::now() < until {
            if daemon.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
    }
    daemon.kill()?;
    daemon.wait().map(drop)
}
