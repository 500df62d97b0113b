//! A request that came over io_uring as a call of [`Operations`], and its result as an answer.

use super::wire::{Request, Sink, Writer, name, two_names};
use crate::fuse::operations::{Attribute, Operations};
use crate::{Errno, HandleId, NodeId, Result, Volume};

/// The operations' numbers in `linux/fuse.h`. Those that are not here do not come over io_uring, or are
/// not known here, which the kernel understands.
mod opcode {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const READLINK: u32 = 5;
    pub(super) const SYMLINK: u32 = 6;
    pub(super) const MKNOD: u32 = 8;
    pub(super) const MKDIR: u32 = 9;
    pub(super) const UNLINK: u32 = 10;
    pub(super) const RMDIR: u32 = 11;
    pub(super) const RENAME: u32 = 12;
    pub(super) const LINK: u32 = 13;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const SETXATTR: u32 = 21;
    pub(super) const GETXATTR: u32 = 22;
    pub(super) const LISTXATTR: u32 = 23;
    pub(super) const REMOVEXATTR: u32 = 24;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const FSYNCDIR: u32 = 30;
    pub(super) const ACCESS: u32 = 34;
    pub(super) const CREATE: u32 = 35;
    pub(super) const DESTROY: u32 = 38;
    pub(super) const IOCTL: u32 = 39;
    pub(super) const FALLOCATE: u32 = 43;
    pub(super) const READDIRPLUS: u32 = 44;
    pub(super) const RENAME2: u32 = 45;
    pub(super) const LSEEK: u32 = 46;
    pub(super) const COPY_FILE_RANGE: u32 = 47;
}

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
