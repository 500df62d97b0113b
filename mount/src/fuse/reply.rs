//! How a volume's answers are put into fuser's replies.

use std::time::Duration;

use fuser::{FileHandle, FopenFlags, Generation, INodeNo};

use super::convert;
use super::operations::{Attribute, Told};
use crate::{Attributes, Entry, HandleId, Listed, ListingSink, Lookup, Result};

/// Node ids are never used twice within a mount, so that every generation is the first.
const GENERATION: Generation = Generation(0);

pub(super) fn empty(result: Result<()>, reply: fuser::ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(convert::errno(errno)),
    }
}

pub(super) fn entry(result: Result<Entry>, reply: fuser::ReplyEntry) {
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

pub(super) fn attr(result: Result<(Attributes, Duration)>, reply: fuser::ReplyAttr) {
    match result {
        Ok((attributes, valid)) => reply.attr(&valid, &convert::attributes(&attributes)),
        Err(errno) => reply.error(convert::errno(errno)),
    }
}

/// No more was written than was asked for, whose length came as a `u32`.
pub(super) fn written(result: Result<usize>, reply: fuser::ReplyWrite) {
    match result {
        Ok(length) => reply.written(length as u32),
        Err(errno) => reply.error(convert::errno(errno)),
    }
}

pub(super) fn found(result: Result<Lookup>, reply: fuser::ReplyEntry) {
    match result {
        Ok(Lookup::Found(found)) => entry(Ok(found), reply),
        Ok(Lookup::Absent { valid }) => reply.entry(&valid, &convert::absent(), GENERATION),
        Err(errno) => reply.error(convert::errno(errno)),
    }
}

pub(super) fn xattr(result: Result<Attribute>, reply: fuser::ReplyXattr) {
    match result {
        Ok(Attribute::Length(length)) => reply.size(length),
        Ok(Attribute::Value(value)) => reply.data(&value),
        Err(errno) => reply.error(convert::errno(errno)),
    }
}

pub(super) fn opened(result: Result<Told>, reply: fuser::ReplyOpen) {
    let told = match result {
        Ok(told) => told,
        Err(errno) => return reply.error(convert::errno(errno)),
    };
    let handle = FileHandle(told.handle.0);
    match told.backing {
        Some(backing) => {
            // SAFETY: it is open until `backing` is dropped, and given back before that.
            let id = unsafe { reply.wrap_backing(backing.id()) };
            reply.opened_passthrough(handle, told.flags, &id);
            id.into_raw();
        }
        None => reply.opened(handle, told.flags),
    }
}

pub(super) fn created(result: Result<(Entry, Told)>, reply: fuser::ReplyCreate) {
    let (entry, told) = match result {
        Ok(created) => created,
        Err(errno) => return reply.error(convert::errno(errno)),
    };
    let valid = convert::shared_validity(&entry);
    let attributes = convert::attributes(&entry.attributes);
    let handle = FileHandle(told.handle.0);
    match told.backing {
        Some(backing) => {
            // SAFETY: it is open until `backing` is dropped, and given back before that.
            let id = unsafe { reply.wrap_backing(backing.id()) };
            reply.created_passthrough(&valid, &attributes, GENERATION, handle, told.flags, &id);
            id.into_raw();
        }
        None => reply.created(&valid, &attributes, GENERATION, handle, told.flags),
    }
}

pub(super) fn directory(result: Result<(HandleId, FopenFlags)>, reply: fuser::ReplyOpen) {
    match result {
        Ok((handle, flags)) => reply.opened(FileHandle(handle.0), flags),
        Err(errno) => reply.error(convert::errno(errno)),
    }
}

/// Entries without attributes.
pub(super) struct PlainSink(pub(super) fuser::ReplyDirectory);

impl ListingSink for PlainSink {
    fn wants_attributes(&self) -> bool {
        false
    }
    fn take(&mut self, entry: &Listed<'_>) -> bool {
        !self.0.add(INodeNo(entry.node.0), entry.next, convert::kind(entry.kind), entry.name)
    }
}

/// Entries with attributes.
pub(super) struct PlusSink(pub(super) fuser::ReplyDirectoryPlus);

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
