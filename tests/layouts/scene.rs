//! A cache under test: its units are proved against a walk of the test's own, and taken away one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use cachefs::prune::layout::{self, Found};
use cachefs::prune::{self, Amount, Now, Only, Plan, Policy, Units};

use crate::common::{Run, tools_directory};

/// What a test has to do with.
pub(crate) struct Scene {
    place: tempfile::TempDir,
    /// The store. Always at this path: some tools write down where their cache is.
    pub(crate) cache: PathBuf,
    /// For all else.
    pub(crate) work: PathBuf,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        let place = tempfile::Builder::new().prefix("cachefs-layouts-").tempdir().unwrap();
        let (cache, work) = (place.path().join("cache"), place.path().join("work"));
        fs::create_dir(&cache).unwrap();
        fs::create_dir(&work).unwrap();
        Scene { place, cache, work }
    }

    /// A program with nothing of the tester's own settings.
    pub(crate) fn run(&self, program: impl AsRef<Path>) -> Run {
        Run::new(program.as_ref()).clean_environment(&self.work).directory(&self.work)
    }

    /// One of those programs that `tests/setup` keeps apart from others.
    pub(crate) fn tool(&self, name: &str) -> Run {
        let places =
            ["caches/bin", "containers/bin"].map(|place| tools_directory().join(place).join(name));
        let found = places.iter().find(|place| place.exists());
        self.run(found.unwrap_or_else(|| panic!("this test needs {name}: run tests/setup")))
    }

    fn saved(&self) -> PathBuf {
        self.place.path().join("saved")
    }

    /// Keeps the cache as it is now, for [`Scene::restore`].
    pub(crate) fn save(&self) {
        copy(&self.cache, &self.saved());
    }

    pub(crate) fn restore(&self) {
        self.remove(&self.cache);
        copy(&self.saved(), &self.cache);
    }

    /// Also what a tool has made read-only.
    pub(crate) fn remove(&self, path: &Path) {
        Run::new("rm").args(["-rf"]).arg(path).succeeds();
    }

    pub(crate) fn units(&self) -> Units {
        units(&self.cache).1
    }

    /// Takes a unit away, with what can't do without it; gives back all that went.
    pub(crate) fn take(&self, units: &Units, unit: usize) -> Plan {
        let only =
            Only { paths: vec![units.units[unit].paths[0].to_path_buf()], ..Only::default() };
        let all = Policy { max_files: Some(0), only, ..Policy::default() };
        let plan = prune::plan(units, &all, &Now::default());
        assert!(plan.chosen.iter().any(|chosen| chosen.unit == unit));
        self.apply(units, &plan);
        plan
    }

    /// Takes away what a plan says, as it stands.
    pub(crate) fn apply(&self, units: &Units, plan: &Plan) {
        for chosen in &plan.chosen {
            for path in &units.units[chosen.unit].paths {
                self.remove(&self.cache.join(path));
            }
        }
    }

    /// Proves the cache whole, then takes away every unit, and every half of them, and has `again` use what
    /// is left. Of the units, each `one_in` is taken.
    pub(crate) fn survives(
        &self,
        kept: impl Fn(&str) -> bool,
        one_in: usize,
        again: impl Fn(&Units, &Plan),
    ) {
        let units = proved(&self.cache, &kept);
        assert!(units.units.len() > 1 || units.units[0].paths.len() > 1, "nothing to choose from");
        self.save();
        let one_in = if soak() { 1 } else { one_in };
        for unit in (0..units.units.len()).step_by(one_in) {
            let plan = self.take(&units, unit);
            whole(&units, &plan, &proved(&self.cache, &kept));
            again(&units, &plan);
            self.restore();
        }
        // To half of what can go at all.
        let can_go = units.total().bytes - units.kept.bytes;
        let half = units.kept.bytes + can_go / 2;
        let policy = Policy { max_size: Some(half), down_to: 100, ..Policy::default() };
        let plan = prune::plan(&units, &policy, &Now::default());
        assert!(!plan.chosen.is_empty() && plan.lacks == Amount::default(), "{plan:?}");
        self.apply(&units, &plan);
        let left = proved(&self.cache, &kept);
        whole(&units, &plan, &left);
        assert_eq!(left.total().bytes, units.total().bytes - plan.frees.bytes);
        assert_eq!(left.total().files, units.total().files - plan.frees.files);
        again(&units, &plan);
        proved(&self.cache, &kept);
        self.restore();
    }
}

/// Whether to take the time that it takes.
pub(crate) fn soak() -> bool {
    std::env::var_os("CACHEFS_SOAK").is_some()
}

fn copy(from: &Path, to: &Path) {
    Run::new("cp").args(["--archive", "--no-target-directory"]).args([from, to]).succeeds();
}

/// What is found in a store.
pub(crate) fn units(store: &Path) -> (Vec<Found>, Units) {
    let root = fs::File::open(store).unwrap();
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
fn whole(before: &Units, plan: &Plan, left: &Units) {
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
        if entry.file_type().unwrap().is_dir() {
            walk(root, &below, each);
        } else {
            each(&below, &fs::symlink_metadata(root.join(&below)).unwrap());
        }
    }
}
