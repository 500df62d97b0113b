//! Pruning: what of a cache goes together, and what of it goes first (SEMANTICS 6).
//!
//! Three steps, of which only the second touches the disk, and none changes anything:
//!
//! 1. [`layout::find`] looks where in the store which tool's cache lies. A [`layout::Layout`] knows,
//!    by a path alone, which files are one piece; so [`layout::mark`] can tell a daemon which piece
//!    somebody has just used, without looking at the store.
//! 2. [`units`] walks the store and joins the pieces that make sense only together to [`Unit`]s.
//! 3. [`plan`] decides by a [`Policy`] which units go, the least recently used ones first.
//!
//! ```no_run
//! use std::os::fd::AsFd;
//! use cachefs::prune::{self, Now, Policy, layout};
//!
//! # fn main() -> std::io::Result<()> {
//! let store = std::fs::File::open("/var/cache/store")?;
//! let found = layout::find(store.as_fd())?;
//! let units = prune::units(store.as_fd(), &found)?;
//! let policy = Policy { max_size: Some(20 << 30), ..Policy::default() };
//! let plan = prune::plan(&units, &policy, &Now::default());
//! for chosen in &plan.chosen {
//!     println!("{:?} {:?}", units.units[chosen.unit].paths, chosen.why);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **When something was last used** is the access time of its *marks*: the paths of a unit are its
//! marks. Whoever sees a file opened sets the access time of [`layout::mark`] of its path, by
//! `utimensat` without following links. That is never a symbolic link: whose access time says nothing, as
//! any look at it changes it.
//!
//! **What is never pruned** belongs to no unit: lock files, tags, databases that many units share, and
//! whatever no layout knows. It counts into what the store holds ([`Units::kept`]). The folders in
//! which units lie stay as well, empty or not: a tool that has just made sure of one relies on it.

pub(crate) mod directory;
mod gather;
pub mod layout;
mod order;
mod plan;
mod policy;
pub mod size;
mod unit;
mod walk;

pub use self::order::{Turn, order};
pub use self::plan::{Chosen, Plan, Why, plan};
pub use self::policy::{Now, Only, Policy};
pub use self::unit::{Amount, Shared, Unit, Units};
pub use self::walk::units;
