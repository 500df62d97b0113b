//! What a cache counts while it is used: numbers that only grow.
//!
//! A *hit* is the opening of a file that was there, a *miss* the asking for a name that was not. Both are counted
//! for the tool whose cache the file, or the directory of the name, lies in; for [`OTHER`] where that is not
//! known, as in a cache that has only just been begun. What the kernel answers alone is not counted: that a name
//! is not there, it asks only once.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Cache;
use super::pruning::Pruned;
use super::retire::Amount;
use super::tree::Node;
use crate::prune::layout::{self, Layout};

/// For what lies in no cache of a known tool.
pub const OTHER: &str = "other";

/// What is counted for each tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToolNumbers {
    /// Files that were opened and were there.
    pub hits: u64,
    /// Names that were asked for and were not there.
    pub misses: u64,
    /// Units that were pruned.
    pub pruned_units: u64,
    /// What they took, in bytes.
    pub pruned_bytes: u64,
}

/// What is counted for all together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// By the names of the tools; [`OTHER`] first.
    pub tools: Vec<(&'static str, ToolNumbers)>,
    /// Bytes that the daemon has read for clients. What the kernel reads by itself is not among them.
    pub read_bytes: u64,
    /// Bytes that clients have written.
    pub written_bytes: u64,
    /// Files that were written apart from what was there, and took their names in one step.
    pub published: u64,
    /// Files that the store did not take.
    pub spilled: u64,
    /// Files and bytes that were removed, and that nobody needed any more.
    pub reclaimed: Amount,
}

impl Totals {
    /// All tools together.
    pub fn all_tools(&self) -> ToolNumbers {
        let mut all = ToolNumbers::default();
        for (_, tool) in &self.tools {
            all.hits += tool.hits;
            all.misses += tool.misses;
            all.pruned_units += tool.pruned_units;
            all.pruned_bytes += tool.pruned_bytes;
        }
        all
    }
}

#[derive(Debug, Default)]
struct Tool {
    hits: AtomicU64,
    misses: AtomicU64,
    pruned_units: AtomicU64,
    pruned_bytes: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Numbers {
    /// `names[0]` is [`OTHER`].
    names: Vec<&'static str>,
    tools: Box<[Tool]>,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    published: AtomicU64,
    spilled: AtomicU64,
    reclaimed_files: AtomicU64,
    reclaimed_bytes: AtomicU64,
}

fn add(to: &AtomicU64, count: u64) {
    to.fetch_add(count, Ordering::Relaxed);
}

impl Numbers {
    pub(super) fn new() -> Numbers {
        let mut names = vec![OTHER];
        names.extend(Layout::tools());
        Numbers {
            tools: names.iter().map(|_| Tool::default()).collect(),
            names,
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            published: AtomicU64::new(0),
            spilled: AtomicU64::new(0),
            reclaimed_files: AtomicU64::new(0),
            reclaimed_bytes: AtomicU64::new(0),
        }
    }

    fn number(&self, tool: &str) -> usize {
        self.names.iter().position(|name| *name == tool).unwrap_or(0)
    }

    pub(super) fn read(&self, bytes: usize) {
        add(&self.read_bytes, bytes as u64);
    }

    pub(super) fn written(&self, bytes: usize) {
        add(&self.written_bytes, bytes as u64);
    }

    pub(super) fn published(&self) {
        add(&self.published, 1);
    }

    pub(super) fn spilled(&self) {
        add(&self.spilled, 1);
    }

    pub(super) fn reclaimed(&self, amount: Amount) {
        add(&self.reclaimed_files, amount.files);
        add(&self.reclaimed_bytes, amount.bytes);
    }

    pub(super) fn pruned(&self, pruned: &Pruned) {
        for unit in &pruned.units {
            let tool = &self.tools[self.number(unit.tool)];
            add(&tool.pruned_units, 1);
            add(&tool.pruned_bytes, unit.size.bytes);
        }
    }

    fn totals(&self) -> Totals {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let tool = |tool: &Tool| ToolNumbers {
            hits: get(&tool.hits),
            misses: get(&tool.misses),
            pruned_units: get(&tool.pruned_units),
            pruned_bytes: get(&tool.pruned_bytes),
        };
        Totals {
            tools: self.names.iter().copied().zip(self.tools.iter().map(tool)).collect(),
            read_bytes: get(&self.read_bytes),
            written_bytes: get(&self.written_bytes),
            published: get(&self.published),
            spilled: get(&self.spilled),
            reclaimed: Amount {
                files: get(&self.reclaimed_files),
                bytes: get(&self.reclaimed_bytes),
            },
        }
    }
}

/// A node's own note of which tool it is of: as it was found when the caches were found that time.
fn stamp(generation: u32, tool: usize) -> u32 {
    generation << 8 | tool as u32
}

impl Cache {
    /// Somebody opens a file that was there.
    pub(super) fn count_hit(&self, node: &Node) {
        add(&self.numbers.tools[self.tool_of(node)].hits, 1);
    }

    /// Somebody asks for a name in this directory that is not there.
    pub(super) fn count_miss(&self, directory: &Node) {
        add(&self.numbers.tools[self.tool_of(directory)].misses, 1);
    }

    /// The number of the tool whose cache this lies in. Found once, and again when other caches are found.
    fn tool_of(&self, node: &Node) -> usize {
        let generation = self.pruner.generation() & (u32::MAX >> 8);
        let known = node.tool.load(Ordering::Relaxed);
        if known >> 8 == generation {
            return (known & 0xff) as usize;
        }
        let live = self.paths_of(node).into_iter().next();
        // What a user has to himself, was spilled, or is kept for running jobs counts where they see it. What
        // has no name at all, as what is being written, may be given one.
        let Some(path) = live.or_else(|| self.last_path(node.id)) else { return 0 };
        let layout = layout::of(&self.pruner.layouts(), &path);
        let tool = layout.map_or(0, |layout| self.numbers.number(layout.tool()));
        node.tool.store(stamp(generation, tool), Ordering::Relaxed);
        tool
    }

    /// What was counted since it was mounted.
    pub fn totals(&self) -> Totals {
        self.numbers.totals()
    }
}
