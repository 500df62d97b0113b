//! In which order units go, were there to be less and less room.

use super::plan::{Plan, Why, plan};
use super::policy::{Now, Policy};
use super::unit::{Amount, Units};

/// A unit, when its turn has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Its number in [`Units::units`].
    pub unit: usize,
    /// What becomes free by its going, after all that went before: also what it shared with those.
    pub frees: Amount,
    /// It goes along with the one before, which it can't stay without, or which alone needed it.
    pub along: bool,
}

/// All units that may go, in the order in which a [`plan`] chooses them for their size. A plan for any
/// [`Policy::max_size`] is the beginning of this.
pub fn order(units: &Units, now: &Now) -> Vec<Turn> {
    let nothing =
        Policy { max_size: Some(0), max_files: Some(0), down_to: 100, ..Policy::default() };
    let Plan { chosen, .. } = plan(units, &nothing, now);
    let mut shares = vec![Vec::new(); units.units.len()];
    for (at, shared) in units.shared.iter().enumerate() {
        for unit in &shared.units {
            shares[*unit as usize].push(at);
        }
    }
    let mut sharers: Vec<usize> = units.shared.iter().map(|shared| shared.units.len()).collect();
    let turn = |chosen: super::Chosen| {
        let mut frees = units.units[chosen.unit].size;
        for &shared in &shares[chosen.unit] {
            sharers[shared] -= 1;
            if sharers[shared] == 0 && !units.shared[shared].elsewhere {
                frees += Amount { bytes: units.shared[shared].bytes, files: 1 };
            }
        }
        let along = matches!(chosen.why, Why::Needs(_) | Why::Unneeded(_));
        Turn { unit: chosen.unit, frees, along }
    };
    chosen.into_iter().map(turn).collect()
}
