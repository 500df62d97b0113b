//! What the store can't take (SEMANTICS 4).
//!
//! It lies in the spill area, or stays in the folder of drafts, and is a *version aside* of its name: one
//! that hides the live version from everyone. Where the store can't take that something is removed, a
//! version says that it is *gone*. Nothing of that outlives the mount.
//!
//! * `area`: the folder, and making things in it.
//! * `health`: whether the store takes writes, and when it does again.
//! * `moving`: a file goes on in the spill area while it is written.
//! * `names`: names that the store can't take.
//! * `files`: files that are created there.
//! * `removal`: names that are removed or renamed where the store can't take it.
//! * `room`: what is done before anything is spilled.
//! * `touched`: attributes that the store can't take.

mod area;
mod files;
mod health;
mod moving;
mod names;
mod removal;
mod room;
mod touched;

pub use health::Degraded;
pub(super) use health::{is_low, room as space};
pub(super) use names::{aside, aside_of, is_gone};

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cachefs_mount::Errno;
use dashmap::DashMap;
use parking_lot::RwLock;

use self::health::Health;
use self::touched::Touched;
use super::Cache;
use super::resolve::{key, status};
use super::tree::FileKey;
use crate::platform::fd::OwnedFd;
use crate::store::Store;

/// Versions that the store can't take, and why.
#[derive(Debug)]
pub(super) struct Spill {
    /// Where they lie; none: whoever writes is told of the error.
    folder: Option<Arc<OwnedFd>>,
    /// The folder, or nothing that there is.
    pub(super) key: FileKey,
    /// The store's filesystem.
    store_device: u64,
    /// Nothing can be written in the store as long as this mount lives.
    pub(super) read_only: bool,
    pub(super) health: Health,
    /// Attributes that the store has not taken, by the numbers of nodes.
    touched: DashMap<u64, Touched>,
    /// Whether there have ever been any.
    any_touched: AtomicBool,
    /// Shared while a file is written; exclusive while the contents of one move.
    settled: RwLock<()>,
    /// Whether anything has ever been spilled, or was gone.
    used: AtomicBool,
    /// How many files have moved.
    moved: AtomicU64,
}

impl Spill {
    pub(super) fn new(store: &Store) -> io::Result<Spill> {
        let folder = store.area().map(|area| area.folder("spilled")).transpose()?.map(Arc::new);
        let failed = |errno: Errno| io::Error::from_raw_os_error(errno.raw());
        let key_of = |folder: &OwnedFd| status(folder, b"").map(|s| key(&s)).map_err(failed);
        let none = FileKey { device: 0, inode: 0 };
        let key = folder.as_deref().map_or(Ok(none), key_of)?;
        let store_device = key_of(&store.root().try_clone_to_owned()?)?.device;
        let health = Health::default();
        if let Some(read_only) = store.read_only() {
            health.begin(&read_only.reason);
        }
        Ok(Spill {
            folder,
            key,
            store_device,
            read_only: store.read_only().is_some(),
            health,
            touched: DashMap::new(),
            any_touched: AtomicBool::new(false),
            settled: RwLock::new(()),
            used: AtomicBool::new(false),
            moved: AtomicU64::new(0),
        })
    }

    pub(super) fn folder(&self) -> Option<Arc<OwnedFd>> {
        self.folder.clone()
    }

    fn note_used(&self) {
        self.used.store(true, Ordering::Release);
    }

    /// Whether anything has ever been spilled, or was gone. Nearly always not.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// Whether any file has moved.
    pub(super) fn has_moved(&self) -> bool {
        self.moved.load(Ordering::Acquire) > 0
    }

    /// Whether there is an area on that filesystem.
    pub(super) fn has_device(&self, device: u64) -> bool {
        self.folder.is_some() && self.key.device == device
    }

    /// Whether the area lies on the store's own filesystem.
    pub(super) fn shares_device(&self) -> bool {
        self.has_device(self.store_device)
    }

    /// Whether the area can take what the store's filesystem has no room for.
    fn is_elsewhere(&self) -> bool {
        self.folder.is_some() && self.key.device != self.store_device
    }
}

impl Cache {
    /// Whether what was refused is to be done in the spill area: because the store can't take it, or because it was to be
    /// moved between the two. What lies in a directory that lies in the area may have no version aside.
    pub(super) fn is_for_the_area(&self, errno: Errno) -> bool {
        errno == Errno::EXDEV && self.spill.is_used() || self.takes_over(errno)
    }

    /// Whether the spill area takes what the store has just refused to take. Too large a file
    /// (`EFBIG`) is refused by any filesystem, and so not taken.
    pub(super) fn takes_over(&self, errno: Errno) -> bool {
        let spill = &self.spill;
        let takes = spill.folder.is_some()
            && match errno {
                Errno::EROFS => true,
                // Then our own folders are all in the area.
                Errno::EACCES | Errno::EPERM | Errno::EXDEV => spill.read_only,
                Errno::ENOSPC | Errno::EDQUOT | Errno::EIO => {
                    spill.is_elsewhere() || spill.read_only
                }
                _ => false,
            };
        if takes {
            self.spill.health.begin(&format!("the store can't be written: {errno}"));
        }
        takes
    }

    /// As [`Cache::takes_over`], after room was made in the store if that is what it lacks: `None` if it
    /// is to be tried again there. Not to be called by who has locked a name.
    pub(super) fn takes_over_at_last(&self, errno: Errno, job: u64) -> Option<bool> {
        let full = matches!(errno, Errno::ENOSPC | Errno::EDQUOT);
        if full && !self.spill.health.is_degraded() && self.make_room(job) {
            return None;
        }
        Some(self.takes_over(errno))
    }

    /// Whether what is new goes to the spill area without the store being asked.
    pub(super) fn spills_at_once(&self) -> bool {
        self.spill.folder.is_some()
            && (self.spill.read_only
                || self.spill.is_elsewhere() && self.spill.health.is_degraded())
    }

    /// Since when and why the store can't be written, or not by some users, if that is so.
    pub fn degraded(&self) -> Option<Degraded> {
        self.spill.health.degraded().or_else(|| self.users_over())
    }
}
