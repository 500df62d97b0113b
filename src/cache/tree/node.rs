//! A file or directory that the operating system knows: its names, its versions, who uses it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use cachefs_mount::{Kind, Name, NodeId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::is_own;
use crate::cache::pruning::seconds;
use crate::cache::view::Version;
use crate::platform::fd::OwnedFd;

/// Where a directory was given a second number, all directories below it are numbered apart by this;
/// 0 is the ordinary numbering. An operating system that met one directory in two places would take it
/// from one to the other.
pub(in crate::cache) type Face = u32;

/// Which file of the store it is: device and inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::cache) struct FileKey {
    pub(in crate::cache) device: u64,
    pub(in crate::cache) inode: u64,
}

/// Whoever was told of a file opens it within so many seconds, or never.
const LATELY: u32 = 10;

/// Whoever has been answered has come to tell the kernel what he did within so many seconds.
const UNTOLD: u32 = 1;

/// A live name of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cache) struct Place {
    pub(in crate::cache) parent: u64,
    pub(in crate::cache) name: Box<[u8]>,
}

impl Place {
    pub(in crate::cache) fn new(parent: NodeId, name: Name<'_>) -> Place {
        Place { parent: parent.0, name: name.as_bytes().into() }
    }

    pub(in crate::cache) fn parent(&self) -> NodeId {
        NodeId(self.parent)
    }

    /// Whether it lies among what everyone may see.
    pub(in crate::cache) fn is_public(&self) -> bool {
        !is_own(self.parent())
    }

    pub(in crate::cache) fn is(&self, parent: NodeId, name: Name<'_>) -> bool {
        self.parent == parent.0 && *self.name == *name.as_bytes()
    }
}

/// One of those that are counted, until it is dropped.
#[derive(Debug)]
pub(in crate::cache) struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// One more, unless there are `most` already.
    pub(in crate::cache) fn up_to(most: usize, count: &Arc<AtomicUsize>) -> Option<Counted> {
        let more = |counted: usize| (counted < most).then_some(counted + 1);
        let counted = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.is_ok().then(|| Counted(count.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(super) struct State {
    /// Which file it is.
    pub(super) key: FileKey,
    pub(super) places: SmallVec<[Place; 1]>,
    pub(super) orphan: Option<Arc<OwnedFd>>,
    /// Counts that, as long as it is there.
    pub(super) _counted: Option<Counted>,
    /// Of an orphan, and of what was removed: the last name that it had.
    pub(super) was: Option<Place>,
    /// Its file lives on under another number.
    pub(super) renumbered: bool,
    /// Of a second node of a directory: the first, which has the versions, with one reference.
    pub(super) first: Option<NodeId>,
    /// Of a directory: the versions of its names that are not live. Absent until there are some, which
    /// is nearly always; the live ones are in the store itself (SEMANTICS 1.1).
    pub(super) versions: Option<Box<Versions>>,
}

impl State {
    /// It is not at that place any more, and so was there last, if everyone could see it there.
    pub(super) fn note_left(&mut self, place: &Place) {
        if place.is_public() {
            self.was = Some(place.clone());
        }
    }
}

/// A version that is not live, and its number, by which listings go on and which never changes.
#[derive(Clone, Debug)]
pub(in crate::cache) struct Kept {
    pub(in crate::cache) number: u64,
    pub(in crate::cache) version: Version<NodeId>,
}

pub(in crate::cache) type KeptList = SmallVec<[Kept; 1]>;

type Versions = HashMap<Box<[u8]>, KeptList>;

/// A file or directory that the operating system knows.
#[derive(Debug)]
pub(in crate::cache) struct Node {
    pub(in crate::cache) id: NodeId,
    pub(in crate::cache) kind: Kind,
    /// Of a directory: how those below it are numbered.
    pub(in crate::cache) face: Face,
    /// The one user to whom it is known; none: everyone. Nothing goes from one to the other.
    pub(in crate::cache) of: Option<u32>,
    /// How often its contents were moved to another file.
    pub(super) moves: AtomicU32,
    /// Open handles.
    pub(super) opens: AtomicU32,
    /// When somebody was last seen to lock it, in seconds of a clock that is never put back; 0: never.
    pub(super) locked: AtomicU32,
    /// Of a directory: when a name was last taken away from it, by the same clock; 0: never.
    pub(super) thinned: AtomicU32,
    /// Which job has used it last, and when, as `pruning` notes it; 0: none.
    pub(in crate::cache) used: AtomicU64,
    /// Which tool's cache it lies in, as `numbers` notes it; 0: not known.
    pub(in crate::cache) tool: AtomicU32,
    /// It has a name that the store could not take.
    pub(super) aside: AtomicBool,
    /// Of a directory: something in it, or below, has such a name.
    pub(super) holds_aside: AtomicBool,
    /// Lookups not yet given back, and known children. Raised only while `Tree::nodes` is locked
    /// for this node's number, so that a node found there can't be one that is just being removed.
    pub(super) references: AtomicU64,
    /// Locked last of all, and never while anything is waited for.
    pub(super) state: Mutex<State>,
}

impl Node {
    /// Which file of the store, or of the spill area, it is.
    pub(in crate::cache) fn key(&self) -> FileKey {
        self.state.lock().key
    }

    /// How often its contents were moved to another file.
    pub(in crate::cache) fn moves(&self) -> u32 {
        self.moves.load(Ordering::Acquire)
    }

    /// One of its names, if it has any.
    pub(in crate::cache) fn place(&self) -> Option<Place> {
        self.state.lock().places.first().cloned()
    }

    /// All of its names.
    pub(in crate::cache) fn places(&self) -> SmallVec<[Place; 1]> {
        self.state.lock().places.clone()
    }

    /// Of a second node of a directory: the first, which is where the directory is.
    pub(in crate::cache) fn first(&self) -> Option<NodeId> {
        self.state.lock().first
    }

    /// The descriptor of a node that has lost its last name.
    pub(in crate::cache) fn orphan(&self) -> Option<Arc<OwnedFd>> {
        self.state.lock().orphan.clone()
    }

    /// The name that it has, or had last, where everyone could see it.
    pub(in crate::cache) fn last_place(&self) -> Option<Place> {
        let state = self.state.lock();
        let public = state.places.iter().find(|place| place.is_public());
        public.or(state.was.as_ref()).cloned()
    }

    pub(in crate::cache) fn note_last_place(&self, parent: NodeId, name: Name<'_>) {
        self.state.lock().was = Some(Place::new(parent, name));
    }

    /// It has been given a name that the store could not take.
    pub(in crate::cache) fn note_aside(&self, parent: NodeId, name: Name<'_>) {
        self.aside.store(true, Ordering::Release);
        self.note_last_place(parent, name);
    }

    /// Something in it, or below, has been given a name that the store could not take.
    pub(in crate::cache) fn note_holds_aside(&self) {
        self.holds_aside.store(true, Ordering::Release);
    }

    /// Whether something in it, or below, was ever given a name that the store could not take.
    pub(in crate::cache) fn holds_aside(&self) -> bool {
        self.holds_aside.load(Ordering::Acquire)
    }

    /// Whether everyone may see it under some name.
    pub(in crate::cache) fn is_live(&self) -> bool {
        self.aside.load(Ordering::Acquire) || self.place().is_some_and(|place| place.is_public())
    }

    /// Whether its file lives on under another number.
    pub(in crate::cache) fn is_renumbered(&self) -> bool {
        self.state.lock().renumbered
    }

    /// The versions of `name` in this directory that are not live, and there for everyone.
    pub(in crate::cache) fn versions(&self, name: Name<'_>) -> KeptList {
        self.versions_of(name, None)
    }

    /// The versions of `name` in this directory that are not live, and there for that user alone.
    pub(in crate::cache) fn versions_of(&self, name: Name<'_>, user: Option<u32>) -> KeptList {
        let mut kept = self.every_version(name);
        kept.retain(|kept| kept.version.of == user);
        kept
    }

    /// Whether a name looks the same to everyone.
    pub(in crate::cache) fn is_plain(&self, name: Name<'_>) -> bool {
        let state = self.state.lock();
        state.versions.as_ref().is_none_or(|versions| !versions.contains_key(name.as_bytes()))
    }

    /// The versions of `name` in this directory that are not live, whoever they are there for.
    pub(in crate::cache) fn every_version(&self, name: Name<'_>) -> KeptList {
        match &self.state.lock().versions {
            Some(versions) => versions.get(name.as_bytes()).cloned().unwrap_or_default(),
            None => SmallVec::new(),
        }
    }

    /// All versions in this directory that are not live, by name.
    pub(in crate::cache) fn all_versions(&self) -> Vec<(Box<[u8]>, KeptList)> {
        match &self.state.lock().versions {
            Some(versions) => versions.iter().map(|(n, kept)| (n.clone(), kept.clone())).collect(),
            None => Vec::new(),
        }
    }

    /// All versions in this directory that are not live, by name, which that user may see. What others
    /// have for themselves may be much, and costs him little.
    pub(in crate::cache) fn all_versions_for(
        &self,
        user: Option<u32>,
    ) -> Vec<(Box<[u8]>, KeptList)> {
        let state = self.state.lock();
        let all = state.versions.iter().flat_map(|versions| versions.iter());
        let may = |kept: &&Kept| kept.version.of.is_none() || kept.version.of == user;
        let seen = all.map(|(name, kept)| (name, kept.iter().filter(may).cloned().collect()));
        let seen = seen.filter(|(_, kept): &(_, KeptList)| !kept.is_empty());
        seen.map(|(name, kept)| (name.clone(), kept)).collect()
    }

    /// Changes the versions of one name; how many more references this is worth to the directory,
    /// which has one for as long as it has versions.
    pub(super) fn change_versions(&self, name: &[u8], change: impl FnOnce(&mut KeptList)) -> i8 {
        let mut state = self.state.lock();
        let had = state.versions.is_some();
        let versions = state.versions.get_or_insert_default();
        let mut kept = versions.remove(name).unwrap_or_default();
        change(&mut kept);
        if !kept.is_empty() {
            versions.insert(name.into(), kept);
        } else if versions.is_empty() {
            state.versions = None;
        }
        i8::from(state.versions.is_some()) - i8::from(had)
    }

    /// Whether it has versions that are there for everyone.
    pub(in crate::cache) fn has_shared_versions(&self) -> bool {
        let state = self.state.lock();
        let mut kept = state.versions.iter().flat_map(|versions| versions.values().flatten());
        kept.any(|kept| kept.version.of.is_none())
    }

    /// Whether this directory looks the same to everyone.
    pub(in crate::cache) fn same_for_all(&self) -> bool {
        self.state.lock().versions.is_none()
    }

    /// One more handle is open.
    pub(in crate::cache) fn opened(&self) {
        self.opens.fetch_add(1, Ordering::Relaxed);
    }

    /// One less is.
    pub(in crate::cache) fn closed(&self) {
        self.opens.fetch_sub(1, Ordering::Relaxed);
    }

    /// Somebody was seen to lock it.
    pub(in crate::cache) fn note_locked(&self) {
        self.locked.store(seconds(), Ordering::Relaxed);
    }

    /// Whether somebody was ever seen to lock it.
    pub(in crate::cache) fn was_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed) > 0
    }

    /// Whether somebody was seen to lock it, and has it open still, or others have who may lock it;
    /// `own` handles are not counted.
    pub(in crate::cache) fn is_a_lock(&self, own: u32) -> bool {
        let is_one = self.was_locked() && self.is_open_besides(own);
        if is_one {
            self.note_locked();
        }
        is_one
    }

    /// Whether it was one a moment ago: there may be those who were told of it then, and have yet to open it.
    pub(in crate::cache) fn was_a_lock_lately(&self) -> bool {
        self.was_locked() && seconds() <= self.locked.load(Ordering::Relaxed) + LATELY
    }

    /// A name is being taken away from it.
    pub(in crate::cache) fn note_thinned(&self) {
        self.thinned.store(seconds(), Ordering::Relaxed);
    }

    /// Whether a name was taken away from it a moment ago: the kernel may not have heard of it yet.
    pub(in crate::cache) fn was_thinned_lately(&self) -> bool {
        let thinned = self.thinned.load(Ordering::Relaxed);
        thinned > 0 && seconds() <= thinned + UNTOLD
    }

    /// Whether more than these handles are open, or being opened.
    pub(in crate::cache) fn is_open_besides(&self, own: u32) -> bool {
        self.opens.load(Ordering::Relaxed) > own
    }

    /// Whether any handle is open.
    pub(in crate::cache) fn is_open(&self) -> bool {
        self.opens.load(Ordering::Relaxed) > 0
    }

    pub(super) fn new(
        id: NodeId,
        key: FileKey,
        kind: Kind,
        (face, of): (Face, Option<u32>),
        references: u64,
    ) -> Node {
        let (opens, moves) = (AtomicU32::new(0), AtomicU32::new(0));
        let (locked, aside) = (AtomicU32::new(0), AtomicBool::new(false));
        let holds_aside = AtomicBool::new(false);
        let references = AtomicU64::new(references);
        let state = Mutex::new(State {
            key,
            places: SmallVec::new(),
            orphan: None,
            _counted: None,
            was: None,
            renumbered: false,
            first: None,
            versions: None,
        });
        let (used, tool) = (AtomicU64::new(0), AtomicU32::new(0));
        let thinned = AtomicU32::new(0);
        Node {
            id,
            kind,
            face,
            of,
            moves,
            opens,
            locked,
            thinned,
            used,
            tool,
            aside,
            holds_aside,
            references,
            state,
        }
    }

    /// Of a directory: whether it lies in one of our own folders.
    pub(super) fn is_in_own_folder(&self) -> bool {
        self.state.lock().places.first().is_some_and(|place| !place.is_public())
    }

    pub(in crate::cache) fn is_orphan(&self) -> bool {
        self.state.lock().orphan.is_some()
    }
}
