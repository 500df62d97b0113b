//! From paths to nodes and back: which nodes the system has been told of, and by which names.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::windows::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use parking_lot::Mutex;

use super::names::SEPARATOR;
use super::spellings::Spellings;
use super::status::Status;
use crate::{Attributes, Caller, Entry, Errno, Lookup, Name, NodeId, Volume};

/// A volume, and what is known of its nodes.
pub(super) struct Tree<V> {
    pub(super) volume: Arc<V>,
    pub(super) spellings: Spellings,
    known: Mutex<HashMap<NodeId, Known>>,
}

/// A node that somebody has looked up and not given back.
struct Known {
    /// Lookups that are to be given back.
    lookups: u64,
    /// The last name by which it was found.
    parent: NodeId,
    name: OsString,
}

impl<V: Volume> Tree<V> {
    pub(super) fn new(volume: Arc<V>) -> Tree<V> {
        Tree { volume, spellings: Spellings::default(), known: Mutex::default() }
    }

    /// Goes from the root along `names`. Each is found whatever its case; exactly as given comes first.
    ///
    /// # Errors
    ///
    /// `OBJECT_NAME_NOT_FOUND` if the last name is missing, `OBJECT_PATH_NOT_FOUND` for one before it.
    pub(super) fn walk(
        self: &Arc<Self>,
        caller: &Caller,
        names: &[&[u16]],
    ) -> Result<Walk<V>, Status> {
        let (attributes, _) = self.volume.attributes(caller, NodeId::ROOT, None)?;
        let mut walk =
            Walk { tree: self.clone(), held: Vec::new(), spelled: Vec::new(), attributes };
        for (left, name) in (0..names.len()).rev().zip(names) {
            if walk.attributes.kind != crate::Kind::Directory {
                return Err(Status::OBJECT_PATH_NOT_FOUND);
            }
            match walk.find(caller, name)? {
                Some((entry, name)) => walk.enter(&entry, name),
                None if left == 0 => return Err(Status::OBJECT_NAME_NOT_FOUND),
                None => return Err(Status::OBJECT_PATH_NOT_FOUND),
            }
        }
        Ok(walk)
    }

    /// Goes to the directory in which the last of `names` is, or would be; and that name.
    pub(super) fn walk_to_parent<'a>(
        self: &Arc<Self>,
        caller: &Caller,
        names: &[&'a [u16]],
    ) -> Result<(Walk<V>, &'a [u16]), Status> {
        // The root has no name that could be changed.
        let (name, parents) = names.split_last().ok_or(Status::ACCESS_DENIED)?;
        let parent = self.walk(caller, parents).map_err(|status| match status {
            Status::OBJECT_NAME_NOT_FOUND => Status::OBJECT_PATH_NOT_FOUND,
            other => other,
        })?;
        if parent.attributes.kind != crate::Kind::Directory {
            return Err(Status::OBJECT_PATH_NOT_FOUND);
        }
        Ok((parent, name))
    }

    /// The path of a node that is known, as its names are spelled: of a file with several names, the last that
    /// was asked for.
    pub(super) fn path(&self, node: NodeId) -> Option<Vec<u16>> {
        let known = self.known.lock();
        let (mut names, mut at) = (Vec::new(), node);
        while at != NodeId::ROOT {
            let step = known.get(&at)?;
            names.push(&step.name);
            at = step.parent;
            // Directories that were moved into each other meanwhile are nowhere.
            if names.len() > known.len() {
                return None;
            }
        }
        let mut path = Vec::new();
        for name in names.into_iter().rev() {
            path.push(SEPARATOR);
            path.extend(name.encode_wide());
        }
        Some(if path.is_empty() { vec![SEPARATOR] } else { path })
    }

    /// A known node has another name now.
    pub(super) fn renamed(&self, node: NodeId, parent: NodeId, name: &OsStr) {
        if let Some(known) = self.known.lock().get_mut(&node) {
            known.parent = parent;
            known.name = name.to_owned();
        }
    }

    fn hold(&self, node: NodeId, parent: NodeId, name: OsString) {
        if node == NodeId::ROOT {
            return;
        }
        let mut known = self.known.lock();
        let known =
            known.entry(node).or_insert(Known { lookups: 0, parent, name: OsString::new() });
        known.lookups += 1;
        known.parent = parent;
        known.name = name;
    }

    fn give_back(&self, node: NodeId) {
        if node == NodeId::ROOT {
            return;
        }
        {
            let mut known = self.known.lock();
            if let Some(held) = known.get_mut(&node) {
                held.lookups -= 1;
                if held.lookups == 0 {
                    known.remove(&node);
                }
            }
        }
        self.volume.forget(node, 1);
    }
}

/// What a path leads to. It and the directories on the way stay known to the volume for as long as this lives,
/// as they do on Linux.
pub(super) struct Walk<V: Volume> {
    tree: Arc<Tree<V>>,
    held: Vec<NodeId>,
    /// The path by which it got there, as its names are spelled; empty for the root.
    spelled: Vec<u16>,
    /// As they were when it got there.
    pub(super) attributes: Attributes,
}

impl<V: Volume> Walk<V> {
    /// Where it leads to.
    pub(super) fn node(&self) -> NodeId {
        self.attributes.node
    }

    /// The path by which it got there, as its names are spelled: of a file with several names, the one that was
    /// asked for.
    pub(super) fn spelled(&self) -> &[u16] {
        if self.spelled.is_empty() { &[SEPARATOR] } else { &self.spelled }
    }

    /// Whether it is on the way, or where it leads to.
    pub(super) fn passes(&self, node: NodeId) -> bool {
        self.held.contains(&node)
    }

    /// What `name` stands for here, which has to be entered or given back; and how it is spelled.
    pub(super) fn find(
        &self,
        caller: &Caller,
        name: &[u16],
    ) -> Result<Option<(Entry, OsString)>, Status> {
        let name = OsString::from_wide(name);
        let (volume, directory) = (&*self.tree.volume, self.node());
        if let Lookup::Found(entry) = volume.lookup(caller, directory, Name::new(&name)?)? {
            return Ok(Some((entry, name)));
        }
        let spelled = match self.tree.spellings.find(volume, caller, directory, &name) {
            Ok(Some(spelled)) if spelled != name => spelled,
            // A directory that can't be listed has only names that are known exactly.
            Ok(_) | Err(Errno::EACCES | Errno::EPERM) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        Ok(match volume.lookup(caller, directory, Name::new(&spelled)?)? {
            Lookup::Found(entry) => Some((entry, spelled)),
            Lookup::Absent { .. } => None,
        })
    }

    /// Goes on to what `name` stands for here: `entry`, whose lookup is given back with the others.
    pub(super) fn enter(&mut self, entry: &Entry, name: OsString) {
        self.spelled.push(SEPARATOR);
        self.spelled.extend(name.encode_wide());
        self.tree.hold(entry.attributes.node, self.node(), name);
        self.held.push(entry.attributes.node);
        self.attributes = entry.attributes;
    }

    /// Gives back what was found and is not entered.
    pub(super) fn give_back(&self, entry: &Entry) {
        if entry.attributes.node != NodeId::ROOT {
            self.tree.volume.forget(entry.attributes.node, 1);
        }
    }
}

impl<V: Volume> Drop for Walk<V> {
    fn drop(&mut self) {
        while let Some(node) = self.held.pop() {
            self.tree.give_back(node);
        }
    }
}
