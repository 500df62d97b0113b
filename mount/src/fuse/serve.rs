//! A request as a call of [`Operations`], and its result as an answer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::operations::{Attribute, Operations};
use super::wire::{Request, Sink, Writer, forgotten, name, opcode, two_names};
use crate::{Errno, HandleId, NodeId, Result, Volume};

/// Whether it waits for the disk as a matter of course, or takes long for another reason.
pub(super) fn is_slow<V: Volume>(operations: &Operations<V>, request: &Request) -> bool {
    match request.opcode {
        opcode::FSYNC | opcode::FSYNCDIR | opcode::FALLOCATE | opcode::COPY_FILE_RANGE => true,
        opcode::LOOKUP => operations.takes_long(&request.caller),
        _ => false,
    }
}

/// Serves `request`, whose names and data `payload` begins with, and where the answer is put; how long that
/// is. Nothing that is read in it is believed to be in order.
pub(super) fn serve<V: Volume>(
    operations: &Operations<V>,
    request: &Request,
    payload: &mut [u8],
) -> Result<usize> {
    // The volume's panics are caught where it is called; none of ours shall cost a thread.
    let served = AssertUnwindSafe(|| call(operations, request, payload));
    catch_unwind(served).unwrap_or(Err(Errno::EIO))
}

fn call<V: Volume>(
    operations: &Operations<V>,
    request: &Request,
    payload: &mut [u8],
) -> Result<usize> {
    let (r, o) = (request, operations);
    let (caller, node) = (&r.caller, r.node);
    let given = payload.get(..r.payload).ok_or(Errno::EIO)?;
    match r.opcode {
        opcode::LOOKUP => {
            let found = o.lookup(caller, node, name(given)?.0)?;
            Writer::new(payload).found(&found).done()
        }
        opcode::GETATTR => {
            let handle = (r.u32(0) & 1 != 0).then(|| HandleId(r.u64(8)));
            let attributes = o.attributes(caller, node, handle)?;
            Writer::new(payload).attr(&attributes).done()
        }
        opcode::SETATTR => {
            let (handle, changes) = r.changes()?;
            let attributes = o.set_attributes(caller, node, handle, &changes)?;
            Writer::new(payload).attr(&attributes).done()
        }
        opcode::READLINK => {
            let target = o.read_link(caller, node)?;
            Writer::new(payload).bytes(&target).done()
        }
        opcode::SYMLINK => {
            let (name, target) = two_names(given)?;
            let entry = o.make_symlink(caller, node, name, target)?;
            Writer::new(payload).entry(&entry).done()
        }
        opcode::MKNOD => {
            let entry = o.make_node(caller, node, name(given)?.0, r.u32(0))?;
            Writer::new(payload).entry(&entry).done()
        }
        opcode::MKDIR => {
            let entry = o.make_directory(caller, node, name(given)?.0, r.u32(0))?;
            Writer::new(payload).entry(&entry).done()
        }
        opcode::UNLINK => o.remove_file(caller, node, name(given)?.0).map(nothing),
        opcode::RMDIR => o.remove_directory(caller, node, name(given)?.0).map(nothing),
        opcode::RENAME | opcode::RENAME2 => {
            let (from, to) = two_names(given)?;
            let flags = if r.opcode == opcode::RENAME2 { r.u32(8) } else { 0 };
            o.rename(caller, (node, from), (NodeId(r.u64(0)), to), flags).map(nothing)
        }
        opcode::LINK => {
            let entry = o.make_link(caller, NodeId(r.u64(0)), node, name(given)?.0)?;
            Writer::new(payload).entry(&entry).done()
        }
        opcode::OPEN => {
            let told = o.open(caller, node, r.u32(0) as i32)?;
            Writer::new(payload).opened(&told).done()
        }
        opcode::CREATE => {
            let how = (r.u32(4), r.u32(0) as i32);
            let (entry, told) = o.create(caller, node, name(given)?.0, how)?;
            Writer::new(payload).entry(&entry).opened(&told).done()
        }
        opcode::READ => {
            let into = payload.get_mut(..r.u32(16) as usize).ok_or(Errno::EIO)?;
            o.read(r.handle(), r.u64(8), into)
        }
        opcode::WRITE => {
            let data = given.get(..r.u32(16) as usize).ok_or(Errno::EIO)?;
            // No more was written than was asked for, whose length came as a `u32`.
            let written = o.write(r.handle(), r.u64(8), data)? as u32;
            Writer::new(payload).u32(written).u32(0).done()
        }
        opcode::FLUSH => o.flush(caller, r.handle()).map(nothing),
        opcode::RELEASE => o.release(node, r.handle()).map(nothing),
        opcode::FSYNC => o.sync(r.handle(), r.u32(8) & 1 != 0).map(nothing),
        opcode::OPENDIR => {
            let (handle, flags) = o.open_directory(caller, node)?;
            Writer::new(payload).u64(handle.0).u32(flags.bits()).u32(0).done()
        }
        opcode::READDIR | opcode::READDIRPLUS => {
            let into = payload.get_mut(..r.u32(16) as usize).ok_or(Errno::EIO)?;
            let mut sink = Sink::new(into, r.opcode == opcode::READDIRPLUS);
            o.read_directory(caller, r.handle(), r.u64(8), &mut sink)?;
            sink.done()
        }
        opcode::RELEASEDIR => o.release_directory(r.handle()).map(nothing),
        opcode::FSYNCDIR => o.sync_directory(r.handle()).map(nothing),
        opcode::STATFS => {
            let space = o.space()?;
            Writer::new(payload).space(&space).done()
        }
        opcode::SETXATTR => {
            let (name, value) = name(given)?;
            let value = value.get(..r.u32(0) as usize).ok_or(Errno::EIO)?;
            o.set_xattr(caller, node, (name, value), r.u32(4) as i32).map(nothing)
        }
        opcode::GETXATTR => {
            let attribute = o.xattr(caller, node, name(given)?.0, r.u32(0))?;
            put(payload, &attribute)
        }
        opcode::LISTXATTR => {
            let attribute = o.list_xattrs(caller, node, r.u32(0))?;
            put(payload, &attribute)
        }
        opcode::REMOVEXATTR => o.remove_xattr(caller, node, name(given)?.0).map(nothing),
        opcode::ACCESS => o.access().map(nothing),
        opcode::FALLOCATE => o.allocate(r.handle(), r.u64(8), r.u64(16), r.u32(24)).map(nothing),
        opcode::LSEEK => {
            let offset = o.seek(r.handle(), r.u64(8) as i64, r.u32(16) as i32)?;
            Writer::new(payload).u64(offset as u64).done()
        }
        opcode::COPY_FILE_RANGE => {
            let (from, to) = ((r.handle(), r.u64(8)), (HandleId(r.u64(24)), r.u64(32)));
            let copied = o.copy_range(from, to, r.u64(40))? as u32;
            Writer::new(payload).u32(copied).u32(0).done()
        }
        opcode::FORGET => {
            o.forget(node, r.u64(0));
            Ok(0)
        }
        opcode::BATCH_FORGET => {
            for (node, lookups) in forgotten(given).take(r.u32(0) as usize) {
                o.forget(node, lookups);
            }
            Ok(0)
        }
        // Nothing that is begun is given up. Answered so, the kernel does not say it again.
        opcode::INTERRUPT => Err(Errno::ENOSYS),
        opcode::DESTROY => Ok(0),
        opcode::IOCTL => {
            o.other();
            Err(Errno::new(libc::ENOTTY))
        }
        _ => {
            o.other();
            Err(Errno::ENOSYS)
        }
    }
}

/// An answer that says nothing but that it went well.
fn nothing((): ()) -> usize {
    0
}

fn put(payload: &mut [u8], attribute: &Attribute) -> Result<usize> {
    match attribute {
        // `struct fuse_getxattr_out`
        Attribute::Length(length) => Writer::new(payload).u32(*length).u32(0).done(),
        Attribute::Value(value) => Writer::new(payload).bytes(value).done(),
    }
}
