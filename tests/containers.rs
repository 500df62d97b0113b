//! Containers of several users share one cache: their tools neither fail nor notice each other (SEMANTICS 2, 5.1).
//!
//! Each test has a Docker engine of its own. With `CACHEFS_SOAK` in the environment the tools are run for
//! twenty rounds, not two.

mod common;
mod docker;

use docker::{Done, Engine, Party, STEPS, mount_for, work_together};

/// Four containers, of three users, as they meet in a build farm.
fn four(engine: &Engine) -> Vec<Party<'_>> {
    [("first", 1000), ("second", 1000), ("third", 2000), ("root", 0)]
        .map(|(name, uid)| Party::of(engine, name, uid))
        .into()
}

/// What failed, and how long each step took, the slowest of all.
fn failures(round: usize, done: &[Done]) -> Vec<&Done> {
    for step in STEPS {
        let slowest = |phase: &str| {
            let of_step = done.iter().filter(|done| done.step == step && done.phase == phase);
            of_step.map(|done| done.seconds).fold(0.0, f64::max)
        };
        println!(
            "round {round}: {step} {:.1} s cold, {:.1} s warm",
            slowest("cold"),
            slowest("warm")
        );
    }
    done.iter().filter(|done| done.failed.is_some()).collect()
}

#[test]
fn four_containers_fill_one_cache_and_use_it() {
    let rounds = if std::env::var_os("CACHEFS_SOAK").is_some() { 20 } else { 2 };
    let engine = Engine::start();
    let mount = mount_for(&engine, &[]);
    let mut failed = Vec::new();
    for round in 1..=rounds {
        // Empty, as seen by all who begin from here on.
        mount.cachefs(["clean"]).arg(mount.path()).succeeds();
        let done = work_together(&engine, mount.path(), four(&engine), &STEPS);
        failed.extend(failures(round, &done).into_iter().map(|done| format!("{done:#?}")));
    }
    assert!(failed.is_empty(), "{} failed, among them {}", failed.len(), failed[0]);
}

#[test]
fn four_containers_fail_with_a_plain_directory() {
    let engine = Engine::start();
    let plain = engine.directory();
    let done = work_together(&engine, &plain, four(&engine), &STEPS);
    let failed = failures(1, &done);
    println!("{} of {} failed on a plain directory", failed.len(), done.len());
    for done in &failed {
        let last = done.failed.as_deref().unwrap_or_default().lines().last();
        println!("{} {} {}: {}", done.party, done.step, done.phase, last.unwrap_or_default());
    }
    for step in ["uv", "build", "tox", "pip"] {
        assert!(failed.iter().any(|done| done.step == step), "a plain directory does for {step}");
    }
}
