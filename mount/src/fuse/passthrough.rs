//! Which way the bytes of each open file go.
//!
//! The kernel's rule: while a node is open through the page cache, no other open of it may use
//! passthrough, and the other way round; all passthrough opens of a node must name the *same*
//! backing id. Anything else is answered `EIO`. (`fs/fuse/iomode.c` in the kernel.) So the way is
//! chosen by the first of several opens that overlap, and the others follow.
//!
//! A file that is opened only to be written goes around the page cache: nobody can map it, nobody
//! reads it through this open, and the kernel asks for `security.capability` before it writes to
//! its own pages, but not before it hands the bytes on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use fuser::BackingId;
use lru::LruCache;
use parking_lot::Mutex;

use crate::{NodeId, OpenFlags};

/// How many backing ids are kept for files that nobody has open: registering one again costs more
/// than the whole rest of an open. Each holds one open file in the kernel.
const KEPT: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

const SHARDS: usize = 16;

/// Which way the bytes of one open file go.
#[derive(Clone, Debug)]
pub(super) enum Route {
    /// Through the kernel's page cache; what it lacks is asked for.
    PageCache,
    /// To the store's file, without asking.
    Passthrough(Arc<BackingId>),
    /// Each read and write is a request (`FOPEN_DIRECT_IO`). Where others use passthrough, the kernel
    /// wants to hear of the same backing id with this open too.
    Direct(Option<Arc<BackingId>>),
}

/// What the opens of a node have in common while there are any.
#[derive(Debug)]
enum Way {
    /// All go through the page cache.
    PageCache,
    /// None does: those who read use passthrough, those who only write ask the daemon, who alone can
    /// mend a store that is full. Both meet in the page cache of the store's file.
    Around(Option<Arc<BackingId>>),
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

    /// Counts an open of `node` and says which way it goes.
    ///
    /// `register` makes a new backing id where none is kept.
    pub(super) fn open(
        &self,
        node: NodeId,
        flags: OpenFlags,
        register: impl FnOnce() -> io::Result<BackingId>,
    ) -> Route {
        if !self.enabled {
            return Route::PageCache;
        }
        let mut shard = self.shard(node).lock();
        let Shard { active, kept } = &mut *shard;
        let active = match active.entry(node.0) {
            Entry::Occupied(entry) => {
                let active = entry.into_mut();
                active.opens += 1;
                active
            }
            Entry::Vacant(entry) => {
                let way = if flags.contains(OpenFlags::READ | OpenFlags::WRITE) {
                    // It may be mapped, and what is stored through the mapping must be seen by the
                    // daemon too.
                    Way::PageCache
                } else {
                    Way::Around(None)
                };
                entry.insert(Active { way, opens: 1 })
            }
        };
        match &mut active.way {
            Way::PageCache => Route::PageCache,
            Way::Around(id) if !flags.contains(OpenFlags::READ) => Route::Direct(id.clone()),
            Way::Around(Some(id)) => Route::Passthrough(id.clone()),
            Way::Around(none) => match kept_or_new(kept, node, register) {
                Some(id) => Route::Passthrough(none.insert(id).clone()),
                // Nobody can tell the page cache of what goes around it.
                None if active.opens > 1 => Route::Direct(None),
                None => {
                    active.way = Way::PageCache;
                    Route::PageCache
                }
            },
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
