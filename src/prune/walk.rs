//! One walk through the store: every file is counted for the unit that it belongs to, or as kept.
//!
//! The store is in use meanwhile. What vanishes is not counted, what can't be read is said
//! ([`Units::unread`]), links are not followed, and other filesystems that are mounted in the store are
//! left alone.

use std::collections::HashMap;
use std::io;

use smallvec::SmallVec;

use super::directory::{head, kind, list, open_directory, status, status_of, target};
use super::gather::{Gathering, Part};
use super::layout::{Found, Place, Seen, components};
use super::unit::{Amount, Shared, Units, path};
use crate::platform::fd::{BorrowedFd, OwnedFd};
use crate::platform::fs::{FileType, Statx};
use crate::platform::io::Errno;
use crate::store::PRIVATE;

/// A directory that lies deeper is not counted: each level takes a descriptor and some stack.
const DEEPEST: usize = 256;

/// Walks the store at `root` and makes units of what `found` (of [`super::layout::find`]) says.
///
/// # Errors
/// Only if the root itself can't be read.
pub fn units(root: BorrowedFd<'_>, found: &[Found]) -> io::Result<Units> {
    let root = open_directory(root, b".")?;
    let top = status_of(&root)?;
    let mut walk = Walk {
        device: (top.stx_dev_major, top.stx_dev_minor),
        found,
        path: Vec::new(),
        parts: Vec::new(),
        units: Units::default(),
        unit_of: Vec::new(),
        linked: HashMap::new(),
    };
    walk.count(Owner::Kept, &top);
    match found.iter().find(|found| found.prefix().is_empty()) {
        Some(whole) => walk.tool(&root, whole, 0),
        None => walk.between(&root, 0),
    }
    Ok(walk.finish())
}

/// Whom a file is counted for: nobody, or the part with this number.
#[derive(Clone, Copy)]
enum Owner {
    Kept,
    Part(u32),
}

/// An inode with several names.
#[derive(Default)]
struct Linked {
    bytes: u64,
    /// How many names it has, and how many of them were seen.
    names: u32,
    seen: u32,
    /// The parts that it has names in, as they came.
    parts: SmallVec<[u32; 4]>,
    kept: bool,
}

struct Walk<'f> {
    device: (u32, u32),
    found: &'f [Found],
    /// Where the walk is, relative to the store.
    path: Vec<u8>,
    /// The parts of the tool whose cache is being walked.
    parts: Vec<Part>,
    units: Units,
    /// The unit of each part of those tools that are done.
    unit_of: Vec<u32>,
    linked: HashMap<(u32, u32, u64), Linked>,
}

/// For whom a tree is counted.
#[derive(Clone, Copy)]
struct Tree {
    owner: Owner,
    /// Where the links in it are told to the layout: the length of the path of the part.
    told: Option<usize>,
}

impl<'f> Walk<'f> {
    /// A folder that belongs to no tool, but may have such below it.
    fn between(&mut self, directory: &OwnedFd, depth: usize) {
        self.each(directory, |walk, name, status| {
            if walk.path == PRIVATE.as_bytes() {
                return;
            }
            let found = walk.found;
            let found = found.iter().find(|found| found.prefix() == walk.path);
            walk.count(Owner::Kept, status);
            let Some(below) = walk.below(directory, name, status, depth) else { return };
            match found {
                Some(found) => walk.tool(&below, found, depth + 1),
                None => walk.between(&below, depth + 1),
            }
        });
    }

    /// The top of a tool's cache.
    fn tool(&mut self, directory: &OwnedFd, found: &'f Found, depth: usize) {
        let mut gathering = Gathering::new(found);
        self.folder(directory, &mut gathering, depth);
        let parts = std::mem::take(&mut self.parts);
        gathering.finish(parts, &mut self.units.units, &mut self.unit_of);
    }

    /// A folder of units.
    fn folder(&mut self, directory: &OwnedFd, gathering: &mut Gathering<'f>, depth: usize) {
        // Which part was the first of a unit, by what the siblings' names have in common.
        let mut stems = HashMap::new();
        self.each(directory, |walk, name, status| {
            if walk.path == PRIVATE.as_bytes() {
                return;
            }
            let place = gathering.rules().place(&components(&walk.path[gathering.start()..]));
            let tree = match (place, kind(status)) {
                (Place::Folder | Place::Loose, FileType::Directory) => {
                    walk.count(Owner::Kept, status);
                    if let Some(below) = walk.below(directory, name, status, depth) {
                        walk.folder(&below, gathering, depth + 1);
                    }
                    return;
                }
                (Place::Kept | Place::Folder, _) => Tree { owner: Owner::Kept, told: None },
                (Place::Part(_) | Place::Loose, _) => {
                    walk.part(directory, name, status, gathering, &mut stems)
                }
            };
            walk.tree(directory, name, status, tree, gathering, depth);
        });
    }

    /// A part of a unit: what it has to do with others, by its name and what is in it.
    fn part(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        status: &Statx,
        gathering: &mut Gathering<'f>,
        stems: &mut HashMap<Box<[u8]>, u32>,
    ) -> Tree {
        let rules = gathering.rules();
        let inside = components(&self.path[gathering.start()..]);
        let part = gathering.add(&inside);
        if let Some(stem) = rules.stem(&inside) {
            let first = *stems.entry(stem.into()).or_insert(part);
            gathering.join(first, part);
        }
        gathering.see(part, &inside, Seen::Part);
        let (kind, most) = (kind(status), rules.reads(&inside));
        if kind == FileType::Symlink
            && let Ok(target) = target(directory, name)
        {
            gathering.see(part, &inside, Seen::Link(&target));
        } else if kind == FileType::RegularFile
            && most > 0
            && let Ok(content) = head(directory, name, most)
        {
            gathering.see(part, &inside, Seen::Content(&content));
        }
        self.parts.push(Part::new(path(&self.path), status));
        let told = rules.links_inside(&inside).then_some(self.path.len());
        Tree { owner: Owner::Part(part), told }
    }

    /// A file, or a directory with all that is below it.
    fn tree(
        &mut self,
        at: &OwnedFd,
        name: &[u8],
        status: &Statx,
        tree: Tree,
        gathering: &mut Gathering<'f>,
        depth: usize,
    ) {
        self.count(tree.owner, status);
        if let (Some(end), Owner::Part(part)) = (tree.told, tree.owner)
            && end < self.path.len()
            && kind(status) == FileType::Symlink
            && let Ok(target) = target(at, name)
        {
            let inside = components(&self.path[gathering.start()..end]);
            gathering.see(part, &inside, Seen::LinkInside(&target));
        }
        if let Some(below) = self.below(at, name, status, depth) {
            self.each(&below, |walk, name, status| {
                walk.tree(&below, name, status, tree, gathering, depth + 1);
            });
        }
    }

    /// Calls `each` for every name in a directory, while [`Walk::path`] leads there.
    fn each(&mut self, directory: &OwnedFd, mut each: impl FnMut(&mut Self, &[u8], &Statx)) {
        let end = self.path.len();
        let listed = list(directory, |name, _| match status(directory, name) {
            Ok(status) => {
                if end > 0 {
                    self.path.push(b'/');
                }
                self.path.extend_from_slice(name);
                each(self, name, &status);
                self.path.truncate(end);
            }
            // It has gone meanwhile.
            Err(Errno::NOENT) => {}
            Err(_) => self.units.unread += 1,
        });
        if listed.is_err() {
            self.units.unread += 1;
        }
    }

    /// The directory that is to be gone into, if this is one.
    fn below(
        &mut self,
        at: &OwnedFd,
        name: &[u8],
        status: &Statx,
        depth: usize,
    ) -> Option<OwnedFd> {
        if kind(status) != FileType::Directory || self.is_mounted(status) {
            return None;
        }
        if depth >= DEEPEST {
            self.units.unread += 1;
            return None;
        }
        match open_directory(at, name) {
            Ok(below) => Some(below),
            // It has gone meanwhile, or another file has come in its place.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
            Err(_) => {
                self.units.unread += 1;
                None
            }
        }
    }

    /// Whether this directory is another filesystem's. Of files that can't be told: on a stacked
    /// filesystem, they may have other devices than their directories.
    fn is_mounted(&self, directory: &Statx) -> bool {
        (directory.stx_dev_major, directory.stx_dev_minor) != self.device
    }

    fn count(&mut self, owner: Owner, status: &Statx) {
        let is_directory = kind(status) == FileType::Directory;
        if is_directory && self.is_mounted(status) {
            return;
        }
        let amount = Amount { bytes: status.stx_blocks * 512, files: 1 };
        if is_directory || status.stx_nlink < 2 {
            match owner {
                Owner::Kept => self.units.kept += amount,
                Owner::Part(part) => self.parts[part as usize].size += amount,
            }
            return;
        }
        let inode = (status.stx_dev_major, status.stx_dev_minor, status.stx_ino);
        let linked = self.linked.entry(inode).or_default();
        (linked.bytes, linked.names) = (amount.bytes, status.stx_nlink);
        linked.seen += 1;
        match owner {
            Owner::Kept => linked.kept = true,
            Owner::Part(part) => {
                // Numbers go on from tool to tool.
                let part = self.unit_of.len() as u32 + part;
                if linked.parts.last() != Some(&part) {
                    linked.parts.push(part);
                }
            }
        }
    }

    /// Settles whose the inodes with several names are.
    fn finish(mut self) -> Units {
        for linked in self.linked.into_values() {
            let unit_of = |part: &u32| self.unit_of[*part as usize];
            let mut units: SmallVec<[u32; 4]> = linked.parts.iter().map(unit_of).collect();
            units.sort_unstable();
            units.dedup();
            let elsewhere = linked.kept || linked.seen < linked.names;
            let amount = Amount { bytes: linked.bytes, files: 1 };
            match (&units[..], elsewhere) {
                ([], _) => self.units.kept += amount,
                ([unit], false) => self.units.units[*unit as usize].size += amount,
                _ => self.units.shared.push(Shared { bytes: linked.bytes, units, elsewhere }),
            }
        }
        self.units
    }
}
