//! Which units there are, and how recently they were used.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Pruned;
use super::recency::Uses;
use crate::cache::Cache;
use crate::platform::fd::AsFd;
use crate::prune::layout::{self, Found, Layout};
use crate::prune::{self, Amount, Plan, Units};
use crate::readers::Job;

/// What was found when it was looked last.
#[derive(Clone, Debug)]
pub struct Known {
    /// When that was, by the clock.
    pub at: SystemTime,
    /// What the store holds, without what is only kept for running jobs.
    pub live: Amount,
    /// Of that, what is in units that running jobs have used.
    pub in_use: Amount,
    /// How many units there are.
    pub units: usize,
    /// By tools: how many units, and what is in them.
    pub tools: BTreeMap<&'static str, (usize, Amount)>,
}

impl Cache {
    /// Looks where in the store which tool's cache lies.
    pub(super) fn find_layouts(&self) -> std::io::Result<Arc<[Found]>> {
        let found: Arc<[Found]> = match self.options.pruning.layout {
            Some(layout) => layout::whole(layout),
            None => layout::find(self.root.as_fd())?,
        }
        .into();
        self.pruner.note_layouts(found.clone());
        Ok(found)
    }

    /// All units, as they are used now; and the uses that were known when it was begun to look. `unknown`
    /// is how a store is laid out in which no tool's cache is found.
    pub(super) fn look_at_units(&self, unknown: Option<Layout>) -> std::io::Result<(Units, u64)> {
        self.pruner.progress.at(1, 0);
        let began = Instant::now();
        let found = self.find_layouts()?;
        self.settle_uses();
        let seen = self.pruner.recency.newest();
        let mut units = match unknown {
            Some(layout) if found.is_empty() => {
                prune::units(self.root.as_fd(), &layout::whole(layout))?
            }
            _ => prune::units(self.root.as_fd(), &found)?,
        };
        self.settle_uses();
        let uses = self.pruner.recency.all();
        self.note_in(&mut units, &uses);
        self.note_known(&units);
        tracing::debug!(units = units.units.len(), took = ?began.elapsed(), "looked at the store");
        Ok((units, seen))
    }

    /// Adds to units what is known of their uses.
    fn note_in(&self, units: &mut Units, uses: &Uses) -> Vec<usize> {
        let marks = units.by_mark();
        let known: Vec<_> =
            uses.iter().filter_map(|(mark, used)| Some((*marks.get(&**mark)?, used))).collect();
        let mut noted = Vec::with_capacity(known.len());
        for (number, used) in known {
            let unit = &mut units.units[number];
            unit.last_use = unit.last_use.max(used.last);
            unit.being_made |= used.maker().is_some_and(|job| self.readers.runs(job));
            unit.in_use |= used.jobs.iter().any(|job| self.uses_still(*job, used.last));
            noted.push(number);
        }
        noted
    }

    /// Whether a job that has used something at that time may go on using it.
    fn uses_still(&self, job: u64, last: SystemTime) -> bool {
        // Of those whose pids can't be seen nobody knows when they end.
        let elapsed = || last.elapsed().unwrap_or_default();
        self.readers.runs(job) && (job != Job::UNKNOWN || elapsed() < self.options.keep.grace)
    }

    /// Adds what was used since `seen`: whether any of that was chosen, and whether there is anything that
    /// was not there when it was looked.
    pub(super) fn used_meanwhile(
        &self,
        units: &mut Units,
        plan: &Plan,
        seen: &mut u64,
    ) -> (bool, bool) {
        self.settle_uses();
        let newest = self.pruner.recency.newest();
        let uses = self.pruner.recency.since(*seen);
        *seen = newest;
        let noted = self.note_in(units, &uses);
        let chosen: HashSet<usize> = plan.chosen.iter().map(|chosen| chosen.unit).collect();
        (noted.iter().any(|unit| chosen.contains(unit)), noted.len() < uses.len())
    }

    /// So much of what is known has gone.
    pub(super) fn note_pruned(&self, pruned: &Pruned) {
        self.numbers.pruned(pruned);
        if let Some((_, known)) = &mut *self.pruner.known.lock() {
            known.live.bytes = known.live.bytes.saturating_sub(pruned.frees.bytes);
            known.live.files = known.live.files.saturating_sub(pruned.frees.files);
            known.units = known.units.saturating_sub(pruned.units.len());
            for unit in &pruned.units {
                if let Some((count, all)) = known.tools.get_mut(unit.tool) {
                    *count = count.saturating_sub(1);
                    all.bytes = all.bytes.saturating_sub(unit.size.bytes);
                    all.files = all.files.saturating_sub(unit.size.files);
                }
            }
        }
    }

    fn note_known(&self, units: &Units) {
        let mut in_use = Amount::default();
        for unit in units.units.iter().filter(|unit| unit.in_use) {
            in_use += unit.size;
        }
        let mut tools = BTreeMap::<_, (usize, Amount)>::new();
        for unit in &units.units {
            let (count, all) = tools.entry(unit.layout.tool()).or_default();
            *count += 1;
            *all += unit.size;
        }
        let (live, units) = (units.total(), units.units.len());
        let known = Known { at: SystemTime::now(), live, in_use, units, tools };
        *self.pruner.known.lock() = Some((Instant::now(), known));
    }

    /// What was last used later than now counts as used now, and from now on (the clock was put back).
    pub(super) fn correct(&self, units: &Units, plan: &Plan, now: SystemTime) {
        for unit in &plan.ahead {
            for path in &units.units[*unit].paths {
                self.set_last_use(path, now);
            }
        }
    }

    /// What the store holds, as it was found not longer than `fresh` ago; else it is looked now. None if
    /// somebody else is just looking, and it is not known from before.
    pub fn known(&self, fresh: Duration) -> Option<Known> {
        let since = self.pruner.known.lock().as_ref().map(|(since, _)| *since);
        if since.is_none_or(|since| since.elapsed() > fresh)
            && let Some(_one) = self.pruner.one.try_lock()
        {
            if let Err(error) = self.look_at_units(None) {
                tracing::warn!("can't look what is in the store: {error}");
            }
            self.pruner.progress.at(0, 0);
        }
        self.pruner.known.lock().as_ref().map(|(_, known)| known.clone())
    }
}
