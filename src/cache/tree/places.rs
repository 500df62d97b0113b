//! Where nodes are: the names by which their files are found in the store.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cachefs_mount::{Kind, Name, NodeId};
use smallvec::SmallVec;

use super::{Counted, FileKey, Node, Place, Tree, is_own};
use crate::platform::fd::OwnedFd;

impl Tree {
    /// A known node is where it was found, as `name` in `parent`.
    pub(in crate::cache) fn place(&self, node: &Node, parent: NodeId, name: Name<'_>) {
        let above = self.get(parent).ok().filter(|above| above.face != 0);
        let versioned = above.map(|above| self.versioned(&above)).filter(|above| above.face == 0);
        let parent = match (versioned, node.kind) {
            (Some(versioned), Kind::Directory) => {
                let first = node.first().and_then(|first| self.get(first).ok());
                if let Some(first) = first {
                    self.place(&first, versioned.id, name);
                }
                parent
            }
            // A file has a name in a directory once, by whatever number of that it was found.
            (Some(versioned), _) => versioned.id,
            (None, _) => parent,
        };
        // What was removed while it was looked for is where it was put, not where it was found.
        if node.kind != Kind::Directory || !node.is_in_own_folder() || is_own(parent) {
            self.add_place(node, parent, name);
        }
    }

    /// Whether [`Tree::place`] would change nothing, as far as can be told easily.
    pub(in crate::cache) fn is_placed(&self, node: &Node, parent: NodeId, name: Name<'_>) -> bool {
        node.state.lock().places.iter().any(|place| place.is(parent, name))
    }

    /// `node` is now also known as `name` in `parent`.
    pub(in crate::cache) fn add_place(&self, node: &Node, parent: NodeId, name: Name<'_>) {
        // Before the node's lock: `hold` locks the table, and that comes first.
        if node.state.lock().places.iter().any(|place| place.is(parent, name)) {
            return;
        }
        if !self.hold(parent) {
            return;
        }
        let surplus = {
            let mut state = node.state.lock();
            if state.places.iter().any(|place| place.is(parent, name)) {
                Some(Place::new(parent, name))
            } else if node.kind == Kind::Directory && !state.places.is_empty() {
                // A directory has one name; this is the newer.
                let old = std::mem::replace(&mut state.places[0], Place::new(parent, name));
                state.note_left(&old);
                Some(old)
            } else {
                state.places.push(Place::new(parent, name));
                None
            }
        };
        if let Some(place) = surplus {
            self.give_back(place.parent(), 1);
        }
    }

    /// `name` in `parent` does not stand for `node` any more.
    pub(in crate::cache) fn remove_place(&self, node: &Node, parent: NodeId, name: Name<'_>) {
        let removed = {
            let mut state = node.state.lock();
            let found = state.places.iter().position(|place| place.is(parent, name));
            let removed = found.map(|index| state.places.swap_remove(index));
            if let Some(place) = &removed {
                state.note_left(place);
            }
            removed
        };
        if removed.is_some() {
            self.give_back(parent, 1);
        }
    }

    /// The file has lost its last name: its number is not given to another file that gets its
    /// inode, and `descriptor` keeps it reachable until nobody knows it.
    pub(in crate::cache) fn orphan(&self, key: FileKey, descriptor: OwnedFd) {
        self.orphan_counted(key, Some((descriptor, None)));
    }

    /// As [`Tree::orphan`], with what counts the descriptor; without one, it is not reachable any more.
    pub(in crate::cache) fn orphan_counted(
        &self,
        key: FileKey,
        descriptor: Option<(OwnedFd, Option<Counted>)>,
    ) {
        let Some((_, id)) = self.numbers.remove(&key) else { return };
        if let Ok(node) = self.get(NodeId(id)) {
            let places = {
                let mut state = node.state.lock();
                if let Some((descriptor, counted)) = descriptor {
                    state.orphan = Some(Arc::new(descriptor));
                    state._counted = counted;
                }
                let places = std::mem::take(&mut state.places);
                places.iter().rev().for_each(|place| state.note_left(place));
                places
            };
            for place in places {
                self.give_back(place.parent(), 1);
            }
        }
    }

    /// From now on the file has another number, under which it is found as `name` in `parent`. Who has
    /// the old one goes on with it, by `descriptor`.
    pub(in crate::cache) fn renumber(
        &self,
        node: &Node,
        descriptor: OwnedFd,
        parent: NodeId,
        name: Name<'_>,
    ) -> NodeId {
        let key = node.key();
        {
            // First: who opens it by its old number is never to take it for a file without a name.
            let mut state = node.state.lock();
            state.renumbered = true;
            state.was = Some(Place::new(parent, name));
        }
        self.orphan(key, descriptor);
        self.number(key)
    }

    /// The contents of a node are in another file from now on, which is found as `name` in `parent` and
    /// nowhere else.
    pub(in crate::cache) fn rebind(
        &self,
        node: &Node,
        key: FileKey,
        parent: NodeId,
        name: Name<'_>,
    ) {
        self.hold(parent);
        let old = {
            let mut state = node.state.lock();
            state.orphan = None;
            let place = SmallVec::from_elem(Place::new(parent, name), 1);
            let old = std::mem::replace(&mut state.places, place);
            old.iter().rev().for_each(|place| state.note_left(place));
            old
        };
        self.rekey(node, key);
        for place in old {
            self.give_back(place.parent(), 1);
        }
    }

    /// As [`Tree::rebind`], for a node without a name.
    pub(in crate::cache) fn rebind_orphan(&self, node: &Node, key: FileKey, descriptor: OwnedFd) {
        node.state.lock().orphan = Some(Arc::new(descriptor));
        let old = std::mem::replace(&mut node.state.lock().key, key);
        self.numbers.remove_if(&old, |_, number| *number == node.id.0);
        node.moves.fetch_add(1, Ordering::AcqRel);
    }

    fn rekey(&self, node: &Node, key: FileKey) {
        let old = std::mem::replace(&mut node.state.lock().key, key);
        self.numbers.remove_if(&old, |_, number| *number == node.id.0);
        self.numbers.insert(key, node.id.0);
        node.moves.fetch_add(1, Ordering::AcqRel);
    }
}
