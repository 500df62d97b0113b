//! Requests that come through `/dev/fuse`: one `read(2)` brings one, one `write(2)` takes the answer.
//!
//! There are as many *seats* as requests are to be served at once, mostly one for each processor: who sits in one
//! reads a request, serves it, answers, and reads the next one. So a request that takes long keeps a seat, and others
//! must not wait for it. Of some that is known beforehand: then another thread gets the seat at once. While somebody
//! serves in every seat, a timer has one more look each millisecond: whose request is still the one of the last time
//! has the seat taken from him, and others read on there (`seat`). Threads without a seat wait for one in the lobby,
//! a few of them.

mod seat;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno as Raw;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use self::seat::{Seat, Seen, Turn};
use super::operations::Operations;
use super::serve;
use super::wire::{OUT_HEADER, Request, opcode, out_header};
use crate::Volume;

/// How often somebody looks whether who serves gets on.
const TICK: Duration = Duration::from_millis(1);

/// How many threads there are at most, but for those that serve what is known to take long.
const MOST: usize = 64;

/// What is waited for.
const NOTHING: epoll::EventData = epoll::EventData::new_u64(0);
const REQUEST: epoll::EventData = epoll::EventData::new_u64(1);
const STOP: epoll::EventData = epoll::EventData::new_u64(2);

/// The kernel wants room for the largest request, with its headers.
const ROOM: usize = super::negotiate::MAX_IO as usize + 4096;

const PAGE: usize = 4096;

/// Those who serve a connection.
pub(super) struct Crew<V> {
    operations: Arc<Operations<V>>,
    device: Arc<OwnedFd>,
    seats: Box<[Seat]>,
    /// In how many of them somebody reads, or waits for something to read.
    free: AtomicUsize,
    timer: OwnedFd,
    /// Can be read when all shall end.
    stop: OwnedFd,
    /// Whether the timer is set, or somebody is about to look.
    looked_after: AtomicBool,
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

impl<V: Volume> Crew<V> {
    /// With so many seats. From now on reading from the device does not wait (`O_NONBLOCK`).
    pub(super) fn new(
        operations: Arc<Operations<V>>,
        device: Arc<OwnedFd>,
        seats: usize,
    ) -> io::Result<Arc<Crew<V>>> {
        let flags = rustix::fs::fcntl_getfl(&device)?;
        rustix::fs::fcntl_setfl(&device, flags | OFlags::NONBLOCK)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let seats: Box<[Seat]> = (0..seats.max(1)).map(|_| Seat::default()).collect();
        Ok(Arc::new(Crew {
            operations,
            device,
            free: AtomicUsize::new(0),
            seats,
            timer,
            stop: eventfd(0, EventfdFlags::CLOEXEC)?,
            looked_after: AtomicBool::new(false),
            lobby: Mutex::default(),
            came: Condvar::new(),
            left: Condvar::new(),
        }))
    }

    /// Starts the first threads, one at least.
    pub(super) fn begin(self: &Arc<Self>) -> io::Result<()> {
        for (number, seat) in self.seats.iter().enumerate() {
            self.fill(number, seat.first());
        }
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
            // Whoever takes the last free seat, and sees that the timer is set, is seen here.
            self.looked_after.store(false, Ordering::SeqCst);
            if self.free.load(Ordering::SeqCst) == 0 {
                self.be_looked_after();
            }
        }
        let mut lobby = self.lobby.lock();
        self.left.wait_while(&mut lobby, |lobby| lobby.present > 0);
    }

    /// Sees to it that requests are read, compared with what was `seen` a tick ago.
    fn look(self: &Arc<Self>, seen: &mut [Seen]) {
        for (number, before) in seen.iter_mut().enumerate() {
            let now = self.seats[number].look();
            if now == *before
                && self.free.load(Ordering::SeqCst) == 0
                && let Some(turn) = self.seats[number].take(now)
            {
                self.fill(number, turn);
            }
            *before = self.seats[number].look();
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
        let started = self.waiter().and_then(|wait| thread.spawn(move || crew.work(wait)));
        if let Err(error) = started {
            self.leave();
            tracing::warn!(%error, "no more threads for requests");
        }
    }

    /// What a thread does from its start to its end.
    fn work(self: &Arc<Self>, wait: OwnedFd) {
        let mut buffer = Buffer::new(wait);
        while let Some((number, turn)) = self.be_seated() {
            self.sit(number, turn, &mut buffer);
        }
        self.leave();
    }

    /// What a thread waits by. Of those who wait, the kernel wakes one for each request (`EPOLLEXCLUSIVE`, epoll_ctl(2)).
    fn waiter(&self) -> io::Result<OwnedFd> {
        let wait = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let one = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
        epoll::add(&wait, self.device.as_fd(), REQUEST, one)?;
        epoll::add(&wait, self.stop.as_fd(), STOP, epoll::EventFlags::IN)?;
        Ok(wait)
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
        while let Some(length) = self.read(buffer) {
            let Some((request, begin)) = Request::of_device(buffer.message(length)) else {
                tracing::error!(length, "a request that is too short");
                continue;
            };
            let serving = seat.serve(turn);
            let slow = serve::is_slow(&self.operations, &request);
            if !slow {
                self.serve(&request, begin, buffer);
            }
            let next = serving.done();
            turn = match (slow, next) {
                (false, Some(next)) => next,
                (false, None) => return,
                (true, next) => {
                    next.into_iter().for_each(|next| self.fill(number, next));
                    // Nobody waits for it in the end.
                    self.leave();
                    self.serve(&request, begin, buffer);
                    return self.come();
                }
            };
        }
        self.end();
    }

    /// Serves a request, and answers it.
    fn serve(&self, request: &Request, begin: usize, buffer: &mut Buffer) {
        let result = serve::serve(&self.operations, request, buffer.payload(begin));
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

    /// Reads a request, and tells how long it is; none when nothing more comes.
    fn read(&self, buffer: &mut Buffer) -> Option<usize> {
        self.free.fetch_add(1, Ordering::SeqCst);
        let read = self.read_one(buffer);
        if self.free.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.be_looked_after();
        }
        read
    }

    fn read_one(&self, buffer: &mut Buffer) -> Option<usize> {
        loop {
            match rustix::io::read(&self.device, buffer.room()) {
                Ok(length) => return Some(length),
                Err(Raw::AGAIN) if self.waits(buffer) => {}
                Err(Raw::AGAIN) => return None,
                // Who asked has given up.
                Err(Raw::NOENT | Raw::INTR) => {}
                Err(Raw::NODEV | Raw::CONNABORTED) => return None,
                Err(error) => {
                    tracing::error!(%error, "the connection to the kernel broke");
                    return None;
                }
            }
        }
    }

    /// Waits until there may be something to read; false when all shall end instead.
    fn waits(&self, buffer: &mut Buffer) -> bool {
        let mut ready = [epoll::Event { flags: epoll::EventFlags::empty(), data: NOTHING }; 2];
        match epoll::wait(&buffer.wait, &mut ready, None) {
            Ok(_) | Err(Raw::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "requests can't be waited for");
                return false;
            }
        }
        !ready.iter().any(|event| { event.data } == STOP)
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

/// Where requests are waited for and read to, and answers are made: in the place of a request's names and data.
struct Buffer {
    wait: OwnedFd,
    memory: Vec<u8>,
    /// Where requests begin: so that what is to be written lies on a page of its own.
    begin: usize,
}

impl Buffer {
    fn new(wait: OwnedFd) -> Buffer {
        // `struct fuse_in_header` and `struct fuse_write_in`.
        const BEFORE_DATA: usize = 80;
        // Memory that was never used is not there.
        let memory = vec![0; ROOM + 2 * PAGE];
        let begin = memory.as_ptr().align_offset(PAGE) + PAGE - BEFORE_DATA;
        Buffer { wait, memory, begin }
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
