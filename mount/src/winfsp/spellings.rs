//! How names are spelled in a directory, for who spells them otherwise.
//!
//! A volume knows names exactly. One that it does not have is looked for in the directory's listing, whatever
//! its case. What was listed is kept while it is everybody's listing, until something changes there.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::windows::ffi::OsStrExt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::listing::each;
use super::names::fold;
use crate::{Caller, NodeId, Result, Volume};

/// Directories whose names are kept; more than a build uses at once.
pub(super) const KEPT: usize = 256;

/// Names by what they are with their case folded. Of those that differ only in case, the one that is
/// listed first.
type Names = HashMap<Vec<u16>, OsString>;

#[derive(Default)]
pub(super) struct Spellings {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    directories: HashMap<NodeId, Directory>,
    /// The last state that a directory was given: no two are the same, so that one which is forgotten and
    /// listed anew meanwhile is not taken for what it was.
    last: u64,
}

struct Directory {
    /// Since it was heard of, or has changed last.
    state: u64,
    names: Option<Arc<Names>>,
}

impl Known {
    fn state(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Spellings {
    /// The name in `directory` that differs from `name` only in case, or not at all.
    pub(super) fn find<V: Volume>(
        &self,
        volume: &V,
        caller: &Caller,
        directory: NodeId,
        name: &OsStr,
    ) -> Result<Option<OsString>> {
        let names = self.names(volume, caller, directory)?;
        Ok(names.get(&folded(name)).cloned())
    }

    /// Something in `directory` has another name now.
    pub(super) fn changed(&self, directory: NodeId) {
        let mut known = self.known.lock();
        let state = known.state();
        if let Some(directory) = known.directories.get_mut(&directory) {
            *directory = Directory { state, names: None };
        }
    }

    fn names<V: Volume>(
        &self,
        volume: &V,
        caller: &Caller,
        directory: NodeId,
    ) -> Result<Arc<Names>> {
        let before = {
            let mut known = self.known.lock();
            let state = known.state();
            let directories = &mut known.directories;
            if directories.len() >= KEPT && !directories.contains_key(&directory) {
                // Whoever lists one of them right now keeps it for himself.
                directories.clear();
            }
            let directory =
                directories.entry(directory).or_insert(Directory { state, names: None });
            if let Some(names) = &directory.names {
                return Ok(names.clone());
            }
            directory.state
        };
        let (names, everybodys) = list(volume, caller, directory)?;
        let names = Arc::new(names);
        if everybodys
            && let Some(directory) = self.known.lock().directories.get_mut(&directory)
            && directory.state == before
        {
            directory.names = Some(names.clone());
        }
        Ok(names)
    }
}

fn folded(name: &OsStr) -> Vec<u16> {
    fold(&name.encode_wide().collect::<Vec<_>>())
}

/// The names in a directory, and whether they are the same for everyone.
fn list<V: Volume>(volume: &V, caller: &Caller, directory: NodeId) -> Result<(Names, bool)> {
    let mut names = Names::new();
    let everybodys = each(volume, caller, directory, false, |entry| {
        if entry.name != "." && entry.name != ".." {
            names.entry(folded(entry.name)).or_insert_with(|| entry.name.into());
        }
    })?;
    Ok((names, everybodys))
}
