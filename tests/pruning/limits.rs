//! Limits at `mount`: they are kept by themselves.

use std::fs;

use crate::common::{Mount, Run, needs_root};
use crate::conformance::{Filesystem, Image};
use crate::ground::{SIZE, are_left, left, names, prune, unit, wait_until};
use crate::job::Job;

fn store() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for (hours, name) in ["d", "c", "b", "a"].into_iter().enumerate() {
        unit(place.path(), name, hours as u64 + 1);
    }
    place
}

/// How much stays of four units, where a limit that is passed is gone below by a tenth.
fn two_and_a_half() -> String {
    format!("{}K", (5 * (SIZE + 4096) / 2 + 12 * 4096) >> 10)
}

#[test]
fn a_size_is_kept_from_the_beginning_and_when_much_is_written() {
    let place = store();
    let size = two_and_a_half();
    let mount = Mount::builder().store(place.path()).options(["--max-size", &size]).mount();
    wait_until(&mount, "pruned", || are_left(place.path(), ["c", "d"]));
    // Nobody waits for ten minutes: what was written has passed it.
    let folder = mount.path().join("pip/http-v2/a/b/c/d/e");
    let script = format!(
        "head -c {SIZE} /dev/zero > t; mv t e.body; echo head > t; mv t e; head -c {SIZE} /dev/zero > t; mv t \
         f.body; echo head > t; mv t f"
    );
    Run::shell(script).directory(&folder).succeeds();
    wait_until(&mount, "pruned", || are_left(place.path(), ["e", "f"]));
    let status = mount.status();
    assert_eq!(status["limits"]["max_size"], size.as_str());
    assert_eq!(status["limits"]["prune_every"], 600);
    assert_eq!(status["units"], 2);
    assert!(mount.log().contains("pruned"), "{}", mount.log());
}

#[test]
fn what_is_too_old_goes_on_a_timer() {
    let place = store();
    let options = ["--max-age", "150m", "--prune-every", "1s"];
    let mount = Mount::builder().store(place.path()).options(options).mount();
    wait_until(&mount, "pruned", || are_left(place.path(), ["c", "d"]));
    unit(place.path(), "old", 5);
    wait_until(&mount, "pruned", || are_left(place.path(), ["c", "d"]));
}

#[test]
fn limits_of_the_mount_are_those_of_who_prunes_without_any() {
    let place = store();
    let mount = Mount::builder().store(place.path()).options(["--max-age", "10h"]).mount();
    assert_eq!(prune(&mount, &[])["units"].as_array().unwrap().len(), 0);
    unit(place.path(), "old", 11);
    prune(&mount, &[]);
    assert_eq!(left(place.path()), names(["a", "b", "c", "d"]));
}

/// What is still kept for those who run is as good as free: else all would go, little by little.
#[test]
fn a_limit_is_not_kept_twice_because_somebody_still_sees_what_went() {
    needs_root();
    let image = Image::with(Filesystem::Ext4, 32, &["-m", "0"]);
    let place = image.directory("store");
    for (hours, name) in ["d", "c", "b", "a"].into_iter().enumerate() {
        unit(&place, name, hours as u64 + 1);
    }
    let mount = Mount::builder().store(&place).mount();
    let job = Job::begin(mount.path());
    rustix::fs::sync();
    let space = rustix::fs::statvfs(&place).unwrap();
    let wanted = format!("{}B", space.f_bavail * space.f_frsize + SIZE as u64 / 2);
    let first = prune(&mount, &["--min-free", &wanted]);
    assert_eq!(first["units"].as_array().unwrap().len(), 1, "{first}");
    wait_until(&mount, "measured", || mount.status()["retired"]["bytes"].as_u64() > Some(0));
    let second = prune(&mount, &["--min-free", &wanted]);
    assert_eq!(second["units"].as_array().unwrap().len(), 0, "{second}");
    job.end();
}

#[test]
fn the_layout_may_be_said() {
    let place = tempfile::tempdir().unwrap();
    for (name, hours) in [("one", 3), ("two", 1)] {
        fs::create_dir_all(place.path().join(name)).unwrap();
        fs::write(place.path().join(name).join("file"), vec![1; SIZE]).unwrap();
        let used = std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600);
        crate::ground::set_used(&place.path().join(name), used);
    }
    let layout = ["--layout", "generic:1", "--max-age", "2h"];
    let mount = Mount::builder().store(place.path()).options(layout).mount();
    wait_until(&mount, "pruned", || !place.path().join("one").exists());
    assert!(place.path().join("two/file").exists());
    assert_eq!(mount.status()["limits"]["layout"], "generic:1");
    let refused = |words: [&str; 2]| Mount::builder().options(words).refused().0;
    refused(["--layout", "emacs"]).says("generic:DEPTH");
    refused(["--prune-every", "1m"]).says("max-size");
}
