//! Requests that come over io_uring, where the kernel has that (Linux 6.14): then a request is served on the
//! processor it was made on, and its answer asks for the next one in the same call.
//!
//! The kernel has a queue for each processor, and in it entries, each good for one request at a time. A
//! thread that serves requests has one [`Entry`], and is bound to the queue's processor: it serves what comes
//! in its entry from the first byte to the last, and nothing is handed over.
//!
//! So a request that takes long keeps its thread and its entry, and others must not wait for it. Therefore each
//! queue has more entries than threads. The kernel takes the entry that came back last. Those that were never
//! used are in the ring of one more thread, the doorkeeper, so that it has a request just when all others are
//! busy; it starts another thread, which gets the entry with the request in it, answers by a ring of its own,
//! and has the entry from then on. (An entry that is told to the kernel only then would not do: requests that
//! wait already are not given to new entries.)
//!
//! What nobody waits for (`FORGET`), what is asked before the rings are ready (`INIT`), and what we tell the
//! kernel, goes through the device as ever.

mod ring;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use rustix::thread::CpuSet;

use self::ring::{Entry, Next, Ring};
use super::operations::Operations;
use super::serve;
use crate::Volume;

/// The most bytes that a request brings or takes beside its header.
const PAYLOAD: usize = super::negotiate::MAX_IO as usize;

/// How many entries a queue has, and so how many threads at most beside its doorkeeper. They take memory as far
/// as they were used.
const ENTRIES: u16 = 64;

/// Whether the kernel has it, and is allowed to use it; how many queues it wants: one for each processor
/// that it could have. To be asked before the daemon gives up reading such files.
pub(super) fn offered() -> Result<u16, String> {
    const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
    const PROCESSORS: &str = "/sys/devices/system/cpu/possible";
    match std::fs::read(Path::new(SWITCH)) {
        Ok(on) if on.starts_with(b"Y") => {}
        Ok(_) => return Err(format!("it is switched off; `echo Y > {SWITCH}` switches it on")),
        Err(error) => {
            return Err(format!("it takes Linux 6.14 or later with FUSE over io_uring ({error})"));
        }
    }
    let possible = std::fs::read_to_string(PROCESSORS).map_err(|e| format!("{PROCESSORS}: {e}"))?;
    queues(&possible).ok_or_else(|| {
        let possible = possible.trim();
        format!("processors are numbered in a way that is not known here: {possible}")
    })
}

/// `0-3` are four. With gaps in it the kernel has fewer queues than numbers, and finds none for the last.
fn queues(possible: &str) -> Option<u16> {
    match possible.trim().strip_prefix('0')? {
        "" => Some(1),
        more => more.strip_prefix('-')?.parse::<u16>().ok()?.checked_add(1),
    }
}

/// What all threads share.
struct Hall<V> {
    operations: Arc<Operations<V>>,
    device: Arc<OwnedFd>,
    /// Its other end is closed when all shall end.
    stop: UnixStream,
    /// Whether the kernel may be told of entries; none while that is not known.
    begin: Mutex<Option<bool>>,
    known: Condvar,
    /// How many threads are there that don't serve what takes long.
    present: Mutex<usize>,
    left: Condvar,
}

/// The threads that serve a connection; they end with it. Dropping it ends them, and waits for all but those
/// that serve something that takes long.
pub(super) struct Rings<V> {
    hall: Arc<Hall<V>>,
    go_on: Option<UnixStream>,
    /// The doorkeeper of each queue.
    doorkeepers: Vec<Started>,
}

struct Started {
    begun: Begun,
    thread: JoinHandle<()>,
}

/// Why requests don't come over io_uring.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The kernel does not want to: they come as ever.
    #[error("the kernel refuses it: {0}")]
    Kernel(io::Error),
    /// The kernel waits in vain for what it was promised.
    #[error("{0}")]
    Own(#[from] io::Error),
}

/// Tells twice: that a thread has made its entry, and that the kernel has taken it.
type Begun = Receiver<Result<(), Refusal>>;

fn heard(begun: &Begun) -> Result<(), Refusal> {
    // It says nothing more if it panicked.
    begun.recv().unwrap_or_else(|gone| Err(io::Error::other(gone).into()))
}

impl<V: Volume> Rings<V> {
    /// Makes a thread and entries for each queue, of which the kernel does not know yet: whatever could
    /// fail has to before it is promised.
    pub(super) fn prepare(
        operations: Arc<Operations<V>>,
        device: Arc<OwnedFd>,
        queues: u16,
    ) -> Result<Rings<V>, Refusal> {
        let (stop, go_on) = UnixStream::pair()?;
        let hall = Hall {
            operations,
            device,
            stop,
            begin: Mutex::new(None),
            known: Condvar::new(),
            present: Mutex::new(0),
            left: Condvar::new(),
        };
        let mut rings = Rings { hall: Arc::new(hall), go_on: Some(go_on), doorkeepers: Vec::new() };
        for number in 0..queues {
            let started = rings.hall.start(number)?;
            let made = heard(&started.begun);
            rings.doorkeepers.push(started);
            made?;
        }
        Ok(rings)
    }

    /// Tells the kernel, which has been promised it. From now on requests come over io_uring, unless that is
    /// refused: then the threads are gone.
    pub(super) fn begin(self) -> Result<Rings<V>, Refusal> {
        self.hall.tell(true);
        self.doorkeepers.iter().try_for_each(|started| heard(&started.begun))?;
        Ok(self)
    }
}

impl<V> Drop for Rings<V> {
    fn drop(&mut self) {
        let begun = self.hall.tell(false);
        self.go_on = None;
        if !begun {
            for Started { thread, .. } in self.doorkeepers.drain(..) {
                // Its panics are logged where they happen.
                let _ = thread.join();
            }
        }
        let mut present = self.hall.present.lock();
        self.hall.left.wait_while(&mut present, |present| *present > 0);
    }
}

/// A thread that is waited for in the end.
struct Present<V>(Arc<Hall<V>>);

impl<V> Present<V> {
    fn new(hall: Arc<Hall<V>>) -> Present<V> {
        hall.come();
        Present(hall)
    }
}

impl<V> Drop for Present<V> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl<V> Hall<V> {
    fn come(&self) {
        *self.present.lock() += 1;
    }

    fn leave(&self) {
        *self.present.lock() -= 1;
        self.left.notify_all();
    }

    /// Says whether the kernel may be told; whether that was so before.
    fn tell(&self, begin: bool) -> bool {
        let before = self.begin.lock().replace(begin);
        self.known.notify_all();
        before == Some(true)
    }

    /// Waits until it is known whether the kernel may be told of entries.
    fn may_begin(&self) -> bool {
        let mut begin = self.begin.lock();
        self.known.wait_while(&mut begin, |begin| begin.is_none());
        *begin == Some(true)
    }
}

/// A request that waits in its entry for a thread.
struct Job {
    entry: Entry,
    ring: Ring,
}

impl<V: Volume> Hall<V> {
    /// Starts the doorkeeper of this queue.
    fn start(self: &Arc<Self>, number: u16) -> io::Result<Started> {
        let (tell, begun) = channel();
        let present = Present::new(self.clone());
        let thread = std::thread::Builder::new().name(format!("queue-{number}"));
        let thread = thread.spawn(move || keep_the_door(&present.0, number, &tell))?;
        Ok(Started { begun, thread })
    }

    /// Starts another thread of this queue, which serves the request in `entry`, and what comes in it later;
    /// the entry, if there can't be one.
    fn hand_over(self: &Arc<Self>, number: u16, entry: Entry) -> Option<Entry> {
        let ring = match Ring::new(self.device.clone(), number, 1) {
            Ok(ring) => ring,
            Err(error) => {
                tracing::debug!(%error, queue = number, "no more rings for requests");
                return Some(entry);
            }
        };
        // So that it is not lost with a thread that does not start.
        let job = Arc::new(Mutex::new(Some(Job { entry, ring })));
        let (given, present) = (job.clone(), Present::new(self.clone()));
        let thread = std::thread::Builder::new().name(format!("queue-{number}"));
        let started = thread.spawn(move || {
            let job = given.lock().take();
            if let Some(job) = job {
                work(&present.0, number, job);
            }
        });
        let Err(error) = started else { return None };
        tracing::debug!(%error, queue = number, "no more threads for requests");
        job.lock().take().map(|job| job.entry)
    }

    /// Serves the request in `entry`, and has the answer go by `ring`.
    fn serve(&self, ring: &mut Ring, mut entry: Entry) -> io::Result<()> {
        let request = entry.request();
        let (operations, payload) = (&self.operations, entry.payload());
        let slow = serve::is_slow(operations, &request);
        if slow {
            // Nobody waits for it in the end, as nobody does who has come the other way.
            self.leave();
        }
        let result = serve::serve(operations, &request, payload);
        if slow {
            self.come();
        }
        ring.commit(entry, &request, result)
    }
}

/// What a doorkeeper does from its start to the end of the connection.
fn keep_the_door<V: Volume>(hall: &Arc<Hall<V>>, number: u16, tell: &Sender<Result<(), Refusal>>) {
    // Who does not listen any more has heard that another failed.
    let say = |result| drop(tell.send(result));
    let make = || -> Result<_, Refusal> {
        let mut ring = Ring::new(hall.device.clone(), number, ENTRIES.into())?;
        ring.open(&hall.stop)?;
        let entries: io::Result<Vec<Entry>> = (0..ENTRIES).map(|_| Entry::new(PAYLOAD)).collect();
        Ok((ring, entries?))
    };
    let (mut ring, entries) = match make() {
        Ok(made) => made,
        Err(error) => return say(Err(error)),
    };
    say(Ok(()));
    bind(number);
    if !hall.may_begin() {
        return;
    }
    match ring.register(entries) {
        Ok(()) => say(Ok(())),
        Err(error) => return say(Err(error)),
    }
    serve_all(number, &mut ring, |ring, entry| match hall.hand_over(number, entry) {
        // Others wait for it, then; they can't have more.
        Some(entry) => hall.serve(ring, entry),
        None => Ok(()),
    });
}

/// What any other thread does.
fn work<V: Volume>(hall: &Arc<Hall<V>>, number: u16, Job { entry, mut ring }: Job) {
    bind(number);
    let begun = ring.open(&hall.stop).and_then(|()| hall.serve(&mut ring, entry));
    match begun {
        Ok(()) => serve_all(number, &mut ring, |ring, entry| hall.serve(ring, entry)),
        Err(error) => tracing::error!(%error, queue = number, "a request can't be answered"),
    }
}

/// Has `serve` serve what comes by `ring` until the connection ends.
fn serve_all(
    number: u16,
    ring: &mut Ring,
    mut serve: impl FnMut(&mut Ring, Entry) -> io::Result<()>,
) {
    loop {
        let served = match ring.next() {
            Ok(Next::Over) => return,
            Ok(Next::Asked(tag)) => match ring.take(tag) {
                Some(entry) => serve(ring, entry),
                None => Err(io::Error::other("a request came in an entry that is not there")),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::error!(%error, queue = number, "a thread can't serve requests any more");
            return;
        }
    }
}

/// Binds the calling thread to a processor, if there is one by this number that it may use. It serves in
/// any case: a queue has to have somebody, and the processor may come.
fn bind(processor: u16) {
    if usize::from(processor) < CpuSet::MAX_CPU {
        let mut set = CpuSet::new();
        set.set(processor.into());
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_as_many_as_processors_are_possible() {
        assert_eq!(queues("0\n"), Some(1));
        assert_eq!(queues("0-1\n"), Some(2));
        assert_eq!(queues("0-127\n"), Some(128));
        for strange in ["", "1-3", "0,2", "0-1,4", "0-65535", "a"] {
            assert_eq!(queues(strange), None, "{strange}");
        }
    }
}
