//! A mounted cache under test: it is pruned while it is in use.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cachefs::prune::layout::Found;
use cachefs::prune::{Amount, Chosen, Plan, Units, Why};
use serde_json::Value;

use crate::common::{Mount, Run, tools_directory};
use crate::ground::{prune, wait_until};
use crate::job::Job;
pub(crate) use crate::proof::soak;
use crate::proof::whole;

/// What a test has to do with. The test itself must not open anything in the mount: all that it runs would be
/// one job with it.
pub(crate) struct Scene {
    mount: Mount,
    /// The mount.
    pub(crate) cache: PathBuf,
    /// For all else.
    pub(crate) work: PathBuf,
}

impl Scene {
    /// Whether what runs goes on seeing what was taken away.
    pub(crate) const GOES_ON: bool = true;

    pub(crate) fn new() -> Scene {
        let mount = Mount::builder().watchdog(Duration::from_secs(500)).mount();
        let (cache, work) = (mount.path().to_owned(), mount.beside("work"));
        Scene { mount, cache, work }
    }

    pub(crate) fn run(&self, program: impl AsRef<Path>) -> Run {
        Run::new(program.as_ref()).clean_environment(&self.work).directory(&self.work)
    }

    pub(crate) fn tool(&self, name: &str) -> Run {
        let places =
            ["caches/bin", "containers/bin"].map(|place| tools_directory().join(place).join(name));
        let found = places.iter().find(|place| place.exists());
        self.run(found.unwrap_or_else(|| panic!("this test needs {name}: run tests/setup")))
    }

    /// Nothing has to be restored: what was pruned is fetched again.
    pub(crate) fn save(&self) {}

    pub(crate) fn restore(&self) {}

    pub(crate) fn remove(&self, path: &Path) {
        Run::new("rm").args(["-rf"]).arg(path).succeeds();
    }

    pub(crate) fn units(&self) -> Units {
        crate::proof::units(self.mount.store()).1
    }

    /// Takes a unit away, with what can't do without it; gives back all that went.
    pub(crate) fn take(&self, units: &Units, unit: usize) -> Plan {
        let path = units.units[unit].paths[0].to_str().unwrap();
        let plan = plan(units, &prune(&self.mount, &[path]));
        assert!(plan.chosen.iter().any(|chosen| chosen.unit == unit));
        plan
    }

    /// Prunes the cache to half of what can go while a job runs that has used all of it, and has `again`
    /// use what is left.
    pub(crate) fn survives(
        &self,
        kept: impl Fn(&str) -> bool,
        _one_in: usize,
        again: impl Fn(&Units, &Plan),
    ) {
        let units = proved(&self.cache, &kept);
        let half = units.kept.bytes + (units.total().bytes - units.kept.bytes) / 2;
        let words = ["--max-size", &format!("{half}B"), "--dry-run"];
        // What a server that still runs has just made is not touched for some seconds.
        wait_until(&self.mount, "settled", || prune(&self.mount, &words)["lacks"]["bytes"] == 0);
        let mut job = Job::begin(&self.cache);
        let told = prune(&self.mount, &words[..2]);
        let plan = plan(&units, &told);
        assert!(!plan.chosen.is_empty(), "{told}");
        assert_eq!(told["lacks"]["bytes"], 0, "{told}");
        assert_eq!(told["freed_now"], 0);
        let waits = told["waits_for"].as_array().unwrap();
        assert!(waits.iter().any(|waits| waits["pid"] == job.pid()), "{told}");
        let left = proved(&self.cache, &kept);
        whole(&units, &plan, &left);
        assert!(left.total().bytes <= half, "{} of {half}", left.total().bytes);
        job.sees_the_same();
        again(&units, &plan);
        job.end();
        proved(&self.cache, &kept);
        // But for what is still kept for a server that runs.
        wait_until(&self.mount, "reclaimed", || {
            let retired = &self.mount.status()["retired"];
            retired["files"] == 0 || retired["readers"] != 0
        });
    }
}

/// What a daemon says that it has pruned, as a plan for `units`.
fn plan(units: &Units, told: &Value) -> Plan {
    let marks = units.by_mark();
    let pruned = told["units"].as_array().unwrap();
    let chosen = pruned.iter().map(|unit| {
        let path = Path::new(unit["path"].as_str().unwrap());
        let unit = *marks.get(path).unwrap_or_else(|| panic!("{} is no unit", path.display()));
        Chosen { unit, why: Why::Size }
    });
    let frees = Amount {
        bytes: told["freed_now"].as_u64().unwrap() + told["freed_later"].as_u64().unwrap(),
        files: told["freed_files"].as_u64().unwrap(),
    };
    Plan { chosen: chosen.collect(), frees, ..Plan::default() }
}

/// The store of a mount that lies where [`Mount`] puts it by itself.
fn store_of(cache: &Path) -> PathBuf {
    cache.with_file_name("store")
}

/// As [`crate::proof::proved`], of the store.
pub(crate) fn proved(cache: &Path, kept: &dyn Fn(&str) -> bool) -> Units {
    crate::proof::proved(&store_of(cache), kept)
}

/// What lies in the store.
pub(crate) fn units(cache: &Path) -> (Vec<Found>, Units) {
    crate::proof::units(&store_of(cache))
}
