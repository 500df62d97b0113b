//! A share in the mount of a store: it lasts as long as the connection to the keeper.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::keeper::KEEPER;
use super::signals::Mask;
use crate::cli::{Failure, mount};
use crate::store;
use crate::system::mounts;

/// The keeper says this to everyone who connects.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Where the mount is, and the process whose namespaces it is in.
    Mounted { mountpoint: PathBuf, daemon: u32 },
    /// Why there is none.
    Failed(String),
}

/// A keeper may take so long for a mount, or to end one.
const PATIENCE: Duration = Duration::from_secs(60);

/// A keeper that is about to end is met so often, with this time between.
const ATTEMPTS: u32 = 300;
const PAUSE: Duration = Duration::from_millis(50);

/// A share in a mount.
#[derive(Debug)]
pub(super) struct Lease {
    mountpoint: PathBuf,
    /// Without one it is a mount that everybody sees, and that somebody else takes away.
    keeper: Option<(UnixStream, u32)>,
    /// The keeper, where it was started for this.
    child: Option<Child>,
}

impl Lease {
    /// A share in the mount of `store` that is there, or in one that is made at `at` by a keeper that takes
    /// the signals of `mask`.
    pub(super) fn take(store: &Path, at: &Path, mask: Mask) -> Result<Lease, Failure> {
        let address = address(store)?;
        for _ in 0..ATTEMPTS {
            let (mut child, stream) = match UnixStream::connect_addr(&address) {
                Ok(stream) => (None, stream),
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    if let Some(lease) = Lease::of_others(store)? {
                        return Ok(lease);
                    }
                    let listener = match UnixListener::bind_addr(&address) {
                        Ok(listener) => listener,
                        // Someone else was faster.
                        Err(e) if e.kind() == io::ErrorKind::AddrInUse => continue,
                        Err(e) => return Err(format!("can't open a socket: {e}").into()),
                    };
                    // Before there is a keeper, which ends when nobody is connected.
                    let stream = UnixStream::connect_addr(&address)?;
                    (Some(start_keeper(listener, (store, at), mask)?), stream)
                }
                Err(e) => return Err(format!("can't ask for the mount: {e}").into()),
            };
            if let Some((mountpoint, daemon)) = hear(&stream)? {
                return Ok(Lease { mountpoint, keeper: Some((stream, daemon)), child });
            }
            // It was just ending.
            if let Some(child) = &mut child {
                child.wait()?;
            }
            std::thread::sleep(PAUSE);
        }
        Err(format!(
            "what keeps the mount of the store {} neither serves nor ends; use another --store",
            store.display()
        )
        .into())
    }

    /// A mount of the store that was made by `cachefs mount`, if there is one. An error: a daemon has the
    /// store whose mount can't be seen from here.
    fn of_others(store: &Path) -> Result<Option<Lease>, Failure> {
        if let Ok(mount) = mounts::find(Some(store))
            && mount.source == store
            && fs::metadata(&mount.path).is_ok()
        {
            return Ok(Some(Lease { mountpoint: mount.path, keeper: None, child: None }));
        }
        match store::holder(store) {
            Some(pid) => Err(format!(
                "the store {} is in use by a daemon (pid {pid}) whose mount can't be seen from here; run this where \
                 it can be seen, end that, or use another --store",
                store.display()
            )
            .into()),
            None => Ok(None),
        }
    }

    pub(super) fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The process whose namespaces the mount is in.
    pub(super) fn daemon(&self) -> Option<u32> {
        self.keeper.as_ref().map(|(_, daemon)| *daemon)
    }

    /// Waits until the mount is gone, if this was the last share in it.
    pub(super) fn give_back(self) {
        let Some((mut stream, _)) = self.keeper else { return };
        // Where that fails the keeper is gone already.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
        if let Some(mut keeper) = self.child {
            // One that others still need goes on without us.
            let _ = keeper.try_wait();
        }
    }
}

/// What the keeper answers; nothing if it ends instead.
fn hear(stream: &UnixStream) -> Result<Option<(PathBuf, u32)>, Failure> {
    // Anyone can open a socket of any name; who opened this one may name any directory.
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    if peer.uid != rustix::process::geteuid() {
        let uid = peer.uid.as_raw();
        return Err(format!(
            "user {uid} answers in the place of a mount of yours; use another --store"
        )
        .into());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line) {
        Ok(0) => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Err(e) => return Err(format!("what keeps the mount does not answer: {e}").into()),
        Ok(_) => {}
    }
    match serde_json::from_str(&line)? {
        Answer::Mounted { mountpoint, daemon } => Ok(Some((mountpoint, daemon))),
        Answer::Failed(why) => Err(why.into()),
    }
}

/// An abstract name, which goes with the last descriptor of its socket.
fn address(store: &Path) -> Result<SocketAddr, Failure> {
    let (found, uid) = (fs::metadata(store)?, rustix::process::geteuid().as_raw());
    let name = format!("cachefs-run-{uid}-{:x}-{:x}", found.dev(), found.ino());
    Ok(SocketAddr::from_abstract_name(name)?)
}

fn start_keeper(
    listener: UnixListener,
    (store, at): (&Path, &Path),
    mask: Mask,
) -> Result<Child, Failure> {
    let mut command = Command::new(mount::PROGRAM);
    command.arg0("cachefs").arg(KEEPER).args([store, at]).current_dir("/");
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: only a system call is made between fork and exec.
    unsafe { command.pre_exec(move || mask.restore()) };
    let started = command.spawn();
    Ok(started.map_err(|e| format!("can't start what keeps the mount: {e}"))?)
}
