//! All that the kernel knows of us, written out and read back: node ids, references, names, open
//! handles. With it and the descriptors that go along, another process can go on serving a mount.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use cachefs_mount::{HandleId, NodeId, OpenFlags};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::handles::{HandleRecord, Handles, Open};
use super::tree::{FileKey, NodeRecord, Tree};
use super::{Cache, CacheOptions};
use crate::store::Store;

/// Comes first, and is raised when anything below changes.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Ledger {
    next_number: u64,
    numbers: Vec<(FileKey, u64)>,
    nodes: Vec<NodeRecord>,
    next_handle: u64,
    handles: Vec<HandleRecord>,
}

/// What a mount's state is, for another process.
#[derive(Debug)]
pub struct Snapshot {
    /// Versioned; read by [`Cache::restore`].
    pub bytes: Vec<u8>,
    /// The descriptors of files without a name, in the order that `bytes` expects.
    pub descriptors: Vec<Arc<OwnedFd>>,
}

/// Why a snapshot could not be taken up.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Written by another version of cachefs.
    #[error(
        "the state is of version {0}, and this cachefs knows version {VERSION}; unmount, and mount again"
    )]
    Version(u32),
    /// Not what [`Cache::snapshot`] writes.
    #[error("the state is damaged: {0}")]
    Damaged(&'static str),
    /// The store could not be opened as it was.
    #[error("the store is not as it was: {0}")]
    Store(#[from] std::io::Error),
}

impl Cache {
    /// Everything that the kernel knows. Nobody may be served meanwhile.
    pub fn snapshot(&self) -> Snapshot {
        let (nodes, descriptors) = self.tree.records();
        let (next_number, numbers) = self.tree.numbers();
        let (next_handle, handles) = (self.handles.next(), self.handles.records());
        let ledger = Ledger { next_number, numbers, nodes, next_handle, handles };
        // Fails only where memory can't be had, and then it has ended the process.
        let bytes = postcard::to_allocvec(&(VERSION, ledger)).unwrap_or_default();
        Snapshot { bytes, descriptors }
    }

    /// Goes on where the cache that wrote the snapshot was.
    pub fn restore(
        store: Arc<Store>,
        options: CacheOptions,
        bytes: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> Result<Cache, RestoreError> {
        let (version, rest) = postcard::take_from_bytes::<u32>(bytes)
            .map_err(|_| RestoreError::Damaged("it has no version"))?;
        if version != VERSION {
            return Err(RestoreError::Version(version));
        }
        let ledger: Ledger =
            postcard::from_bytes(rest).map_err(|_| RestoreError::Damaged("it ends too early"))?;
        let mut cache = Cache::new(store, options)?;
        let mut descriptors = descriptors.into_iter();
        cache.tree =
            Tree::from_records(ledger.next_number, ledger.numbers, ledger.nodes, &mut descriptors)
                .ok_or(RestoreError::Damaged("it does not fit its descriptors"))?;
        cache.handles = Handles::new(ledger.next_handle);
        for record in ledger.handles {
            let (id, node) = (HandleId(record.id), NodeId(record.node));
            let open = match record.flags {
                None => Open::Directory(Mutex::new(None)),
                Some(flags) => cache
                    .reopen(node, OpenFlags::from_bits_truncate(flags))
                    .map_err(|errno| std::io::Error::from_raw_os_error(errno.raw()))?,
            };
            cache.handles.restore(id, node, open);
        }
        Ok(cache)
    }
}
