//! Pruning the store while it is in use (SEMANTICS 6): by hand, by limits, and when it is full.
//!
//! * `look`: which units there are, and how recently they were used.
//! * `list`: all units, in the order in which they would go.
//! * `apply`: what was chosen leaves the live view, as one change.
//! * `recency`: what the mount has seen being used.
//! * `pruner`: what goes on in the background.

mod apply;
mod list;
mod look;
mod pruner;
mod recency;

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

pub use self::list::{Inventory, Listed};
pub use self::look::Known;
pub(super) use self::pruner::Pruner;
pub(super) use self::recency::seconds;
use super::Cache;
use super::retire::ADMINISTRATOR;
use super::spill::space;
use crate::prune::layout::Layout;
use crate::prune::size::Size;
use crate::prune::{self, Amount, Now, Only, Plan, Policy, Units, Why};
use crate::readers::Job;

/// What a store may hold. What is `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// At most so much.
    pub max_size: Option<Size>,
    /// Nothing that was last used longer ago.
    pub max_age: Option<Duration>,
    /// So much should be free on its filesystem.
    pub min_free: Option<Size>,
}

impl Limits {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }
}

/// How a store is pruned while it is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// What it may hold.
    pub limits: Limits,
    /// How often that is looked after, apart from when so much was written that it has to be; `None`: the
    /// limits are for those who prune by hand.
    pub every: Option<Duration>,
    /// How all of the store is laid out; `None`: that is found by looking.
    pub layout: Option<Layout>,
}

/// What is to be pruned, by hand.
#[derive(Clone, Debug, Default)]
pub struct PruneRequest {
    /// What may stay. If there are no limits: those of the mount, or nothing where `only` says what is
    /// meant.
    pub limits: Limits,
    /// What may go.
    pub only: Only,
    /// Only to say what would go.
    pub dry_run: bool,
    /// For which process, which does not go on seeing it; 0: nobody's.
    pub by: u32,
}

/// What went, or would go.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// The units, in the order in which they were chosen.
    pub units: Vec<PrunedUnit>,
    /// What is free when nobody sees them any more.
    pub frees: Amount,
    /// By how much the limits are missed all the same.
    pub lacks: Amount,
    /// The jobs that go on seeing them: nothing is free before these have ended.
    pub seen_by: Vec<Arc<Job>>,
    /// What the store held before.
    pub held: Amount,
    /// Directories that could not be read, so that nothing in them was counted.
    pub unread: u64,
    /// Nothing in the store looks like the cache of a tool that is known.
    pub unknown: bool,
}

/// A unit that went, or would go.
#[derive(Clone, Debug)]
pub struct PrunedUnit {
    /// Whose it was.
    pub tool: &'static str,
    /// What people call it.
    pub name: String,
    /// Where it lay, relative to the mount.
    pub paths: Vec<PathBuf>,
    /// What it alone took.
    pub size: Amount,
    /// When it was used last, as far as is known.
    pub last_used: SystemTime,
    /// Why it was chosen.
    pub why: Why,
}

/// Why nothing was pruned.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// It was not said what may stay.
    #[error(
        "it is not said what may stay: give --max-size, --older-than or --min-free, or name a --tool or paths \
         to prune all of that"
    )]
    NoLimits,
    /// Nothing can be removed.
    #[error("the store can't be written, so that nothing in it can be removed")]
    ReadOnly,
    /// The store refuses.
    #[error("{what}: {error}")]
    Store {
        /// What could not be done.
        what: &'static str,
        /// Why not.
        error: std::io::Error,
    },
}

/// How far one who prunes has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    step: AtomicUsize,
    done: AtomicU64,
    of: AtomicU64,
}

/// What a pruner does, in this order.
const STEPS: [&str; 3] = ["idle", "looking", "removing"];

impl Progress {
    fn at(&self, step: usize, of: usize) {
        self.step.store(step, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.of.store(of as u64, Ordering::Relaxed);
    }

    fn one_more(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Removes these paths of a plan; gives back who goes on seeing them.
type Apply<'a> = dyn Fn(&Plan, &[PathBuf]) -> Vec<Arc<Job>> + 'a;

/// So often it is planned anew because somebody has used what was chosen.
const PLANS: usize = 8;

/// So often it is looked anew because somebody has made new units meanwhile.
const LOOKS: usize = 3;

impl Cache {
    /// Prunes by hand. Nobody who runs is disturbed.
    pub fn prune(&self, request: &PruneRequest) -> Result<Pruned, PruneError> {
        let mut limits = request.limits;
        let named = !request.only.tools.is_empty() || !request.only.paths.is_empty();
        if limits.is_empty() && !named {
            limits = self.options.pruning.limits;
            if limits.is_empty() {
                return Err(PruneError::NoLimits);
            }
        }
        if self.spill.read_only && !request.dry_run {
            return Err(PruneError::ReadOnly);
        }
        let mut policy = Policy { down_to: 100, only: request.only.clone(), ..self.policy(limits) };
        if limits.is_empty() {
            policy.max_files = Some(0);
        }
        let by = self.job_of(request.by).unwrap_or(ADMINISTRATOR);
        let tell = |folder, name: &[u8]| self.tell_kernel(folder, name);
        let apply = |_: &Plan, paths: &[PathBuf]| match request.dry_run {
            true => self.readers.all().into_iter().filter(|job| job.id != by).collect(),
            false => self.remove_at_once(&self.cleaning.lock(), paths, by, &tell),
        };
        let pruned = self.prune_by(&policy, &apply)?;
        if !request.dry_run {
            self.note_pruned(&pruned);
        }
        Ok(pruned)
    }

    /// The limits as a policy: a limit that is passed is gone below by a tenth.
    fn policy(&self, limits: Limits) -> Policy {
        let whole = space(&*self.root).map_or(u64::MAX, |(_, whole)| whole);
        let bytes = |size: Option<Size>| size.map(|size| size.of(whole));
        Policy {
            max_size: bytes(limits.max_size),
            min_free: bytes(limits.min_free),
            max_age: limits.max_age,
            ..Policy::default()
        }
    }

    /// Removes at once what is worth so many bytes together and was used least recently, for a job that
    /// needs the room; nothing, if all together is worth less. Waits for nobody: it is called by those who
    /// answer the kernel, and who prunes may be waiting for the kernel.
    pub(super) fn prune_for_room(&self, bytes: u64, job: u64) -> bool {
        let Some(_one) = self.pruner.one.try_lock() else { return false };
        let wanted = self.free_soon().map(|free| free.saturating_add(bytes));
        let policy = Policy { min_free: wanted, down_to: 100, ..Policy::default() };
        let tell = |folder, name: &[u8]| self.tell_kernel_later(folder, name);
        let removed = Cell::new(false);
        let apply = |plan: &Plan, paths: &[PathBuf]| {
            if plan.lacks.bytes == 0
                && let Some(one) = self.cleaning.try_lock()
            {
                tracing::info!(?paths, "the store is full: removing what was used least recently");
                self.remove_at_once(&one, paths, job, &tell);
                removed.set(true);
            }
            Vec::new()
        };
        let pruned = self.prune_alone(&policy, &apply, Some(Layout::entries()));
        if let (Ok(pruned), true) = (&pruned, removed.get()) {
            self.note_pruned(pruned);
        }
        removed.get()
    }

    /// Looks, plans, and has `apply` remove what was chosen; that gives back who goes on seeing it.
    fn prune_by(&self, policy: &Policy, apply: &Apply<'_>) -> Result<Pruned, PruneError> {
        let _one = self.pruner.one.lock();
        self.prune_alone(policy, apply, None)
    }

    /// With [`Pruner::one`] locked. `unknown` is how a store is laid out in which no tool's cache is found.
    fn prune_alone(
        &self,
        policy: &Policy,
        apply: &Apply<'_>,
        unknown: Option<Layout>,
    ) -> Result<Pruned, PruneError> {
        let failed = |error| PruneError::Store { what: "can't read the store", error };
        let chosen = self.choose_units(policy, unknown).map_err(failed);
        let pruned = chosen.and_then(|(units, plan)| self.prune_chosen(&units, &plan, apply));
        self.pruner.progress.at(0, 0);
        pruned
    }

    fn prune_chosen(
        &self,
        units: &Units,
        plan: &Plan,
        apply: &Apply<'_>,
    ) -> Result<Pruned, PruneError> {
        let paths: Vec<PathBuf> = plan
            .chosen
            .iter()
            .flat_map(|chosen| units.units[chosen.unit].paths.iter().map(|path| path.to_path_buf()))
            .collect();
        let seen_by = match paths.is_empty() {
            true => Vec::new(),
            false => apply(plan, &paths),
        };
        let unknown = units.units.is_empty() && self.pruner.layouts().is_empty();
        Ok(Pruned { unknown, ..told(units, plan, seen_by) })
    }

    /// What is to go, as things stand now: nothing that somebody has used while that was found out.
    fn choose_units(
        &self,
        policy: &Policy,
        unknown: Option<Layout>,
    ) -> std::io::Result<(Units, Plan)> {
        let mut looks = 1;
        let (mut units, mut seen) = self.look_at_units(unknown)?;
        for round in 1.. {
            let now = Now { time: SystemTime::now(), free: self.free_soon() };
            let plan = prune::plan(&units, policy, &now);
            self.correct(&units, &plan, now.time);
            let (again, anew) = self.used_meanwhile(&mut units, &plan, &mut seen);
            if anew && looks < LOOKS {
                looks += 1;
                (units, seen) = self.look_at_units(unknown)?;
            } else if !again || round >= PLANS {
                return Ok((units, plan));
            }
        }
        unreachable!("the loop has no end of its own")
    }

    /// Whether somebody is just pruning.
    pub(super) fn is_pruning(&self) -> bool {
        self.pruner.one.is_locked()
    }

    /// What is free, and what will be when those have ended who go on seeing what was removed.
    fn free_soon(&self) -> Option<u64> {
        space(&*self.root).map(|(free, _)| free.saturating_add(self.retired().bytes))
    }

    /// How far one who prunes has come: what is done, how much of it, and of how much.
    pub fn prune_progress(&self) -> (&'static str, u64, u64) {
        let progress = &self.pruner.progress;
        let step = STEPS[progress.step.load(Ordering::Relaxed)];
        (step, progress.done.load(Ordering::Relaxed), progress.of.load(Ordering::Relaxed))
    }
}

fn told(units: &Units, plan: &Plan, seen_by: Vec<Arc<Job>>) -> Pruned {
    let one = |chosen: &prune::Chosen| {
        let unit = &units.units[chosen.unit];
        PrunedUnit {
            tool: unit.layout.tool(),
            name: unit.name(),
            paths: unit.paths.iter().map(|path| path.to_path_buf()).collect(),
            size: unit.size,
            last_used: unit.last_use,
            why: chosen.why,
        }
    };
    Pruned {
        units: plan.chosen.iter().map(one).collect(),
        frees: plan.frees,
        lacks: plan.lacks,
        seen_by,
        held: units.total(),
        unread: units.unread,
        unknown: false,
    }
}
