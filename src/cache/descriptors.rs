//! Open descriptors of the store: a bounded number, least recently used closed first, so that a
//! cache of a million files works under any `ulimit -n`.

use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::Arc;

use cachefs_mount::NodeId;
use lru::LruCache;
use parking_lot::Mutex;

use crate::platform::fd::OwnedFd;

const SHARDS: usize = 8;

/// Kept descriptors by node.
#[derive(Debug)]
struct Kept<T> {
    shards: [Mutex<LruCache<u64, Arc<T>>>; SHARDS],
}

impl<T> Kept<T> {
    fn new(bound: usize) -> Kept<T> {
        let bound = NonZeroUsize::new(bound / SHARDS).unwrap_or(NonZeroUsize::MIN);
        Kept { shards: std::array::from_fn(|_| Mutex::new(LruCache::new(bound))) }
    }

    fn shard(&self, node: NodeId) -> &Mutex<LruCache<u64, Arc<T>>> {
        &self.shards[node.0 as usize % SHARDS]
    }

    fn get(&self, node: NodeId) -> Option<Arc<T>> {
        self.shard(node).lock().get(&node.0).cloned()
    }

    fn put(&self, node: NodeId, descriptor: Arc<T>) {
        // What falls out is closed after the lock is released.
        let fallen = self.shard(node).lock().push(node.0, descriptor);
        drop(fallen);
    }

    fn drop(&self, node: NodeId) {
        let dropped = self.shard(node).lock().pop(&node.0);
        drop(dropped);
    }
}

/// Descriptors of directories (`O_PATH`), to name things in them, and of files opened for reading.
#[derive(Debug)]
pub(super) struct Descriptors {
    directories: Kept<OwnedFd>,
    files: Kept<File>,
}

impl Descriptors {
    /// Keeps at most about `bound` descriptors, half of each kind.
    pub(super) fn new(bound: usize) -> Descriptors {
        Descriptors { directories: Kept::new(bound / 2), files: Kept::new(bound / 2) }
    }

    pub(super) fn directory(&self, node: NodeId) -> Option<Arc<OwnedFd>> {
        self.directories.get(node)
    }

    pub(super) fn keep_directory(&self, node: NodeId, descriptor: Arc<OwnedFd>) {
        self.directories.put(node, descriptor);
    }

    pub(super) fn file(&self, node: NodeId) -> Option<Arc<File>> {
        self.files.get(node)
    }

    pub(super) fn keep_file(&self, node: NodeId, file: Arc<File>) {
        self.files.put(node, file);
    }

    /// Closes what is kept of a node.
    pub(super) fn drop(&self, node: NodeId) {
        self.directories.drop(node);
        self.files.drop(node);
    }
}
