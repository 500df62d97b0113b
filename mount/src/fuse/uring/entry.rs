//! One entry of one of the kernel's queues: a ring with one command in it, and the memory through which
//! requests come and answers go.
//!
//! A command is either with the kernel, which then fills the memory when there is a request, or done: then
//! the memory is ours, until the answer is committed, which is also what asks for the next request.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::Arc;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::Refusal;
use super::wire::{HEADER, Request, answer};
use crate::Result;

/// `FUSE_IO_URING_CMD_REGISTER` and `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;

/// What tells completions apart.
const COMMAND: u64 = 1;
const STOP: u64 = 2;

/// Where a submission has how many buffers are meant, in bytes from its start (`sqe->len`).
const BUFFERS_AT: usize = 24;

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    /// A request lies in memory.
    Asked(Request),
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

pub(super) struct Entry {
    // First, so that it is dropped first: without its ring the kernel leaves the memory alone.
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    device: Arc<OwnedFd>,
    queue: u16,
    header: Buffer,
    payload: Buffer,
    /// What `register` says where they are.
    buffers: Box<[libc::iovec; 2]>,
}

impl Entry {
    /// For the thread that makes it alone. `payload`: the most bytes that come or go with a request.
    pub(super) fn new(device: Arc<OwnedFd>, queue: u16, payload: usize) -> io::Result<Entry> {
        let (header, payload) = (Buffer::new(HEADER)?, Buffer::new(payload)?);
        let buffers = Box::new([header.iovec(), payload.iovec()]);
        // What the kernel has to do for us is done when we wait, not by interrupting us.
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(2)?;
        Ok(Entry { ring, device, queue, header, payload, buffers })
    }

    fn command(&self, operation: u32, commit: u64) -> opcode::UringCmd80 {
        // `struct fuse_uring_cmd_req`
        let mut command = [0; 80];
        command[8..16].copy_from_slice(&commit.to_ne_bytes());
        command[16..18].copy_from_slice(&self.queue.to_ne_bytes());
        opcode::UringCmd80::new(types::Fd(self.device.as_raw_fd()), operation).cmd(command)
    }

    /// Makes it one of its queue. Once; what the kernel has against it.
    pub(super) fn register(&mut self, stop: &UnixStream) -> std::result::Result<(), Refusal> {
        let command = self.command(REGISTER, 0).addr(Some(self.buffers.as_ptr() as u64));
        let mut command = command.build().user_data(COMMAND);
        // SAFETY: a submission is 128 plain bytes in the kernel's order, of which these four say how many
        // buffers the address means; there is no other way to say it.
        unsafe { (&raw mut command).byte_add(BUFFERS_AT).cast::<u32>().write(2) };
        self.push(&command)?;
        self.watch(stop.as_raw_fd())?;
        self.ring.submit()?;
        // It is not completed before there is a request, unless it is refused.
        let mut completions = self.ring.completion();
        completions.sync();
        match completions.find(|done| done.user_data() == COMMAND && done.result() < 0) {
            Some(refused) => Err(Refusal::Kernel(io::Error::from_raw_os_error(-refused.result()))),
            None => Ok(()),
        }
    }

    /// Is told when the other end of it is closed.
    fn watch(&mut self, stop: RawFd) -> io::Result<()> {
        let poll = opcode::PollAdd::new(types::Fd(stop), libc::POLLHUP as u32);
        self.push(&poll.build().user_data(STOP).into())
    }

    fn push(&mut self, submission: &squeue::Entry128) -> io::Result<()> {
        // SAFETY: what they point at lives as long as the ring does: buffers and device are parts of this
        // entry, and who serves by it holds what it watches.
        unsafe { self.ring.submission().push(submission) }.map_err(io::Error::other)
    }

    /// Submits what is pushed, and waits for a request.
    pub(super) fn next(&mut self) -> io::Result<Next> {
        loop {
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
                ..=0 => Ok(Next::Asked(Request::read(self.header()))),
                libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED => Ok(Next::Over),
                error => Err(io::Error::from_raw_os_error(error)),
            };
        }
    }

    fn header(&mut self) -> &mut [u8; HEADER] {
        // SAFETY: it is so large, and not with the kernel: this is called only after a completion, and
        // before its answer is submitted.
        unsafe { self.header.0.cast().as_mut() }
    }

    /// What came with the request that [`Entry::next`] told of, and goes with its answer.
    pub(super) fn payload(&mut self) -> &mut [u8] {
        let Buffer(start, layout) = &self.payload;
        // SAFETY: as with the header; all of it is initialised, if by zeros.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), layout.size()) }
    }

    /// Has `result` as the answer, whose length it is; it goes with the next [`Entry::next`].
    pub(super) fn commit(&mut self, request: &Request, result: Result<usize>) -> io::Result<()> {
        answer(self.header(), request.unique, result);
        let command = self.command(COMMIT_AND_FETCH, request.commit);
        self.push(&command.build().user_data(COMMAND))
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
