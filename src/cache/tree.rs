//! Directories, names, their versions: what the operating system knows of this mount.
//!
//! A *node* is a file or directory under the number by which the operating system knows it. It
//! stays known while it has *references*: lookups not yet given back, and children that are known.
//! A node's *places* are its live names; from these it is found in the store again, so that no
//! descriptor need be kept for it. A node that has lost its last name is an *orphan*, and holds a
//! descriptor instead, until nobody knows it.
//!
//! What is not live lies in folders of the store's own, which are nodes too although nobody can ask for
//! them: those of [`stage`], [`RETIRED`], [`ASIDE`] for what the store can't take, and [`USERS`] for what a user
//! has to himself.
//!
//! Numbers are never used twice. A number belongs to a file of the store as long as that exists,
//! also while the operating system has forgotten it, so that `st_ino` is stable.

mod node;
mod places;

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use cachefs_mount::{Errno, Kind, Name, NodeId, Result};
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::platform::fd::OwnedFd;
use crate::platform::ffi::OsStrExt;

pub(super) use self::node::{Counted, Face, FileKey, Kept, KeptList, Node, Place};

/// The node of the folder of versions that were removed.
pub(super) const RETIRED: NodeId = NodeId(u64::MAX - 2);

/// The node of the folder of versions that the store can't take.
pub(super) const ASIDE: NodeId = NodeId(u64::MAX - 3);

/// The node of the folder of what users who are not trusted have to themselves.
pub(super) const USERS: NodeId = NodeId(u64::MAX - 4);

/// A path in a mount is no deeper, or who goes up it gives up.
pub(super) const DEEPEST: usize = 256;

/// So many folders there are, at most, for versions that are being written.
pub(super) const STAGES: usize = 32;

/// The node of the first of them; the others come after it.
const FIRST_STAGE: u64 = u64::MAX - 64;

/// The node of one of the folders of versions that are being written.
pub(super) fn stage(number: usize) -> NodeId {
    NodeId(FIRST_STAGE + number as u64)
}

/// Which folder of versions that are being written that node is.
pub(super) fn stage_of(node: NodeId) -> Option<usize> {
    let number = node.0.checked_sub(FIRST_STAGE)?;
    usize::try_from(number).ok().filter(|number| *number < STAGES)
}

/// Whether it is one of our own folders.
fn is_own(node: NodeId) -> bool {
    node.0 >= FIRST_STAGE
}

/// The first number that is given out. What a process has open is told by inode numbers alone, and the
/// small ones are those of devices and pipes.
const FIRST: u64 = 1 << 30;

/// What a node was, to make it again in another process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NodeRecord {
    pub(super) id: u64,
    pub(super) key: FileKey,
    pub(super) kind: u8,
    pub(super) references: u64,
    pub(super) places: Vec<Place>,
    /// Whether a descriptor goes with it, in the order of the records.
    pub(super) orphan: bool,
    /// The one user to whom it is known.
    pub(super) of: Option<u32>,
}

/// Which directories our own folders are.
pub(super) type OwnKeys = Vec<(NodeId, FileKey)>;

/// All nodes that the operating system knows, and all numbers given out.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: DashMap<u64, Arc<Node>>,
    /// Locked after `nodes`, never before it.
    numbers: DashMap<FileKey, u64>,
    /// The numbers of directories below one that has a second number. Locked as `numbers`.
    faced: DashMap<(FileKey, Face), u64>,
    next: AtomicU64,
    next_face: AtomicU32,
    /// How many of the nodes are our own folders.
    own: usize,
    /// Nodes that are not known any more, until somebody asks which.
    gone: Mutex<Vec<NodeId>>,
    any_gone: AtomicBool,
}

impl Tree {
    /// A tree of which only the root is known, and the folders of what is not live.
    pub(super) fn new(root: FileKey, own: OwnKeys) -> Tree {
        let tree = Tree::empty(FIRST, own.len());
        tree.numbers.insert(root, NodeId::ROOT.0);
        // These are never given back; their one reference is the mount itself.
        tree.insert(NodeId::ROOT, root, (Kind::Directory, None), 1, SmallVec::new(), None);
        tree.insert_own(own);
        tree
    }

    fn insert_own(&self, own: OwnKeys) {
        for (id, key) in own {
            self.insert(id, key, (Kind::Directory, None), 1, SmallVec::new(), None);
        }
    }

    fn empty(next: u64, own: usize) -> Tree {
        Tree {
            nodes: DashMap::new(),
            numbers: DashMap::new(),
            faced: DashMap::new(),
            next: AtomicU64::new(next),
            next_face: AtomicU32::new(1),
            own,
            gone: Mutex::default(),
            any_gone: AtomicBool::new(false),
        }
    }

    fn insert(
        &self,
        id: NodeId,
        key: FileKey,
        (kind, of): (Kind, Option<u32>),
        references: u64,
        places: SmallVec<[Place; 1]>,
        orphan: Option<Arc<OwnedFd>>,
    ) {
        let node = Node::new(id, key, kind, (0, of), references);
        {
            let mut state = node.state.lock();
            (state.places, state.orphan) = (places, orphan);
        }
        self.nodes.insert(id.0, Arc::new(node));
    }

    /// How many nodes are known, our own folders left out.
    pub(super) fn len(&self) -> usize {
        self.nodes.len() - self.own
    }

    /// The node of that number; `ESTALE` if it is not known.
    pub(super) fn get(&self, id: NodeId) -> Result<Arc<Node>> {
        self.nodes.get(&id.0).map(|node| node.clone()).ok_or(Errno::ESTALE)
    }

    /// The number of a file of the store, known or not.
    pub(super) fn number(&self, key: FileKey) -> NodeId {
        let new = || self.next.fetch_add(1, Ordering::Relaxed);
        NodeId(*self.numbers.entry(key).or_insert_with(new))
    }

    /// The number of a file or directory of the store below a directory of that face.
    pub(super) fn number_below(&self, key: FileKey, kind: Kind, face: Face) -> NodeId {
        if face == 0 || kind != Kind::Directory {
            return self.number(key);
        }
        let new = || self.next.fetch_add(1, Ordering::Relaxed);
        NodeId(*self.faced.entry((key, face)).or_insert_with(new))
    }

    /// The number of a directory below one of that face, if it has one there.
    pub(super) fn known_below(&self, key: FileKey, face: Face) -> Option<NodeId> {
        self.faced.get(&(key, face)).map(|number| NodeId(*number))
    }

    /// A second node of a directory, with one reference. It is reached by `descriptor`; without
    /// one, nothing can be reached by it.
    pub(super) fn second(&self, key: FileKey, descriptor: Option<OwnedFd>) -> Arc<Node> {
        let id = NodeId(self.next.fetch_add(1, Ordering::Relaxed));
        let face = self.next_face.fetch_add(1, Ordering::Relaxed);
        let first = self.find(key).filter(|first| self.hold(first.id));
        let of = first.as_ref().and_then(|first| first.of);
        let node = Node::new(id, key, Kind::Directory, (face, of), 1);
        {
            let mut state = node.state.lock();
            state.orphan = descriptor.map(Arc::new);
            state.first = first.map(|first| first.id);
        }
        let node = Arc::new(node);
        self.nodes.insert(id.0, node.clone());
        node
    }

    /// The node that has the versions of what is in a directory: the same for all its numbers.
    pub(super) fn versioned(&self, node: &Arc<Node>) -> Arc<Node> {
        if node.face == 0 {
            return node.clone();
        }
        // Its file is gone: then it has no versions any more, for they would keep it known.
        self.find(node.key()).unwrap_or_else(|| node.clone())
    }

    /// Changes the versions of `name` in a directory, which stays known while it has any.
    pub(super) fn change_versions(
        &self,
        folder: &Node,
        name: &[u8],
        change: impl FnOnce(&mut KeptList),
    ) {
        // Held meanwhile, so that there is no moment at which it could be forgotten.
        self.hold(folder.id);
        match folder.change_versions(name, change) {
            1.. => {}
            0 => drop(self.give_back(folder.id, 1)),
            ..0 => drop(self.give_back(folder.id, 2)),
        }
    }

    /// The node of a file that was found under `name` in `parent`, with one more reference. The name is
    /// locked, or nobody else has come to the file yet: else somebody might move it before this is told of it.
    pub(super) fn know(
        &self,
        key: FileKey,
        kind: Kind,
        parent: NodeId,
        name: Name<'_>,
    ) -> Arc<Node> {
        let node = self.know_unplaced(key, kind, parent, name);
        self.place(&node, parent, name);
        node
    }

    /// As [`Tree::know`], for one who has yet to find out whether the file is still there: what he knows it
    /// as is found by whoever moves it, and [`Tree::place`] makes it known where it is.
    pub(super) fn know_unplaced(
        &self,
        key: FileKey,
        kind: Kind,
        parent: NodeId,
        name: Name<'_>,
    ) -> Arc<Node> {
        let above = self.get(parent).ok();
        let face = match (kind, &above) {
            (Kind::Directory, Some(above)) => above.face,
            _ => 0,
        };
        let of = match parent {
            USERS => user_of(name.as_bytes()),
            _ => above.as_ref().and_then(|above| above.of),
        };
        // Known as long as this one is, and first, so that versions have one place.
        let first = above.as_ref().filter(|_| face != 0).map(|above| self.versioned(above));
        let first = first.filter(|above| above.face == 0);
        let first = first.map(|above| self.know_unplaced(key, kind, above.id, name).id);
        let mut is_new = false;
        loop {
            let id = self.number_below(key, kind, face);
            let node = match self.nodes.entry(id.0) {
                Entry::Occupied(entry) => {
                    let node = entry.get();
                    if node.kind != kind || node.key() != key || node.of != of || node.is_orphan() {
                        // Another file under the same inode number: somebody else changed the
                        // store. The old one keeps its number.
                        self.numbers.remove_if(&key, |_, number| *number == id.0);
                        self.faced.remove_if(&(key, face), |_, number| *number == id.0);
                        continue;
                    }
                    node.references.fetch_add(1, Ordering::Relaxed);
                    node.clone()
                }
                Entry::Vacant(entry) => {
                    let node = Arc::new(Node::new(id, key, kind, (face, of), 1));
                    node.state.lock().first = first;
                    entry.insert(node.clone());
                    is_new = true;
                    node
                }
            };
            if let Some(first) = first.filter(|_| !is_new) {
                self.give_back(first, 1);
            }
            return node;
        }
    }

    /// The known node of a file of the store.
    pub(super) fn find(&self, key: FileKey) -> Option<Arc<Node>> {
        let id = *self.numbers.get(&key)?;
        self.get(NodeId(id)).ok()
    }

    /// Whether it is a directory that the operating system knows: whether it has more references than those
    /// that are `held` here, and the one that it has for its versions.
    pub(super) fn is_used_directory(&self, id: NodeId, held: u64) -> bool {
        let Ok(node) = self.get(id) else { return false };
        let held = held + u64::from(!node.same_for_all());
        node.kind == Kind::Directory && node.references.load(Ordering::Acquire) > held
    }

    /// One more reference to a known node; false if it is not known.
    pub(super) fn hold(&self, id: NodeId) -> bool {
        match self.nodes.get(&id.0) {
            Some(node) => {
                node.references.fetch_add(1, Ordering::Relaxed);
                true
            }
            None => false,
        }
    }

    /// Gives back references; true if the node is not known any more. Its parents may go with it.
    pub(super) fn give_back(&self, id: NodeId, count: u64) -> bool {
        let mut pending: SmallVec<[(NodeId, u64); 4]> = SmallVec::new();
        pending.push((id, count));
        let mut gone = false;
        while let Some((next, count)) = pending.pop() {
            let Some(node) = self.give_back_one(next, count) else { continue };
            gone |= next == id;
            let (places, first) = {
                let mut state = node.state.lock();
                (std::mem::take(&mut state.places), state.first)
            };
            pending.extend(places.iter().map(|place| (place.parent(), 1)));
            pending.extend(first.map(|first| (first, 1)));
        }
        gone
    }

    /// The node, if that were its last references.
    fn give_back_one(&self, id: NodeId, count: u64) -> Option<Arc<Node>> {
        let node = self.get(id).ok()?;
        let lower = |old: u64| Some(old.saturating_sub(count));
        let before = node.references.fetch_update(Ordering::AcqRel, Ordering::Acquire, lower);
        if before.is_ok_and(|before| before > count) || id == NodeId::ROOT {
            return None;
        }
        // Under the table's lock nobody can take a new reference.
        let (_, node) =
            self.nodes.remove_if(&id.0, |_, node| node.references.load(Ordering::Acquire) == 0)?;
        if node.face != 0 {
            self.faced.remove_if(&(node.key(), node.face), |_, number| *number == id.0);
        }
        self.gone.lock().push(id);
        self.any_gone.store(true, Ordering::Release);
        Some(node)
    }

    /// The nodes that are not known any more since this was asked last.
    pub(super) fn take_gone(&self) -> Vec<NodeId> {
        if !self.any_gone.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut *self.gone.lock())
    }

    /// The descriptors of what a user has without a name.
    pub(super) fn orphans_of(&self, user: u32) -> Vec<Arc<OwnedFd>> {
        let own = self.nodes.iter().filter(|node| node.of == Some(user));
        own.filter_map(|node| node.orphan()).collect()
    }

    /// What it takes to make the same tree again, and the descriptors that go with it.
    pub(super) fn records(&self) -> (Vec<NodeRecord>, Vec<Arc<OwnedFd>>) {
        let mut descriptors = Vec::new();
        let records = self
            .nodes
            .iter()
            .filter(|node| !is_own(node.id))
            .map(|node| {
                let state = node.state.lock();
                descriptors.extend(state.orphan.clone());
                NodeRecord {
                    id: node.id.0,
                    key: state.key,
                    kind: node.kind as u8,
                    references: node.references.load(Ordering::Acquire),
                    places: state.places.to_vec(),
                    orphan: state.orphan.is_some(),
                    of: node.of,
                }
            })
            .collect();
        (records, descriptors)
    }

    /// The next number, and all numbers given out to files that still exist.
    pub(super) fn numbers(&self) -> (u64, Vec<(FileKey, u64)>) {
        let numbers = self.numbers.iter().map(|entry| (*entry.key(), *entry.value())).collect();
        (self.next.load(Ordering::Acquire), numbers)
    }

    /// The tree that [`Tree::records`] and [`Tree::numbers`] told of.
    pub(super) fn from_records(
        (next, numbers): (u64, Vec<(FileKey, u64)>),
        records: Vec<NodeRecord>,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        own: OwnKeys,
    ) -> Option<Tree> {
        let tree = Tree::empty(next, own.len());
        tree.insert_own(own);
        for (key, number) in numbers {
            tree.numbers.insert(key, number);
        }
        for record in records {
            let orphan = if record.orphan { Some(Arc::new(descriptors.next()?)) } else { None };
            let kind = kind_from(record.kind)?;
            let places = SmallVec::from_vec(record.places);
            let what = (kind, record.of);
            tree.insert(NodeId(record.id), record.key, what, record.references, places, orphan);
        }
        tree.nodes.contains_key(&NodeId::ROOT.0).then_some(tree)
    }
}

/// The name of something in the folder of what users have to themselves.
pub(super) fn name_for_user(user: u32, number: u64) -> String {
    format!("{user}-{number}")
}

/// Whose it is, by its name there.
pub(super) fn user_of(name: &[u8]) -> Option<u32> {
    let name = std::str::from_utf8(name).ok()?;
    name.split_once('-')?.0.parse().ok()
}

/// A name that was checked when it was first met.
pub(super) fn known_name(bytes: &[u8]) -> Name<'_> {
    Name::new(OsStr::from_bytes(bytes)).expect("it was a name before")
}

fn kind_from(number: u8) -> Option<Kind> {
    use Kind::{BlockDevice, CharDevice, Directory, Fifo, File, Socket, Symlink};
    [File, Directory, Symlink, Fifo, Socket, CharDevice, BlockDevice]
        .into_iter()
        .find(|kind| *kind as u8 == number)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn name(text: &str) -> Name<'_> {
        Name::new(OsStr::new(text)).unwrap()
    }

    fn key(inode: u64) -> FileKey {
        FileKey { device: 7, inode }
    }

    fn tree() -> Tree {
        let own = vec![(stage(0), key(1001)), (RETIRED, key(1002)), (ASIDE, key(1003))];
        Tree::new(key(2), own)
    }

    #[test]
    fn a_node_keeps_its_number_when_its_contents_move() {
        let tree = tree();
        let node = tree.know(key(5), Kind::File, NodeId::ROOT, name("f"));
        tree.rebind(&node, key(77), ASIDE, name("1"));
        assert_eq!((node.key(), node.moves()), (key(77), 1));
        assert_eq!(node.place().unwrap().parent(), ASIDE);
        assert_eq!(tree.find(key(77)).unwrap().id, node.id);
        assert!(tree.find(key(5)).is_none());
        assert_ne!(tree.know(key(5), Kind::File, NodeId::ROOT, name("f")).id, node.id);
        assert!(tree.give_back(node.id, 1));
    }

    #[test]
    fn a_parent_is_known_as_long_as_its_child() {
        let tree = tree();
        let dir = tree.know(key(3), Kind::Directory, NodeId::ROOT, name("d"));
        let file = tree.know(key(4), Kind::File, dir.id, name("f"));
        assert!(!tree.give_back(dir.id, 1));
        assert!(tree.get(dir.id).is_ok());
        assert!(tree.give_back(file.id, 1));
        assert!(tree.get(dir.id).is_err());
        assert_eq!(tree.len(), 1);
    }

    #[test]
    fn a_number_outlives_being_forgotten_but_not_the_file() {
        let tree = tree();
        let first = tree.know(key(5), Kind::File, NodeId::ROOT, name("f")).id;
        assert!(tree.give_back(first, 1));
        assert_eq!(tree.know(key(5), Kind::File, NodeId::ROOT, name("f")).id, first);
        let descriptor = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        tree.orphan(key(5), descriptor);
        let second = tree.know(key(5), Kind::File, NodeId::ROOT, name("f"));
        assert_ne!(second.id, first);
        assert!(tree.get(first).unwrap().orphan().is_some());
    }

    #[test]
    fn two_names_of_one_file_are_one_node() {
        let tree = tree();
        let a = tree.know(key(5), Kind::File, NodeId::ROOT, name("a"));
        let b = tree.know(key(5), Kind::File, NodeId::ROOT, name("b"));
        assert_eq!(a.id, b.id);
        assert_eq!(a.places().len(), 2);
        tree.remove_place(&a, NodeId::ROOT, name("a"));
        assert_eq!(a.place().unwrap().name.as_ref(), b"b");
        assert!(tree.give_back(a.id, 2));
    }

    #[test]
    fn what_lies_below_a_users_own_is_his() {
        let tree = tree();
        let own = name_for_user(2000, 7);
        let dir = tree.know(key(5), Kind::Directory, USERS, known_name(own.as_bytes()));
        let file = tree.know(key(6), Kind::File, dir.id, name("f"));
        assert_eq!((dir.of, file.of), (Some(2000), Some(2000)));
        assert_eq!(tree.second(key(5), None).of, Some(2000));
        assert_eq!(tree.know(key(8), Kind::File, NodeId::ROOT, name("1-2")).of, None);
    }

    #[test]
    fn the_first_node_of_a_directory_is_known_as_long_as_its_others() {
        let tree = tree();
        let first = tree.know(key(5), Kind::Directory, NodeId::ROOT, name("d"));
        let second = tree.second(key(5), None);
        let below = tree.know(key(6), Kind::Directory, second.id, name("below"));
        let again = tree.know(key(6), Kind::Directory, second.id, name("below"));
        let file = tree.know(key(7), Kind::File, second.id, name("f"));
        assert_eq!(file.place().unwrap().parent(), first.id);
        assert_eq!(tree.versioned(&below).place().unwrap().parent(), first.id);
        assert_eq!(below.id, again.id);
        for (node, count) in [(&first, 1), (&second, 1), (&file, 1), (&below, 1)] {
            tree.give_back(node.id, count);
        }
        assert_eq!(tree.versioned(&below).face, 0);
        tree.give_back(below.id, 1);
        assert_eq!(tree.len(), 1);
    }

    #[test]
    fn nameless_files_are_counted_as_long_as_they_are_known() {
        let (tree, count) = (tree(), Arc::new(AtomicUsize::new(0)));
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let known = [5, 6].map(|inode| tree.know(key(inode), Kind::File, NodeId::ROOT, name("f")));
        for node in &known {
            let counted = Counted::up_to(1, &count);
            tree.orphan_counted(node.key(), counted.map(|counted| (null(), Some(counted))));
        }
        assert!(known[0].orphan().is_some() && known[1].orphan().is_none());
        assert_eq!(count.load(Ordering::Relaxed), 1);
        assert!(known.iter().all(|node| tree.give_back(node.id, 1)));
        drop(known);
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_root_is_never_forgotten() {
        let tree = tree();
        assert!(!tree.give_back(NodeId::ROOT, 1_000));
        assert!(tree.get(NodeId::ROOT).is_ok());
    }
}
