//! Entries of the kernel's queues, which are the memory through which requests come and answers go; and the
//! rings by which they are handed to and fro.
//!
//! An entry is either with the kernel, which fills its memory when there is a request, or with us, until the
//! answer is committed, which is also what asks for the next request. The ring that commits it is the one
//! that the next request comes by.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::Arc;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::Refusal;
use crate::Result;
use crate::fuse::wire::{HEADER, Request, answer};

/// `FUSE_IO_URING_CMD_REGISTER` and `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;

/// Tells the end apart from entries, whose tags are small.
const STOP: u64 = u64::MAX;

/// Where a submission has how many buffers are meant, in bytes from its start (`sqe->len`).
const BUFFERS_AT: usize = 24;

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    /// A request lies in the entry with this tag.
    Asked(u64),
    /// The connection has ended, or this end of it shall.
    Over,
}

/// Memory that the kernel reads and writes while it works on a command.
#[derive(Debug)]
struct Buffer(NonNull<u8>, Layout);

impl Buffer {
    /// Of `length` bytes, at least one, on pages of its own: those that were never used take no memory.
    fn new(length: usize) -> io::Result<Buffer> {
        let layout = Layout::from_size_align(length.max(1), 4096).map_err(io::Error::other)?;
        // SAFETY: its size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Ok(Buffer(memory, layout))
    }

    fn iovec(&self) -> libc::iovec {
        libc::iovec { iov_base: self.0.as_ptr().cast(), iov_len: self.1.size() }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: it was allocated by this layout.
        unsafe { dealloc(self.0.as_ptr(), self.1) }
    }
}

/// What a request comes in. With us, not with the kernel, whenever it can be reached.
#[derive(Debug)]
pub(super) struct Entry {
    header: Buffer,
    payload: Buffer,
    /// What `register` says where they are.
    buffers: Box<[libc::iovec; 2]>,
}

// SAFETY: its memory is its own, wherever it goes.
unsafe impl Send for Entry {}

impl Entry {
    /// `payload`: the most bytes that come or go with a request.
    pub(super) fn new(payload: usize) -> io::Result<Entry> {
        let (header, payload) = (Buffer::new(HEADER)?, Buffer::new(payload)?);
        let buffers = Box::new([header.iovec(), payload.iovec()]);
        Ok(Entry { header, payload, buffers })
    }

    fn header(&mut self) -> &mut [u8; HEADER] {
        // SAFETY: it is so large, and the kernel has done with it: whoever gave it to a ring has it back
        // only when the ring has said so.
        unsafe { self.header.0.cast().as_mut() }
    }

    /// The request that came.
    pub(super) fn request(&mut self) -> Request {
        Request::of_ring(self.header())
    }

    /// What came with the request, and goes with its answer.
    pub(super) fn payload(&mut self) -> &mut [u8] {
        let Buffer(start, layout) = &self.payload;
        // SAFETY: as with the header; all of it is initialised, if by zeros.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), layout.size()) }
    }
}

/// By which entries of one queue are handed to the kernel and come back.
pub(super) struct Ring {
    // First, so that it is dropped first: without its ring the kernel leaves the entries alone.
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    entries: Vec<Option<Entry>>,
    device: Arc<OwnedFd>,
    queue: u16,
    /// Which had a request before they were waited for.
    early: Vec<u64>,
}

impl Ring {
    /// For up to so many entries. It has to be [opened](Ring::open).
    pub(super) fn new(device: Arc<OwnedFd>, queue: u16, most: u32) -> io::Result<Ring> {
        // What the kernel has to do for us is done when we wait, not by interrupting us.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_r_disabled()
            .build(most + 1)?;
        Ok(Ring { ring, entries: Vec::new(), device, queue, early: Vec::new() })
    }

    /// From now on it is used by the calling thread alone. It is told when the other end of `stop` is closed.
    pub(super) fn open(&mut self, stop: &UnixStream) -> io::Result<()> {
        self.ring.submitter().register_enable_rings()?;
        let poll = opcode::PollAdd::new(types::Fd(stop.as_raw_fd()), libc::POLLHUP as u32);
        self.push(&poll.build().user_data(STOP).into())
    }

    fn command(&self, operation: u32, commit: u64) -> opcode::UringCmd80 {
        // `struct fuse_uring_cmd_req`
        let mut command = [0; 80];
        command[8..16].copy_from_slice(&commit.to_ne_bytes());
        command[16..18].copy_from_slice(&self.queue.to_ne_bytes());
        opcode::UringCmd80::new(types::Fd(self.device.as_raw_fd()), operation).cmd(command)
    }

    /// Makes `entries` those of its queue. Once; what the kernel has against it, if it takes none.
    pub(super) fn register(&mut self, entries: Vec<Entry>) -> std::result::Result<(), Refusal> {
        for entry in entries {
            let command = self.command(REGISTER, 0).addr(Some(entry.buffers.as_ptr() as u64));
            let mut command = command.build().user_data(self.entries.len() as u64);
            // SAFETY: a submission is 128 plain bytes in the kernel's order, of which these four say how
            // many buffers the address means; there is no other way to say it.
            unsafe { (&raw mut command).byte_add(BUFFERS_AT).cast::<u32>().write(2) };
            self.entries.push(Some(entry));
            self.push(&command)?;
        }
        self.ring.submit()?;
        let mut refused = Vec::new();
        // None is completed before there is a request, unless it is refused.
        for done in self.ring.completion().filter(|done| done.user_data() != STOP) {
            match done.result() {
                0.. => self.early.push(done.user_data()),
                error => refused.push(error),
            }
        }
        match refused.first() {
            Some(error) if refused.len() == self.entries.len() => {
                Err(Refusal::Kernel(io::Error::from_raw_os_error(-error)))
            }
            _ => Ok(()),
        }
    }

    fn push(&mut self, submission: &squeue::Entry128) -> io::Result<()> {
        // SAFETY: what they point at lives as long as the ring does: device and entries are its own, and
        // who serves by it holds what it watches.
        unsafe { self.ring.submission().push(submission) }.map_err(io::Error::other)
    }

    /// Submits what is pushed, and waits for a request.
    pub(super) fn next(&mut self) -> io::Result<Next> {
        loop {
            if let Some(tag) = self.early.pop() {
                return Ok(Next::Asked(tag));
            }
            let done = self.ring.completion().next();
            let Some(done) = done else {
                match self.ring.submit_and_wait(1) {
                    Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                    _ => continue,
                }
            };
            if done.user_data() == STOP {
                return Ok(Next::Over);
            }
            return match -done.result() {
                ..=0 => Ok(Next::Asked(done.user_data())),
                libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED => Ok(Next::Over),
                error => Err(io::Error::from_raw_os_error(error)),
            };
        }
    }

    /// The entry that [`Ring::next`] told of.
    pub(super) fn take(&mut self, tag: u64) -> Option<Entry> {
        self.entries.get_mut(usize::try_from(tag).ok()?)?.take()
    }

    /// Has `result` as the answer, whose length it is; it goes with the next [`Ring::next`].
    pub(super) fn commit(
        &mut self,
        mut entry: Entry,
        request: &Request,
        result: Result<usize>,
    ) -> io::Result<()> {
        answer(entry.header(), request.unique, result);
        let free = self.entries.iter().position(Option::is_none).unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.entries[free] = Some(entry);
        let command = self.command(COMMIT_AND_FETCH, request.commit);
        self.push(&command.build().user_data(free as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_has_its_number_of_buffers_where_it_is_put() {
        // What this one has there is said by its maker.
        let read = opcode::Read::new(types::Fd(0), std::ptr::null_mut(), 0x1234_5678);
        let read: squeue::Entry128 = read.build().into();
        // SAFETY: it lies within it, and is initialised.
        let length = unsafe { (&raw const read).byte_add(BUFFERS_AT).cast::<u32>().read() };
        assert_eq!((length, size_of_val(&read)), (0x1234_5678, 128));
    }
}
