//! Opening, reading and writing files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cachefs_mount::{
    AllocateFlags, Caller, Entry, Errno, HandleId, Kind, Name, NodeId, OpenFlags, Opened, Result,
    Seek,
};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom};

use super::Cache;
use super::handles::{Handle, Open};
use super::namespace::mode;
use super::resolve::{errno, kind, open_at, status};

/// Set-id bits of a mode.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

fn store_flags(flags: OpenFlags) -> OFlags {
    let mut wanted = if flags.contains(OpenFlags::READ) { OFlags::RDWR } else { OFlags::WRONLY };
    wanted.set(OFlags::DSYNC, flags.contains(OpenFlags::SYNC));
    wanted
}

impl Cache {
    pub(super) fn open(&self, id: NodeId, flags: OpenFlags) -> Result<Opened> {
        let node = self.tree.get(id)?;
        match node.kind {
            Kind::File => {}
            Kind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::ENXIO),
        }
        self.counters.hit();
        if !flags.intersects(OpenFlags::WRITE | OpenFlags::TRUNCATE) {
            // Nothing is opened before its first use, which passthrough never comes to.
            let handle = self.handles.insert(id, Open::Reading);
            return Ok(Opened { handle, wants_flush: false });
        }
        let file = File::from(self.open_node(&node, store_flags(flags | OpenFlags::WRITE))?);
        drop_set_id(&file)?;
        if flags.contains(OpenFlags::TRUNCATE) {
            rustix::fs::ftruncate(&file, 0).map_err(errno)?;
        }
        Ok(self.opened_for_writing(id, flags, file))
    }

    fn opened_for_writing(&self, id: NodeId, flags: OpenFlags, file: File) -> Opened {
        if !flags.contains(OpenFlags::WRITE) {
            // `O_RDONLY | O_TRUNC`, or a new file opened for reading: the deed is done.
            let handle = self.handles.insert(id, Open::Reading);
            return Opened { handle, wants_flush: false };
        }
        let handle = self.handles.insert(id, Open::Writing { flags, file: Arc::new(file) });
        // Stores through a shared mapping reach the file at the latest when it is flushed.
        Opened { handle, wants_flush: true }
    }

    /// Opens a node again for a handle of another process, as [`Cache::open`] did there.
    pub(super) fn reopen(&self, id: NodeId, flags: OpenFlags) -> Result<Open> {
        if !flags.contains(OpenFlags::WRITE) {
            return Ok(Open::Reading);
        }
        let node = self.tree.get(id)?;
        let file = Arc::new(File::from(self.open_node(&node, store_flags(flags))?));
        Ok(Open::Writing { flags, file })
    }

    pub(super) fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        permissions: u16,
        flags: OpenFlags,
    ) -> Result<(Entry, Opened)> {
        if self.is_private(parent, name) {
            return Err(Errno::EPERM);
        }
        let directory = self.directory(parent)?;
        let wanted = store_flags(flags) | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let new = wanted | OFlags::CREATE | OFlags::EXCL;
        let file = match rustix::fs::openat(&*directory, name.as_bytes(), new, mode(permissions)) {
            Ok(descriptor) => {
                if let Some((uid, gid)) = self.owner_of_new(caller) {
                    rustix::fs::fchown(&descriptor, Some(uid), Some(gid)).map_err(errno)?;
                }
                File::from(descriptor)
            }
            Err(rustix::io::Errno::EXIST) if !flags.contains(OpenFlags::EXCLUSIVE) => {
                self.open_existing(&directory, name, wanted, flags)?
            }
            Err(error) => return Err(errno(error)),
        };
        let entry = self.found(parent, name, &status(&file, b"")?);
        Ok((entry, self.opened_for_writing(entry.attributes.node, flags, file)))
    }

    /// Another one created the file since the kernel looked.
    fn open_existing(
        &self,
        directory: &std::os::fd::OwnedFd,
        name: Name<'_>,
        wanted: OFlags,
        flags: OpenFlags,
    ) -> Result<File> {
        let file = File::from(open_at(directory, name.as_bytes(), wanted)?);
        match kind(&status(&file, b"")?) {
            Kind::File => {}
            // The kernel looks again and finds what it is.
            _ => return Err(Errno::ESTALE),
        }
        if flags.contains(OpenFlags::TRUNCATE) {
            rustix::fs::ftruncate(&file, 0).map_err(errno)?;
        }
        Ok(file)
    }

    /// A descriptor of an open file: its own, or for reading any that is kept for the node.
    pub(super) fn file(&self, handle: &Handle) -> Result<Arc<File>> {
        match &handle.open {
            Open::Writing { file, .. } => Ok(file.clone()),
            Open::Reading => self.file_for_reading(handle.node),
            Open::Directory(_) => Err(Errno::EISDIR),
        }
    }

    fn file_for_reading(&self, id: NodeId) -> Result<Arc<File>> {
        if let Some(kept) = self.descriptors.file(id) {
            return Ok(kept);
        }
        let node = self.tree.get(id)?;
        let file = Arc::new(File::from(self.open_node(&node, OFlags::RDONLY)?));
        self.descriptors.keep_file(id, file.clone());
        Ok(file)
    }

    /// A descriptor for passthrough; or, when the mount finds that the file is too small for that,
    /// the one by which it will be read.
    pub(super) fn backing(&self, id: HandleId) -> Result<Arc<File>> {
        self.file(&*self.handles.get(id)?)
    }

    pub(super) fn read(&self, id: HandleId, offset: u64, into: &mut [u8]) -> Result<usize> {
        let file = self.file(&*self.handles.get(id)?)?;
        let mut done = 0;
        while done < into.len() {
            match file.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(length) => done += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    pub(super) fn write(&self, id: HandleId, offset: u64, data: &[u8]) -> Result<usize> {
        let handle = self.handles.get(id)?;
        let Open::Writing { file, .. } = &handle.open else { return Err(Errno::EBADF) };
        let mut done = 0;
        while done < data.len() {
            match file.write_at(&data[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(length) => done += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What was taken before is taken; the next write meets the error.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    pub(super) fn sync(&self, id: HandleId, data_only: bool) -> Result<()> {
        let file = self.file(&*self.handles.get(id)?)?;
        Ok(if data_only { file.sync_data() } else { file.sync_all() }?)
    }

    pub(super) fn allocate(
        &self,
        id: HandleId,
        offset: u64,
        length: u64,
        flags: AllocateFlags,
    ) -> Result<()> {
        let handle = self.handles.get(id)?;
        let Open::Writing { file, .. } = &handle.open else { return Err(Errno::EBADF) };
        let flags = FallocateFlags::from_bits_retain(flags.bits());
        rustix::fs::fallocate(&**file, flags, offset, length).map_err(errno)
    }

    pub(super) fn seek(&self, id: HandleId, offset: u64, seek: Seek) -> Result<u64> {
        let file = self.file(&*self.handles.get(id)?)?;
        let to = match seek {
            Seek::Data => SeekFrom::Data(offset),
            Seek::Hole => SeekFrom::Hole(offset),
        };
        // Others may share the descriptor: but nobody reads or writes at its own offset.
        rustix::fs::seek(&*file, to).map_err(errno)
    }

    pub(super) fn copy_range(
        &self,
        (from, mut from_offset): (HandleId, u64),
        (to, mut to_offset): (HandleId, u64),
        length: u64,
    ) -> Result<usize> {
        let source = self.file(&*self.handles.get(from)?)?;
        let target = self.handles.get(to)?;
        let Open::Writing { file, .. } = &target.open else { return Err(Errno::EBADF) };
        rustix::fs::copy_file_range(
            &*source,
            Some(&mut from_offset),
            &**file,
            Some(&mut to_offset),
            usize::try_from(length).map_err(|_| Errno::EINVAL)?,
        )
        .map_err(errno)
    }
}

/// A file that is written has no set-id bits. The kernel leaves it to the volume to see to that.
fn drop_set_id(file: &File) -> Result<()> {
    let mode = u32::from(status(file, b"")?.stx_mode);
    if mode & SET_ID != 0 {
        let plain = rustix::fs::Mode::from_raw_mode(mode & 0o7777 & !SET_ID);
        rustix::fs::fchmod(file, plain).map_err(errno)?;
    }
    Ok(())
}
