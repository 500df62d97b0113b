//! What is found in a store, proved against a walk of the test's own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use cachefs::prune::layout::{self, Found};
use cachefs::prune::{self, Plan, Units};

/// Whether to take the time that it takes.
pub(crate) fn soak() -> bool {
    std::env::var_os("CACHEFS_SOAK").is_some()
}

/// What is found in a store.
pub(crate) fn units(store: &Path) -> (Vec<Found>, Units) {
    let root = File::open(store).unwrap();
    let found = layout::find(root.as_fd()).unwrap();
    let units = prune::units(root.as_fd(), &found).unwrap();
    (found, units)
}

/// As [`units`], where everything that can be said of it is proved by a walk of its own: every file is in
/// one unit, which is what [`layout::mark`] says, or `kept` knows it; each inode is counted once.
pub(crate) fn proved(store: &Path, kept: &dyn Fn(&str) -> bool) -> Units {
    let (found, units) = units(store);
    assert!(!found.is_empty(), "no cache was found in {}", store.display());
    proved_as(store, &found, units, kept)
}

pub(crate) fn proved_as(
    store: &Path,
    found: &[Found],
    units: Units,
    kept: &dyn Fn(&str) -> bool,
) -> Units {
    let marks = units.by_mark();
    let number: usize = units.units.iter().map(|unit| unit.paths.len()).sum();
    assert_eq!(marks.len(), number, "two units have a mark in common");
    let mut inodes: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    walk(store, Path::new(""), &mut |path, status| {
        inodes.insert((status.dev(), status.ino()), status.blocks() * 512);
        let owners: Vec<_> = path.ancestors().filter_map(|above| marks.get(above)).collect();
        assert!(owners.len() < 2, "{} is in two units", path.display());
        seen.extend(owners.iter().map(|owner| **owner));
        if status.is_dir() {
            return;
        }
        let mark = layout::mark(found, path);
        let owner = mark.map(|mark| {
            marks.get(mark).unwrap_or_else(|| panic!("{} marks no unit", mark.display()))
        });
        assert_eq!(owner, owners.first().copied(), "{}", path.display());
        let name = path.to_str().unwrap_or_default();
        assert_eq!(owner.is_none(), kept(name), "kept or not: {name}");
    });
    // Nothing is made up.
    assert_eq!(seen.len(), units.units.len(), "a unit has no files");
    let total = units.total();
    assert_eq!(total.files, inodes.len() as u64);
    assert_eq!(total.bytes, inodes.values().sum::<u64>());
    assert_eq!(units.unread, 0);
    for unit in &units.units {
        assert!(!unit.name().is_empty(), "{unit:?}");
    }
    units
}

/// Everything that is left is as it was.
pub(crate) fn whole(before: &Units, plan: &Plan, left: &Units) {
    let gone: BTreeSet<usize> = plan.chosen.iter().map(|chosen| chosen.unit).collect();
    let stays = before.units.iter().enumerate().filter(|(number, _)| !gone.contains(number));
    let expected: BTreeSet<_> = stays.map(|(_, unit)| unit.paths.to_vec()).collect();
    let found: BTreeSet<_> = left.units.iter().map(|unit| unit.paths.to_vec()).collect();
    // What two units had in common may be one's alone now.
    let parts = |units: &BTreeSet<Vec<Box<Path>>>| -> BTreeSet<Box<Path>> {
        units.iter().flatten().cloned().collect()
    };
    assert_eq!(parts(&found), parts(&expected), "a unit is left in part");
    for unit in &expected {
        assert!(
            found.iter().any(|other| unit.iter().all(|path| other.contains(path))),
            "torn apart: {unit:?}"
        );
    }
}

fn walk(root: &Path, path: &Path, each: &mut dyn FnMut(&Path, &Metadata)) {
    each(path, &fs::symlink_metadata(root.join(path)).unwrap());
    for entry in fs::read_dir(root.join(path)).unwrap() {
        let entry = entry.unwrap();
        let below = path.join(entry.file_name());
        if below == Path::new(".cachefs") {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            walk(root, &below, each);
        } else {
            each(&below, &fs::symlink_metadata(root.join(&below)).unwrap());
        }
    }
}
