//! How a volume's answers are put into fuser's replies.

use std::time::Duration;

use fuser::{Generation, INodeNo};

use super::convert;
use crate::{Attributes, Entry, Errno, Listed, ListingSink, Result};

/// Node ids are never used twice within a mount, so that every generation is the first.
pub(super) const GENERATION: Generation = Generation(0);

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

pub(super) fn xattr(result: Result<Vec<u8>>, size: u32, reply: fuser::ReplyXattr) {
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
