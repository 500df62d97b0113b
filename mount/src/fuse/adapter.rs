//! fuser's requests as calls of a [`Volume`]: nothing is decided here but how an answer is put.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{FileHandle, FopenFlags, Generation, INodeNo, LockOwner};

use super::convert;
use super::counters::{Counters, Op};
use super::negotiate;
use super::passthrough::{Registered, Route, Ways, is_small};
use super::slow::Pool;
use crate::{
    AllocateFlags, Caller, Entry, Errno, HandleId, Listed, ListingSink, Lookup, Name, NodeId,
    OpenFlags, Opened, RenameFlags, Result, Seek, SetAttributes, SetXattr, Volume,
};

/// Node ids are never used twice within a mount, so that every generation is the first.
const GENERATION: Generation = Generation(0);

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
    ways: Ways,
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
    fn ask<T>(&self, op: Op, call: impl FnOnce(&V) -> Result<T>) -> Result<T> {
        self.shared.ask(op, call)
    }

    fn entry(&self, result: Result<Entry>, reply: fuser::ReplyEntry) {
        match result {
            Ok(entry) => reply.entry_with_ttls(
                &entry.attributes_valid,
                &entry.name_valid,
                &convert::attributes(&entry.attributes),
                GENERATION,
            ),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    /// The way an open file's bytes go, and what the kernel is told of it.
    fn route(
        &self,
        node: NodeId,
        flags: OpenFlags,
        opened: &Opened,
        open_backing: impl FnOnce(&std::fs::File) -> std::io::Result<fuser::BackingId>,
    ) -> (Option<Arc<fuser::BackingId>>, FopenFlags) {
        let route = self.ways.open(node, flags, || {
            let file = self
                .ask(Op::Backing, |volume| volume.backing(opened.handle))
                .map_err(|errno| std::io::Error::from_raw_os_error(errno.raw()))?;
            let small = is_small(file.metadata()?.len());
            open_backing(&file).map(|id| Registered { id, small })
        });
        let mut answer = FopenFlags::empty();
        answer.set(FopenFlags::FOPEN_NOFLUSH, !opened.wants_flush);
        answer.set(FopenFlags::FOPEN_DIRECT_IO, matches!(route, Route::Direct(_)));
        answer.set(FopenFlags::FOPEN_KEEP_CACHE, matches!(route, Route::PageCache { keep: true }));
        let backing = match route {
            Route::Passthrough(id) => Some(id),
            Route::Direct(id) => id,
            Route::PageCache { .. } => None,
        };
        (backing, answer)
    }
}

impl<V: Volume> Shared<V> {
    fn ask<T>(&self, op: Op, call: impl FnOnce(&V) -> Result<T>) -> Result<T> {
        self.counters.count(op);
        catch_unwind(AssertUnwindSafe(|| call(&self.volume))).unwrap_or_else(|_| {
            tracing::error!(operation = op.name(), "panic while serving a request; answered EIO");
            Err(Errno::EIO)
        })
    }
}

thread_local! {
    /// Where reads land; as large as the largest read that this thread has served.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn empty(result: Result<()>, reply: fuser::ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(convert::errno(errno)),
    }
}

fn attr(result: Result<(crate::Attributes, Duration)>, reply: fuser::ReplyAttr) {
    match result {
        Ok((attributes, valid)) => reply.attr(&valid, &convert::attributes(&attributes)),
        Err(errno) => reply.error(convert::errno(errno)),
    }
}

fn xattr(result: Result<Vec<u8>>, size: u32, reply: fuser::ReplyXattr) {
    match result {
        Ok(value) if size == 0 => match u32::try_from(value.len()) {
            Ok(length) => reply.size(length),
            Err(_) => reply.error(convert::errno(Errno::E2BIG)),
        },
        Ok(value) if value.len() <= size as usize => reply.data(&value),
        Ok(_) => reply.error(convert::errno(Errno::ERANGE)),
        Err(errno) => reply.error(convert::errno(errno)),
    }
}

fn named<T>(name: &OsStr, call: impl FnOnce(Name<'_>) -> Result<T>) -> Result<T> {
    Name::new(name).and_then(call)
}

struct PlainSink(fuser::ReplyDirectory);

impl ListingSink for PlainSink {
    fn wants_attributes(&self) -> bool {
        false
    }
    fn take(&mut self, entry: &Listed<'_>) -> bool {
        !self.0.add(INodeNo(entry.node.0), entry.next, convert::kind(entry.kind), entry.name)
    }
}

struct PlusSink(fuser::ReplyDirectoryPlus);

impl ListingSink for PlusSink {
    fn wants_attributes(&self) -> bool {
        true
    }
    fn take(&mut self, listed: &Listed<'_>) -> bool {
        // Only `.` and `..` come without an entry; the kernel makes nothing of theirs but a number.
        let (attributes, valid) = match &listed.entry {
            Some(entry) => {
                (convert::attributes(&entry.attributes), convert::shared_validity(entry))
            }
            None => {
                let bare = fuser::FileAttr {
                    ino: INodeNo(listed.node.0),
                    kind: convert::kind(listed.kind),
                    ..convert::absent()
                };
                (bare, Duration::ZERO)
            }
        };
        let ino = attributes.ino;
        !self.0.add(ino, listed.next, listed.name, &valid, &attributes, GENERATION)
    }
}

impl<V: Volume> fuser::Filesystem for Adapter<V> {
    fn init(
        &mut self,
        _: &fuser::Request,
        config: &mut fuser::KernelConfig,
    ) -> std::io::Result<()> {
        let features = negotiate::negotiate(&self.wishes, config);
        self.ways = Ways::new(features.passthrough);
        // Set once: a connection is initialised once.
        let _ = self.agreed.set(features);
        Ok(())
    }

    fn lookup(&self, r: &fuser::Request, parent: INodeNo, name: &OsStr, reply: fuser::ReplyEntry) {
        let result = self.ask(Op::Lookup, |v| {
            named(name, |n| v.lookup(&convert::caller(r), convert::node(parent), n))
        });
        match result {
            Ok(Lookup::Found(entry)) => self.entry(Ok(entry), reply),
            Ok(Lookup::Absent { valid }) => reply.entry(&valid, &convert::absent(), GENERATION),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn forget(&self, _: &fuser::Request, ino: INodeNo, lookups: u64) {
        let node = convert::node(ino);
        if self.ask(Op::Forget, |v| Ok(v.forget(node, lookups))) == Ok(true) {
            self.ways.forget(node);
        }
    }

    fn getattr(
        &self,
        r: &fuser::Request,
        ino: INodeNo,
        fh: Option<FileHandle>,
        reply: fuser::ReplyAttr,
    ) {
        attr(
            self.ask(Op::GetAttr, |v| {
                v.attributes(&convert::caller(r), convert::node(ino), fh.map(|h| HandleId(h.0)))
            }),
            reply,
        );
    }

    fn setattr(
        &self,
        r: &fuser::Request,
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
        reply: fuser::ReplyAttr,
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

    fn readlink(&self, r: &fuser::Request, ino: INodeNo, reply: fuser::ReplyData) {
        let node = convert::node(ino);
        match self.ask(Op::ReadLink, |v| v.read_link(&convert::caller(r), node)) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn mknod(
        &self,
        r: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: fuser::ReplyEntry,
    ) {
        let kind = convert::node_kind(mode);
        let result = self.ask(Op::MkNod, |v| {
            let caller = convert::caller(r);
            named(name, |n| {
                v.make_node(&caller, convert::node(parent), n, kind, (mode & 0o7777) as u16)
            })
        });
        self.entry(result, reply);
    }

    fn mkdir(
        &self,
        r: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: fuser::ReplyEntry,
    ) {
        let result = self.ask(Op::MkDir, |v| {
            let caller = convert::caller(r);
            named(name, |n| {
                v.make_directory(&caller, convert::node(parent), n, (mode & 0o7777) as u16)
            })
        });
        self.entry(result, reply);
    }

    fn unlink(&self, r: &fuser::Request, parent: INodeNo, name: &OsStr, reply: fuser::ReplyEmpty) {
        let result = self.ask(Op::Unlink, |v| {
            named(name, |n| v.remove_file(&convert::caller(r), convert::node(parent), n))
        });
        empty(result, reply);
    }

    fn rmdir(&self, r: &fuser::Request, parent: INodeNo, name: &OsStr, reply: fuser::ReplyEmpty) {
        let result = self.ask(Op::RmDir, |v| {
            named(name, |n| v.remove_directory(&convert::caller(r), convert::node(parent), n))
        });
        empty(result, reply);
    }

    fn symlink(
        &self,
        r: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: fuser::ReplyEntry,
    ) {
        let result = self.ask(Op::SymLink, |v| {
            let caller = convert::caller(r);
            named(name, |n| v.make_symlink(&caller, convert::node(parent), n, target.as_os_str()))
        });
        self.entry(result, reply);
    }

    fn rename(
        &self,
        r: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: fuser::RenameFlags,
        reply: fuser::ReplyEmpty,
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
        r: &fuser::Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: fuser::ReplyEntry,
    ) {
        let result = self.ask(Op::Link, |v| {
            let caller = convert::caller(r);
            named(newname, |n| {
                v.make_link(&caller, convert::node(ino), convert::node(newparent), n)
            })
        });
        self.entry(result, reply);
    }

    fn open(
        &self,
        r: &fuser::Request,
        ino: INodeNo,
        flags: fuser::OpenFlags,
        reply: fuser::ReplyOpen,
    ) {
        let (node, flags) = (convert::node(ino), convert::open_flags(flags.0));
        match self.ask(Op::Open, |v| v.open(&convert::caller(r), node, flags)) {
            Ok(opened) => {
                let (backing, answer) =
                    self.route(node, flags, &opened, |file| reply.open_backing(file));
                let handle = FileHandle(opened.handle.0);
                match backing {
                    Some(id) => reply.opened_passthrough(handle, answer, &id),
                    None => reply.opened(handle, answer),
                }
            }
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn create(
        &self,
        r: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: fuser::ReplyCreate,
    ) {
        let flags = convert::open_flags(flags);
        let result = self.ask(Op::Create, |v| {
            let caller = convert::caller(r);
            named(name, |n| {
                v.create(&caller, convert::node(parent), n, (mode & 0o7777) as u16, flags)
            })
        });
        match result {
            Ok((entry, opened)) => {
                let (backing, answer) = self
                    .route(entry.attributes.node, flags, &opened, |file| reply.open_backing(file));
                let valid = convert::shared_validity(&entry);
                let attributes = convert::attributes(&entry.attributes);
                let handle = FileHandle(opened.handle.0);
                match backing {
                    Some(id) => reply.created_passthrough(
                        &valid,
                        &attributes,
                        GENERATION,
                        handle,
                        answer,
                        &id,
                    ),
                    None => reply.created(&valid, &attributes, GENERATION, handle, answer),
                }
            }
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn read(
        &self,
        _: &fuser::Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: fuser::ReplyData,
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
        _: &fuser::Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: fuser::WriteFlags,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: fuser::ReplyWrite,
    ) {
        match self.ask(Op::Write, |v| v.write(HandleId(fh.0), offset, data)) {
            // No longer than `data`, whose length came as a u32.
            Ok(length) => reply.written(length as u32),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn flush(
        &self,
        r: &fuser::Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: fuser::ReplyEmpty,
    ) {
        let caller: Caller = convert::caller(r);
        empty(self.ask(Op::Flush, |v| v.flush(&caller, HandleId(fh.0))), reply);
    }

    fn release(
        &self,
        _: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: fuser::ReplyEmpty,
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
        _: &fuser::Request,
        _ino: INodeNo,
        fh: FileHandle,
        data_only: bool,
        reply: fuser::ReplyEmpty,
    ) {
        let shared = self.shared.clone();
        self.slow.run(move || {
            empty(shared.ask(Op::Fsync, |v| v.sync(HandleId(fh.0), data_only)), reply);
        });
    }

    fn opendir(
        &self,
        r: &fuser::Request,
        ino: INodeNo,
        _flags: fuser::OpenFlags,
        reply: fuser::ReplyOpen,
    ) {
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
        r: &fuser::Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: fuser::ReplyDirectory,
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
        r: &fuser::Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: fuser::ReplyDirectoryPlus,
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
        _: &fuser::Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        reply: fuser::ReplyEmpty,
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
        _: &fuser::Request,
        _ino: INodeNo,
        fh: FileHandle,
        _data_only: bool,
        reply: fuser::ReplyEmpty,
    ) {
        let shared = self.shared.clone();
        self.slow.run(move || {
            empty(shared.ask(Op::FsyncDir, |v| v.sync_directory(HandleId(fh.0))), reply);
        });
    }

    fn statfs(&self, _: &fuser::Request, _ino: INodeNo, reply: fuser::ReplyStatfs) {
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
        r: &fuser::Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: fuser::ReplyEmpty,
    ) {
        let result = self.ask(Op::SetXattr, |v| {
            let how = match flags {
                0 => SetXattr::Any,
                libc::XATTR_CREATE => SetXattr::Create,
                libc::XATTR_REPLACE => SetXattr::Replace,
                _ => return Err(Errno::EINVAL),
            };
            v.set_xattr(&convert::caller(r), convert::node(ino), name, value, how)
        });
        empty(result, reply);
    }

    fn getxattr(
        &self,
        r: &fuser::Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: fuser::ReplyXattr,
    ) {
        let node = convert::node(ino);
        let result = self.ask(Op::GetXattr, |v| v.xattr(&convert::caller(r), node, name));
        xattr(result, size, reply);
    }

    fn listxattr(&self, r: &fuser::Request, ino: INodeNo, size: u32, reply: fuser::ReplyXattr) {
        let node = convert::node(ino);
        xattr(self.ask(Op::ListXattr, |v| v.list_xattrs(&convert::caller(r), node)), size, reply);
    }

    fn removexattr(
        &self,
        r: &fuser::Request,
        ino: INodeNo,
        name: &OsStr,
        reply: fuser::ReplyEmpty,
    ) {
        let node = convert::node(ino);
        empty(
            self.ask(Op::RemoveXattr, |v| v.remove_xattr(&convert::caller(r), node, name)),
            reply,
        );
    }

    fn access(
        &self,
        _: &fuser::Request,
        _ino: INodeNo,
        _mask: fuser::AccessFlags,
        reply: fuser::ReplyEmpty,
    ) {
        // Either the kernel decides by mode and owner (`default_permissions`) and never asks, or
        // everyone may do everything. This answer makes it stop asking.
        empty(self.ask(Op::Access, |_| Err(Errno::ENOSYS)), reply);
    }

    fn ioctl(
        &self,
        _: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: fuser::IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: fuser::ReplyIoctl,
    ) {
        self.shared.counters.count(Op::Other);
        reply.error(fuser::Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: fuser::PollNotifier,
        _events: fuser::PollEvents,
        _flags: fuser::PollFlags,
        reply: fuser::ReplyPoll,
    ) {
        // Files are always ready; the kernel knows that by itself after this answer.
        self.shared.counters.count(Op::Other);
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _: &fuser::Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: fuser::ReplyEmpty,
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
        _: &fuser::Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: fuser::ReplyLseek,
    ) {
        let result = self.ask(Op::Lseek, |v| {
            let seek = match whence {
                libc::SEEK_DATA => Seek::Data,
                libc::SEEK_HOLE => Seek::Hole,
                _ => return Err(Errno::EINVAL),
            };
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
        _: &fuser::Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        length: u64,
        _flags: fuser::CopyFileRangeFlags,
        reply: fuser::ReplyWrite,
    ) {
        let shared = self.shared.clone();
        self.slow.run(move || {
            let (from, to) = ((HandleId(fh_in.0), offset_in), (HandleId(fh_out.0), offset_out));
            // The answer is a u32; the kernel comes back for the rest.
            let length = length.min(u64::from(u32::MAX) & !0xfff);
            match shared.ask(Op::CopyFileRange, |v| v.copy_range(from, to, length)) {
                Ok(copied) => reply.written(copied as u32),
                Err(errno) => reply.error(convert::errno(errno)),
            }
        });
    }
}
