//! Which way the bytes of each open file go.
//!
//! The kernel's rule: while a node is open through the page cache, no other open of it may use
//! passthrough, and the other way round; all passthrough opens of a node must name the *same*
//! backing id. Anything else is answered `EIO`. (`fs/fuse/iomode.c` in the kernel.) So the way is
//! chosen by the first of several opens that overlap, and the others follow.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use fuser::BackingId;
use lru::LruCache;
use parking_lot::Mutex;

use crate::NodeId;

/// How many backing ids are kept for files that nobody has open: registering one again costs more
/// than the whole rest of an open. Each holds one open file in the kernel.
const KEPT: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

const SHARDS: usize = 16;

/// The way of a node's bytes while it is open.
#[derive(Debug)]
enum Way {
    PageCache,
    Passthrough(Arc<BackingId>),
}

#[derive(Debug)]
struct Active {
    way: Way,
    opens: usize,
}

#[derive(Debug)]
struct Shard {
    active: HashMap<u64, Active>,
    kept: LruCache<u64, Arc<BackingId>>,
}

/// The ways of all open nodes.
#[derive(Debug)]
pub(super) struct Ways {
    enabled: bool,
    shards: [Mutex<Shard>; SHARDS],
}

impl Ways {
    pub(super) fn new(enabled: bool) -> Ways {
        let kept = NonZeroUsize::new(KEPT.get() / SHARDS).unwrap_or(NonZeroUsize::MIN);
        let shard = || Mutex::new(Shard { active: HashMap::new(), kept: LruCache::new(kept) });
        Ways { enabled, shards: std::array::from_fn(|_| shard()) }
    }

    pub(super) fn enabled(&self) -> bool {
        self.enabled
    }

    fn shard(&self, node: NodeId) -> &Mutex<Shard> {
        &self.shards[node.0 as usize % SHARDS]
    }

    /// Counts an open of `node` and says which way it goes: a backing id, or the page cache.
    ///
    /// `suitable`: passthrough may be begun for this open. `register` makes a new backing id where
    /// none is kept; if it fails, the open goes through the page cache.
    pub(super) fn open(
        &self,
        node: NodeId,
        suitable: bool,
        register: impl FnOnce() -> io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        if !self.enabled {
            return None;
        }
        let mut shard = self.shard(node).lock();
        let Shard { active, kept } = &mut *shard;
        match active.entry(node.0) {
            Entry::Occupied(mut entry) => {
                entry.get_mut().opens += 1;
                match &entry.get().way {
                    Way::PageCache => None,
                    Way::Passthrough(id) => Some(id.clone()),
                }
            }
            Entry::Vacant(entry) => {
                let id = if suitable { kept_or_new(kept, node, register) } else { None };
                let way = id.clone().map_or(Way::PageCache, Way::Passthrough);
                entry.insert(Active { way, opens: 1 });
                id
            }
        }
    }

    /// Takes back one [`Ways::open`].
    pub(super) fn release(&self, node: NodeId) {
        if !self.enabled {
            return;
        }
        let mut shard = self.shard(node).lock();
        if let Entry::Occupied(mut entry) = shard.active.entry(node.0) {
            entry.get_mut().opens -= 1;
            if entry.get().opens == 0 {
                entry.remove();
            }
        }
    }

    /// The kernel does not know `node` any more: its backing id is not kept.
    pub(super) fn forget(&self, node: NodeId) {
        if self.enabled {
            self.shard(node).lock().kept.pop(&node.0);
        }
    }
}

fn kept_or_new(
    kept: &mut LruCache<u64, Arc<BackingId>>,
    node: NodeId,
    register: impl FnOnce() -> io::Result<BackingId>,
) -> Option<Arc<BackingId>> {
    if let Some(id) = kept.get(&node.0) {
        return Some(id.clone());
    }
    match register() {
        Ok(id) => {
            let id = Arc::new(id);
            kept.put(node.0, id.clone());
            Some(id)
        }
        Err(error) => {
            tracing::debug!(node = node.0, %error, "no passthrough for this file");
            None
        }
    }
}
