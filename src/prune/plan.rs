//! Decides which units go. Pure: all that counts is given.
//!
//! The order is that of last use, the oldest first; units that running readers use come after all
//! others (SEMANTICS 6.4). A unit counts as used whenever one that needs it is. So whatever needs a
//! unit comes before it, and is gone when its turn comes.

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use smallvec::SmallVec;

use super::policy::{Now, Policy};
use super::size::share;
use super::unit::{Amount, Units};

/// Why a unit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was last used too long ago.
    Age,
    /// There are too many bytes.
    Size,
    /// There are too many files.
    Files,
    /// Too few bytes are free.
    Free,
    /// It needs this unit, which goes.
    Needs(usize),
    /// This unit was the last that needed it.
    Unneeded(usize),
}

/// A unit that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its number in [`Units::units`].
    pub unit: usize,
    /// Why it goes.
    pub why: Why,
}

/// What is to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they were chosen, each once.
    pub chosen: Vec<Chosen>,
    /// What becomes free when nobody sees them any more. What others share with them is not in it.
    pub frees: Amount,
    /// What of the limits is left to be desired when all of them are gone.
    pub lacks: Amount,
    /// The units that were last used later than now, because a clock was put back: they count as used
    /// now. Unless their access times are set to now as well, they will again.
    pub ahead: Vec<usize>,
}

/// Chooses from `units` what has to go by `policy`.
///
/// Either the limits are kept then, or everything that may go is chosen. What is chosen ends with the unit
/// without which a limit would not be kept, and what goes along with that.
pub fn plan(units: &Units, policy: &Policy, now: &Now) -> Plan {
    let mut choice = Choice::new(units, policy, now);
    for unit in std::mem::take(&mut choice.recent.order) {
        if let Some(why) = choice.reason(unit) {
            choice.take(unit, why);
        }
    }
    let ahead = (0..units.units.len()).filter(|i| units.units[*i].last_use > now.time).collect();
    let lacks = choice.wanted.lacks(choice.frees);
    Plan { chosen: choice.chosen, frees: choice.frees, lacks, ahead }
}

/// How recently something was used: by a running reader or not, and when.
type Recent = (bool, SystemTime);

/// How recently each unit was used itself.
fn own_uses(units: &Units, now: SystemTime) -> Vec<Recent> {
    let own = |i: usize| (units.units[i].in_use, units.units[i].last_use.min(now));
    let through = |i: usize| {
        let unit = &units.units[i];
        let needs = unit.needs.iter().filter(|_| unit.used_through_needs);
        needs.fold(own(i), |(in_use, time), need| {
            let (other_in_use, other) = own(*need as usize);
            (in_use || other_in_use, time.max(other))
        })
    };
    (0..units.units.len()).map(through).collect()
}

/// Who was used when.
struct Recency {
    /// How recently each unit was used, itself or through one that needs it.
    uses: Vec<Recent>,
    /// The units in the order in which they go: none before one that needs it, and apart from that the
    /// most recently used ones last.
    order: Vec<usize>,
}

impl Recency {
    fn new(units: &Units, now: SystemTime) -> Recency {
        let own = own_uses(units, now);
        let mut newest: Vec<u32> = (0..own.len() as u32).collect();
        newest.sort_unstable_by(|one, other| {
            let key = |i: &u32| (own[*i as usize], units.units[*i as usize].paths.first());
            key(other).cmp(&key(one))
        });
        let mut uses = own.clone();
        let mut order = Vec::with_capacity(own.len());
        let mut seen = vec![false; own.len()];
        for start in newest {
            // Whatever is reached for the first time was used by nobody later than this one was. The
            // second number is how many of its needs were looked at.
            let mut open = vec![(start, 0)];
            while let Some((unit, looked)) = open.pop() {
                let at = unit as usize;
                if looked == 0 {
                    if std::mem::replace(&mut seen[at], true) {
                        continue;
                    }
                    uses[at] = own[start as usize];
                }
                match units.units[at].needs.get(looked) {
                    Some(&need) => {
                        open.push((unit, looked + 1));
                        open.push((need, 0));
                    }
                    None => order.push(at),
                }
            }
        }
        order.reverse();
        Recency { uses, order }
    }
}

/// How much has to go for each limit.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    size: u64,
    files: u64,
    free: u64,
    /// What was last used earlier goes.
    before: Option<SystemTime>,
}

impl Wanted {
    fn new(holds: Amount, policy: &Policy, now: &Now) -> Wanted {
        let down_to = u64::from(policy.down_to.clamp(1, 100));
        let over = |holds: u64, most: Option<u64>| match most {
            Some(most) if holds > most => holds - share(most, down_to),
            _ => 0,
        };
        let free = match (policy.min_free, now.free) {
            (Some(least), Some(free)) if free < least => share(least, 200 - down_to) - free,
            _ => 0,
        };
        let before = policy.max_age.map(|age| {
            now.time.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH - Duration::from_secs(1))
        });
        Wanted {
            size: over(holds.bytes, policy.max_size),
            files: over(holds.files, policy.max_files),
            free,
            before,
        }
    }

    /// What of it is left when so much is gone.
    fn lacks(&self, gone: Amount) -> Amount {
        Amount {
            bytes: self.size.max(self.free).saturating_sub(gone.bytes),
            files: self.files.saturating_sub(gone.files),
        }
    }
}

/// A plan being made.
struct Choice<'u> {
    units: &'u Units,
    allowed: Vec<bool>,
    recent: Recency,
    wanted: Wanted,
    chosen: Vec<Chosen>,
    gone: Vec<bool>,
    frees: Amount,
    /// Who needs each unit.
    needed_by: Vec<SmallVec<[u32; 2]>>,
    /// How many of those are left.
    needed: Vec<u32>,
    /// What each unit shares, and how many units are left that share it.
    shares: Vec<SmallVec<[u32; 2]>>,
    sharers: Vec<u32>,
}

impl<'u> Choice<'u> {
    fn new(units: &'u Units, policy: &Policy, now: &Now) -> Choice<'u> {
        let number = units.units.len();
        let mut allowed: Vec<bool> =
            units.units.iter().map(|unit| policy.only.allows(unit)).collect();
        keep_what_is_being_made(units, &mut allowed);
        let mut needed_by = vec![SmallVec::new(); number];
        for (at, unit) in units.units.iter().enumerate() {
            for need in &unit.needs {
                needed_by[*need as usize].push(at as u32);
            }
        }
        let mut shares = vec![SmallVec::new(); number];
        for (at, shared) in units.shared.iter().enumerate() {
            for unit in &shared.units {
                shares[*unit as usize].push(at as u32);
            }
        }
        let holds = if policy.only.is_all() { units.total() } else { of_allowed(units, &allowed) };
        Choice {
            units,
            recent: Recency::new(units, now.time),
            wanted: Wanted::new(holds, policy, now),
            chosen: Vec::new(),
            gone: vec![false; number],
            frees: Amount::default(),
            needed: needed_by.iter().map(|by: &SmallVec<[u32; 2]>| by.len() as u32).collect(),
            needed_by,
            shares,
            sharers: units.shared.iter().map(|shared| shared.units.len() as u32).collect(),
            allowed,
        }
    }

    /// Why a unit has to go, if it has to, now that its turn has come.
    fn reason(&self, unit: usize) -> Option<Why> {
        if self.gone[unit] || !self.allowed[unit] {
            return None;
        }
        let (in_use, time) = self.recent.uses[unit];
        // No matter how long ago a job has used it: it still runs, and space is not the reason.
        if !in_use && self.wanted.before.is_some_and(|before| time < before) {
            Some(Why::Age)
        } else if self.frees.bytes < self.wanted.size {
            Some(Why::Size)
        } else if self.frees.files < self.wanted.files {
            Some(Why::Files)
        } else if self.frees.bytes < self.wanted.free {
            Some(Why::Free)
        } else {
            None
        }
    }

    /// Chooses a unit, and all that can't stay without it.
    fn take(&mut self, unit: usize, why: Why) {
        let mut open = vec![Chosen { unit, why }];
        while let Some(chosen) = open.pop() {
            let unit = chosen.unit;
            if std::mem::replace(&mut self.gone[unit], true) {
                continue;
            }
            self.chosen.push(chosen);
            self.frees += self.units.units[unit].size;
            for &shared in &self.shares[unit] {
                let left = &mut self.sharers[shared as usize];
                *left -= 1;
                let shared = &self.units.shared[shared as usize];
                if *left == 0 && !shared.elsewhere {
                    self.frees += Amount { bytes: shared.bytes, files: 1 };
                }
            }
            for &need in &self.units.units[unit].needs {
                let need = need as usize;
                self.needed[need] -= 1;
                if self.needed[need] == 0 && self.units.units[need].only_needed {
                    open.push(Chosen { unit: need, why: Why::Unneeded(unit) });
                }
            }
            for &by in &self.needed_by[unit] {
                open.push(Chosen { unit: by as usize, why: Why::Needs(unit) });
            }
        }
    }
}

/// What is being made may not be chosen, nor what it can't do without.
fn keep_what_is_being_made(units: &Units, allowed: &mut [bool]) {
    let made = |i: &usize| units.units[*i].being_made;
    let mut open: Vec<usize> = (0..units.units.len()).filter(made).collect();
    let mut seen = vec![false; units.units.len()];
    while let Some(unit) = open.pop() {
        allowed[unit] = false;
        if !std::mem::replace(&mut seen[unit], true) {
            open.extend(units.units[unit].needs.iter().map(|need| *need as usize));
        }
    }
}

/// What the units that may be chosen hold.
fn of_allowed(units: &Units, allowed: &[bool]) -> Amount {
    let mut holds = Amount::default();
    for (unit, _) in units.units.iter().zip(allowed).filter(|(_, allowed)| **allowed) {
        holds += unit.size;
    }
    for shared in &units.shared {
        if shared.units.iter().any(|unit| allowed[*unit as usize]) {
            holds += Amount { bytes: shared.bytes, files: 1 };
        }
    }
    holds
}
