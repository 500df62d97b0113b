//! A cache under test, in a plain directory: its units are taken away one by one.

use std::fs;
use std::path::{Path, PathBuf};

use cachefs::prune::{self, Amount, Now, Only, Plan, Policy, Units};

use crate::common::{Run, tools_directory};
use crate::proof::whole;
pub(crate) use crate::proof::{proved, proved_as, soak, units};

/// What a test has to do with.
pub(crate) struct Scene {
    place: tempfile::TempDir,
    /// The store. Always at this path: some tools write down where their cache is.
    pub(crate) cache: PathBuf,
    /// For all else.
    pub(crate) work: PathBuf,
}

impl Scene {
    /// Whether what runs goes on seeing what was taken away.
    pub(crate) const GOES_ON: bool = false;

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

fn copy(from: &Path, to: &Path) {
    Run::new("cp").args(["--archive", "--no-target-directory"]).args([from, to]).succeeds();
}
