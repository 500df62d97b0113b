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
//!
//! A small file is passed through the first time, which asks least, and read through the page cache
//! from the second time on: opening it is then cheaper by a third (nothing is opened below), and a
//! `stat` after reading asks nobody, whereas each passed-through read makes the kernel doubt the time
//! of last access.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use lru::LruCache;
use parking_lot::Mutex;

use crate::{NodeId, OpenFlags};

/// How many backing ids are kept for files that nobody has open: registering one again costs more
/// than the whole rest of an open. Each holds one open file in the kernel.
const KEPT: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// The largest file that counts as small, in bytes: what one request reads ahead. Its pages lie in
/// memory twice, in the mount's page cache and in the store's.
const SMALL: u64 = 128 << 10;

/// How many small files are remembered as such, each for some tens of bytes. One that is not
/// remembered is read anew.
const SMALL_KNOWN: NonZeroUsize = NonZeroUsize::new(1 << 17).unwrap();

const SHARDS: usize = 16;

/// `FUSE_DEV_IOC_BACKING_CLOSE`, of `linux/fuse.h`.
const BACKING_CLOSE: libc::Ioctl = libc::_IOW::<u32>(229, 2);

/// The device of the connection, for as long as somebody serves it.
#[derive(Clone, Debug)]
pub(super) struct Connection(pub(super) Weak<OwnedFd>);

impl Connection {
    /// Lets the kernel read `file` by itself.
    pub(super) fn register(&self, file: &File) -> io::Result<Backing> {
        let device = self.0.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let id = fuser::BackingId::create_raw(&*device, file)?;
        Ok(Backing { id, connection: self.clone() })
    }
}

/// A file that the kernel may read by itself. Dropped, it is so no more for those who open it anew.
#[derive(Debug)]
pub(super) struct Backing {
    id: u32,
    connection: Connection,
}

impl Backing {
    /// What the kernel calls it.
    pub(super) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        let Some(device) = self.connection.0.upgrade() else { return };
        // SAFETY: it reads four bytes, which are there, from a descriptor that is open.
        let closed = unsafe { libc::ioctl(device.as_raw_fd(), BACKING_CLOSE, &raw const self.id) };
        if closed < 0 {
            let error = io::Error::last_os_error();
            tracing::warn!(%error, "a file stays registered with the kernel");
        }
    }
}

/// Which way the bytes of one open file go.
#[derive(Clone, Debug)]
pub(super) enum Route {
    /// Through the kernel's page cache; what it lacks is asked for.
    PageCache {
        /// What it has from earlier opens is true (`FOPEN_KEEP_CACHE`).
        keep: bool,
    },
    /// To the store's file, without asking.
    Passthrough(Arc<Backing>),
    /// Each read and write is a request (`FOPEN_DIRECT_IO`). While others have the node open by
    /// passthrough, the kernel wants to hear of their backing id here too, and answers `EIO` else.
    Direct(Option<Arc<Backing>>),
}

/// What the opens of a node have in common while there are any.
#[derive(Debug)]
enum Way {
    /// All go through the page cache.
    PageCache,
    /// None does: those who read use passthrough, unless somebody only writes already; those who only
    /// write ask the daemon, who alone can mend a store that is full. All meet in the page cache of the
    /// store's file.
    Around(Option<Arc<Backing>>),
}

#[derive(Debug)]
struct Active {
    way: Way,
    opens: usize,
    /// How often its bytes had moved when the first of these opens came.
    moves: u32,
}

#[derive(Debug)]
struct Shard {
    active: HashMap<u64, Active>,
    /// With how often its bytes had moved.
    kept: LruCache<u64, (u32, Arc<Backing>)>,
    /// Small files that were opened, and not gone around by a writer since.
    small: LruCache<u64, Seen>,
    /// At most so many of them.
    known: NonZeroUsize,
    /// Files that were passed through while the kernel has known them.
    passed: HashMap<u64, Passed>,
}

/// What may be left of a passthrough whose descriptors are closed: a mapping holds the store's file
/// and not this mount's, so that nobody tells us how long it lives. It keeps the kernel from
/// forgetting the node, at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passed {
    /// Mappings that see what is in the store's file, not what is stored in pages of this mount.
    Read,
    /// Mappings, too, whose stores the pages of this mount do not see.
    Written,
}

/// What happened to a small file so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// It was passed through.
    Once,
    /// Its pages in the kernel are true.
    InPages,
}

/// How a file that was opened for reading is passed through.
pub(super) struct Registered {
    pub(super) id: Backing,
    pub(super) small: bool,
}

/// Whether a file of this many bytes is better read through the page cache.
pub(super) fn is_small(bytes: u64) -> bool {
    bytes <= SMALL
}

impl Shard {
    fn route(
        &mut self,
        (node, moves): (NodeId, u32),
        flags: OpenFlags,
        register: impl FnOnce() -> io::Result<Registered>,
    ) -> Route {
        let Shard { active, kept, small, known, passed } = self;
        let active = match active.entry(node.0) {
            Entry::Occupied(entry) => {
                let active = entry.into_mut();
                active.opens += 1;
                active
            }
            Entry::Vacant(entry) => {
                // One that is read and written may be mapped, and what is stored through the mapping
                // must be seen by the daemon too.
                let writes = flags.contains(OpenFlags::WRITE);
                let pages = match passed.get(&node.0) {
                    Some(Passed::Written) => false,
                    Some(Passed::Read) if writes => false,
                    _ if writes => flags.contains(OpenFlags::READ),
                    _ => small.get(&node.0).is_some(),
                };
                let way = if pages { Way::PageCache } else { Way::Around(None) };
                entry.insert(Active { way, opens: 1, moves })
            }
        };
        match &mut active.way {
            Way::PageCache => {
                // Told not to keep its pages, the kernel drops them now.
                let before = small.get_mut(&node.0).map(|s| std::mem::replace(s, Seen::InPages));
                Route::PageCache { keep: before == Some(Seen::InPages) }
            }
            Way::Around(id) if !flags.contains(OpenFlags::READ) => {
                small.pop(&node.0);
                Route::Direct(id.clone())
            }
            // What the others pass through is another file by now.
            Way::Around(Some(id)) if active.moves != moves => Route::Direct(Some(id.clone())),
            Way::Around(Some(id)) => Route::Passthrough(id.clone()),
            // A writer has been answered without a backing id. If the kernel heard of one for another
            // open before it gets to that answer, it would refuse it.
            Way::Around(None) if active.opens > 1 => Route::Direct(None),
            Way::Around(none) => {
                if let Some((was, id)) = kept.get(&node.0)
                    && *was == moves
                {
                    return Route::Passthrough(none.insert(id.clone()).clone());
                }
                match register() {
                    Ok(Registered { id, small: is_small }) => {
                        let id = none.insert(Arc::new(id)).clone();
                        if is_small {
                            if small.len() >= known.get() {
                                small.pop_lru();
                            }
                            small.put(node.0, Seen::Once);
                        } else {
                            kept.put(node.0, (moves, id.clone()));
                        }
                        Route::Passthrough(id)
                    }
                    Err(error) => {
                        tracing::debug!(node = node.0, %error, "no passthrough for this file");
                        active.way = Way::PageCache;
                        Route::PageCache { keep: false }
                    }
                }
            }
        }
    }
}

/// The ways of all open nodes.
#[derive(Debug)]
pub(super) struct Ways {
    enabled: AtomicBool,
    shards: [Mutex<Shard>; SHARDS],
}

impl Ways {
    /// Not yet enabled.
    pub(super) fn new() -> Ways {
        let kept = NonZeroUsize::new(KEPT.get() / SHARDS).unwrap_or(NonZeroUsize::MIN);
        let known = NonZeroUsize::new(SMALL_KNOWN.get() / SHARDS).unwrap_or(NonZeroUsize::MIN);
        let shard = || {
            // Unbounded to the map, which otherwise reserves room for all at once.
            let small = LruCache::unbounded();
            let (active, passed) = (HashMap::new(), HashMap::new());
            Mutex::new(Shard { active, kept: LruCache::new(kept), small, known, passed })
        };
        Ways { enabled: AtomicBool::new(false), shards: std::array::from_fn(|_| shard()) }
    }

    /// The kernel takes part: said before anything is opened.
    pub(super) fn enable(&self) {
        self.enabled.store(true, Ordering::Release);
    }

    fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    fn shard(&self, node: NodeId) -> &Mutex<Shard> {
        &self.shards[node.0 as usize % SHARDS]
    }

    /// Counts an open of `node` and says which way it goes.
    ///
    /// `moves`: how often its bytes were moved to another file.
    /// `register` makes a new backing id where none is kept.
    pub(super) fn open(
        &self,
        (node, moves): (NodeId, u32),
        flags: OpenFlags,
        register: impl FnOnce() -> io::Result<Registered>,
    ) -> Route {
        if !self.enabled() {
            // All changes come through this kernel's pages.
            return Route::PageCache { keep: true };
        }
        let mut shard = self.shard(node).lock();
        let route = shard.route((node, moves), flags, register);
        if let Route::Passthrough(_) = route {
            if flags.contains(OpenFlags::WRITE) {
                shard.passed.insert(node.0, Passed::Written);
                shard.small.pop(&node.0);
            } else {
                shard.passed.entry(node.0).or_insert(Passed::Read);
            }
        }
        route
    }

    /// Takes back one [`Ways::open`].
    pub(super) fn release(&self, node: NodeId) {
        if !self.enabled() {
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

    /// The kernel does not know `node` any more: nothing is kept for it.
    pub(super) fn forget(&self, node: NodeId) {
        if self.enabled() {
            let mut shard = self.shard(node).lock();
            shard.kept.pop(&node.0);
            shard.small.pop(&node.0);
            shard.passed.remove(&node.0);
        }
    }
}
