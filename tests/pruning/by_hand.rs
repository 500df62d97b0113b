//! `cachefs prune`, as it is documented.

use std::fs;

use crate::common::{Mount, Tree};
use crate::ground::{SIZE, left, names, path, prune, unit, wait_until_nothing_is_retired};
use crate::job::Job;

/// Four units, `a` the oldest.
fn filled() -> Mount {
    let mount = Mount::builder().mount();
    for (hours, name) in ["d", "c", "b", "a"].into_iter().enumerate() {
        unit(mount.store(), name, hours as u64 + 1);
    }
    mount
}

/// How much stays, with room for what belongs to no unit.
fn room_for(units: usize) -> String {
    format!("{}B", units * (SIZE + 4096) + 12 * 4096)
}

#[test]
fn the_least_recently_used_go_first_and_a_dry_run_says_which() {
    let mount = filled();
    let words = ["--max-size", &room_for(2)];
    let dry = prune(&mount, &[words[0], words[1], "--dry-run"]);
    assert_eq!(left(mount.store()), names(["a", "b", "c", "d"]));
    let done = prune(&mount, &words);
    assert_eq!(left(mount.store()), names(["c", "d"]));
    assert_eq!(dry["dry_run"], true);
    assert_eq!(done["dry_run"], false);
    for key in ["units", "freed_now", "freed_later", "held", "lacks"] {
        assert_eq!(dry[key], done[key], "{key}");
    }
    let units = done["units"].as_array().unwrap();
    let paths: Vec<_> = units.iter().map(|unit| unit["path"].as_str().unwrap()).collect();
    assert_eq!(paths, [path("a"), path("b")]);
    assert!(units.iter().all(|unit| unit["tool"] == "pip" && unit["why"] == "size"), "{done}");
    assert_eq!(done["freed_now"], (2 * (SIZE + 4096)) as u64);
    assert_eq!(done["waits_for"].as_array().unwrap().len(), 0);
    wait_until_nothing_is_retired(&mount);
}

#[test]
fn what_is_older_goes() {
    let mount = filled();
    let done = prune(&mount, &["--older-than", "150m"]);
    assert_eq!(left(mount.store()), names(["c", "d"]));
    assert!(done["units"].as_array().unwrap().iter().all(|unit| unit["why"] == "age"));
    assert_eq!(prune(&mount, &["--older-than", "150m"])["units"].as_array().unwrap().len(), 0);
}

#[test]
fn what_is_named_goes() {
    let mount = filled();
    // A file of a unit means the unit.
    prune(&mount, &[&path("b.body")]);
    assert_eq!(left(mount.store()), names(["a", "c", "d"]));
    assert_eq!(prune(&mount, &["--tool", "uv"])["units"].as_array().unwrap().len(), 0);
    prune(&mount, &["--tool", "pip", "--older-than", "210m"]);
    assert_eq!(left(mount.store()), names(["c", "d"]));
    let absolute = mount.path().join("pip");
    prune(&mount, &[absolute.to_str().unwrap()]);
    assert_eq!(left(mount.store()), names([]));
}

#[test]
fn so_much_is_freed() {
    let mount = filled();
    // More than there is: all that can go goes, and what lacks is said.
    let done = prune(&mount, &["--min-free", "100%"]);
    assert_eq!(left(mount.store()), names([]));
    assert!(done["lacks"]["bytes"].as_u64().unwrap() > 0);
}

#[test]
fn who_runs_goes_on_and_is_waited_for() {
    let mount = filled();
    let mut job = Job::begin(mount.path());
    let said = mount.cachefs(["prune", "--tool", "pip"]).arg(mount.path()).succeeds();
    said.says("Pruned 4 units").says("0 B now").says(&format!("(pid {})", job.pid()));
    assert_eq!(left(mount.store()), names([]));
    job.sees_the_same();
    let status = mount.status();
    assert_eq!(status["retired"]["readers"], 1);
    assert!(status["retired"]["bytes"].as_u64().unwrap() >= 4 * SIZE as u64, "{status}");
    job.end();
    wait_until_nothing_is_retired(&mount);
}

/// SEMANTICS 6.4.
#[test]
fn what_a_running_job_has_used_goes_last() {
    let mount = filled();
    let script = format!("exec 3< {}; echo ready; read end", path("c"));
    let job = Job::run(mount.path(), &script);
    // Used later, by one that has ended.
    crate::ground::read(&mount, &path("a"));
    prune(&mount, &["--max-size", &room_for(1)]);
    assert_eq!(left(mount.store()), names(["c"]));
    job.end();
    unit(mount.store(), "later", 0);
    crate::ground::read(&mount, &path("later"));
    prune(&mount, &["--max-size", &room_for(1)]);
    assert_eq!(left(mount.store()), names(["later"]));
}

#[test]
fn what_can_t_be_done_is_said() {
    let mut mount = filled();
    let prune = |words: &[&str]| mount.cachefs(["prune"]).arg(mount.path()).args(words);
    prune(&[]).exits_with(1).says("--max-size");
    prune(&["--tool", "emacs"]).exits_with(2).says("ccache");
    prune(&["--max-size", "20"]).exits_with(2).says("unit is missing");
    prune(&["../x"]).exits_with(1).says("`..`");
    mount.cachefs(["prune", "--help"]).succeeds().says("cachefs prune --max-size 20G");
    assert_eq!(left(mount.store()), names(["a", "b", "c", "d"]));
    let store = mount.store().to_owned();
    mount.unmount();
    let said = mount.cachefs(["prune"]).arg(&store).args(["--tool", "pip"]).exits_with(1);
    said.says("is not mounted").says("cachefs mount");
    assert_eq!(left(&store), names(["a", "b", "c", "d"]));
    mount.mount_again();
}

#[test]
fn unknown_stores_are_left_alone() {
    let mount = Mount::new();
    fs::create_dir_all(mount.store().join("a/b")).unwrap();
    fs::write(mount.store().join("a/b/c"), "c").unwrap();
    let before = Tree::of(mount.store());
    let prune = mount.cachefs(["prune", "--max-size", "0B"]).arg(mount.path());
    prune.succeeds().says("generic:DEPTH");
    before.assert_same(&Tree::of(mount.store()));
}

#[test]
fn a_store_that_can_t_be_written_is_not_pruned() {
    let place = tempfile::tempdir().unwrap();
    unit(place.path(), "a", 1);
    let mount = Mount::builder().store(place.path()).option("--read-only-store").mount();
    let prune = |words: &[&str]| mount.cachefs(["prune", "--tool", "pip"]).args(words);
    prune(&[]).arg(mount.path()).exits_with(1).says("can't be written");
    prune(&["--dry-run"]).arg(mount.path()).succeeds().says("Would prune 1 unit");
    assert_eq!(left(place.path()), names(["a"]));
}
