//! Answers on the control socket. Nothing that a client sends may harm the daemon: lines, their
//! number at a time, and the time that each may take are bounded.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::AtFlags;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::public::Public;
use super::room::{CLIENTS, Room};
use super::{Command, LONGEST_LINE, PruneWords, SOCKET, address, answer_line};

/// A client that takes longer to say a line is cut off.
const LINE_TIME: Duration = Duration::from_secs(10);

/// A client that takes longer to read an answer is cut off.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// A daemon that ends waits no longer for its last answers to be read.
const FINISH_TIME: Duration = Duration::from_secs(1);

/// Nor for what it was told to do to be done: to unmount takes seconds where the kernel has a million
/// inodes to let go of, and whoever asked for it waits for the answer.
const CARRY_OUT_TIME: Duration = Duration::from_secs(60);

/// What the socket's clients are served with. Called outside the event loop: may wait.
pub trait Service: Send + Sync + 'static {
    /// The `ok` part of a `status` answer.
    fn status(&self) -> Value;
    /// The `ok` part of a `readers` answer.
    fn readers(&self) -> Value;
    /// The `ok` part of a `units` answer, or what, why and what to do.
    fn units(&self) -> Result<Value, String>;
    /// Removes `paths`, or everything if there are none, for the process `by`: the `ok` part of the answer, or what, why and
    /// what to do.
    fn clean(&self, paths: &[PathBuf], by: u32) -> Result<Value, String>;
    /// Prunes, for the process `by`: the `ok` part of the answer, or what, why and what to do.
    fn prune(&self, words: PruneWords, by: u32) -> Result<Value, String>;
    /// Unmounts, or says what, why and what to do.
    fn unmount(&self, lazy: bool) -> Result<(), String>;
}

/// A socket that is bound and not yet answered on.
#[derive(Debug)]
pub struct Bound(std::os::unix::net::UnixListener);

/// Binds the socket in the store's own folder, in place of one that a dead daemon has left: whoever
/// calls this owns the store.
pub fn bind(private: BorrowedFd<'_>) -> io::Result<Bound> {
    remove(private);
    let listener = std::os::unix::net::UnixListener::bind(address(private, SOCKET))?;
    listener.set_nonblocking(true)?;
    Ok(Bound(listener))
}

impl Bound {
    /// The socket that is `public`, once; it stays while that does.
    pub fn public(public: &mut Public) -> Option<Bound> {
        public.listener().map(Bound)
    }
}

/// Removes the socket.
pub fn remove(private: BorrowedFd<'_>) {
    let _ = rustix::fs::unlinkat(private, SOCKET, AtFlags::empty());
}

/// Answers clients.
#[derive(Clone)]
pub struct Server {
    service: Arc<dyn Service>,
    room: Arc<Room>,
    /// A permit for each answer that is being made or sent.
    answering: Arc<Semaphore>,
    /// A permit for each command that is being carried out.
    working: Arc<Semaphore>,
}

impl Server {
    /// Answers with what `service` says.
    pub fn new(service: Arc<dyn Service>) -> Server {
        let semaphore = || Arc::new(Semaphore::new(CLIENTS));
        let room = Room::new(rustix::process::geteuid().as_raw());
        Server { service, room, answering: semaphore(), working: semaphore() }
    }

    /// Answers for ever; to be run in a tokio runtime with time and I/O.
    pub async fn serve(self, bound: Bound) {
        let listener = match UnixListener::from_std(bound.0) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!("no control socket: {error}"),
        };
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: it must neither end nor spin.
                    tracing::warn!("can't accept on the control socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(peer) = stream.peer_cred() else { continue };
            let Some(place) = self.room.enter(peer.uid()) else {
                // Written without waiting: a fresh socket has room for a line.
                let line = answer_line(Err("too many clients at once; try again".into()));
                let _ = stream.try_write(line.as_bytes());
                continue;
            };
            let server = self.clone();
            tokio::spawn(async move {
                if let Err(error) = server.converse(stream, peer).await {
                    tracing::debug!("a client of the control socket was cut off: {error}");
                }
                drop(place);
            });
        }
    }

    /// Waits until the answers that are on their way have been sent, and makes no more.
    pub async fn finish(&self) {
        // The permits go back at once, so that nobody who was a moment late is left without an answer.
        let idle = self.working.acquire_many(CLIENTS as u32);
        if timeout(CARRY_OUT_TIME, idle).await.is_err() {
            tracing::warn!("ends while a command is still being carried out");
        }
        let all = self.answering.acquire_many(CLIENTS as u32);
        if let Ok(Ok(all)) = timeout(FINISH_TIME, all).await {
            all.forget();
        }
    }

    /// Answers line after line until the client leaves or misbehaves.
    async fn converse(&self, stream: UnixStream, peer: UCred) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            // One more than may be, to tell a line of just the longest length from a longer one.
            let mut limited = (&mut stream).take(LONGEST_LINE as u64 + 1);
            timeout(LINE_TIME, limited.read_until(b'\n', &mut line)).await??;
            if line.is_empty() {
                return Ok(());
            }
            let Ok(_answering) = self.answering.acquire().await else { return Ok(()) };
            let (answer, go_on) = if line.len() > LONGEST_LINE {
                (Err(format!("a line may have no more than {LONGEST_LINE} bytes")), false)
            } else if line.pop() != Some(b'\n') {
                (Err("the line has no end".to_owned()), false)
            } else {
                match Command::from_line(&line) {
                    Ok(command) => (self.carry_out(command, peer).await, true),
                    Err(why) => (Err(why), true),
                }
            };
            let answer = answer_line(answer);
            timeout(ANSWER_TIME, stream.write_all(answer.as_bytes())).await??;
            if !go_on {
                return Ok(());
            }
        }
    }

    async fn carry_out(&self, command: Command, peer: UCred) -> Result<Value, String> {
        // 0 where the daemon can't see it.
        let process = peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        let peer = peer.uid();
        let owner = rustix::process::geteuid().as_raw();
        if !command.is_for_everyone() && peer != 0 && peer != owner {
            return Err(format!("not permitted for user {peer}; run as root or as user {owner}"));
        }
        let Ok(_working) = self.working.acquire().await else {
            return Err("the daemon ends".to_owned());
        };
        let service = self.service.clone();
        let work = tokio::task::spawn_blocking(move || match command {
            Command::Status => Ok(service.status()),
            Command::Readers => Ok(service.readers()),
            Command::Units => service.units(),
            Command::Clean { paths } => service.clean(&paths, process),
            Command::Prune(words) => service.prune(words, process),
            Command::Unmount { lazy } => service.unmount(lazy).map(|()| json!({})),
        });
        work.await.unwrap_or_else(|_| Err("the daemon failed at this; its log says why".into()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Unmounting takes until the test says so.
    struct Slow {
        begun: Mutex<Sender<()>>,
        go_on: Mutex<Receiver<()>>,
    }

    impl Service for Slow {
        fn status(&self) -> Value {
            json!({})
        }
        fn readers(&self) -> Value {
            json!({})
        }
        fn units(&self) -> Result<Value, String> {
            Ok(json!({}))
        }
        fn clean(&self, _paths: &[PathBuf], _by: u32) -> Result<Value, String> {
            Ok(json!({}))
        }
        fn prune(&self, _words: PruneWords, _by: u32) -> Result<Value, String> {
            Ok(json!({}))
        }
        fn unmount(&self, _lazy: bool) -> Result<(), String> {
            self.begun.lock().unwrap().send(()).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
            Ok(())
        }
    }

    #[test]
    fn a_daemon_that_ends_answers_who_made_it_end() {
        let folder = tempfile::tempdir().unwrap();
        let directory = std::fs::File::open(folder.path()).unwrap();
        let bound = bind(std::os::fd::AsFd::as_fd(&directory)).unwrap();
        let ((begun, has_begun), (may_go_on, go_on)) = (channel(), channel());
        let service = Slow { begun: Mutex::new(begun), go_on: Mutex::new(go_on) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = Server::new(Arc::new(service));
        let path = folder.path().join(SOCKET);
        let client = std::thread::spawn(move || {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            stream.write_all(Command::Unmount { lazy: false }.to_line().as_bytes()).unwrap();
            let mut answer = vec![0; 1024];
            let length = stream.read(&mut answer).unwrap();
            String::from_utf8_lossy(&answer[..length]).into_owned()
        });
        runtime.block_on(async {
            tokio::spawn(server.clone().serve(bound));
            tokio::task::spawn_blocking(move || has_begun.recv().unwrap()).await.unwrap();
            // Longer than sending may take: the end has to wait for the work first.
            let patience = FINISH_TIME * 2;
            let finished = timeout(patience, server.finish()).await;
            assert!(finished.is_err(), "it ended before the command was carried out");
            may_go_on.send(()).unwrap();
            server.finish().await;
        });
        drop(runtime);
        let answer = client.join().unwrap();
        assert!(answer.contains("ok"), "{answer:?}");
    }
}
