//! Requests that come over io_uring, where the kernel has that (Linux 6.14): then a request is served on the
//! processor it was made on, and its answer asks for the next one in the same call.
//!
//! The kernel has a queue for each processor, and in it entries, each good for one request at a time. Here
//! an [`Entry`](entry::Entry) belongs to a thread, which is bound to the queue's processor and serves what
//! comes in its entry, from the first byte to the last: nothing is handed over.
//!
//! So a request that takes long keeps its entry. A queue has more of them than such requests, and when one
//! begins that would leave too few, another is made first: whoever asks for something quick does not wait.
//! Entries can't be given back to the kernel before the connection ends; they stay, as many as were needed
//! at once.
//!
//! What nobody waits for (`FORGET`), what is asked before the rings are ready (`INIT`), and what we tell the
//! kernel, goes through the device as ever.

mod entry;
mod serve;
mod wire;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use rustix::thread::CpuSet;

use self::entry::{Entry, Next};
use super::operations::Operations;
use crate::{Errno, Volume};

/// The most bytes that a request brings or takes beside its header.
const PAYLOAD: usize = super::negotiate::MAX_IO as usize;

/// How many entries of a queue are not to be kept by what takes long.
const QUICK: usize = 2;

/// The most entries of a queue. What takes long beyond that delays others.
const MOST: usize = 64;

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

/// A queue's threads.
#[derive(Debug)]
struct Queue {
    /// How many there are, and will be in a moment.
    threads: AtomicUsize,
    /// How many serve what takes long.
    slow: AtomicUsize,
}

impl Queue {
    /// With the first, which is made in any case.
    fn new() -> Queue {
        Queue { threads: AtomicUsize::new(1), slow: AtomicUsize::new(0) }
    }
}

/// What all threads share.
struct Hall<V> {
    operations: Arc<Operations<V>>,
    device: Arc<OwnedFd>,
    queues: Box<[Queue]>,
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
    /// The first of each queue.
    first: Vec<Started>,
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
    /// Makes a thread and an entry for each queue, of which the kernel does not know yet: whatever could
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
            queues: (0..queues).map(|_| Queue::new()).collect(),
            stop,
            begin: Mutex::new(None),
            known: Condvar::new(),
            present: Mutex::new(0),
            left: Condvar::new(),
        };
        let mut rings = Rings { hall: Arc::new(hall), go_on: Some(go_on), first: Vec::new() };
        for number in 0..queues {
            let first = rings.hall.start(number)?;
            let made = heard(&first.begun);
            rings.first.push(first);
            made?;
        }
        Ok(rings)
    }

    /// Tells the kernel, which has been promised it. From now on requests come over io_uring, unless that is
    /// refused: then the threads are gone.
    pub(super) fn begin(self) -> Result<Rings<V>, Refusal> {
        self.hall.tell(true);
        self.first.iter().try_for_each(|first| heard(&first.begun))?;
        Ok(self)
    }
}

impl<V> Drop for Rings<V> {
    fn drop(&mut self) {
        let begun = self.hall.tell(false);
        self.go_on = None;
        if !begun {
            for Started { thread, .. } in self.first.drain(..) {
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

impl<V: Volume> Hall<V> {
    /// Starts a thread for this queue.
    fn start(self: &Arc<Self>, number: u16) -> io::Result<Started> {
        let (tell, begun) = channel();
        let present = Present::new(self.clone());
        let thread = std::thread::Builder::new().name(format!("queue-{number}"));
        let thread = thread.spawn(move || work(&present.0, number, &tell))?;
        Ok(Started { begun, thread })
    }

    /// Has [`QUICK`] more entries in this queue than what takes long keeps, as far as that can be; those that
    /// it lacked are there when this returns. What came when there was none is taken up by the next answer in
    /// this queue, not by a new entry: so there has to be a spare one before it is needed.
    fn grow(self: &Arc<Self>, number: u16) {
        let queue = &self.queues[usize::from(number)];
        loop {
            let lacks = |threads: usize| {
                let wanted = queue.slow.load(Ordering::Acquire) + QUICK;
                (threads < wanted.min(MOST)).then_some(threads + 1)
            };
            let counted = queue.threads.fetch_update(Ordering::AcqRel, Ordering::Acquire, lacks);
            if counted.is_err() {
                return;
            }
            let begun = self.start(number).map_err(Refusal::Own);
            let begun =
                begun.and_then(|Started { begun, .. }| heard(&begun).and_then(|()| heard(&begun)));
            if let Err(error) = begun {
                queue.threads.fetch_sub(1, Ordering::AcqRel);
                tracing::debug!(%error, queue = number, "no more threads for requests");
                return;
            }
        }
    }

    /// Serves what takes long, while others are there for what does not.
    fn slowly<T>(self: &Arc<Self>, number: u16, serve: impl FnOnce() -> T) -> T {
        let queue = &self.queues[usize::from(number)];
        queue.slow.fetch_add(1, Ordering::AcqRel);
        self.grow(number);
        // Nobody waits for it, as nobody does who has come the other way.
        self.leave();
        let served = serve();
        self.come();
        queue.slow.fetch_sub(1, Ordering::AcqRel);
        served
    }
}

/// What a thread does from its start to the end of the connection.
fn work<V: Volume>(hall: &Arc<Hall<V>>, number: u16, tell: &Sender<Result<(), Refusal>>) {
    // Who does not listen any more has heard that another failed.
    let say = |result| drop(tell.send(result));
    let mut entry = match Entry::new(hall.device.clone(), number, PAYLOAD) {
        Ok(entry) => entry,
        Err(error) => return say(Err(error.into())),
    };
    say(Ok(()));
    bind(number);
    if !hall.may_begin() {
        return;
    }
    match entry.register(&hall.stop) {
        Ok(()) => say(Ok(())),
        Err(error) => return say(Err(error)),
    }
    let mut asked = false;
    loop {
        let request = match entry.next() {
            Ok(Next::Asked(request)) => request,
            Ok(Next::Over) => return,
            Err(error) => {
                tracing::error!(%error, queue = number, "a thread can't serve requests any more");
                return;
            }
        };
        if !asked {
            // Not before, for processors that are not there.
            asked = true;
            hall.grow(number);
        }
        let operations = &hall.operations;
        let payload = entry.payload();
        let mut serve = || {
            // The volume's panics are caught where it is called; none of ours shall cost a thread.
            catch_unwind(AssertUnwindSafe(|| serve::serve(operations, &request, payload)))
                .unwrap_or(Err(Errno::EIO))
        };
        let slow = serve::is_slow(operations, &request);
        let result = if slow { hall.slowly(number, &mut serve) } else { serve() };
        if let Err(error) = entry.commit(&request, result) {
            tracing::error!(%error, queue = number, "an answer can't be given");
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
