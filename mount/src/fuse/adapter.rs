//! fuser's requests as calls of a [`Volume`]: nothing is decided here but how an answer is put.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use fuser::{
    FileHandle, FopenFlags, INodeNo, LockOwner, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request,
};

use super::convert;
use super::counters::{Counters, Op};
use super::negotiate;
use super::passthrough::Ways;
use super::reply::{GENERATION, PlainSink, PlusSink, attr, empty, entry, written, xattr};
use super::slow::Pool;
use crate::{
    AllocateFlags, Errno, HandleId, Lookup, Name, RenameFlags, Result, SetAttributes, Volume,
};

/// What the adapter shares with the [`super::Mount`] and with the pool of slow operations.
#[derive(Debug)]
pub(super) struct Shared<V> {
    pub(super) volume: Arc<V>,
    pub(super) counters: Counters,
}

pub(super) struct Adapter<V> {
    shared: Arc<Shared<V>>,
    wishes: negotiate::Wishes,
    agreed: Arc<std::sync::OnceLock<negotiate::Features>>,
    pub(super) ways: Ways,
    slow: Pool,
}

impl<V: Volume> Adapter<V> {
    pub(super) fn new(
        shared: Arc<Shared<V>>,
        wishes: negotiate::Wishes,
        agreed: Arc<std::sync::OnceLock<negotiate::Features>>,
    ) -> std::io::Result<Adapter<V>> {
        Ok(Adapter { shared, wishes, agreed, ways: Ways::new(false), slow: Pool::new()? })
    }

    /// Calls the volume; a panic in it is logged and answered `EIO`.
    pub(super) fn ask<T>(&self, op: Op, call: impl FnOnce(&V) -> Result<T>) -> Result<T> {
        self.shared.ask(op, call)
    }
}

impl<V: Volume> Shared<V> {
    fn ask<T>(&self, op: Op, call: impl FnOnce(&V) -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let asked = catch_unwind(AssertUnwindSafe(|| call(&self.volume)));
        self.counters.measure(op, began);
        asked.unwrap_or_else(|_| {
            tracing::error!(operation = op.name(), "panic while serving a request; answered EIO");
            Err(Errno::EIO)
        })
    }
}

thread_local! {
    /// Where reads land; as large as the largest read that this thread has served.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn found(result: Result<Lookup>, reply: ReplyEntry) {
    match result {
        Ok(Lookup::Found(found)) => entry(Ok(found), reply),
        Ok(Lookup::Absent { valid }) => reply.entry(&valid, &convert::absent(), GENERATION),
        Err(errno) => reply.error(convert::errno(errno)),
    }
}

fn named<T>(name: &OsStr, call: impl FnOnce(Name<'_>) -> Result<T>) -> Result<T> {
    Name::new(name).and_then(call)
}

impl<V: Volume> fuser::Filesystem for Adapter<V> {
    fn init(&mut self, _: &Request, config: &mut fuser::KernelConfig) -> std::io::Result<()> {
        let features = negotiate::negotiate(&self.wishes, config);
        self.ways = Ways::new(features.passthrough);
        // Set once: a connection is initialised once.
        let _ = self.agreed.set(features);
        Ok(())
    }

    fn lookup(&self, r: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (caller, parent) = (convert::caller(r), convert::node(parent));
        if !self.shared.volume.takes_long(&caller) {
            let ask = |v: &V| named(name, |n| v.lookup(&caller, parent, n));
            return found(self.ask(Op::Lookup, ask), reply);
        }
        let (shared, name) = (self.shared.clone(), name.to_owned());
        // Not by the few that are there for what is slow: one caller could keep them all from others.
        let begun = std::thread::Builder::new().name("long-lookup".into()).spawn(move || {
            let ask = |v: &V| named(&name, |n| v.lookup(&caller, parent, n));
            found(shared.ask(Op::Lookup, ask), reply);
        });
        // The reply answers EIO when it is dropped.
        if let Err(error) = begun {
            tracing::warn!(%error, "no thread for a lookup that takes long");
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        let node = convert::node(ino);
        if self.ask(Op::Forget, |v| Ok(v.forget(node, lookups))) == Ok(true) {
            self.ways.forget(node);
        }
    }

    fn getattr(&self, r: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        attr(
            self.ask(Op::GetAttr, |v| {
                v.attributes(&convert::caller(r), convert::node(ino), fh.map(|h| HandleId(h.0)))
            }),
            reply,
        );
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
        attr(
            self.ask(Op::SetAttr, |v| {
                let handle = fh.map(|h| HandleId(h.0));
                v.set_attributes(&convert::caller(r), convert::node(ino), handle, &changes)
            }),
            reply,
        );
    }

    fn readlink(&self, r: &Request, ino: INodeNo, reply: ReplyData) {
        let node = convert::node(ino);
        match self.ask(Op::ReadLink, |v| v.read_link(&convert::caller(r), node)) {
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
        let kind = convert::node_kind(mode);
        let result = self.ask(Op::MkNod, |v| {
            let caller = convert::caller(r);
            named(name, |n| {
                v.make_node(&caller, convert::node(parent), n, kind, (mode & 0o7777) as u16)
            })
        });
        entry(result, reply);
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
        let result = self.ask(Op::MkDir, |v| {
            let caller = convert::caller(r);
            named(name, |n| {
                v.make_directory(&caller, convert::node(parent), n, (mode & 0o7777) as u16)
            })
        });
        entry(result, reply);
    }

    fn unlink(&self, r: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let result = self.ask(Op::Unlink, |v| {
            named(name, |n| v.remove_file(&convert::caller(r), convert::node(parent), n))
        });
        empty(result, reply);
    }

    fn rmdir(&self, r: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let result = self.ask(Op::RmDir, |v| {
            named(name, |n| v.remove_directory(&convert::caller(r), convert::node(parent), n))
        });
        empty(result, reply);
    }

    fn symlink(
        &self,
        r: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let result = self.ask(Op::SymLink, |v| {
            let caller = convert::caller(r);
            named(name, |n| v.make_symlink(&caller, convert::node(parent), n, target.as_os_str()))
        });
        entry(result, reply);
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
        let result = self.ask(Op::Rename, |v| {
            // Whiteouts are device nodes, which a mount never has.
            let flags = RenameFlags::from_bits(flags.bits()).ok_or(Errno::EINVAL)?;
            let (from, to) = (Name::new(name)?, Name::new(newname)?);
            let (parent, newparent) = (convert::node(parent), convert::node(newparent));
            v.rename(&convert::caller(r), parent, from, newparent, to, flags)
        });
        empty(result, reply);
    }

    fn link(
        &self,
        r: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let result = self.ask(Op::Link, |v| {
            let caller = convert::caller(r);
            named(newname, |n| {
                v.make_link(&caller, convert::node(ino), convert::node(newparent), n)
            })
        });
        entry(result, reply);
    }

    fn open(&self, r: &Request, ino: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        let (node, flags) = (convert::node(ino), convert::open_flags(flags.0));
        let result = self.ask(Op::Open, |v| v.open(&convert::caller(r), node, flags));
        self.opened(node, flags, result, reply);
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
        let flags = convert::open_flags(flags);
        let result = self.ask(Op::Create, |v| {
            let caller = convert::caller(r);
            named(name, |n| {
                v.create(&caller, convert::node(parent), n, (mode & 0o7777) as u16, flags)
            })
        });
        self.created(flags, result, reply);
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
            match self.ask(Op::Read, |v| v.read(HandleId(fh.0), offset, into)) {
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
        written(self.ask(Op::Write, |v| v.write(HandleId(fh.0), offset, data)), reply);
    }

    fn flush(
        &self,
        r: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let caller = convert::caller(r);
        empty(self.ask(Op::Flush, |v| v.flush(&caller, HandleId(fh.0))), reply);
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
        self.ways.release(convert::node(ino));
        let handle = HandleId(fh.0);
        empty(
            self.ask(Op::Release, |v| {
                v.release(handle);
                Ok(())
            }),
            reply,
        );
    }

    fn fsync(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let shared = self.shared.clone();
        self.slow.run(move || {
            empty(shared.ask(Op::Fsync, |v| v.sync(HandleId(fh.0), data_only)), reply);
        });
    }

    fn opendir(&self, r: &Request, ino: INodeNo, _flags: fuser::OpenFlags, reply: ReplyOpen) {
        let node = convert::node(ino);
        match self.ask(Op::OpenDir, |v| v.open_directory(&convert::caller(r), node)) {
            Ok((handle, same_for_all)) => {
                let cached = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
                let flags = if same_for_all { cached } else { FopenFlags::empty() };
                reply.opened(FileHandle(handle.0), flags);
            }
            Err(errno) => reply.error(convert::errno(errno)),
        }
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
        match self
            .ask(Op::ReadDir, |v| v.read_directory(&caller, HandleId(fh.0), offset, &mut sink))
        {
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
        let result = self
            .ask(Op::ReadDirPlus, |v| v.read_directory(&caller, HandleId(fh.0), offset, &mut sink));
        match result {
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
        let handle = HandleId(fh.0);
        empty(
            self.ask(Op::ReleaseDir, |v| {
                v.release_directory(handle);
                Ok(())
            }),
            reply,
        );
    }

    fn fsyncdir(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let shared = self.shared.clone();
        self.slow.run(move || {
            empty(shared.ask(Op::FsyncDir, |v| v.sync_directory(HandleId(fh.0))), reply);
        });
    }

    fn statfs(&self, _: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.ask(Op::StatFs, |v| v.space()) {
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
        let result = self.ask(Op::SetXattr, |v| {
            let how = convert::set_xattr(flags)?;
            v.set_xattr(&convert::caller(r), convert::node(ino), name, value, how)
        });
        empty(result, reply);
    }

    fn getxattr(&self, r: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let node = convert::node(ino);
        let result = self.ask(Op::GetXattr, |v| v.xattr(&convert::caller(r), node, name));
        xattr(result, size, reply);
    }

    fn listxattr(&self, r: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let node = convert::node(ino);
        xattr(self.ask(Op::ListXattr, |v| v.list_xattrs(&convert::caller(r), node)), size, reply);
    }

    fn removexattr(&self, r: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let node = convert::node(ino);
        empty(
            self.ask(Op::RemoveXattr, |v| v.remove_xattr(&convert::caller(r), node, name)),
            reply,
        );
    }

    fn access(&self, _: &Request, _ino: INodeNo, _mask: fuser::AccessFlags, reply: ReplyEmpty) {
        // Either the kernel decides by mode and owner (`default_permissions`) and never asks, or
        // everyone may do everything. This answer makes it stop asking.
        empty(self.ask(Op::Access, |_| Err(Errno::ENOSYS)), reply);
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
        self.shared.counters.count(Op::Other);
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
        self.shared.counters.count(Op::Other);
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
        let shared = self.shared.clone();
        self.slow.run(move || {
            let result = shared.ask(Op::Fallocate, |v| {
                let flags = AllocateFlags::from_bits(mode as u32).ok_or(Errno::EOPNOTSUPP)?;
                v.allocate(HandleId(fh.0), offset, length, flags)
            });
            empty(result, reply);
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
        let result = self.ask(Op::Lseek, |v| {
            let seek = convert::seek(whence)?;
            // A negative offset is beyond any file, as lseek(2) has it for these two.
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            v.seek(HandleId(fh.0), offset, seek)
        });
        match result.map(i64::try_from) {
            Ok(Ok(offset)) => reply.offset(offset),
            Ok(Err(_)) => reply.error(convert::errno(Errno::EINVAL)),
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
        let shared = self.shared.clone();
        self.slow.run(move || {
            let (from, to) = ((HandleId(fh_in.0), offset_in), (HandleId(fh_out.0), offset_out));
            // The answer is a u32; the kernel comes back for the rest.
            let length = length.min(u64::from(u32::MAX) & !0xfff);
            written(shared.ask(Op::CopyFileRange, |v| v.copy_range(from, to, length)), reply);
        });
    }
}
