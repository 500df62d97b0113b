//! Requests that come through `/dev/fuse`: one `read(2)` brings one, one `write(2)` takes the answer.
//!
//! To wake a thread for a request takes longer than to serve it, and a thread that waits in the kernel beside
//! another is woken for each request that the other one is about to take. So it is one thread that reads, serves
//! and answers, and asks for some microseconds whether there is more before it waits (`pause`). It sits in the
//! first *seat*.
//!
//! Others come only when they are needed. While there is something to do, a timer has somebody look each
//! millisecond: whether who sits somewhere is still at the request of the last time, which takes long, so that
//! another thread is to read on from that seat (`seat`); and whether requests had to wait for each other, so that
//! one more seat is to be opened. Who finds nothing in such a seat closes it.

mod pause;
mod seat;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno as Raw;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use self::pause::Pause;
use self::seat::{Seat, Seen, Turn};
use super::operations::Operations;
use super::serve;
use super::wire::{OUT_HEADER, Request, opcode, out_header};
use crate::{Errno, Volume};

/// How often somebody looks whether who serves gets on.
const TICK: Duration = Duration::from_millis(1);

/// How many threads there are at most, but for those that serve what is known to take long.
const MOST: usize = 64;

/// So few requests in a tick say nothing of how busy it is.
const FEW: u64 = 8;

/// The kernel wants room for the largest request, with its headers.
const ROOM: usize = super::negotiate::MAX_IO as usize + 4096;

const PAGE: usize = 4096;

/// The first seat. Who sits there waits in the kernel when there is nothing to do.
const FIRST: usize = 0;

/// Those who serve a connection.
pub(super) struct Crew<V> {
    operations: Arc<Operations<V>>,
    device: Arc<OwnedFd>,
    seats: Box<[Seat]>,
    /// Whether it may pay to ask again rather than to wait: not where that would keep the only processor.
    asks_again: bool,
    timer: OwnedFd,
    /// Can be read when all shall end.
    stop: OwnedFd,
    /// Whether the timer is set, or somebody is about to look.
    looked_after: AtomicBool,
    /// Whether who sits in the first seat waits for the kernel, so that nobody needs to be looked after.
    waits: AtomicBool,
    lobby: Mutex<Lobby>,
    came: Condvar,
    left: Condvar,
}

/// Where threads are that have no seat.
#[derive(Debug, Default)]
struct Lobby {
    /// Seats for whoever comes.
    vacant: Vec<(usize, Turn)>,
    waiting: usize,
    /// How many threads there are, but for those at something that takes long.
    present: usize,
    over: bool,
}

/// What came of reading.
enum Next {
    /// A request of so many bytes.
    Asked(usize),
    /// Nothing, for a while.
    Nothing,
    /// The connection has ended.
    Over,
}

impl<V: Volume> Crew<V> {
    /// Up to `seats` threads will serve at once, but for those that are at what takes long. From now on reading from
    /// the device does not wait (`O_NONBLOCK`).
    pub(super) fn new(
        operations: Arc<Operations<V>>,
        device: Arc<OwnedFd>,
        seats: usize,
        asks_again: bool,
    ) -> io::Result<Arc<Crew<V>>> {
        let flags = rustix::fs::fcntl_getfl(&device)?;
        rustix::fs::fcntl_setfl(&device, flags | OFlags::NONBLOCK)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        Ok(Arc::new(Crew {
            operations,
            device,
            seats: (0..seats.max(1)).map(|_| Seat::new()).collect(),
            asks_again,
            timer,
            stop: eventfd(0, EventfdFlags::CLOEXEC)?,
            looked_after: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            lobby: Mutex::default(),
            came: Condvar::new(),
            left: Condvar::new(),
        }))
    }

    /// Starts the first thread.
    pub(super) fn begin(self: &Arc<Self>) -> io::Result<()> {
        self.open(FIRST, self.seats[FIRST].look());
        match self.lobby.lock().present {
            0 => Err(io::Error::other("no thread can be started")),
            _ => Ok(()),
        }
    }

    /// Looks after who serves, until the connection has ended.
    pub(super) fn run(self: &Arc<Self>) {
        let mut seen: Vec<Seen> = self.seats.iter().map(Seat::look).collect();
        loop {
            let mut ticks = [0; 8];
            match rustix::io::read(&self.timer, &mut ticks) {
                Ok(_) | Err(Raw::INTR) => {}
                Err(error) => tracing::error!(%error, "the timer of those who serve"),
            }
            if self.lobby.lock().over {
                break;
            }
            self.look(&mut seen);
            // Whoever does not wait any more, and saw that the timer is set, is seen here.
            self.looked_after.store(false, Ordering::SeqCst);
            if !self.waits.load(Ordering::SeqCst) {
                self.be_looked_after();
            }
        }
        let mut lobby = self.lobby.lock();
        self.left.wait_while(&mut lobby, |lobby| lobby.present > 0);
    }

    /// Sees to it that requests are read, compared with what was `seen` a tick ago.
    fn look(self: &Arc<Self>, seen: &mut [Seen]) {
        let (mut served, mut idle) = (0, 0);
        for (number, before) in seen.iter_mut().enumerate() {
            let now = self.seats[number].look();
            let (more, less) = now.since(*before);
            (served, idle) = (served + more, idle + less);
            if now == *before
                && let Some(turn) = self.seats[number].take(now)
            {
                self.fill(number, turn);
            }
            *before = self.seats[number].look();
        }
        // Three of four had to wait for the one before.
        if served >= FEW
            && idle * 4 < served
            && let Some(number) = seen.iter().position(|seen| seen.is_closed())
        {
            self.open(number, seen[number]);
        }
    }

    fn be_looked_after(&self) {
        if self.looked_after.swap(true, Ordering::SeqCst) {
            return;
        }
        self.set_timer(TICK);
    }

    fn set_timer(&self, after: Duration) {
        let it_value = Timespec { tv_sec: 0, tv_nsec: after.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once) {
            tracing::error!(%error, "the timer of those who serve");
        }
    }

    /// Opens a seat that was `seen` closed.
    fn open(self: &Arc<Self>, number: usize, seen: Seen) {
        if let Some(turn) = self.seats[number].open(seen) {
            self.fill(number, turn);
        }
    }

    /// Has somebody read from a seat: who waits in the lobby, or another thread, or, if there can't be one, who
    /// comes to the lobby next.
    fn fill(self: &Arc<Self>, number: usize, turn: Turn) {
        let mut lobby = self.lobby.lock();
        lobby.vacant.push((number, turn));
        if lobby.waiting >= lobby.vacant.len() {
            drop(lobby);
            self.came.notify_one();
            return;
        }
        if lobby.present >= MOST {
            return;
        }
        lobby.present += 1;
        drop(lobby);
        let crew = self.clone();
        let thread = std::thread::Builder::new().name(format!("serve-{number}"));
        if let Err(error) = thread.spawn(move || crew.work()) {
            self.leave();
            tracing::warn!(%error, "no more threads for requests");
        }
    }

    /// What a thread does from its start to its end.
    fn work(self: &Arc<Self>) {
        let mut buffer = Buffer::new();
        while let Some((number, turn)) = self.be_seated() {
            self.sit(number, turn, &mut buffer);
        }
        self.leave();
    }

    fn come(&self) {
        self.lobby.lock().present += 1;
    }

    fn leave(&self) {
        self.lobby.lock().present -= 1;
        self.left.notify_all();
    }

    /// Waits for a seat; none when the connection has ended, or enough others wait.
    fn be_seated(&self) -> Option<(usize, Turn)> {
        let mut lobby = self.lobby.lock();
        loop {
            if lobby.over {
                return None;
            }
            if let Some(seat) = lobby.vacant.pop() {
                return Some(seat);
            }
            if lobby.waiting > self.seats.len() {
                return None;
            }
            lobby.waiting += 1;
            self.came.wait(&mut lobby);
            lobby.waiting -= 1;
        }
    }

    /// Serves what comes, as long as the seat is not taken away.
    fn sit(self: &Arc<Self>, number: usize, mut turn: Turn, buffer: &mut Buffer) {
        let seat = &self.seats[number];
        let mut pause = Pause::new(Instant::now());
        loop {
            let length = match self.next(number, &mut pause, buffer) {
                Next::Asked(length) => length,
                Next::Nothing => return seat.close(turn),
                Next::Over => return self.end(),
            };
            let Some((request, begin)) = Request::of_device(buffer.message(length)) else {
                tracing::error!(length, "a request that is too short");
                continue;
            };
            let serving = seat.serve(turn);
            if serve::is_slow(&self.operations, &request) {
                if let Some(turn) = serving.done() {
                    self.fill(number, turn);
                }
                // Nobody waits for it in the end.
                self.leave();
                self.serve(&request, begin, buffer);
                return self.come();
            }
            self.serve(&request, begin, buffer);
            match serving.done() {
                Some(next) => turn = next,
                None => return,
            }
            pause.begin(Instant::now());
        }
    }

    /// Serves a request, and answers it.
    fn serve(&self, request: &Request, begin: usize, buffer: &mut Buffer) {
        let payload = buffer.payload(begin);
        // The volume's panics are caught where it is called; none of ours shall cost a thread.
        let served = AssertUnwindSafe(|| serve::serve(&self.operations, request, payload));
        let result = catch_unwind(served).unwrap_or(Err(Errno::EIO));
        if matches!(request.opcode, opcode::FORGET | opcode::BATCH_FORGET) {
            return;
        }
        let answer = buffer.answer(begin, request.unique, result);
        match rustix::io::write(&self.device, answer) {
            // Who asked does not wait any more, or nobody does.
            Ok(_) | Err(Raw::NOENT | Raw::NODEV | Raw::CONNABORTED) => {}
            Err(error) => {
                tracing::error!(%error, opcode = request.opcode, "an answer is not taken")
            }
        }
    }

    /// Reads a request.
    fn next(&self, number: usize, pause: &mut Pause, buffer: &mut Buffer) -> Next {
        let mut found_nothing = false;
        loop {
            match rustix::io::read(&self.device, buffer.room()) {
                Ok(length) => return Next::Asked(length),
                Err(Raw::AGAIN) => {}
                // Who asked has given up.
                Err(Raw::NOENT | Raw::INTR) => continue,
                Err(Raw::NODEV | Raw::CONNABORTED) => return Next::Over,
                Err(error) => {
                    tracing::error!(%error, "the connection to the kernel broke");
                    return Next::Over;
                }
            }
            if !found_nothing {
                found_nothing = true;
                self.seats[number].found_nothing();
            }
            if self.asks_again && pause.goes_on(Instant::now()) {
                std::hint::spin_loop();
            } else if number != FIRST {
                return Next::Nothing;
            } else if self.is_stopped() {
                return Next::Over;
            } else {
                pause.end(Instant::now());
            }
        }
    }

    /// Waits until there is something to read; whether all shall end instead.
    fn is_stopped(&self) -> bool {
        self.waits.store(true, Ordering::SeqCst);
        let wait_for = |what| PollFd::from_borrowed_fd(what, PollFlags::IN);
        let mut both = [wait_for(self.device.as_fd()), wait_for(self.stop.as_fd())];
        match rustix::event::poll(&mut both, None) {
            Ok(_) | Err(Raw::INTR) => {}
            Err(error) => tracing::error!(%error, "waiting for requests"),
        }
        self.waits.store(false, Ordering::SeqCst);
        self.be_looked_after();
        !both[1].revents().is_empty()
    }

    /// The connection has ended, or nobody shall serve it any more.
    pub(super) fn end(&self) {
        self.lobby.lock().over = true;
        self.came.notify_all();
        self.set_timer(Duration::from_nanos(1));
        if let Err(error) = rustix::io::write(&self.stop, &1u64.to_ne_bytes()) {
            tracing::error!(%error, "who serves can't be stopped");
        }
    }
}

/// Where requests are read to, and answers are made: in the place of a request's names and data.
struct Buffer {
    memory: Vec<u8>,
    /// Where requests begin: so that what is to be written lies on a page of its own.
    begin: usize,
}

impl Buffer {
    fn new() -> Buffer {
        // `struct fuse_in_header` and `struct fuse_write_in`.
        const BEFORE_DATA: usize = 80;
        // Memory that was never used is not there.
        let memory = vec![0; ROOM + 2 * PAGE];
        let begin = memory.as_ptr().align_offset(PAGE) + PAGE - BEFORE_DATA;
        Buffer { memory, begin }
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..]
    }

    fn message(&self, length: usize) -> &[u8] {
        &self.memory[self.begin..][..length]
    }

    fn payload(&mut self, begin: usize) -> &mut [u8] {
        &mut self.memory[self.begin + begin..]
    }

    /// The answer whose names and data, as many bytes as `result` says, were put where the request's began.
    fn answer(&mut self, begin: usize, unique: u64, result: crate::Result<usize>) -> &[u8] {
        let begin = self.begin + begin;
        let header = begin - OUT_HEADER;
        self.memory[header..begin].copy_from_slice(&out_header(unique, result));
        &self.memory[header..begin + result.unwrap_or(0)]
    }
}
