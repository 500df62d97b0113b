//! Joins the parts of one tool's cache to units.
//!
//! A *part* is a path that goes as a whole. Which parts are one unit, and which units need which, is
//! said by [`Link`]s: a part's name or content, read by the tool's rules, names others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::time::{Duration, SystemTime};

use smallvec::SmallVec;

use super::directory::kind;
use super::layout::{Found, Rules, Seen};
use super::unit::{Amount, Unit};
use crate::platform::fs::{FileType, Statx};

/// What one part has to do with another that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bond {
    /// They are one unit.
    Same,
    /// The other belongs to whatever names it: to the unit that does, if it is the only one; else it
    /// is a unit of its own, which goes with the last of them.
    Belongs,
    /// As [`Bond::Belongs`], where using the other is the only trace of a use of those that name it.
    BelongsAndTells,
    /// This one is no good without the other.
    Needs,
}

/// A part, as walked.
pub(super) struct Part {
    path: Box<Path>,
    pub(super) size: Amount,
    last_use: SystemTime,
}

impl Part {
    pub(super) fn new(path: Box<Path>, status: &Statx) -> Part {
        // Whoever looks where a link leads changes its access time, also a walk. It is used through what
        // it leads to.
        let time = match kind(status) {
            FileType::Symlink => &status.stx_mtime,
            _ => &status.stx_atime,
        };
        // What is said to be from before 1970 is as old as can be.
        let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
        let last_use = SystemTime::UNIX_EPOCH
            .checked_add(seconds + Duration::from_nanos(time.tv_nsec.into()))
            .unwrap_or(SystemTime::UNIX_EPOCH);
        Part { path, size: Amount::default(), last_use }
    }
}

/// One part names another.
#[derive(Clone, Copy)]
struct Link {
    from: u32,
    to: u64,
    bond: Bond,
}

/// Where rules put what a part names.
pub(super) struct Links<'g> {
    from: u32,
    names: &'g RandomState,
    all: &'g mut Vec<Link>,
}

impl Links<'_> {
    /// Names a part by its path, relative to the tool's cache, in pieces that are joined by `/`. It is
    /// no matter if there is none.
    pub(super) fn add(&mut self, bond: Bond, pieces: &[&[u8]]) {
        let to = number(self.names, pieces);
        self.all.push(Link { from: self.from, to, bond });
    }
}

/// Stands for a path in tables of millions.
fn number(names: &RandomState, pieces: &[&[u8]]) -> u64 {
    let mut hasher = names.build_hasher();
    for (index, piece) in pieces.iter().enumerate() {
        if index > 0 {
            hasher.write(b"/");
        }
        hasher.write(piece);
    }
    hasher.finish()
}

/// What is known of one tool's cache while it is walked.
pub(super) struct Gathering<'f> {
    found: &'f Found,
    names: RandomState,
    /// The parts that may be named.
    named: HashMap<u64, u32>,
    links: Vec<Link>,
    /// For each part another one of the same unit, or itself.
    same: Vec<u32>,
}

impl<'f> Gathering<'f> {
    pub(super) fn new(found: &'f Found) -> Gathering<'f> {
        Gathering {
            found,
            names: RandomState::new(),
            named: HashMap::new(),
            links: Vec::new(),
            same: Vec::new(),
        }
    }

    pub(super) fn rules(&self) -> &'static dyn Rules {
        self.found.layout().rules()
    }

    /// Where, in a path relative to the store, the part begins that rules see.
    pub(super) fn start(&self) -> usize {
        self.found.start()
    }

    /// The number of a new part.
    pub(super) fn add(&mut self, inside: &[&[u8]]) -> u32 {
        let part = self.same.len() as u32;
        self.same.push(part);
        if self.rules().names_parts() {
            self.named.insert(number(&self.names, inside), part);
        }
        part
    }

    /// Two parts are one unit.
    pub(super) fn join(&mut self, one: u32, other: u32) {
        let (one, other) = (self.first(one), self.first(other));
        // Towards the first, so that numbers of units follow those of parts.
        self.same[one.max(other) as usize] = one.min(other);
    }

    /// What the rules make of what was seen.
    pub(super) fn see(&mut self, part: u32, inside: &[&[u8]], seen: Seen<'_>) {
        let rules = self.rules();
        let mut links = Links { from: part, names: &self.names, all: &mut self.links };
        rules.links(inside, seen, &mut links);
    }

    /// The part that stands for a part's unit.
    fn first(&mut self, mut part: u32) -> u32 {
        while self.same[part as usize] != part {
            let next = self.same[part as usize];
            self.same[part as usize] = self.same[next as usize];
            part = next;
        }
        part
    }

    /// The two ends of each link of a kind, as they stand now; none from a unit to itself.
    fn ends(&mut self, links: &[Link], wanted: impl Fn(Bond) -> bool) -> Vec<(u32, u32, Bond)> {
        let mut ends = Vec::new();
        for link in links.iter().filter(|link| wanted(link.bond)) {
            if let Some(&to) = self.named.get(&link.to) {
                let (from, to) = (self.first(link.from), self.first(to));
                if from != to {
                    ends.push((from, to, link.bond));
                }
            }
        }
        ends
    }

    /// Makes units of the parts, and notes in `unit_of` the unit of each.
    pub(super) fn finish(
        mut self,
        parts: Vec<Part>,
        units: &mut Vec<Unit>,
        unit_of: &mut Vec<u32>,
    ) {
        let links = std::mem::take(&mut self.links);
        for (from, to, _) in self.ends(&links, |bond| bond == Bond::Same) {
            self.join(from, to);
        }

        let belongs = |bond| matches!(bond, Bond::Belongs | Bond::BelongsAndTells);
        let mut owner: HashMap<u32, Option<u32>> = HashMap::new();
        for (from, to, _) in self.ends(&links, belongs) {
            match owner.entry(to) {
                Entry::Vacant(first) => drop(first.insert(Some(from))),
                Entry::Occupied(mut known) => {
                    if *known.get() != Some(from) {
                        known.insert(None);
                    }
                }
            }
        }
        for (to, from) in &owner {
            if let Some(from) = from {
                self.join(*from, *to);
            }
        }
        let needs = self.ends(&links, |bond| bond != Bond::Same);

        // Units in the order of their first parts.
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        for (part, found) in parts.into_iter().enumerate() {
            let first = self.first(part as u32);
            let number = *numbers.entry(first).or_insert_with(|| {
                units.push(self.empty());
                (units.len() - 1) as u32
            });
            unit_of.push(number);
            let unit = &mut units[number as usize];
            unit.paths.push(found.path);
            unit.size += found.size;
            unit.last_use = unit.last_use.max(found.last_use);
        }
        for number in numbers.values() {
            units[*number as usize].paths.sort_unstable();
        }
        for (from, to, bond) in needs {
            let (from, to) = (numbers[&from], numbers[&to]);
            if belongs(bond) {
                units[to as usize].only_needed = true;
            }
            let unit = &mut units[from as usize];
            unit.used_through_needs |= bond == Bond::BelongsAndTells;
            if !unit.needs.contains(&to) {
                unit.needs.push(to);
            }
        }
    }

    fn empty(&self) -> Unit {
        Unit {
            layout: self.found.layout(),
            prefix: self.found.start() as u16,
            paths: SmallVec::new(),
            size: Amount::default(),
            last_use: SystemTime::UNIX_EPOCH,
            in_use: false,
            being_made: false,
            needs: SmallVec::new(),
            only_needed: false,
            used_through_needs: false,
        }
    }
}
