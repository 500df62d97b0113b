//! SEMANTICS 5.4, and what a daemon gives up (`src/system/containment.rs`): what is left to it, that it
//! serves as before, and that it says so.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Mount, Run, binary, needs_root};
use serde_json::json;

/// CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID.
const SERVING: u64 = 0b1_1111;
const SYS_ADMIN: u64 = 1 << 21;

/// A line of a thread's `status`.
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    u64::from_str_radix(line.unwrap_or_else(|| panic!("no {name}")).trim(), 16).unwrap()
}

/// The `status` of each thread of a process.
fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // One may end meanwhile.
    tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok()).collect()
}

#[track_caller]
fn assert_all_have(pid: u32, capabilities: u64) {
    let threads = threads(pid);
    assert!(threads.len() > 5, "only {} threads", threads.len());
    for status in threads {
        assert_eq!(field(&status, "NoNewPrivs"), 1, "{status}");
        for set in ["CapEff", "CapPrm"] {
            assert_eq!(field(&status, set), capabilities, "{set} of {status}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(field(&status, set), 0, "{set} of {status}");
        }
    }
}

/// The process that the daemon has started for what it can't do itself.
fn outside(daemon: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).unwrap();
    let pids: Vec<u32> = children.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    let &[pid] = &pids[..] else { panic!("children: {pids:?}") };
    pid
}

/// A program that is killed while it writes: what became of it is seen from outside.
const KILLED: &str = "import os, sys; os.write(os.open(sys.argv[1], os.O_CREAT | os.O_EXCL | os.O_WRONLY), b'x'); \
                      os.kill(os.getpid(), 9)";

/// Files, modes, links, attributes, a program, and a writer that is killed, by whoever runs it.
fn use_all_of(mount: &Path, user: u32) {
    fs::set_permissions(mount, fs::Permissions::from_mode(0o777)).unwrap();
    let script = "
        mkdir -p d/e; echo text >d/file; mv d/file d/e/; ln d/e/file d/link; ln -s link d/symbolic
        chmod 600 d/link; touch -d 2001-02-03 d/link; mkfifo d/fifo; truncate -s 9 d/link
        cp /bin/true d/program; d/program; d/program; : >d/empty
        test \"$(stat -c %s d/e/file)\" = 9; rm d/e/file; rmdir d/e; mv d moved; ls -l moved
        python3 -c \"$0\" moved/killed || test ! -e moved/killed; rm -r moved";
    Run::shell(script).arg(KILLED).directory(mount).user(user).succeeds();
}

#[test]
fn a_daemon_of_root_keeps_what_it_serves_users_with() {
    needs_root();
    for (words, capabilities) in [
        (&["--access", "shared"][..], SERVING | SYS_ADMIN),
        (&["--access", "posix"], SERVING | SYS_ADMIN),
        // Only passthrough takes that.
        (&["--access", "posix", "--no-passthrough"], SERVING),
    ] {
        let mount = Mount::builder().options(words).mount();
        for user in [0, 1000] {
            use_all_of(mount.path(), user);
        }
        assert_all_have(mount.pid(), capabilities);
        for status in threads(mount.pid()) {
            assert_eq!(field(&status, "CapBnd"), capabilities, "{status}");
        }
        let said = &mount.status()["containment"];
        assert_eq!(said["no_new_privileges"], true);
        assert_eq!(said["capabilities_dropped"], true);
        let named = said["capabilities"].as_array().unwrap().len();
        assert_eq!(named, capabilities.count_ones() as usize, "{said}");
        assert_eq!(said["landlock"], "full", "{said}; the tests need Linux 6.12 with landlock");
        assert_eq!(said["lacking"], json!([]));
    }
}

#[test]
fn owners_are_given_and_kept() {
    needs_root();
    let mount = Mount::builder().options(["--access", "posix"]).mount();
    let script = "
        umask 022; echo x >file; chown 1000:1001 file; chmod 6750 file; mkdir dir; chown 2000 dir
        stat -c '%u:%g %a' file dir";
    let said = Run::shell(script).directory(mount.path()).succeeds();
    // SEMANTICS 5.4: no set-id bits.
    assert_eq!(said.stdout, "1000:1001 750\n2000:0 755\n");
    let said = Run::shell("echo y >>file; mkdir in; cat file").directory(mount.path());
    said.user(1000).exits_with(1).says("mkdir").says("Permission denied");
}

#[test]
fn a_daemon_of_a_user_has_nothing_left() {
    needs_root();
    const USER: u32 = 65_534;
    let mount = Mount::builder().user(USER).mount();
    use_all_of_own(mount.path(), USER);
    assert_all_have(mount.pid(), 0);
    let said = mount.cachefs(["status", "--json"]).arg(mount.path()).user(USER).succeeds();
    let said: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let said = &said["mounts"][0]["containment"];
    assert_eq!(said["capabilities"], json!([]));
    assert_eq!(said["landlock"], "full", "{said}; the tests need Linux 6.12 with landlock");
    assert_eq!(said["lacking"], json!([]));
    // Unmounting takes a set-id program, which is of no use to the daemon itself: the harness sees
    // whether it works. Who is in the way has to be looked up, too.
    let program = mount.path().parent().unwrap().join("cachefs");
    let script = "cd $0; $1 umount $0";
    let busy = Run::shell(script).arg(mount.path()).arg(program).user(USER).exits_with(1);
    busy.says("is in use by").says("working directory");
}

/// As [`use_all_of`], where root can't get at the mount.
fn use_all_of_own(mount: &Path, user: u32) {
    let script = "
        mkdir -p d/e; echo text >d/file; mv d/file d/e/; cp /bin/true d/program; d/program; : >d/empty
        python3 -c \"$0\" d/killed || test ! -e d/killed; rm -r d";
    Run::shell(script).arg(KILLED).directory(mount).user(user).succeeds();
}

#[test]
fn what_is_outside_ends_with_the_daemon() {
    needs_root();
    let mut mount = Mount::new();
    let pid = outside(mount.pid());
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert_eq!(field(&status, "NoNewPrivs"), 1, "{status}");
    assert_eq!(field(&status, "CapEff").count_ones(), 4, "{status}");
    mount.kill();
    let deadline = Instant::now() + Duration::from_secs(10);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < deadline, "it still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Where it is gone first, the daemon serves all the same, and root unmounts.
    mount.mount_again();
    let pid = outside(mount.pid());
    Run::shell(format!("kill -9 {pid}")).succeeds();
    use_all_of(mount.path(), 1000);
    mount.cachefs(["umount"]).arg(mount.path()).exits_with(1).says("can't unmount");
    assert!(mount.log().contains("does not answer"), "{}", mount.log());
    mount.kill();
}

#[test]
fn a_mount_that_fails_leaves_nothing_however_far_it_came() {
    needs_root();
    /// `backup`, of whom nothing else runs; `fusermount3` wants one that has a name.
    const USER: u32 = 34;
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    common::copy_program(&binary(), &at("cachefs"));
    fs::create_dir(at("here")).unwrap();
    for path in [home.path().to_owned(), at("here")] {
        std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
    }
    let (store, path) = (at("here/store"), at("here/mount"));
    let (mut failures, mut confined) = (0, 0);
    // It starts one thread after the other, most of them after it was confined.
    for limit in 3..40 {
        let log = at(&format!("here.{limit}.log"));
        let script = "exec prlimit --nproc=$0 $1 mount --log $2 $3 $4";
        let words = [at("cachefs"), log.clone(), store.clone(), path.clone()];
        let tried = Run::shell(script).arg(limit.to_string()).args(words).user(USER);
        let tried = tried.env("CACHEFS_LOG", "debug").finish();
        if tried.status.success() {
            // With no thread to spare, the daemon is not asked.
            Run::new("fusermount3").args(["-u", "-z"]).arg(&path).user(USER).succeeds();
            let deadline = Instant::now() + Duration::from_secs(10);
            while !fs::read(store.join(".cachefs/lock")).unwrap().is_empty() {
                assert!(Instant::now() < deadline, "the daemon still runs");
                std::thread::sleep(Duration::from_millis(5));
            }
            break;
        }
        failures += 1;
        let log = fs::read_to_string(log).unwrap_or_default();
        confined += u32::from(log.contains("confined"));
        assert_eq!(fs::read_dir(at("here")).unwrap().count(), 0, "{limit}: {tried}\n{log}");
    }
    assert!(failures > 3 && confined > 0, "{failures} failures, {confined} of them confined");
}

#[test]
fn it_is_said_when_all_is_kept() {
    let mount = Mount::builder().option("--no-containment").mount();
    let said = mount.status()["containment"].clone();
    assert_eq!((&said["landlock"], &said["no_new_privileges"]), (&json!("none"), &json!(false)));
    mount.cachefs(["status"]).arg(mount.path()).succeeds().says("--no-containment");
}

#[test]
fn a_store_that_is_open_to_others_is_told_of() {
    needs_root();
    let mut mount = Mount::new();
    let store = mount.store().to_owned();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o755)).unwrap();
    let check = || Run::new(binary()).arg("check").arg(&store).finish();
    check().says("open to other users").says(&format!("chmod 700 {}", store.display()));
    mount.cachefs(["status"]).arg(mount.path()).succeeds().says("open to others");
    // Adopted as it is, it is given back as it was.
    mount.unmount();
    mount.mount_again();
    assert!(mount.log().contains("is open to other users"), "{}", mount.log());
    assert_eq!(fs::metadata(&store).unwrap().permissions().mode() & 0o777, 0o755);
    fs::set_permissions(&store, fs::Permissions::from_mode(0o700)).unwrap();
    check().says("is closed to other users");
    assert_eq!(mount.status()["containment"]["store_closed"], true);
    // What is in it is there for others, through the mount only.
    fs::write(mount.path().join("file"), "x").unwrap();
    let read = |path: &Path| Run::new("cat").arg(path.join("file")).user(1000);
    read(mount.path()).succeeds();
    read(&store).exits_with(1).says("Permission denied");
}

#[test]
fn a_store_that_is_created_is_closed() {
    needs_root();
    let home = tempfile::tempdir().unwrap();
    let (store, path) = (home.path().join("store"), home.path().join("mount"));
    let cachefs = |words: &[&str], paths: &[&Path]| {
        Run::new(binary()).args(words).args(paths.iter().copied()).succeeds()
    };
    cachefs(&["mount"], &[&store, &path]);
    let mode = fs::metadata(&store).unwrap().permissions().mode() & 0o777;
    cachefs(&["umount"], &[&path]);
    assert_eq!(mode, 0o700);
}
