//! What scripts rely on: exit codes, JSON documents, and what each command waits for.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Mount, Run, Tree, binary, needs_root};

/// A process that has its working directory in a mount.
struct Squatter(Child);

impl Squatter {
    fn new(directory: &Path) -> Squatter {
        let mut command = Command::new("sleep");
        command.arg("60").current_dir(directory).stdin(Stdio::null());
        Squatter(command.spawn().unwrap())
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

#[track_caller]
fn within(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < until, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn background_daemon_keeps_nothing_of_its_starter() {
    let mut mount = Mount::builder().background().mount();
    mount.unmount();
    // `cat` ends only when nobody has the other end of its pipe any more.
    Run::shell(
        r#"{ "$0" mount "$1" "$2"; echo "exit code $?"; } 2>&1 3>&1 | cat; "$0" umount "$2""#,
    )
    .arg(binary())
    .args([mount.store(), mount.path()])
    .directory(mount.store())
    .timeout(Duration::from_secs(20))
    .succeeds()
    .says("exit code 0");
}

#[test]
fn store_with_a_long_and_odd_path() {
    needs_root();
    let home = tempfile::tempdir().unwrap();
    let store = home.path().join("a b,c\\d#e".repeat(20)).join("ä\n".repeat(50));
    fs::create_dir_all(&store).unwrap();
    let mut mount = Mount::builder().store(&store).mount();
    let store = fs::canonicalize(&store).unwrap();
    assert_eq!(mount.status()["store"].as_str(), store.to_str());
    mount.cachefs(["status"]).arg(&store).succeeds().says("good");
    mount.unmount();
}

#[test]
fn status_is_as_documented() {
    let mount = Mount::new();
    fs::write(mount.path().join("file"), "x").unwrap();
    let status = mount.status();
    assert_eq!(status["mountpoint"].as_str(), mount.path().to_str());
    assert_eq!(status["pid"], mount.pid());
    assert_eq!(status["access"], "shared");
    assert!(status["degraded"].is_null());
    assert!(status["hits"].is_u64() && status["misses"].is_u64());
    assert!(status["retired"]["bytes"].is_u64() && status["retired"]["files"].is_u64());
    assert!(status["readers"].is_u64());
    assert!(status["kernel"]["passthrough"].is_boolean());
    assert_eq!(status["requests"]["create"], 1);
    let by_store = mount.cachefs(["status", "--json"]).arg(mount.store()).succeeds();
    let by_store: serde_json::Value = serde_json::from_str(&by_store.stdout).unwrap();
    assert_eq!(by_store["version"], 1);
    assert_eq!(by_store["mounts"][0]["pid"], mount.pid());
    mount
        .cachefs(["status", "/nowhere"])
        .exits_with(1)
        .says("neither the mountpoint nor the store");
}

#[test]
fn options_of_views_are_in_the_status() {
    let usual = Mount::new().status();
    for (option, seconds) in [("retain_for", 86_400), ("grace", 600), ("idle", 600)] {
        assert_eq!(usual[option], seconds, "{option}");
    }
    assert_eq!(usual["reader"], "tree");
    let options = ["--retain-for", "2h", "--grace", "45s", "--reader", "cgroup", "-o", "idle=1d"];
    let told = Mount::builder().options(options).mount().status();
    for (option, seconds) in [("retain_for", 7200), ("grace", 45), ("idle", 86_400)] {
        assert_eq!(told[option], seconds, "{option}");
    }
    assert_eq!(told["reader"], "cgroup");
}

#[test]
fn readers_are_as_documented() {
    let mount = Mount::new();
    let by = |place: &Path| {
        let said = mount.cachefs(["readers", "--json"]).arg(place).succeeds();
        serde_json::from_str::<serde_json::Value>(&said.stdout).unwrap()
    };
    let told = by(mount.store());
    assert_eq!(told["version"], 1);
    assert_eq!(told["mountpoint"].as_str(), mount.path().to_str());
    for reader in by(mount.path())["readers"].as_array().unwrap() {
        assert!(reader["pid"].is_u64() && reader["uid"].is_u64(), "{reader}");
        assert!(reader["open_files"].is_u64() && reader["retired_bytes"].is_u64(), "{reader}");
        assert!(reader["since"].is_string(), "{reader}");
        assert!(reader.get("command").is_some() && reader.get("cgroup").is_some(), "{reader}");
    }
    mount.cachefs(["readers"]).arg(mount.path()).succeeds();
    mount
        .cachefs(["readers", "/nowhere"])
        .exits_with(1)
        .says("neither the mountpoint nor the store");
}

#[test]
fn env_is_for_eval() {
    let mount = Mount::new();
    let said = Run::shell(r#"eval "$("$0" env "$1")"; echo "$UV_CACHE_DIR""#)
        .arg(binary())
        .arg(mount.path())
        .succeeds();
    assert_eq!(Path::new(said.stdout.trim_end()), mount.path().join("uv"));
    for shell in ["fish", "powershell"] {
        mount.cachefs(["env", "--shell", shell]).arg(mount.path()).succeeds().says("PIP_CACHE_DIR");
    }
    mount.cachefs(["env", "--shell", "cobol"]).exits_with(2);
}

#[test]
fn umount_names_who_is_busy() {
    let mut mount = Mount::new();
    let squatter = Squatter::new(mount.path());
    let said = mount.cachefs(["umount"]).arg(mount.path()).exits_with(1);
    said.says(&format!("sleep (pid {}, working directory)", squatter.0.id())).says("--lazy");
    assert!(is_mounted(mount.path()));
    drop(squatter);
    mount.unmount();
    // The store is free as soon as `umount` returns.
    mount.mount_again();
    mount.unmount();
}

/// Sends a directory to itself and closes it, so that it is open and nobody is seen to have it; lets go at a line.
const UNSEEN: &str = "
import os, socket, sys
here, there = socket.socketpair()
directory = os.open(sys.argv[1], os.O_RDONLY)
socket.send_fds(here, [b'x'], [directory])
os.close(directory)
print(flush=True)
sys.stdin.readline()";

#[test]
fn umount_waits_a_moment_for_who_cannot_be_seen() {
    let mut mount = Mount::new();
    let mut command = Command::new("python3");
    command.args(["-c", UNSEEN]).arg(mount.path());
    let mut unseen = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let holds = unseen.stdout.as_mut().unwrap().read(&mut [0]).unwrap();
    assert_eq!(holds, 1);
    let said = mount.cachefs(["umount"]).arg(mount.path()).exits_with(1);
    said.says("in use by someone who can't be seen from here");
    assert!(is_mounted(mount.path()));
    let lets_go = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        unseen.stdin.take().unwrap().write_all(b"\n").unwrap();
        unseen.wait().unwrap()
    });
    mount.unmount();
    assert!(lets_go.join().unwrap().success());
}

#[test]
fn changes_in_the_hands_of_someone_else_are_refused() {
    needs_root();
    let mount = Mount::new();
    let program = mount.beside("program").join("cachefs");
    fs::copy(binary(), &program).unwrap();
    fs::write(mount.path().join("kept"), "x").unwrap();
    for command in ["umount", "clean"] {
        Run::new(&program)
            .arg(command)
            .arg(mount.path())
            .user(1000)
            .exits_with(1)
            .says("not permitted");
    }
    assert!(is_mounted(mount.path()) && mount.path().join("kept").exists());
}

#[test]
fn lazy_umount_lets_those_finish_who_are_there() {
    let mount = Mount::builder().background().mount();
    let (path, store) = (mount.path().to_owned(), mount.store().to_owned());
    fs::write(path.join("file"), "kept").unwrap();
    let open = fs::File::open(path.join("file")).unwrap();
    mount.cachefs(["umount", "--lazy"]).arg(&path).succeeds().says("until the last open file");
    assert!(!is_mounted(&path));
    assert_eq!(std::io::read_to_string(&open).unwrap(), "kept");
    let socket = store.join(".cachefs/control.sock");
    assert!(socket.exists());
    drop(open);
    within(Duration::from_secs(10), "the daemon ends", || !socket.exists());
    // For what the harness expects to unmount.
    Run::new(binary()).arg("mount").args([&store, &path]).succeeds();
}

#[test]
fn umount_clears_what_a_dead_daemon_has_left() {
    needs_root();
    let home = tempfile::tempdir().unwrap();
    let (store, path) = (home.path().join("s"), home.path().join("m"));
    Run::new(binary()).arg("mount").args([&store, &path]).succeeds();
    let pid = fs::read_to_string(store.join(".cachefs/lock")).unwrap();
    Run::shell("kill -9 $0; while [ -e /proc/$0 ]; do sleep 0.01; done").arg(pid.trim()).succeeds();
    Run::new(binary()).arg("status").arg(&path).succeeds().says("no daemon serves the store");
    Run::new(binary()).arg("umount").arg(&path).succeeds();
    assert!(!is_mounted(&path));
}

#[test]
fn signals_unmount() {
    for (signal, number) in [("TERM", "SIGTERM"), ("INT", "SIGINT")] {
        let mut mount = Mount::new();
        Run::shell(format!("kill -{signal} {}", mount.pid())).succeeds();
        within(Duration::from_secs(4), "unmounted", || !is_mounted(mount.path()));
        within(Duration::from_secs(4), "logged", || mount.log().contains("unmounted"));
        assert!(mount.log().contains(number), "{}", mount.log());
        let lock = mount.store().join(".cachefs/lock");
        within(Duration::from_secs(4), "let go of", || fs::read(&lock).unwrap().is_empty());
        mount.kill();
    }
}

#[test]
fn a_signal_unmounts_lazily_what_stays_busy() {
    let mut mount = Mount::new();
    let squatter = Squatter::new(mount.path());
    Run::shell(format!("kill -TERM {}", mount.pid())).succeeds();
    within(Duration::from_secs(12), "unmounted", || !is_mounted(mount.path()));
    assert!(mount.log().contains(&format!("sleep (pid {}", squatter.0.id())), "{}", mount.log());
    drop(squatter);
    within(Duration::from_secs(4), "ended", || mount.log().contains("unmounted mountpoint"));
    mount.kill();
}

#[test]
fn the_service_manager_is_told() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut mount = Mount::builder().env("NOTIFY_SOCKET", &path).mount();
    let next = || {
        let mut text = [0; 256];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    assert_eq!(next(), format!("READY=1\nMAINPID={}", mount.pid()));
    mount.unmount();
    assert_eq!(next(), "STOPPING=1");
}

#[test]
fn adopted_directory_is_given_back() {
    let home = tempfile::tempdir().unwrap();
    let store = home.path().join("store");
    fs::create_dir_all(store.join("deep/er")).unwrap();
    fs::write(store.join("deep/er/file"), "x").unwrap();
    let before = Tree::of(&store);
    let mut mount = Mount::builder().store(&store).mount();
    before.assert_same(&Tree::of(mount.path()));
    mount.unmount();
    fs::remove_dir_all(store.join(".cachefs")).unwrap();
    before.assert_same(&Tree::of(&store));
}

#[test]
fn check_says_whether_all_is_fit() {
    needs_root();
    let home = tempfile::tempdir().unwrap();
    let said = Run::new(binary()).args(["check", "--json"]).arg(home.path()).succeeds();
    let document: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(document["version"], 1);
    assert_eq!(document["fit"], true);
    assert!(document["findings"].as_array().unwrap().len() > 5);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "check changes nothing");
    Run::new(binary()).args(["check", "/no/where"]).exits_with(1).says("-> create the parent");
}

#[test]
fn the_demonstration_works_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    Run::new(binary())
        .arg("try")
        .env("TMPDIR", home.path())
        .succeeds()
        .says("400 lines, none lost")
        .says("nothing of it is left");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn the_demonstration_works_without_privileges() {
    needs_root();
    common::needs("fusermount3");
    let home = tempfile::tempdir().unwrap();
    // A device that everyone may open, as distributions have it, whatever this machine's is like.
    let script = r#"
        chmod 755 "$1"; cp "$0" "$1/cachefs"; mkdir "$1/dev" "$1/tmp"; chmod 1777 "$1/tmp"
        mount -t tmpfs none "$1/dev"; mknod "$1/dev/fuse" c 10 229; chmod 666 "$1/dev/fuse"
        mount --bind "$1/dev/fuse" /dev/fuse
        cd "$1"; exec setpriv --reuid 1000 --regid 1000 --clear-groups \
            env HOME="$1/tmp" TMPDIR="$1/tmp" "$1/cachefs" try
    "#;
    Run::shell_with_own_mounts(script)
        .arg(binary())
        .arg(home.path())
        .succeeds()
        .says("nothing of it is left");
}

#[test]
fn mount_finds_the_helper() {
    needs_root();
    let home = tempfile::tempdir().unwrap();
    // In a mount namespace of its own, with an /sbin that has the program and the helper as well, and an
    // /etc/fstab.
    let script = r#"
        mkdir "$1/sbin"; cp "$0" "$1/sbin/cachefs"; ln -s cachefs "$1/sbin/mount.cachefs"
        mount -t overlay -o "lowerdir=$1/sbin:/sbin" none /sbin
        mount -t cachefs -o rw,nosuid,access=posix,x-test=1 "$1/store" "$1/mount"
        echo here > "$1/mount/file"; cat "$1/store/file"
        cachefs status "$1/mount" | grep 'access posix'
        mount -t cachefs -o nonsense "$1/store2" "$1/mount2" || echo "nonsense: exit code $?"
        mount -t cachefs "$1/no/where" "$1/mount2" || echo "no where: exit code $?"
        umount "$1/mount"
        ls -A "$1/mount"; [ ! -e "$1/mount2" ]

        touch "$1/fstab"; mount --bind "$1/fstab" /etc/fstab
        echo "$1/store $1/mount cachefs user,_netdev,nofail,x-systemd.automount,noatime,retain-for=2h 0 0" > /etc/fstab
        mount "$1/mount"; cachefs status --json "$1/mount" | grep '"retain_for": 7200'
        cat "$1/mount/file"; cachefs umount "$1/mount"
        mount -a -t cachefs; mount -a -t cachefs; cachefs umount "$1/mount"
    "#;
    Run::shell_with_own_mounts(script)
        .arg(binary())
        .arg(home.path())
        .succeeds()
        .says("here\n")
        .says("nonsense: exit code 1")
        .says("no where: exit code 32");
}

/// What a mount of this user does not permit.
#[track_caller]
fn flags_hold(user: u32) {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let store = home.path().join("store");
    fs::create_dir(&store).unwrap();
    let mounted = |flags: &str| {
        let builder = Mount::builder().store(&store).options(["-o", flags]);
        if user == 0 { builder.mount() } else { builder.user(user).mount() }
    };
    let mut mount = mounted("noexec");
    let program = mount.path().join("program");
    Run::new("cp").arg(common::needs("true")).arg(&program).user(user).succeeds();
    let run = Run::new("sh").args(["-c", "\"$0\""]).arg(&program).user(user);
    run.exits_with(126).says("Permission denied");
    mount.unmount();

    // The last word counts.
    let mount = mounted("noexec,exec,ro");
    let program = mount.path().join("program");
    Run::new(&program).user(user).succeeds();
    let run = Run::new("sh").args(["-c", "echo a > \"$0/new\""]).arg(mount.path()).user(user);
    run.exits_with(2).says("Read-only file system");
    Run::new("rm").arg("-f").arg(&program).user(user).exits_with(1).says("Read-only file system");
}

#[test]
fn the_kernel_holds_to_the_flags_of_a_mount() {
    needs_root();
    flags_hold(0);
    // By fusermount3, as `nobody`.
    flags_hold(65534);
}

#[test]
fn the_helper_takes_what_mount_may_say() {
    needs_root();
    let home = tempfile::tempdir().unwrap();
    let helper = home.path().join("mount.cachefs");
    std::os::unix::fs::symlink(binary(), &helper).unwrap();
    let (store, mount) = (home.path().join("store"), home.path().join("mount"));
    let run = |words: &[&str]| Run::new(&helper).args([&store, &mount]).args(words).finish();
    let code = |words: &[&str], expected: i32, says: &str| {
        let said = run(words);
        assert_eq!(said.status.code(), Some(expected), "{said}");
        said.says(says);
    };
    // Only looks, and so does no harm where it is wrong.
    code(&["-f", "-n", "-s", "-v", "-o", "rw,threads=2", "-t", "cachefs"], 0, "");
    code(&["-f", "-o", "thread=2"], 1, "unknown option in `-o thread=2`");
    code(&["-o", "dev"], 1, "no device nodes");
    code(&["-o", "foreground"], 1, "would wait for the end");
    code(&["-N", "/proc/1/ns/mnt"], 1, "nsenter");
    code(&["-x"], 1, "-x");
    Run::new(&helper).arg(&store).exits_with(1).says("MOUNTPOINT");
    Run::new(&helper).arg("--help").succeeds().says("-o <NAME=VALUE,...>");
    assert!(!store.exists() && !mount.exists());
    code(&["-sv", "-o", "rw", "-o", "threads=2,nofail"], 0, "mounted on");
    code(&[], 32, "is already a cachefs mount");
    Run::new(binary()).arg("umount").arg(&mount).succeeds();
}

#[test]
fn logs_may_be_json() {
    let mut mount = Mount::builder().options(["--log-format", "json"]).mount();
    mount.unmount();
    let log = mount.log();
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mounted = lines.filter(|line| line["fields"]["message"] == "mounted").collect::<Vec<_>>();
    assert!(mounted.len() == 1 && mounted[0]["level"] == "INFO", "{log}");
    assert_eq!(mounted[0]["fields"]["mountpoint"].as_str(), mount.path().to_str());
    assert!(mounted[0]["timestamp"].is_string());
}

#[test]
fn a_store_whose_filesystem_has_no_locks_is_told_apart_by_pid() {
    let home = tempfile::tempdir().unwrap();
    let trace = home.path().join("trace");
    // No filesystem here refuses locks; the tracer answers in its place.
    let without_locks = || {
        let words = ["strace", "-f", "-e", "trace=flock", "-e", "inject=flock:error=ENOLCK", "-o"];
        words.map(std::ffi::OsString::from).into_iter().chain([trace.clone().into_os_string()])
    };
    let mut mount = Mount::builder().wrapper(without_locks()).mount();
    assert!(mount.log().contains("has no locks"), "{}", mount.log());
    let daemon = fs::read_to_string(mount.store().join(".cachefs/lock")).unwrap();
    let second = Mount::builder().store(mount.store()).wrapper(without_locks());
    let (said, _) = second.refused();
    said.says("in use").says(&format!("pid {}", daemon.trim()));
    mount.unmount();
    // The pid is taken back, so that the next daemon is welcome.
    mount.mount_again();
    mount.unmount();
}
