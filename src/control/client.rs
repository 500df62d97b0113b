//! Asks a daemon.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};
use serde_json::Value;

use super::{Command, LONGEST_LINE, SOCKET, address, public};
use crate::store::{PRIVATE, find_elsewhere};
use crate::system::mounts::MountPoint;

/// How long a daemon may take for an answer: longer than any unmount.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long is waited at a time for an answer that may take any time.
const NOW_AND_THEN: Duration = Duration::from_millis(500);

/// An answer may be this long: it comes from a daemon, but not necessarily from a sane one.
const LONGEST_ANSWER: u64 = 64 * 1024 * 1024;

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ClientError {
    #[error("no daemon serves the store {}; `cachefs umount` clears a mount that one has left", .0.display())]
    NoDaemon(PathBuf),
    #[error(
        "not permitted to talk to the daemon of the store {}; run as its user or as root",
        .0.display()
    )]
    NotPermitted(PathBuf),
    #[error(
        "what answers for the mount {} runs as user {found}, and user {owner} made that mount: it is not asked; \
         unmount it with `umount -l {}` if you don't know it", mount.display(), mount.display()
    )]
    Impostor { mount: PathBuf, owner: u32, found: u32 },
    #[error("{0}")]
    Refused(String),
    #[error(
        "that is too much to say at once ({length} bytes, {LONGEST_LINE} are the most); name fewer paths, or a \
         directory that all lie in"
    )]
    TooLong { length: usize },
    #[error("the daemon of the store {} can't be asked: {source}", store.display())]
    Io { store: PathBuf, source: io::Error },
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    store: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon of `mount`: where everyone may, else through its store.
    pub fn of(mount: &MountPoint) -> Result<Client, ClientError> {
        // As mountinfo has it; there is always one for a mount of ours.
        let owner = mount.owner.unwrap_or(0);
        let client = match public::connect(owner, mount.device.1) {
            Ok(stream) => Client::over(stream, &mount.source)?,
            Err(_) => Client::connect(&mount.source)?,
        };
        let peer = rustix::net::sockopt::socket_peercred(client.stream.get_ref());
        match peer.map(|peer| peer.uid.as_raw()) {
            Ok(found) if found == owner => Ok(client),
            // Anyone can make a mount, and name any store as its source.
            Ok(found) => Err(ClientError::Impostor { mount: mount.path.clone(), owner, found }),
            Err(e) => Err(ClientError::Io { store: mount.source.clone(), source: e.into() }),
        }
    }

    /// Connects to the daemon that serves `store`, for root and the daemon's user.
    pub fn connect(store: &Path) -> Result<Client, ClientError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoDaemon(store.to_owned())
            }
            io::ErrorKind::PermissionDenied => ClientError::NotPermitted(store.to_owned()),
            _ => ClientError::Io { store: store.to_owned(), source },
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // One that died may have left its folder.
        let elsewhere = find_elsewhere(store)
            .and_then(|folder| UnixStream::connect(address(folder.as_fd(), SOCKET)).ok());
        if let Some(stream) = elsewhere {
            return Client::over(stream, store);
        }
        let private = rustix::fs::openat(CWD, store.join(PRIVATE), flags, Mode::empty())
            .map_err(|e| failed(e.into()))?;
        let stream = UnixStream::connect(address(private.as_fd(), SOCKET)).map_err(failed)?;
        Client::over(stream, store)
    }

    fn over(stream: UnixStream, store: &Path) -> Result<Client, ClientError> {
        let failed = |source| ClientError::Io { store: store.to_owned(), source };
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Client { store: store.to_owned(), stream: BufReader::new(stream) })
    }

    /// Asks one thing.
    pub fn ask(&mut self, command: &Command) -> Result<Value, ClientError> {
        self.say(command)?;
        let failed = |source| ClientError::Io { store: self.store.clone(), source };
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(LONGEST_ANSWER);
        limited.read_until(b'\n', &mut line).map_err(failed)?;
        self.answer(&line)
    }

    /// Asks one thing that may take as long as it likes. Now and then `meanwhile` is called.
    pub fn ask_patiently(
        &mut self,
        command: &Command,
        mut meanwhile: impl FnMut(),
    ) -> Result<Value, ClientError> {
        let failed = |source| ClientError::Io { store: self.store.clone(), source };
        self.stream.get_ref().set_read_timeout(Some(NOW_AND_THEN)).map_err(failed)?;
        self.say(command)?;
        let failed = |source| ClientError::Io { store: self.store.clone(), source };
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(LONGEST_ANSWER);
        loop {
            // What has come is kept when the time is up.
            match limited.read_until(b'\n', &mut line) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => meanwhile(),
                Err(error) => return Err(failed(error)),
            }
        }
        self.stream.get_ref().set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        self.answer(&line)
    }

    fn say(&mut self, command: &Command) -> Result<(), ClientError> {
        let failed = |source| ClientError::Io { store: self.store.clone(), source };
        let said = command.to_line();
        if said.len() > LONGEST_LINE {
            return Err(ClientError::TooLong { length: said.len() });
        }
        self.stream.get_mut().write_all(said.as_bytes()).map_err(failed)
    }

    fn answer(&self, line: &[u8]) -> Result<Value, ClientError> {
        let failed = |source| ClientError::Io { store: self.store.clone(), source };
        if line.is_empty() {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut answer: Value = serde_json::from_slice(line).map_err(|e| failed(e.into()))?;
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(ClientError::Refused(error.to_owned())),
            None => Ok(answer["ok"].take()),
        }
    }

    /// The daemon's process, so that its end can be waited for; none if it can't be seen from here.
    pub fn process(&self) -> Option<Process> {
        let peer = rustix::net::sockopt::socket_peercred(self.stream.get_ref()).ok()?;
        Process::open(peer.pid)
    }
}

/// A process that can't be mistaken for another one.
#[derive(Debug)]
pub struct Process(std::os::fd::OwnedFd);

impl Process {
    fn open(pid: Pid) -> Option<Process> {
        rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok().map(Process)
    }

    /// Waits for its end; false if it has not come within `patience`.
    pub fn wait(&self, patience: Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let until = std::time::Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            let timeout = Timespec::try_from(left).ok();
            let mut watched = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut watched, timeout.as_ref()) {
                Ok(0) => return false,
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => return true,
            }
        }
    }
}
