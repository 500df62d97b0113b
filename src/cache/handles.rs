//! Open files and directories.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cachefs_mount::{Errno, HandleId, NodeId, OpenFlags, Result};
use dashmap::DashMap;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::drafts::Draft;
use super::listing::Stream;
use crate::readers::Job;

/// An open file or directory.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) node: NodeId,
    /// Whose it is.
    pub(super) job: Arc<Job>,
    /// The process that opened it; 0 where it can't be seen.
    pub(super) process: u32,
    /// Who has opened it.
    pub(super) uid: u32,
    /// The same, if that is a user who is not trusted.
    pub(super) user: Option<u32>,
    pub(super) open: Open,
}

/// How it is open.
#[derive(Debug)]
pub(super) enum Open {
    /// For reading only: any descriptor of the node will do.
    Reading,
    /// For writing, with a descriptor of its own.
    Writing {
        flags: OpenFlags,
        target: RwLock<Target>,
        /// Whether the process that opened it has closed a descriptor of it. One that was killed in the midst of
        /// `open(2)` never had one.
        closed: AtomicBool,
    },
    /// A directory.
    Directory(Mutex<Listing>),
}

/// How far a directory is listed.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Opened by the first who asks for names.
    pub(super) stream: Option<Stream>,
    /// Whether the job counts as one that lists the directory by this handle.
    pub(super) counts: bool,
    /// The kernel remembers what it is told, for all.
    pub(super) cached: bool,
}

/// What a handle writes.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) file: Arc<File>,
    /// The draft that the file is, or was.
    pub(super) draft: Option<Arc<Draft>>,
    /// Whether closing this handle makes the draft live.
    pub(super) author: bool,
    /// Whether the draft is another job's, which this one shares until it writes.
    pub(super) joined: bool,
}

impl Open {
    /// Writes a file that is live, or that others write with it.
    pub(super) fn writing(flags: OpenFlags, file: File) -> Open {
        let file = Arc::new(file);
        Open::writing_to(flags, Target { file, draft: None, author: false, joined: false })
    }

    pub(super) fn writing_to(flags: OpenFlags, target: Target) -> Open {
        Open::Writing { flags, target: RwLock::new(target), closed: AtomicBool::new(false) }
    }
}

/// What a handle was, to make it again in another process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HandleRecord {
    pub(super) id: u64,
    pub(super) node: u64,
    /// The bits of its [`OpenFlags`]; none for a directory.
    pub(super) flags: Option<u32>,
}

/// All open files and directories. Numbers are never used twice.
#[derive(Debug)]
pub(super) struct Handles {
    open: DashMap<u64, Arc<Handle>>,
    next: AtomicU64,
}

impl Handles {
    pub(super) fn new(next: u64) -> Handles {
        Handles { open: DashMap::new(), next: AtomicU64::new(next) }
    }

    pub(super) fn insert(&self, handle: Handle) -> HandleId {
        let id = HandleId(self.next.fetch_add(1, Ordering::Relaxed));
        self.restore(id, handle);
        id
    }

    pub(super) fn restore(&self, id: HandleId, handle: Handle) {
        handle.job.opened();
        self.open.insert(id.0, Arc::new(handle));
    }

    pub(super) fn get(&self, id: HandleId) -> Result<Arc<Handle>> {
        self.open.get(&id.0).map(|handle| handle.clone()).ok_or(Errno::EBADF)
    }

    pub(super) fn remove(&self, id: HandleId) -> Option<Arc<Handle>> {
        let (_, handle) = self.open.remove(&id.0)?;
        handle.job.closed();
        Some(handle)
    }

    pub(super) fn all(&self) -> Vec<Arc<Handle>> {
        self.open.iter().map(|entry| entry.value().clone()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn next(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    pub(super) fn records(&self) -> Vec<HandleRecord> {
        let record = |id: u64, handle: &Handle| HandleRecord {
            id,
            node: handle.node.0,
            flags: match &handle.open {
                Open::Reading => Some(OpenFlags::READ.bits()),
                Open::Writing { flags, .. } => Some(flags.bits()),
                Open::Directory(_) => None,
            },
        };
        self.open.iter().map(|entry| record(*entry.key(), entry.value())).collect()
    }
}
