//! Directories that are moved from under somebody who removes what is in them.
//!
//! Who goes through a tree to remove it gets back from a deep directory by `..`, and gives up where that is not what
//! he came from (`fts(3)`). The kernel has one `..` for a directory, and it changes when the directory is moved. So
//! whoever moves one that another job goes through moves it under a second number: he is told to look it up again
//! (`ESTALE`), and by that number it is found from then on, and by numbers of their own all directories below it. Who
//! goes through it does so under the first one, where it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cachefs_mount::{Entry, Kind, Name, NodeId, Result};
use parking_lot::Mutex;

use super::Cache;
use super::additions::Added;
use super::lookup::Live;
use super::tree::{DEEPEST, Face, Node};
use crate::platform::fd::OwnedFd;
use crate::readers::Job;

/// So many are told from what they were at a time; each takes a descriptor.
const MOST: usize = 256;

/// A directory that was moved from under somebody.
#[derive(Debug)]
struct Parted {
    /// Under which number it was, and is kept here.
    first: NodeId,
    /// Under which it is found; with one reference.
    second: Arc<Node>,
}

/// All that were, until nobody knows them any more.
#[derive(Debug, Default)]
pub(super) struct Partings {
    known: Mutex<Vec<Parted>>,
    count: AtomicUsize,
}

impl Partings {
    /// Whether there are none, as nearly always.
    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Whether directories of that face are found where they lie; they may also be kept under old names.
    pub(super) fn is_live(&self, face: Face) -> bool {
        let is_it = |parted: &Parted| parted.second.face == face;
        face == 0 || !self.is_empty() && self.known.lock().iter().any(is_it)
    }

    fn second_of(&self, first: NodeId) -> Option<Arc<Node>> {
        if self.is_empty() {
            return None;
        }
        let known = self.known.lock();
        known.iter().find(|parted| parted.first == first).map(|parted| parted.second.clone())
    }

    /// The faces under which directories are found.
    fn faces(&self) -> Vec<Face> {
        if self.is_empty() {
            return Vec::new();
        }
        self.known.lock().iter().map(|parted| parted.second.face).collect()
    }
}

impl Cache {
    /// Whether whoever moves a directory has to look it up once more before, because another job goes through
    /// it, or through what is in it, and removes.
    pub(super) fn has_to_be_parted(
        &self,
        mover: &Job,
        node: &Arc<Node>,
        descriptor: &OwnedFd,
    ) -> bool {
        if self.listings.load(Ordering::Acquire) == 0
            || node.kind != Kind::Directory
            || self.partings.second_of(node.id).is_some()
        {
            return false;
        }
        let goes_through = |other: &Arc<Job>| {
            other.id != mover.id && other.has_removed() && self.is_in(other, node)
        };
        if !self.readers.all().iter().any(goes_through) {
            return false;
        }
        self.forget_parted();
        let Ok(descriptor) = descriptor.try_clone() else { return false };
        let mut known = self.partings.known.lock();
        if known.len() >= MOST {
            return false;
        }
        let second = self.tree.second(node.key(), Some(descriptor));
        known.push(Parted { first: node.id, second });
        self.partings.count.store(known.len(), Ordering::Release);
        true
    }

    /// Whether a job has a directory open, and lists it, that is this one or lies below it.
    fn is_in(&self, job: &Job, directory: &Node) -> bool {
        let is_below = |open: &u64| {
            let mut at = NodeId(*open);
            for _ in 0..DEEPEST {
                if at == directory.id {
                    return true;
                }
                let Ok(node) = self.tree.get(at) else { return false };
                let Some(place) = self.tree.versioned(&node).place() else { return false };
                let Ok(above) = self.tree.get(place.parent()) else { return false };
                at = self.tree.versioned(&above).id;
            }
            false
        };
        job.lists().iter().any(is_below)
    }

    /// Forgets those that the operating system knows by neither number.
    fn forget_parted(&self) {
        let mut gone = Vec::new();
        let mut known = self.partings.known.lock();
        known.retain(|parted| {
            // The second holds the first.
            let is_known = self.tree.is_used_directory(parted.first, 1)
                || self.tree.is_used_directory(parted.second.id, 1);
            if !is_known {
                gone.push(parted.second.id);
            }
            is_known
        });
        self.partings.count.store(known.len(), Ordering::Release);
        drop(known);
        for second in gone {
            self.give_back(second, 1);
        }
    }

    /// The entry of a live version, with the lookup that it has: if it is a directory that is found under a second
    /// number, of that.
    pub(super) fn live_entry(&self, live: &Live) -> Entry {
        if live.node.kind == Kind::Directory
            && let Some(second) = self.partings.second_of(live.node.id)
            && self.tree.hold(second.id)
        {
            self.give_back(live.node.id, 1);
            return self.entry(second.id, &live.status);
        }
        self.entry(live.node.id, &live.status)
    }

    /// The entry of a version that is not live, under the number by which it is found in that directory.
    pub(super) fn kept_entry_in(
        &self,
        folder: &Arc<Node>,
        name: Name<'_>,
        id: NodeId,
    ) -> Result<Entry> {
        if self.partings.is_empty() {
            return self.kept_entry(id);
        }
        let node = self.tree.get(id)?;
        let is_below = folder.face != 0 && self.partings.is_live(folder.face);
        if node.kind != Kind::Directory || node.face != 0 || !is_below {
            return self.kept_entry(self.found_as(id));
        }
        let below = self.tree.know(node.key(), Kind::Directory, folder.id, name);
        let entry = self.kept_entry(below.id);
        self.give_back(below.id, 1);
        entry
    }

    /// Under which number a directory is found that has this one.
    pub(super) fn found_as(&self, number: NodeId) -> NodeId {
        self.partings.second_of(number).map_or(number, |second| second.id)
    }

    /// A directory was moved: under its second number it has the name, too.
    pub(super) fn note_parted_moved(&self, first: NodeId, parent: NodeId, name: Name<'_>) {
        if let Some(second) = self.partings.second_of(first) {
            second.note_last_place(parent, name);
        }
    }

    /// All numbers by which the operating system may know a directory in which a name has changed.
    pub(super) fn numbers_of(&self, directory: NodeId) -> Vec<NodeId> {
        let mut all = vec![directory];
        let faces = self.partings.faces();
        if !faces.is_empty()
            && let Ok(node) = self.tree.get(directory)
        {
            all.extend(self.partings.second_of(directory).map(|second| second.id));
            all.extend(faces.iter().filter_map(|face| self.tree.known_below(node.key(), *face)));
        }
        all
    }

    /// Somebody has given a name. Those who know its directory by another number hear of it.
    pub(super) fn note_addition(&self, (parent, name): (NodeId, Name<'_>), added: Added) {
        self.additions.note((parent, name), added);
        if !self.partings.is_empty() && self.numbers_of(parent).len() > 1 {
            self.tell_kernel_later(parent, name.as_bytes());
        }
    }

    /// For how long names in a directory of that face may be believed that are the same for everyone.
    pub(super) fn names_valid(&self, directory: &Node) -> Duration {
        // What is a user's own may be moved to where others look, and the kernel moves with it the
        // time for which it believes a name. Of what is known by old names nobody is told.
        match directory.of.is_some() || !self.partings.is_live(directory.face) {
            true => Duration::ZERO,
            false => cachefs_mount::FOREVER,
        }
    }
}
