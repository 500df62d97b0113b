//! Finds the caches in a store by looking.

use std::collections::VecDeque;
use std::io;

use super::{ALL, Layout, Look};
use crate::platform::fd::BorrowedFd;
use crate::prune::directory::open_directory;
use crate::store::PRIVATE;

/// Where in a store a tool's cache lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    prefix: Box<[u8]>,
    layout: Layout,
}

impl Found {
    /// For somebody who knows. `prefix` is relative to the store, and empty for the store itself.
    pub fn new(prefix: &[u8], layout: Layout) -> Found {
        Found { prefix: prefix.into(), layout }
    }

    /// The path of the cache, relative to the store; empty for the store itself.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// How it is laid out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Where in a path below it the part begins that the rules see.
    pub(in crate::prune) fn start(&self) -> usize {
        if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 }
    }

    /// Whether a path lies below it.
    pub(super) fn holds(&self, path: &[u8]) -> bool {
        self.prefix.is_empty()
            || path.strip_prefix(&*self.prefix).is_some_and(|rest| rest.starts_with(b"/"))
    }
}

/// How far below the root caches are looked for: `.cache/huggingface/hub`, `go/pkg/mod`.
const DEEPEST: usize = 3;

/// How many directories are looked at, at most.
const MOST: usize = 10_000;

/// Looks which caches are in the store at `root`, in it as a whole or in folders of it. No cache is looked
/// for inside another.
///
/// # Errors
/// Only if the root itself can't be read.
pub fn find(root: BorrowedFd<'_>) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut looks = VecDeque::from([(Vec::new(), 0, Look::at(open_directory(root, b".")?)?)]);
    let mut looked = 1;
    while let Some((prefix, depth, look)) = looks.pop_front() {
        if let Some(rules) = ALL.into_iter().find(|rules| rules.is_at(&look)) {
            found.push(Found::new(&prefix, Layout(rules)));
            continue;
        }
        if depth == DEEPEST {
            continue;
        }
        for name in look.directories().filter(|name| *name != PRIVATE.as_bytes()) {
            if looked == MOST {
                break;
            }
            if let Some(inside) = look.inside(name) {
                looked += 1;
                let mut path = prefix.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                looks.push_back((path, depth + 1, inside));
            }
        }
    }
    found.sort_unstable_by(|one, other| one.prefix.cmp(&other.prefix));
    Ok(found)
}

/// What to use instead of [`find`] when somebody has said how the store as a whole is laid out.
pub fn whole(layout: Layout) -> Vec<Found> {
    vec![Found::new(b"", layout)]
}
