//! Any other tree, `generic:DEPTH`: every entry at that depth is a unit, with all that is below it; a
//! file that lies higher is one of its own. With `generic:1`, these are the entries at the top.
//!
//! Whoever chooses it says by that: each of these can go without harm to the others. It is never found by
//! looking.

use super::{Inside, Look, Place, Rules};
use crate::cache::view::is_lock_name;

/// The greatest depth.
pub(super) const MOST: usize = 16;

#[derive(Clone, Copy)]
pub(super) struct Generic {
    depth: usize,
    name: &'static str,
}

macro_rules! depths {
    ($($depth:literal)*) => {
        [$(Generic { depth: $depth, name: concat!("generic:", $depth) }),*]
    };
}

static DEPTHS: [Generic; MOST] = depths![1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16];

impl Generic {
    pub(super) const ENTRIES: &'static Generic = &DEPTHS[1];

    pub(super) fn of_depth(depth: usize) -> Option<&'static Generic> {
        DEPTHS.get(depth.checked_sub(1)?)
    }
}

impl Rules for Generic {
    fn name(&self) -> &'static str {
        self.name
    }

    fn tool(&self) -> &'static str {
        "generic"
    }

    fn is_at(&self, _: &Look) -> bool {
        false
    }

    fn place(&self, path: &Inside<'_>) -> Place {
        let tag = matches!(path[0], b"CACHEDIR.TAG" | b".gitignore");
        if tag || path.iter().take(self.depth).any(|name| is_lock_name(name)) {
            Place::Kept
        } else if path.len() < self.depth {
            Place::Loose
        } else {
            Place::Part(self.depth)
        }
    }

    fn title(&self, path: &Inside<'_>) -> Option<String> {
        Some(super::text(&path.join(&b'/')))
    }
}
