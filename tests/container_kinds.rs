//! Containers that are not like the others: what one of them leaves in a cache serves all (SEMANTICS 5.1).

mod common;
mod docker;

use std::fs;

use common::{Mount, Run, needs_root, tool, wheelhouse};
use docker::{Engine, Party, mount_for, work_together};

/// Each of these can be done offline once it has been done.
const STEPS: [&str; 3] = ["uv", "ruff", "npm"];

/// Runs all steps in one container, and then in another that has nothing but what the first one has cached.
#[track_caller]
fn one_serves_the_other(engine: &Engine, mount: &Mount, first: Party<'_>, second: Party<'_>) {
    for party in [first, Party { offline: true, ..second }] {
        let done = work_together(engine, mount.path(), vec![party], &STEPS);
        let failed: Vec<_> = done.iter().filter(|done| done.failed.is_some()).collect();
        assert!(failed.is_empty(), "{failed:#?}");
    }
}

#[test]
fn what_was_cached_under_a_narrow_umask_serves_others() {
    let engine = Engine::start();
    let mount = mount_for(&engine, &[]);
    let narrow = Party { umask: "077", ..Party::of(&engine, "narrow", 1000) };
    one_serves_the_other(&engine, &mount, narrow, Party::of(&engine, "other", 2000));
    // And it was a narrow one indeed.
    let mode = Run::new("stat").args(["--format", "%a"]).arg(mount.path().join("uv")).succeeds();
    assert_eq!(mode.stdout, "700\n");
}

#[test]
fn a_read_only_container_fills_a_cache_and_uses_it() {
    let engine = Engine::start();
    let mount = mount_for(&engine, &[]);
    let read_only = |name, uid| {
        let party = Party::of(&engine, name, uid);
        let container = party.container.option("--read-only").option("--tmpfs=/tmp:exec");
        Party { container, ..party }
    };
    read_only("check", 0).container.run(["touch", "/root/file"]).exits_with(1).says("Read-only");
    one_serves_the_other(&engine, &mount, read_only("first", 1000), read_only("second", 2000));
}

#[test]
fn containers_in_a_user_namespace_share_with_others() {
    let engine = Engine::remapped(100_000);
    let mount = mount_for(&engine, &[]);
    let map = engine.container().run(["cat", "/proc/self/uid_map"]).succeeds();
    assert_eq!(map.stdout.split_whitespace().nth(1), Some("100000"));
    // Its root, which is user 100000 outside, and which may do there what root may do.
    one_serves_the_other(
        &engine,
        &mount,
        Party::of(&engine, "root", 0),
        Party::of(&engine, "user", 1000),
    );
    let script = "chown 1234:1234 /cache/uv && chmod 711 /cache/uv && stat -c '%u %a' /cache/uv";
    let container = engine.container().bind(mount.path(), "/cache", "rw");
    // Files belong to root outside, who has no number in here.
    assert_eq!(container.run(["sh", "-ec", script]).succeeds().stdout, "65534 711\n");
    Run::new("ls").arg(mount.path().join("uv")).user(3000).succeeds().says("archive-v0");
}

#[test]
fn jobs_in_namespaces_of_their_own_share_with_others() {
    needs_root();
    let mount = Mount::new();
    let place = mount.beside("place");
    for (name, from) in [("uv", tool("uv")), ("wheels", wheelhouse())] {
        Run::new("cp").args(["-r", "--dereference"]).arg(from).arg(place.join(name)).succeeds();
    }
    Run::new("chmod").args(["-R", "a+rX"]).arg(&place).succeeds();
    // A bind mount of the cache and all namespaces that a user may have without privileges.
    let inside = "mount --bind \"$1\" \"$2/cache\"; cd \"$2\"; shift 2; exec \"$@\"";
    for (turn, uid) in [1000, 2000, 1000].into_iter().enumerate() {
        let home = place.join(format!("home-{uid}"));
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(home.join("cache")).unwrap();
        Run::new("chown").args(["-R", &uid.to_string()]).arg(&home).succeeds();
        let job = |words: &[&str]| {
            Run::new("unshare")
                .args(["--user", "--map-root-user", "--mount", "--pid", "--fork"])
                .args(["--mount-proc", "--net", "--ipc", "--uts", "sh", "-ec", inside, "sh"])
                .args([mount.path(), &home, &place.join("uv")])
                .args(words)
                .clean_environment(&home)
                .env("UV_CACHE_DIR", home.join("cache/uv"))
                .env("UV_LINK_MODE", "copy")
                .env("UV_NO_CONFIG", "1")
                .user(uid)
        };
        job(&["venv", "--python", "/usr/bin/python3"]).succeeds();
        let wheels = place.join("wheels");
        let words = ["pip", "install", "--no-index", "--find-links", wheels.to_str().unwrap()];
        let installed = job(&[&words[..], &["rich", "toolz"]].concat()).succeeds();
        installed.says("Installed 5 packages");
        assert_eq!(installed.stderr.contains("Prepared"), turn == 0, "{installed}");
    }
}
