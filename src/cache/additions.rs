//! Who gave names, and when. Kept apart from the nodes, because it has to outlive their being forgotten
//! by the operating system; what was not noted for longest goes when there is too much.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::num::NonZeroUsize;

use cachefs_mount::{Name, NodeId};
use lru::LruCache;
use parking_lot::Mutex;

use super::view::Moment;

const SHARDS: usize = 16;

/// So many are known in each shard, each for some tens of bytes.
const KNOWN: NonZeroUsize = NonZeroUsize::new(1 << 12).unwrap();

/// How a name came to stand for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Added {
    node: NodeId,
    /// The job that did it.
    pub(super) by: u64,
    /// When.
    pub(super) at: Moment,
    pub(super) how: How,
}

/// What gave a name to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Made where nothing may have been (`O_EXCL`, `mkdir`, `link` and the like).
    Exclusively,
    /// Made by opening it for whoever wants to write it, too.
    Shared,
    /// Made by writing it.
    Written,
    /// Renamed.
    Moved,
}

impl Added {
    pub(super) fn new(node: NodeId, (by, at): (u64, Moment), how: How) -> Added {
        Added { node, by, at, how }
    }
}

fn hash(folder: NodeId, name: Name<'_>) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one((folder.0, name.as_bytes()))
}

/// What is remembered of names and of directories.
#[derive(Debug)]
pub(super) struct Additions {
    names: [Mutex<LruCache<u64, Added>>; SHARDS],
    /// When directories were renamed last.
    moved: Mutex<LruCache<u64, Moment>>,
}

impl Additions {
    pub(super) fn new() -> Additions {
        // Unbounded to the maps, which otherwise reserve room for all at once.
        let names = std::array::from_fn(|_| Mutex::new(LruCache::unbounded()));
        let moved = Mutex::new(LruCache::unbounded());
        Additions { names, moved }
    }

    pub(super) fn note(&self, (folder, name): (NodeId, Name<'_>), added: Added) {
        let hash = hash(folder, name);
        let mut shard = self.names[hash as usize % SHARDS].lock();
        shard.put(hash, added);
        if shard.len() > KNOWN.get() {
            shard.pop_lru();
        }
    }

    /// How a node got that name, if that is known.
    pub(super) fn of(&self, node: NodeId, folder: NodeId, name: Name<'_>) -> Option<Added> {
        let hash = hash(folder, name);
        let added = self.names[hash as usize % SHARDS].lock().peek(&hash).copied();
        added.filter(|added| added.node == node)
    }

    pub(super) fn note_moved(&self, directory: NodeId, at: Moment) {
        let mut moved = self.moved.lock();
        moved.put(directory.0, at);
        if moved.len() > KNOWN.get() {
            moved.pop_lru();
        }
    }

    /// When a directory was renamed last, if that is known.
    pub(super) fn moved(&self, directory: NodeId) -> Option<Moment> {
        self.moved.lock().peek(&directory.0).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn name(text: &str) -> Name<'_> {
        Name::new(OsStr::new(text)).unwrap()
    }

    #[test]
    fn names_are_known_by_their_nodes_and_only_the_newest() {
        let additions = Additions::new();
        let added = |node, at| Added::new(NodeId(node), (7, Moment(at)), How::Moved);
        let at = |text| (NodeId::ROOT, name(text));
        additions.note(at("a"), added(5, 1));
        additions.note(at("b"), added(5, 2));
        assert_eq!(additions.of(NodeId(5), NodeId::ROOT, name("a")), Some(added(5, 1)));
        assert_eq!(additions.of(NodeId(6), NodeId::ROOT, name("a")), None);
        for number in 0..2 * (SHARDS * KNOWN.get()) as u64 {
            let text = number.to_string();
            additions.note((NodeId::ROOT, name(&text)), added(6, 3));
        }
        assert_eq!(additions.of(NodeId(5), NodeId::ROOT, name("a")), None);
        additions.note_moved(NodeId(9), Moment(4));
        assert_eq!(additions.moved(NodeId(9)), Some(Moment(4)));
    }
}
