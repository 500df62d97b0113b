//! What is asked of a file or directory that is open.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::adapter::{Adapter, Wish};
use super::attributes::{open_flags, permissions};
use super::listing::Listing;
use super::status::Status;
use super::times;
use super::tree::Walk;
use crate::{Attributes, Caller, HandleId, Kind, OpenFlags, Opened, SetAttributes, Volume};

/// Something that a program has opened: what the driver calls a file context.
pub(super) struct Open<V: Volume> {
    /// Who opened it. What is asked later does not say who asks.
    pub(super) caller: Caller,
    /// What is wanted of its data; empty when nothing is.
    pub(super) flags: OpenFlags,
    /// What it is. Locked after `file`, where both are.
    pub(super) walk: Mutex<Walk<V>>,
    /// The volume's handle, from when data is wanted.
    pub(super) file: RwLock<Option<Handle>>,
    /// Of a directory, what the search found that is going on.
    pub(super) listing: Mutex<Option<Arc<Listing>>>,
}

/// An open file of the volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handle {
    pub(super) id: HandleId,
    pub(super) wants_flush: bool,
}

impl From<&Opened> for Handle {
    fn from(opened: &Opened) -> Handle {
        Handle { id: opened.handle, wants_flush: opened.wants_flush }
    }
}

impl<V: Volume> Open<V> {
    pub(super) fn new(walk: Walk<V>, wish: &Wish) -> Open<V> {
        let directory = walk.attributes.kind == Kind::Directory;
        let wanted = open_flags(wish.access, wish.options);
        Open {
            caller: wish.caller,
            flags: if directory { OpenFlags::empty() } else { wanted },
            walk: Mutex::new(walk),
            file: RwLock::default(),
            listing: Mutex::default(),
        }
    }

    /// The volume's handle, which is opened for it if it has none.
    pub(super) fn handle(&self, volume: &V) -> Result<HandleId, Status> {
        if let Some(file) = *self.file.read() {
            return Ok(file.id);
        }
        let mut file = self.file.write();
        if let Some(file) = *file {
            return Ok(file.id);
        }
        let attributes = self.walk.lock().attributes;
        match attributes.kind {
            Kind::File => {}
            Kind::Directory => return Err(Status::INVALID_DEVICE_REQUEST),
            // Links and the like are not for Windows programs, but they can be seen, moved and deleted.
            _ => return Err(Status::NOT_SUPPORTED),
        }
        let opened = volume.open(&self.caller, attributes.node, self.flags | OpenFlags::READ)?;
        Ok(file.insert(Handle::from(&opened)).id)
    }
}

impl<V: Volume> Adapter<V> {
    pub(super) fn attributes(&self, open: &Open<V>) -> Result<Attributes, Status> {
        let handle = open.file.read().map(|file| file.id);
        let mut walk = open.walk.lock();
        let (now, _) = self.tree.volume.attributes(&open.caller, walk.node(), handle)?;
        walk.attributes = now;
        Ok(now)
    }

    fn change(&self, open: &Open<V>, changes: &SetAttributes) -> Result<Attributes, Status> {
        let handle = open.file.read().map(|file| file.id);
        let node = open.walk.lock().node();
        Ok(self.tree.volume.set_attributes(&open.caller, node, handle, changes)?.0)
    }

    /// Reads; fewer bytes than asked for only at the end.
    pub(super) fn read(
        &self,
        open: &Open<V>,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, Status> {
        let handle = open.handle(&self.tree.volume)?;
        let length = self.tree.volume.read(handle, offset, into)?;
        if length == 0 && !into.is_empty() { Err(Status::END_OF_FILE) } else { Ok(length) }
    }

    /// Writes all of `data`, at the end if there is no offset. A file that must not grow (`constrained`, for
    /// pages of it that were written) takes what is within it. How much was taken, and what the file is like.
    pub(super) fn write(
        &self,
        open: &Open<V>,
        offset: Option<u64>,
        data: &[u8],
        constrained: bool,
    ) -> Result<(usize, Attributes), Status> {
        let handle = open.handle(&self.tree.volume)?;
        let node = open.walk.lock().node();
        let _end = offset.is_none().then(|| self.ends[node.0 as usize % self.ends.len()].lock());
        let (mut at, mut data) = (0, data);
        if offset.is_none() || constrained {
            let size = self.attributes(open)?.size;
            at = offset.unwrap_or(size);
            if constrained {
                let within = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
                data = &data[..data.len().min(within)];
            }
        } else if let Some(offset) = offset {
            at = offset;
        }
        let mut written = 0;
        while written < data.len() {
            match self.tree.volume.write(handle, at + written as u64, &data[written..]) {
                Ok(0) => return Err(Status::IO_DEVICE_ERROR),
                Ok(length) => written += length,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok((written, self.attributes(open)?))
    }

    /// Makes what was written last.
    pub(super) fn flush(&self, open: &Open<V>) -> Result<Attributes, Status> {
        self.sync(open)?;
        self.attributes(open)
    }

    /// As [`Adapter::flush`], also for what is being closed.
    pub(super) fn sync(&self, open: &Open<V>) -> Result<(), Status> {
        match *open.file.read() {
            Some(file) => Ok(self.tree.volume.sync(file.id, false)?),
            None => Ok(()),
        }
    }

    /// Sets attributes and times, of which 0 and negative ones stay as they are. When a file was created is not
    /// kept, nor when it was changed last: that is now.
    pub(super) fn set_basic(
        &self,
        open: &Open<V>,
        bits: u32,
        accessed: u64,
        modified: u64,
    ) -> Result<Attributes, Status> {
        let now = self.attributes(open)?;
        let changes = SetAttributes {
            permissions: permissions(&now, bits),
            accessed: times::to_set(accessed),
            modified: times::to_set(modified),
            ..Default::default()
        };
        if changes == SetAttributes::default() {
            return Ok(now);
        }
        self.change(open, &changes)
    }

    /// Sets the size, or how much is reserved: of that only less than the size is of any account.
    pub(super) fn set_size(
        &self,
        open: &Open<V>,
        size: u64,
        reserved: bool,
    ) -> Result<Attributes, Status> {
        let now = self.attributes(open)?;
        if reserved && size >= now.size {
            return Ok(now);
        }
        self.change(open, &SetAttributes { size: Some(size), ..Default::default() })
    }

    /// Sets owners and permissions.
    pub(super) fn set_owners(&self, open: &Open<V>, changes: &SetAttributes) -> Result<(), Status> {
        self.change(open, changes).map(drop)
    }
}
