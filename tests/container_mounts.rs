//! How a mount gets into containers, what they see of its coming and going, and who they are to the daemon.
//!
//! As everywhere, the test itself opens nothing on a mount: containers and processes of their own do.

mod common;
mod docker;

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Mount, Run};
use docker::{Engine, Started, mount_for};
use serde_json::Value;

const SLEEP: [&str; 2] = ["sleep", "1000"];

/// Waits for what another process does, and fails the test when it takes too long.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "it doesn't come to it that {what}");
        sleep(Duration::from_millis(20));
    }
}

/// Whether a container sees the mount at a path, rather than the empty directory it is mounted on.
fn sees(container: &Started<'_>, at: &str) -> bool {
    let kind = container.shell(format!("stat --file-system --format %T {at}")).succeeds();
    kind.stdout.starts_with("fuse")
}

#[test]
fn with_rslave_a_container_sees_mounts_that_come_after_it() {
    let engine = Engine::start();
    let (above, itself) = (engine.shared(""), engine.shared("cache"));
    fs::create_dir(&itself).unwrap();
    // All of these are older than the mount.
    let private = [
        (engine.container().bind(&above, "/host", "rw").start(SLEEP), "/host/cache"),
        (engine.container().bind(&itself, "/cache", "rw").start(SLEEP), "/cache"),
    ];
    let followers = [
        (engine.container().bind(&above, "/host", "rslave").start(SLEEP), "/host/cache"),
        (engine.container().bind(&itself, "/cache", "rslave").start(SLEEP), "/cache"),
    ];
    let mut mount = mount_for(&engine, &[]);
    let all_see = |when: &str, expected: bool| {
        for (follower, at) in &followers {
            assert_eq!(sees(follower, at), expected, "{when}: {at}");
        }
        for (other, at) in &private {
            assert!(!sees(other, at), "{when}: {at} without rslave");
        }
    };
    all_see("mounted", true);
    followers[0].0.shell("echo here >/host/cache/file").succeeds();
    followers[1].0.shell("cat /cache/file").succeeds().says("here");
    // They don't keep it either.
    mount.unmount();
    all_see("unmounted", false);
    mount.mount_again();
    all_see("mounted again", true);
    followers[1].0.shell("cat /cache/file").succeeds().says("here");
    mount.kill();
    all_see("after a crash", false);
    mount.mount_again();
    all_see("mounted after a crash", true);
    followers[0].0.shell("cat /host/cache/file; echo more >>/host/cache/file").succeeds();
    followers[1].0.shell("cat /cache/file").succeeds().says("here\nmore");
}

#[test]
fn an_engine_keeps_no_mount_that_is_not_its_own() {
    let mut mount = Mount::new();
    let engine = Engine::start();
    mount.unmount();
    drop(engine);
}

#[test]
fn a_container_that_has_bound_the_mount_itself_keeps_it() {
    let engine = Engine::start();
    let mut mount = mount_for(&engine, &[]);
    let container = engine.container().bind(mount.path(), "/cache", "rw").start(SLEEP);
    container.shell("echo here >/cache/file").succeeds();
    let said = mount.cachefs(["umount"]).arg(mount.path()).exits_with(1);
    said.says("unmounted here, but containers still have it").says("sleep (pid ");
    // It goes on as before, and no other daemon may have the store meanwhile.
    container.shell("cat /cache/file; echo more >>/cache/file").succeeds().says("here");
    let words = [Path::new("mount"), mount.store(), mount.path()];
    mount.cachefs(words).exits_with(1).says(&format!("(pid {})", mount.pid()));
    container.remove();
    // What has ended has no command line, waited for or not.
    let daemon = format!("/proc/{}/cmdline", mount.pid());
    eventually("the daemon ends", || fs::read_to_string(&daemon).unwrap_or_default().is_empty());
    mount.kill();
    mount.mount_again();
    Run::new("cat").arg(mount.path().join("file")).succeeds().says("here\nmore");

    // And it is left with nothing when the daemon dies.
    let container = engine.container().bind(mount.path(), "/cache", "rw").start(SLEEP);
    container.shell("cat /cache/file").succeeds();
    mount.kill();
    mount.mount_again();
    container.shell("cat /cache/file").exits_with(1).says("not connected");
    container.remove();
}

/// The jobs that use a mount.
fn readers(mount: &Mount) -> Vec<Value> {
    let said = mount.cachefs(["readers", "--json"]).arg(mount.path()).succeeds();
    let told: Value = serde_json::from_str(&said.stdout).unwrap();
    told["readers"].as_array().unwrap().clone()
}

/// The one in a container.
#[track_caller]
fn reader_in(mount: &Mount, container: &Started<'_>) -> Value {
    let all = readers(mount);
    let ours = |reader: &&Value| reader["cgroup"].as_str().unwrap().contains(container.id());
    let found: Vec<&Value> = all.iter().filter(ours).collect();
    assert_eq!(found.len(), 1, "not one reader in {}: {all:#?}", container.id());
    found[0].clone()
}

/// A container that reads a file, says so, waits, and reads it again; which another removes meanwhile. What
/// a newer process in the same container sees then is up to the kind of readers.
fn removed_under_a_container(kind: &str, newer_in_container_sees: bool) {
    let engine = Engine::start();
    let mount = mount_for(&engine, &["--reader", kind]);
    let file = mount.path().join("file");
    Run::shell(format!("head -c 100000 /dev/zero | tr '\\0' x >{}", file.display())).succeeds();
    let signs = engine.directory();
    let script = "exec 3</cache/file; echo $$ >/signs/new; mv /signs/new /signs/pid; \
                  until [ -e /signs/go ]; do sleep 0.02; done; cmp /cache/file /dev/fd/3; \
                  wc -c </cache/file";
    let container = engine
        .container()
        .user(1000)
        .bind(mount.path(), "/cache", "rw")
        .bind(&signs, "/signs", "rw")
        .start(["sh", "-ec", script]);
    eventually("the container has opened the file", || signs.join("pid").exists());

    let reader = reader_in(&mount, &container);
    assert_eq!((&reader["uid"], &reader["open_files"]), (&1000.into(), &1.into()), "{reader:#}");
    // In the container it is number 1; the daemon knows it by the number that it has on the host.
    assert_eq!(fs::read_to_string(signs.join("pid")).unwrap(), "1\n");
    let process = Path::new("/proc").join(reader["pid"].to_string());
    let status = fs::read_to_string(process.join("status")).unwrap();
    let numbers = status.lines().find(|line| line.starts_with("NSpid:")).unwrap();
    let numbers: Vec<&str> = numbers.split_whitespace().skip(1).collect();
    assert_eq!((numbers[0], numbers[numbers.len() - 1]), (&*reader["pid"].to_string(), "1"));
    assert!(fs::read_to_string(process.join("cgroup")).unwrap().contains(container.id()));

    Run::new("rm").arg(&file).succeeds();
    eventually("what was removed is kept for the container", || {
        reader_in(&mount, &container)["retired_bytes"].as_u64() >= Some(100_000)
    });
    assert!(mount.status()["retired"]["files"] == 1, "{:#}", mount.status());
    Run::new("cat").arg(&file).exits_with(1);
    let newer = container.shell("wc -c </cache/file").finish();
    assert_eq!(newer.status.success(), newer_in_container_sees, "{newer}");
    fs::write(signs.join("go"), "").unwrap();
    container.ends_with(0).says("100000");
    eventually("nothing is kept any more", || mount.status()["retired"]["files"] == 0);
}

#[test]
fn a_container_goes_on_seeing_what_others_remove() {
    removed_under_a_container("tree", false);
}

#[test]
fn with_cgroups_as_readers_so_does_all_that_runs_in_it() {
    removed_under_a_container("cgroup", true);
}
