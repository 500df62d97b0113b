//! fuser's requests as calls of [`Operations`]: nothing is decided here but how an answer is put.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    FileHandle, INodeNo, LockOwner, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request,
};

use super::operations::Operations;
use super::reply::{
    PlainSink, PlusSink, attr, created, directory, empty, entry, found, opened, written, xattr,
};
use super::slow::Pool;
use super::{convert, negotiate};
use crate::{HandleId, SetAttributes, Volume};

pub(super) struct Adapter<V> {
    operations: Arc<Operations<V>>,
    wishes: negotiate::Wishes,
    agreed: Arc<std::sync::OnceLock<negotiate::Features>>,
    slow: Pool,
}

impl<V: Volume> Adapter<V> {
    pub(super) fn new(
        operations: Arc<Operations<V>>,
        wishes: negotiate::Wishes,
        agreed: Arc<std::sync::OnceLock<negotiate::Features>>,
    ) -> std::io::Result<Adapter<V>> {
        Ok(Adapter { operations, wishes, agreed, slow: Pool::new()? })
    }
}

thread_local! {
    /// Where reads land; as large as the largest read that this thread has served.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn handle(fh: FileHandle) -> HandleId {
    HandleId(fh.0)
}

impl<V: Volume> fuser::Filesystem for Adapter<V> {
    fn init(&mut self, _: &Request, config: &mut fuser::KernelConfig) -> std::io::Result<()> {
        let features = negotiate::negotiate(&self.wishes, config);
        if features.passthrough {
            self.operations.ways.enable();
        }
        // Set once: a connection is initialised once.
        let _ = self.agreed.set(features);
        Ok(())
    }

    fn lookup(&self, r: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (caller, parent) = (convert::caller(r), convert::node(parent));
        if !self.operations.takes_long(&caller) {
            return found(self.operations.lookup(&caller, parent, name), reply);
        }
        let (operations, name) = (self.operations.clone(), name.to_owned());
        // Not by the few that are there for what is slow: one caller could keep them all from others.
        let begun = std::thread::Builder::new().name("long-lookup".into()).spawn(move || {
            found(operations.lookup(&caller, parent, &name), reply);
        });
        // The reply answers EIO when it is dropped.
        if let Err(error) = begun {
            tracing::warn!(%error, "no thread for a lookup that takes long");
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.operations.forget(convert::node(ino), lookups);
    }

    fn getattr(&self, r: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let (caller, node) = (convert::caller(r), convert::node(ino));
        attr(self.operations.attributes(&caller, node, fh.map(handle)), reply);
    }

    fn setattr(
        &self,
        r: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<fuser::TimeOrNow>,
        mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = SetAttributes {
            permissions: mode.map(|mode| (mode & 0o7777) as u16),
            uid,
            gid,
            size,
            accessed: atime.map(convert::set_time),
            modified: mtime.map(convert::set_time),
        };
        let (caller, node) = (convert::caller(r), convert::node(ino));
        attr(self.operations.set_attributes(&caller, node, fh.map(handle), &changes), reply);
    }

    fn readlink(&self, r: &Request, ino: INodeNo, reply: ReplyData) {
        match self.operations.read_link(&convert::caller(r), convert::node(ino)) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn mknod(
        &self,
        r: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let (caller, parent) = (convert::caller(r), convert::node(parent));
        entry(self.operations.make_node(&caller, parent, name, mode), reply);
    }

    fn mkdir(
        &self,
        r: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (caller, parent) = (convert::caller(r), convert::node(parent));
        entry(self.operations.make_directory(&caller, parent, name, mode), reply);
    }

    fn unlink(&self, r: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, parent) = (convert::caller(r), convert::node(parent));
        empty(self.operations.remove_file(&caller, parent, name), reply);
    }

    fn rmdir(&self, r: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, parent) = (convert::caller(r), convert::node(parent));
        empty(self.operations.remove_directory(&caller, parent, name), reply);
    }

    fn symlink(
        &self,
        r: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (caller, parent) = (convert::caller(r), convert::node(parent));
        entry(self.operations.make_symlink(&caller, parent, name, target.as_os_str()), reply);
    }

    fn rename(
        &self,
        r: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let from = (convert::node(parent), name);
        let to = (convert::node(newparent), newname);
        empty(self.operations.rename(&convert::caller(r), from, to, flags.bits()), reply);
    }

    fn link(
        &self,
        r: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let (node, parent) = (convert::node(ino), convert::node(newparent));
        entry(self.operations.make_link(&convert::caller(r), node, parent, newname), reply);
    }

    fn open(&self, r: &Request, ino: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        opened(self.operations.open(&convert::caller(r), convert::node(ino), flags.0), reply);
    }

    fn create(
        &self,
        r: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (caller, parent) = (convert::caller(r), convert::node(parent));
        created(self.operations.create(&caller, parent, name, (mode, flags)), reply);
    }

    fn read(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size as usize {
                buffer.resize(size as usize, 0);
            }
            let into = &mut buffer[..size as usize];
            match self.operations.read(handle(fh), offset, into) {
                Ok(length) => reply.data(&buffer[..length]),
                Err(errno) => reply.error(convert::errno(errno)),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: fuser::WriteFlags,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        written(self.operations.write(handle(fh), offset, data), reply);
    }

    fn flush(
        &self,
        r: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        empty(self.operations.flush(&convert::caller(r), handle(fh)), reply);
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        empty(self.operations.release(convert::node(ino), handle(fh)), reply);
    }

    fn fsync(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let operations = self.operations.clone();
        self.slow.run(move || empty(operations.sync(handle(fh), data_only), reply));
    }

    fn opendir(&self, r: &Request, ino: INodeNo, _flags: fuser::OpenFlags, reply: ReplyOpen) {
        let opened = self.operations.open_directory(&convert::caller(r), convert::node(ino));
        directory(opened, reply);
    }

    fn readdir(
        &self,
        r: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let mut sink = PlainSink(reply);
        let caller = convert::caller(r);
        match self.operations.read_directory(&caller, handle(fh), offset, &mut sink) {
            Ok(()) => sink.0.ok(),
            Err(errno) => sink.0.error(convert::errno(errno)),
        }
    }

    fn readdirplus(
        &self,
        r: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let mut sink = PlusSink(reply);
        let caller = convert::caller(r);
        match self.operations.read_directory(&caller, handle(fh), offset, &mut sink) {
            Ok(()) => sink.0.ok(),
            Err(errno) => sink.0.error(convert::errno(errno)),
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        reply: ReplyEmpty,
    ) {
        empty(self.operations.release_directory(handle(fh)), reply);
    }

    fn fsyncdir(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let operations = self.operations.clone();
        self.slow.run(move || empty(operations.sync_directory(handle(fh)), reply));
    }

    fn statfs(&self, _: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.operations.space() {
            Ok(s) => reply.statfs(
                s.blocks,
                s.blocks_free,
                s.blocks_available,
                s.files,
                s.files_free,
                s.block_size,
                s.name_max,
                s.fragment_size,
            ),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn setxattr(
        &self,
        r: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (caller, node) = (convert::caller(r), convert::node(ino));
        empty(self.operations.set_xattr(&caller, node, (name, value), flags), reply);
    }

    fn getxattr(&self, r: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (caller, node) = (convert::caller(r), convert::node(ino));
        xattr(self.operations.xattr(&caller, node, name, size), reply);
    }

    fn listxattr(&self, r: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (caller, node) = (convert::caller(r), convert::node(ino));
        xattr(self.operations.list_xattrs(&caller, node, size), reply);
    }

    fn removexattr(&self, r: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, node) = (convert::caller(r), convert::node(ino));
        empty(self.operations.remove_xattr(&caller, node, name), reply);
    }

    fn access(&self, _: &Request, _ino: INodeNo, _mask: fuser::AccessFlags, reply: ReplyEmpty) {
        empty(self.operations.access(), reply);
    }

    fn ioctl(
        &self,
        _: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: fuser::IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        self.operations.other();
        reply.error(fuser::Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: fuser::PollNotifier,
        _events: fuser::PollEvents,
        _flags: fuser::PollFlags,
        reply: ReplyPoll,
    ) {
        // Files are always ready; the kernel knows that by itself after this answer.
        self.operations.other();
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let operations = self.operations.clone();
        self.slow.run(move || {
            empty(operations.allocate(handle(fh), offset, length, mode as u32), reply);
        });
    }

    fn lseek(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.operations.seek(handle(fh), offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        length: u64,
        _flags: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let operations = self.operations.clone();
        self.slow.run(move || {
            let (from, to) = ((handle(fh_in), offset_in), (handle(fh_out), offset_out));
            written(operations.copy_range(from, to, length), reply);
        });
    }
}
