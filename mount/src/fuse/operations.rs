//! The requests as calls of a [`Volume`], whichever way they come: what has to be decided for that is
//! decided here, once.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::FopenFlags;

use super::convert;
use super::counters::{Counters, Op};
use super::passthrough::{Backing, Connection, Registered, Route, Ways, is_small};
use crate::{
    AllocateFlags, Attributes, Caller, Entry, Errno, HandleId, ListingSink, Lookup, Name, NodeId,
    OpenFlags, Opened, RenameFlags, Result, SetAttributes, Space, Volume,
};

/// What all who serve a mount share.
#[derive(Debug)]
pub(super) struct Operations<V> {
    pub(super) volume: Arc<V>,
    pub(super) counters: Counters,
    pub(super) ways: Ways,
    connection: Connection,
}

/// An open file, as the kernel is told of it.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) handle: HandleId,
    pub(super) flags: FopenFlags,
    /// What the kernel shall read by itself.
    pub(super) backing: Option<Arc<Backing>>,
}

/// What is told of extended attributes: how long it is, to who asks for nothing else.
#[derive(Debug)]
pub(super) enum Attribute {
    Length(u32),
    Value(Vec<u8>),
}

fn named<T>(name: &OsStr, call: impl FnOnce(Name<'_>) -> Result<T>) -> Result<T> {
    Name::new(name).and_then(call)
}

fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

impl<V: Volume> Operations<V> {
    pub(super) fn new(volume: Arc<V>, connection: Connection) -> Operations<V> {
        Operations { volume, counters: Counters::new(), ways: Ways::new(), connection }
    }

    /// Calls the volume; a panic in it is logged and answered `EIO`.
    fn ask<T>(&self, op: Op, call: impl FnOnce(&V) -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let asked = catch_unwind(AssertUnwindSafe(|| call(&self.volume)));
        self.counters.measure(op, began);
        asked.unwrap_or_else(|_| {
            tracing::error!(operation = op.name(), "panic while serving a request; answered EIO");
            Err(Errno::EIO)
        })
    }

    /// Whether the next lookup of this caller may take so long that others must not wait for it.
    pub(super) fn takes_long(&self, caller: &Caller) -> bool {
        catch_unwind(AssertUnwindSafe(|| self.volume.takes_long(caller))).unwrap_or(false)
    }

    pub(super) fn lookup(&self, caller: &Caller, parent: NodeId, name: &OsStr) -> Result<Lookup> {
        self.ask(Op::Lookup, |v| named(name, |n| v.lookup(caller, parent, n)))
    }

    pub(super) fn forget(&self, node: NodeId, lookups: u64) {
        if self.ask(Op::Forget, |v| Ok(v.forget(node, lookups))) == Ok(true) {
            self.ways.forget(node);
        }
    }

    pub(super) fn attributes(
        &self,
        caller: &Caller,
        node: NodeId,
        handle: Option<HandleId>,
    ) -> Result<(Attributes, Duration)> {
        self.ask(Op::GetAttr, |v| v.attributes(caller, node, handle))
    }

    pub(super) fn set_attributes(
        &self,
        caller: &Caller,
        node: NodeId,
        handle: Option<HandleId>,
        changes: &SetAttributes,
    ) -> Result<(Attributes, Duration)> {
        self.ask(Op::SetAttr, |v| v.set_attributes(caller, node, handle, changes))
    }

    pub(super) fn read_link(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>> {
        self.ask(Op::ReadLink, |v| v.read_link(caller, node))
    }

    pub(super) fn make_node(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
    ) -> Result<Entry> {
        let kind = convert::node_kind(mode);
        self.ask(Op::MkNod, |v| {
            named(name, |n| v.make_node(caller, parent, n, kind, permissions(mode)))
        })
    }

    pub(super) fn make_directory(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
    ) -> Result<Entry> {
        self.ask(Op::MkDir, |v| {
            named(name, |n| v.make_directory(caller, parent, n, permissions(mode)))
        })
    }

    pub(super) fn remove_file(&self, caller: &Caller, parent: NodeId, name: &OsStr) -> Result<()> {
        self.ask(Op::Unlink, |v| named(name, |n| v.remove_file(caller, parent, n)))
    }

    pub(super) fn remove_directory(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
    ) -> Result<()> {
        self.ask(Op::RmDir, |v| named(name, |n| v.remove_directory(caller, parent, n)))
    }

    pub(super) fn make_symlink(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<Entry> {
        self.ask(Op::SymLink, |v| named(name, |n| v.make_symlink(caller, parent, n, target)))
    }

    pub(super) fn rename(
        &self,
        caller: &Caller,
        (parent, name): (NodeId, &OsStr),
        (new_parent, new_name): (NodeId, &OsStr),
        flags: u32,
    ) -> Result<()> {
        self.ask(Op::Rename, |v| {
            // Whiteouts are device nodes, which a mount never has.
            let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
            let (from, to) = (Name::new(name)?, Name::new(new_name)?);
            v.rename(caller, parent, from, new_parent, to, flags)
        })
    }

    pub(super) fn make_link(
        &self,
        caller: &Caller,
        node: NodeId,
        parent: NodeId,
        name: &OsStr,
    ) -> Result<Entry> {
        self.ask(Op::Link, |v| named(name, |n| v.make_link(caller, node, parent, n)))
    }

    pub(super) fn open(&self, caller: &Caller, node: NodeId, flags: i32) -> Result<Told> {
        let flags = convert::open_flags(flags);
        let opened = self.ask(Op::Open, |v| v.open(caller, node, flags))?;
        Ok(self.route(node, flags, &opened))
    }

    pub(super) fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        (mode, flags): (u32, i32),
    ) -> Result<(Entry, Told)> {
        let flags = convert::open_flags(flags);
        let (entry, opened) = self.ask(Op::Create, |v| {
            named(name, |n| v.create(caller, parent, n, permissions(mode), flags))
        })?;
        let told = self.route(entry.attributes.node, flags, &opened);
        Ok((entry, told))
    }

    /// Which way the bytes of an opened file go, and what the kernel is told of it.
    fn route(&self, node: NodeId, flags: OpenFlags, opened: &Opened) -> Told {
        let handle = opened.handle;
        if opened.counted {
            // The kernel's pages are true: nobody else writes it. Closing it is nobody else's affair.
            let mut answer = FopenFlags::empty();
            answer.set(FopenFlags::FOPEN_NOFLUSH, !opened.wants_flush);
            answer.set(FopenFlags::FOPEN_DIRECT_IO, opened.alone);
            answer.set(FopenFlags::FOPEN_KEEP_CACHE, !opened.alone);
            return Told { handle, flags: answer, backing: None };
        }
        // Who reads what he alone has written asks for that, too.
        let reading = if opened.alone { flags - OpenFlags::READ } else { flags };
        let route = self.ways.open((node, opened.moves), reading, || self.register(handle));
        let mut answer = FopenFlags::empty();
        answer.set(FopenFlags::FOPEN_NOFLUSH, !opened.wants_flush);
        let direct = opened.alone || matches!(route, Route::Direct(_));
        answer.set(FopenFlags::FOPEN_DIRECT_IO, direct);
        answer.set(FopenFlags::FOPEN_KEEP_CACHE, matches!(route, Route::PageCache { keep: true }));
        let backing = match route {
            Route::Passthrough(id) => Some(id),
            Route::Direct(id) => id,
            Route::PageCache { .. } => None,
        };
        if backing.is_some() {
            answer |= FopenFlags::FOPEN_PASSTHROUGH;
        }
        Told { handle, flags: answer, backing }
    }

    fn register(&self, handle: HandleId) -> io::Result<Registered> {
        let file: Arc<File> = self
            .ask(Op::Backing, |volume| volume.backing(handle))
            .map_err(|errno| io::Error::from_raw_os_error(errno.raw()))?;
        let small = is_small(file.metadata()?.len());
        self.connection.register(&file).map(|id| Registered { id, small })
    }

    pub(super) fn read(&self, handle: HandleId, offset: u64, into: &mut [u8]) -> Result<usize> {
        self.ask(Op::Read, |v| v.read(handle, offset, into))
    }

    pub(super) fn write(&self, handle: HandleId, offset: u64, data: &[u8]) -> Result<usize> {
        self.ask(Op::Write, |v| v.write(handle, offset, data))
    }

    pub(super) fn flush(&self, caller: &Caller, handle: HandleId) -> Result<()> {
        self.ask(Op::Flush, |v| v.flush(caller, handle))
    }

    pub(super) fn release(&self, node: NodeId, handle: HandleId) -> Result<()> {
        self.ways.release(node);
        self.ask(Op::Release, |v| {
            v.release(handle);
            Ok(())
        })
    }

    pub(super) fn sync(&self, handle: HandleId, data_only: bool) -> Result<()> {
        self.ask(Op::Fsync, |v| v.sync(handle, data_only))
    }

    pub(super) fn open_directory(
        &self,
        caller: &Caller,
        node: NodeId,
    ) -> Result<(HandleId, FopenFlags)> {
        let (handle, same_for_all) = self.ask(Op::OpenDir, |v| v.open_directory(caller, node))?;
        let cached = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
        Ok((handle, if same_for_all { cached } else { FopenFlags::empty() }))
    }

    pub(super) fn read_directory(
        &self,
        caller: &Caller,
        handle: HandleId,
        offset: u64,
        sink: &mut dyn ListingSink,
    ) -> Result<()> {
        let op = if sink.wants_attributes() { Op::ReadDirPlus } else { Op::ReadDir };
        self.ask(op, |v| v.read_directory(caller, handle, offset, sink))
    }

    pub(super) fn release_directory(&self, handle: HandleId) -> Result<()> {
        self.ask(Op::ReleaseDir, |v| {
            v.release_directory(handle);
            Ok(())
        })
    }

    pub(super) fn sync_directory(&self, handle: HandleId) -> Result<()> {
        self.ask(Op::FsyncDir, |v| v.sync_directory(handle))
    }

    pub(super) fn space(&self) -> Result<Space> {
        self.ask(Op::StatFs, |v| v.space())
    }

    pub(super) fn set_xattr(
        &self,
        caller: &Caller,
        node: NodeId,
        (name, value): (&OsStr, &[u8]),
        flags: i32,
    ) -> Result<()> {
        self.ask(Op::SetXattr, |v| {
            let how = convert::set_xattr(flags)?;
            v.set_xattr(caller, node, name, value, how)
        })
    }

    /// `room`: how long an answer may be, in bytes; 0 asks for how long it is.
    pub(super) fn xattr(
        &self,
        caller: &Caller,
        node: NodeId,
        name: &OsStr,
        room: u32,
    ) -> Result<Attribute> {
        fit(self.ask(Op::GetXattr, |v| v.xattr(caller, node, name))?, room)
    }

    /// `room`: as with [`Operations::xattr`].
    pub(super) fn list_xattrs(
        &self,
        caller: &Caller,
        node: NodeId,
        room: u32,
    ) -> Result<Attribute> {
        fit(self.ask(Op::ListXattr, |v| v.list_xattrs(caller, node))?, room)
    }

    pub(super) fn remove_xattr(&self, caller: &Caller, node: NodeId, name: &OsStr) -> Result<()> {
        self.ask(Op::RemoveXattr, |v| v.remove_xattr(caller, node, name))
    }

    pub(super) fn access(&self) -> Result<()> {
        // Either the kernel decides by mode and owner (`default_permissions`) and never asks, or
        // everyone may do everything. This answer makes it stop asking.
        self.ask(Op::Access, |_| Err(Errno::ENOSYS))
    }

    pub(super) fn allocate(
        &self,
        handle: HandleId,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> Result<()> {
        self.ask(Op::Fallocate, |v| {
            let flags = AllocateFlags::from_bits(mode).ok_or(Errno::EOPNOTSUPP)?;
            v.allocate(handle, offset, length, flags)
        })
    }

    pub(super) fn seek(&self, handle: HandleId, offset: i64, whence: i32) -> Result<i64> {
        let offset = self.ask(Op::Lseek, |v| {
            let seek = convert::seek(whence)?;
            // A negative offset is beyond any file, as lseek(2) has it for these two.
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            v.seek(handle, offset, seek)
        })?;
        i64::try_from(offset).map_err(|_| Errno::EINVAL)
    }

    pub(super) fn copy_range(
        &self,
        from: (HandleId, u64),
        to: (HandleId, u64),
        length: u64,
    ) -> Result<usize> {
        // The answer is a u32; the kernel comes back for the rest.
        let length = length.min(u64::from(u32::MAX) & !0xfff);
        self.ask(Op::CopyFileRange, |v| v.copy_range(from, to, length))
    }

    /// One that a volume is never asked for.
    pub(super) fn other(&self) {
        self.counters.count(Op::Other);
    }
}

fn fit(value: Vec<u8>, room: u32) -> Result<Attribute> {
    if room == 0 {
        return u32::try_from(value.len()).map(Attribute::Length).map_err(|_| Errno::E2BIG);
    }
    if value.len() > room as usize {
        return Err(Errno::ERANGE);
    }
    Ok(Attribute::Value(value))
}
