//! Who gave names, and when. Kept by the numbers of nodes, which outlive their being forgotten by the
//! operating system; the oldest are forgotten when there are too many.

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
    /// Which name, by its hash.
    name: u64,
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
    pub(super) fn new(
        (folder, name): (NodeId, Name<'_>),
        (by, at): (u64, Moment),
        how: How,
    ) -> Added {
        Added { name: hash(folder, name), by, at, how }
    }
}

fn hash(folder: NodeId, name: Name<'_>) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one((folder.0, name.as_bytes()))
}

/// How nodes got their newest names.
#[derive(Debug)]
pub(super) struct Additions {
    shards: [Mutex<LruCache<u64, Added>>; SHARDS],
}

impl Additions {
    pub(super) fn new() -> Additions {
        // Unbounded to the maps, which otherwise reserve room for all at once.
        Additions { shards: std::array::from_fn(|_| Mutex::new(LruCache::unbounded())) }
    }

    fn shard(&self, node: NodeId) -> &Mutex<LruCache<u64, Added>> {
        &self.shards[node.0 as usize % SHARDS]
    }

    pub(super) fn note(&self, node: NodeId, added: Added) {
        let mut shard = self.shard(node).lock();
        shard.put(node.0, added);
        if shard.len() > KNOWN.get() {
            shard.pop_lru();
        }
    }

    /// How a node got that name, if it is the newest and that is known.
    pub(super) fn of(&self, node: NodeId, folder: NodeId, name: Name<'_>) -> Option<Added> {
        let added = self.shard(node).lock().peek(&node.0).copied();
        added.filter(|added| added.name == hash(folder, name))
    }

    /// When a directory was renamed last, if that was its last change of name.
    pub(super) fn moved(&self, node: NodeId) -> Option<Moment> {
        let added = self.shard(node).lock().peek(&node.0).copied();
        added.filter(|added| added.how == How::Moved).map(|added| added.at)
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
    fn only_the_newest_name_is_known_and_only_of_the_newest_nodes() {
        let additions = Additions::new();
        let added = |text, at| Added::new((NodeId::ROOT, name(text)), (7, Moment(at)), How::Moved);
        additions.note(NodeId(5), added("a", 1));
        additions.note(NodeId(5), added("b", 2));
        assert_eq!(additions.of(NodeId(5), NodeId::ROOT, name("a")), None);
        assert_eq!(additions.of(NodeId(5), NodeId::ROOT, name("b")), Some(added("b", 2)));
        assert_eq!(additions.moved(NodeId(5)), Some(Moment(2)));
        for id in 6..6 + (SHARDS * KNOWN.get()) as u64 {
            additions.note(NodeId(id), added("c", 3));
        }
        assert_eq!(additions.of(NodeId(5), NodeId::ROOT, name("b")), None);
    }
}
