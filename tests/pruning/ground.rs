//! Stores whose units are known, and what is asked of their mounts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::common::{Mount, Run};

/// So large each unit is.
pub(crate) const SIZE: usize = 1 << 16;

/// An hour, as ages are given here.
pub(crate) const HOUR: u64 = 3600;

/// Makes a unit of pip's: a response and its body. It was used so many hours ago.
pub(crate) fn unit(store: &Path, name: &str, hours: u64) {
    let at = store.join("pip/http-v2/a/b/c/d/e");
    fs::create_dir_all(&at).unwrap();
    let body = format!("{name}.body");
    fs::write(at.join(name), "headers").unwrap();
    fs::write(at.join(&body), vec![b'x'; SIZE]).unwrap();
    let used = SystemTime::now() - Duration::from_secs(hours * HOUR);
    for file in [name, &body] {
        set_used(&at.join(file), used);
    }
}

/// Where [`unit`] puts one, relative to the store.
pub(crate) fn path(name: &str) -> String {
    format!("pip/http-v2/a/b/c/d/e/{name}")
}

pub(crate) fn set_used(path: &Path, used: SystemTime) {
    let times = fs::FileTimes::new().set_accessed(used);
    fs::File::open(path).unwrap().set_times(times).unwrap();
}

pub(crate) fn used(path: &Path) -> SystemTime {
    fs::symlink_metadata(path).unwrap().accessed().unwrap()
}

/// The names of what is in the units that are left.
fn names_left(store: &Path) -> BTreeSet<String> {
    let at = store.join("pip/http-v2/a/b/c/d/e");
    fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// Whether those units are left and nothing else; while it prunes, some are there in part.
pub(crate) fn are_left<const N: usize>(store: &Path, units: [&str; N]) -> bool {
    let both = |unit: &str| [unit.to_owned(), format!("{unit}.body")];
    names_left(store) == units.into_iter().flat_map(both).collect()
}

/// The units that are left, each of them whole.
pub(crate) fn left(store: &Path) -> BTreeSet<String> {
    let names = names_left(store);
    let units: BTreeSet<String> =
        names.iter().map(|name| name.trim_end_matches(".body").to_owned()).collect();
    for unit in &units {
        assert!(names.contains(unit) && names.contains(&format!("{unit}.body")), "{unit} in part");
    }
    units
}

pub(crate) fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// `cachefs prune MOUNT WORDS... --json`.
pub(crate) fn prune(mount: &Mount, words: &[&str]) -> Value {
    let run = mount.cachefs(["prune"]).arg(mount.path()).args(words).arg("--json");
    let finished = run.succeeds();
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}\n{finished}"))
}

/// Has a process of its own read a file through the mount.
pub(crate) fn read(mount: &Mount, path: &str) {
    Run::new("cat").arg(mount.path().join(path)).succeeds();
}

pub(crate) fn wait_until(mount: &Mount, what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < deadline, "not {what}: {:#}\n{}", mount.status(), mount.log());
        sleep(Duration::from_millis(20));
    }
}

pub(crate) fn wait_until_nothing_is_retired(mount: &Mount) {
    wait_until(mount, "reclaimed", || mount.status()["retired"]["files"] == 0);
}
