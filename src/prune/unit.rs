//! Units: what a walk finds, and what a plan is made of.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::time::SystemTime;

use smallvec::SmallVec;

use super::layout::{Layout, components};
use crate::platform::ffi::OsStrExt;

/// Bytes on disk (blocks, not lengths) and files (inodes: directories and links count as well).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the sentence above says it")]
pub struct Amount {
    pub bytes: u64,
    pub files: u64,
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        self.bytes += other.bytes;
        self.files += other.files;
    }
}

/// The files of a cache that make sense only together.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The rules that it was found by.
    pub layout: Layout,
    /// How many bytes at the beginning of each path say where the tool's cache lies.
    pub prefix: u16,
    /// What goes, each with all that is below it; relative to the store, sorted. These are its marks.
    pub paths: SmallVec<[Box<Path>; 1]>,
    /// What it alone takes; what it has in common with others is in [`Units::shared`].
    pub size: Amount,
    /// The newest access time of its marks; of those that are symbolic links, the time they were made.
    pub last_use: SystemTime,
    /// A running reader has used it since that reader began (SEMANTICS 6.4).
    pub in_use: bool,
    /// A running job has just made some of it, and may be about to make more: it is not chosen.
    pub being_made: bool,
    /// The units (by their numbers in [`Units::units`]) that it can't do without: when one of those
    /// goes, this one goes along.
    pub needs: SmallVec<[u32; 2]>,
    /// Nobody can reach it but through those that need it: it goes with the last of them.
    pub only_needed: bool,
    /// Using one of those that it needs may have been a use of this one.
    pub used_through_needs: bool,
}

impl Unit {
    /// What people call it, such as `rich 15.0.0-py3-none-any`.
    pub fn name(&self) -> String {
        let inside = |path: &Path| -> Option<String> {
            let bytes = path.as_os_str().as_bytes();
            self.layout.title(&components(bytes.get(usize::from(self.prefix)..)?))
        };
        self.paths.iter().find_map(|path| inside(path)).unwrap_or_else(|| {
            let name = self.paths.first().and_then(|path| path.file_name()).unwrap_or_default();
            name.to_string_lossy().into_owned()
        })
    }
}

/// An inode with names in several units, or in units and elsewhere. Its blocks become free when the last
/// of these units goes, or never by pruning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Bytes on disk.
    pub bytes: u64,
    /// The units that it has names in, sorted.
    pub units: SmallVec<[u32; 4]>,
    /// It has names outside of all units as well, in the store or not.
    pub elsewhere: bool,
}

/// All that a walk found.
#[derive(Clone, Debug, Default)]
pub struct Units {
    /// In no particular order.
    pub units: Vec<Unit>,
    /// Inodes that don't belong to one unit alone.
    pub shared: Vec<Shared>,
    /// What is in the store and in no unit.
    pub kept: Amount,
    /// How many directories couldn't be read to the end; what is in them is not counted.
    pub unread: u64,
}

impl Units {
    /// What the whole store takes, each inode counted once.
    pub fn total(&self) -> Amount {
        let mut total = self.kept;
        for unit in &self.units {
            total += unit.size;
        }
        for shared in &self.shared {
            total += Amount { bytes: shared.bytes, files: 1 };
        }
        total
    }

    /// Which unit each mark belongs to.
    pub fn by_mark(&self) -> HashMap<&Path, usize> {
        let mut all = HashMap::with_capacity(self.units.len());
        for (number, unit) in self.units.iter().enumerate() {
            all.extend(unit.paths.iter().map(|path| (&**path, number)));
        }
        all
    }
}

/// A path of bytes.
pub(super) fn path(bytes: &[u8]) -> Box<Path> {
    Path::new(OsStr::from_bytes(bytes)).into()
}
