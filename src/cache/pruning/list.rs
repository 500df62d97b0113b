//! All units, in the order in which they would go.

use std::path::PathBuf;
use std::time::SystemTime;

use super::PruneError;
use crate::cache::Cache;
use crate::prune::{self, Amount, Now, Turn, Units};

/// What the store holds, by unit.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// When it was looked.
    pub at: SystemTime,
    /// Those that may go, in the order in which they would; then those that may not go now.
    pub units: Vec<Listed>,
    /// All that the store holds, without what is only kept for running jobs.
    pub held: Amount,
    /// Of that, what is in no unit.
    pub kept: Amount,
    /// Directories that could not be read, so that nothing in them was counted.
    pub unread: u64,
    /// Nothing in the store looks like the cache of a tool that is known.
    pub unknown: bool,
}

/// A unit.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Whose it is.
    pub tool: &'static str,
    /// What people call it.
    pub name: String,
    /// Where it lies, relative to the mount: the first of its paths.
    pub path: PathBuf,
    /// What it alone takes.
    pub size: Amount,
    /// When it was used last, as far as is known.
    pub last_used: SystemTime,
    /// A running job has used it since that began.
    pub in_use: bool,
    /// What becomes free when its turn has come, after all that went before; `None`: it can't go now.
    pub frees: Option<Amount>,
    /// It goes along with the one before.
    pub along: bool,
}

impl Cache {
    /// Looks what there is, as one who prunes does.
    pub fn inventory(&self) -> Result<Inventory, PruneError> {
        let _one = self.pruner.one.lock();
        let looked = self.look_at_units(None);
        self.pruner.progress.at(0, 0);
        let (units, _) =
            looked.map_err(|error| PruneError::Store { what: "can't read the store", error })?;
        let now = Now { time: SystemTime::now(), free: None };
        let order = prune::order(&units, &now);
        let mut goes = vec![false; units.units.len()];
        for turn in &order {
            goes[turn.unit] = true;
        }
        let stay = (0..goes.len()).filter(|unit| !goes[*unit]).map(|unit| listed(&units, unit));
        Ok(Inventory {
            at: now.time,
            units: order.iter().map(|turn| in_turn(&units, turn)).chain(stay).collect(),
            held: units.total(),
            kept: units.kept,
            unread: units.unread,
            unknown: units.units.is_empty() && self.pruner.layouts().is_empty(),
        })
    }
}

fn in_turn(units: &Units, turn: &Turn) -> Listed {
    Listed { frees: Some(turn.frees), along: turn.along, ..listed(units, turn.unit) }
}

fn listed(units: &Units, unit: usize) -> Listed {
    let unit = &units.units[unit];
    Listed {
        tool: unit.layout.tool(),
        name: unit.name(),
        path: unit.paths.first().map(|path| path.to_path_buf()).unwrap_or_default(),
        size: unit.size,
        last_used: unit.last_use,
        in_use: unit.in_use,
        frees: None,
        along: false,
    }
}
