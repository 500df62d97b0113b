//! The answers to opening: which way a file's bytes go, and what the kernel is told of it.

use std::fs::File;
use std::io;
use std::sync::Arc;

use fuser::{BackingId, FileHandle, FopenFlags};

use super::adapter::Adapter;
use super::convert;
use super::counters::Op;
use super::passthrough::{Registered, Route, is_small};
use super::reply::GENERATION;
use crate::{Entry, NodeId, OpenFlags, Opened, Result, Volume};

impl<V: Volume> Adapter<V> {
    pub(super) fn opened(
        &self,
        node: NodeId,
        flags: OpenFlags,
        result: Result<Opened>,
        reply: fuser::ReplyOpen,
    ) {
        let opened = match result {
            Ok(opened) => opened,
            Err(errno) => return reply.error(convert::errno(errno)),
        };
        let (backing, answer) = self.route(node, flags, &opened, |file| reply.open_backing(file));
        let handle = FileHandle(opened.handle.0);
        match backing {
            Some(id) => reply.opened_passthrough(handle, answer, &id),
            None => reply.opened(handle, answer),
        }
    }

    pub(super) fn created(
        &self,
        flags: OpenFlags,
        result: Result<(Entry, Opened)>,
        reply: fuser::ReplyCreate,
    ) {
        let (entry, opened) = match result {
            Ok(created) => created,
            Err(errno) => return reply.error(convert::errno(errno)),
        };
        let node = entry.attributes.node;
        let (backing, answer) = self.route(node, flags, &opened, |file| reply.open_backing(file));
        let valid = convert::shared_validity(&entry);
        let attributes = convert::attributes(&entry.attributes);
        let handle = FileHandle(opened.handle.0);
        match backing {
            Some(id) => {
                reply.created_passthrough(&valid, &attributes, GENERATION, handle, answer, &id);
            }
            None => reply.created(&valid, &attributes, GENERATION, handle, answer),
        }
    }

    /// The backing file's id, where the kernel shall read it by itself, and what it is told.
    fn route(
        &self,
        node: NodeId,
        flags: OpenFlags,
        opened: &Opened,
        open_backing: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> (Option<Arc<BackingId>>, FopenFlags) {
        if opened.counted {
            // The kernel's pages are true: nobody else writes it. Closing it is nobody else's affair.
            let mut answer = FopenFlags::empty();
            answer.set(FopenFlags::FOPEN_NOFLUSH, !opened.wants_flush);
            answer.set(FopenFlags::FOPEN_DIRECT_IO, opened.alone);
            answer.set(FopenFlags::FOPEN_KEEP_CACHE, !opened.alone);
            return (None, answer);
        }
        // Who reads what he alone has written asks for that, too.
        let reading = if opened.alone { flags - OpenFlags::READ } else { flags };
        let route = self.ways.open((node, opened.moves), reading, || {
            let file = self
                .ask(Op::Backing, |volume| volume.backing(opened.handle))
                .map_err(|errno| io::Error::from_raw_os_error(errno.raw()))?;
            let small = is_small(file.metadata()?.len());
            open_backing(&file).map(|id| Registered { id, small })
        });
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
        (backing, answer)
    }
}
