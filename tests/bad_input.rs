//! Whatever is wrong with what `cachefs mount` is given, or with what its socket is told: a clear error
//! in one line, exit code 1 (2 where the words are off), and nothing left behind.

mod common;

use std::ffi::{CString, OsString};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Finished, Mount, Run, Tree, binary, needs_root};

const USER: u32 = 1000;

/// A directory in which mounts are tried; nothing stays mounted below it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        needs_root();
        let home = tempfile::Builder::new().prefix("cachefs-test-").tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Home(home)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// The mountpoints below it, the innermost last.
    fn mounts(&self) -> Vec<String> {
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let at = all.lines().filter_map(|line| line.split(' ').nth(4));
        at.filter(|at| Path::new(at).starts_with(self.0.path())).map(str::to_owned).collect()
    }

    /// `cachefs mount` must fail with `code` and say `why`, in the background and in the foreground, and
    /// leave everything as it was.
    #[track_caller]
    fn refuses(&self, command: impl Fn() -> Run, code: i32, why: &[&str]) {
        let (tree, mounts) = (Tree::of(self.0.path()), self.mounts());
        for foreground in [false, true] {
            let mut run = command();
            if foreground {
                run = run.arg("--foreground");
            }
            let said = run.timeout(Duration::from_secs(20)).finish();
            assert_eq!(self.mounts(), mounts, "mounted, or unmounted, after\n{said}");
            assert_eq!(said.status.code(), Some(code), "{said}");
            for why in why {
                said.says(why);
            }
            if code == 1 {
                assert_one_line(&said);
            }
            Tree::of(self.0.path()).assert_same(&tree);
        }
    }

    #[track_caller]
    fn refuses_mount(&self, store: &Path, mountpoint: &Path, why: &[&str]) {
        self.refuses(|| mount(store, mountpoint), 1, why);
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for at in self.mounts().iter().rev() {
            let at = CString::new(at.as_bytes()).unwrap();
            // SAFETY: the path is a C string that outlives the call.
            unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
        }
    }
}

fn mount(store: &Path, mountpoint: &Path) -> Run {
    Run::new(binary()).arg("mount").arg(store).arg(mountpoint)
}

#[track_caller]
fn assert_one_line(said: &Finished) {
    let lines: Vec<_> = said.stderr.lines().filter(|line| line.starts_with("cachefs: ")).collect();
    assert_eq!(lines.len(), 1, "{said}");
}

#[test]
fn store_that_can_not_be_one() {
    let home = Home::new();
    let mountpoint = home.path("m");
    home.refuses_mount(
        &home.path("no/where"),
        &mountpoint,
        &["there is no directory", "create it"],
    );
    fs::write(home.path("file"), "x").unwrap();
    home.refuses_mount(&home.path("file"), &mountpoint, &["not a directory"]);
    home.refuses_mount(&home.path("file/below"), &mountpoint, &["not a directory"]);
    std::os::unix::fs::symlink("nowhere", home.path("dangling")).unwrap();
    home.refuses_mount(&home.path("dangling"), &mountpoint, &["dangling"]);
}

#[test]
fn store_of_a_newer_version() {
    let home = Home::new();
    let private = home.directory("s").join(".cachefs");
    fs::create_dir(&private).unwrap();
    fs::write(private.join("format"), "7\n").unwrap();
    home.refuses_mount(&home.path("s"), &home.path("m"), &["newer", "format 7"]);
    fs::write(private.join("format"), "gibberish").unwrap();
    home.refuses_mount(&home.path("s"), &home.path("m"), &["not what cachefs put there"]);
}

#[test]
fn private_folder_that_leads_elsewhere() {
    let home = Home::new();
    home.directory("elsewhere");
    std::os::unix::fs::symlink("../elsewhere", home.directory("s").join(".cachefs")).unwrap();
    home.refuses_mount(&home.path("s"), &home.path("m"), &["not what cachefs put there"]);
}

#[test]
fn store_and_mountpoint_in_each_other() {
    let home = Home::new();
    let store = home.directory("s");
    home.refuses_mount(&store, &store, &["both store and mountpoint"]);
    home.refuses_mount(&store, &store.join("m"), &["inside the store"]);
    home.refuses_mount(&store, &home.path("s/../s/m"), &["inside the store"]);
    let outer = home.directory("outer");
    home.refuses_mount(&outer.join("s"), &outer, &["inside the mountpoint"]);
    std::os::unix::fs::symlink("s", home.path("link")).unwrap();
    home.refuses_mount(&home.path("link"), &store.join("m"), &["inside the store"]);
    // One directory, two names.
    let alias = home.directory("alias");
    Run::new("mount").arg("--bind").arg(&store).arg(&alias).succeeds();
    home.refuses_mount(&store, &alias.join("m"), &["inside the store"]);
    home.refuses_mount(&store, &alias, &["both store and mountpoint"]);
}

#[test]
fn mountpoint_that_can_not_be_one() {
    let home = Home::new();
    let store = home.path("s");
    fs::write(home.path("file"), "x").unwrap();
    home.refuses_mount(&store, &home.path("file"), &["not a directory"]);
    fs::write(home.directory("full").join("precious"), "x").unwrap();
    home.refuses_mount(&store, &home.path("full"), &["not empty"]);
    home.refuses_mount(&store, &home.path("no/where"), &["there is no directory"]);
}

#[test]
fn store_and_mountpoint_in_use() {
    let mount_in_use = Mount::new();
    let home = Home::new();
    let pid = format!("pid {}", mount_in_use.pid());
    home.refuses_mount(mount_in_use.store(), &home.path("m"), &["in use", &pid]);
    home.refuses_mount(&home.path("s"), mount_in_use.path(), &["already a cachefs mount", &pid]);
    home.refuses_mount(mount_in_use.store(), mount_in_use.path(), &["already", &pid]);
    fs::write(mount_in_use.path().join("still"), "works").unwrap();
}

#[test]
fn rights_that_are_missing() {
    let home = Home::new();
    chown(home.0.path(), Some(USER), Some(USER)).unwrap();
    // The work tree may be somewhere that this user can't enter.
    let program = home.path("program");
    common::copy_program(&binary(), &program);
    let by_user = |store: &str, path: &'static str| {
        let words = [OsString::from("mount"), home.path(store).into(), home.path("m").into()];
        let program = program.clone();
        move || Run::new(&program).args(&words).user(USER).env("PATH", path)
    };
    let foreign = home.directory("foreign");
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o700)).unwrap();
    // One that may be read is served for reading.
    home.refuses(by_user("foreign", "/usr/bin:/bin"), 1, &["not permitted", "foreign"]);
    home.refuses(by_user("s", "/nowhere"), 1, &["not permitted to mount"]);
}

#[test]
fn device_that_is_missing() {
    let home = Home::new();
    let (store, mountpoint) = (home.path("s"), home.path("m"));
    let without_device = r#"mount -t tmpfs none /dev; mknod /dev/null c 1 3; exec "$@""#;
    let command = || {
        Run::shell_with_own_mounts(without_device)
            .arg("sh")
            .arg(binary())
            .arg("mount")
            .args([&store, &mountpoint])
    };
    home.refuses(command, 1, &["/dev/fuse", "modprobe fuse"]);
}

#[test]
fn words_that_are_off() {
    let home = Home::new();
    let (store, mountpoint) = (home.path("s"), home.path("m"));
    for (words, why) in [
        (&["--access", "everyone"][..], "`shared`, `posix` or `scoped`"),
        (&["--trust", "0"], "`scoped` only"),
        (&["--access", "scoped", "--trust", "no-such-user-here"], "there is no user"),
        (&["--quota-default", "110%"], "more than all"),
        (&["--quota", "1G"], "USER=SIZE"),
        (&["--quota", "0=1G:many"], "number of files"),
        (&["--access", "posix", "--owner", "1:1"], "owner"),
        (&["--owner", "root"], "UID:GID"),
        (&["--threads", "0"], "threads"),
        (&["--retain-for", "soon"], "use a whole number and a unit"),
        (&["--retain-for", "24"], "the unit is missing"),
        (&["--grace=-1m"], "use a whole number and a unit"),
        (&["--idle", "99999999999d"], "too long"),
        (&["--reader", "user"], "`tree` or `cgroup`"),
        (&["-o", "grace=1.5h"], "use a whole number and a unit"),
        (&["-o", "retain-for"], "needs a value"),
        (&["--no-such-option"], "no-such-option"),
        (&["-o", "rw,no-such-option"], "no-such-option"),
        (&["-o", "access=scoped,quota-default=much"], "number and a unit"),
        (&["-o", "threads=many"], "threads=many"),
        (&["-o", "suid"], "suid"),
    ] {
        home.refuses(|| mount(&store, &mountpoint).args(words), 2, &[why]);
    }
    home.refuses(|| Run::new(binary()).arg("mount").arg(&store), 2, &["MOUNTPOINT"]);
}

#[test]
fn log_that_can_not_be_written() {
    let home = Home::new();
    let mountpoint = home.directory("m");
    let log = |at: PathBuf| {
        let (store, mountpoint) = (home.path("s"), mountpoint.clone());
        move || mount(&store, &mountpoint).arg("--log").arg(&at)
    };
    home.refuses(log(home.path("no/log")), 1, &["can't write the log"]);
    // In the mount, the daemon would wait for itself.
    home.refuses(log(mountpoint.join("log")), 1, &["inside the mountpoint"]);
}

#[test]
fn mountpoint_that_a_dead_daemon_has_left_is_repaired() {
    let home = Home::new();
    let (store, mountpoint) = (home.path("s"), home.path("m"));
    mount(&store, &mountpoint).succeeds();
    Run::shell(r#"echo kept > "$0/file""#).arg(&mountpoint).succeeds();
    kill_daemon(&store);
    Run::new("stat").arg(&mountpoint).exits_with(1).says("not connected");
    mount(&store, &mountpoint).succeeds();
    assert_eq!(home.mounts().len(), 1);
    assert_eq!(Run::new("cat").arg(mountpoint.join("file")).succeeds().stdout, "kept\n");
    Run::new(binary()).arg("umount").arg(&mountpoint).succeeds();
    assert_eq!(home.mounts().len(), 0);
}

#[test]
fn mountpoint_that_another_filesystem_has_left_is_explained() {
    let home = Home::new();
    let mountpoint = home.directory("m");
    let device = fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let (at, data) =
        (CString::new(mountpoint.as_os_str().as_bytes()).unwrap(), CString::new(data).unwrap());
    // SAFETY: all are C strings that outlive the call.
    let mounted = unsafe {
        libc::mount(c"other".as_ptr(), at.as_ptr(), c"fuse.other".as_ptr(), 0, data.as_ptr().cast())
    };
    assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
    drop(device);
    let said = mount(&home.path("s"), &mountpoint).exits_with(1);
    said.says("fuse.other").says("umount -l");
    assert_one_line(&said);
    assert!(!home.path("s").exists());
    assert_eq!(home.mounts().len(), 1);
}

fn kill_daemon(store: &Path) {
    let pid = fs::read_to_string(store.join(".cachefs/lock")).unwrap();
    Run::shell("kill -9 $0; while [ -e /proc/$0 ]; do sleep 0.01; done").arg(pid.trim()).succeeds();
}

fn control(mount: &Mount) -> UnixStream {
    let socket = UnixStream::connect(mount.store().join(".cachefs/control.sock")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

/// What the daemon answers to some bytes, after which nothing more comes.
fn answer(mount: &Mount, bytes: &[u8]) -> String {
    let mut socket = control(mount);
    // A daemon that has heard enough hangs up, and then the rest can't be sent.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let mut said = String::new();
    let _ = socket.read_to_string(&mut said);
    said
}

#[test]
fn socket_that_is_told_nonsense() {
    let mount = Mount::new();
    fs::write(mount.path().join("kept"), "x").unwrap();
    for (bytes, why) in [
        (&b"garbage\n"[..], "not a JSON document"),
        (b"\0\xff\xfe\n", "not a JSON document"),
        (b"{}\n", "no version"),
        (br#"{"version":1,"command":"st"#, "no end"),
        (b"{\"version\":99,\"command\":\"status\"}\n", "version 99"),
        (b"{\"version\":1,\"command\":\"explode\"}\n", "not understood"),
        (b"{\"version\":1}\n", "not understood"),
        // What removes things removes nothing unless every word of it makes sense.
        (b"{\"version\":1,\"command\":\"clean\"}\n", "paths"),
        (b"{\"version\":1,\"command\":\"clean\",\"paths\":null}\n", "not understood"),
        (b"{\"version\":1,\"command\":\"clean\",\"paths\":[{}]}\n", "not understood"),
        (b"{\"version\":1,\"command\":\"clean\",\"paths\":[[]]}\n", "no path at all"),
        (b"{\"version\":1,\"command\":\"clean\",\"paths\":[\"\"]}\n", "no path at all"),
        (b"{\"version\":1,\"command\":\"clean\",\"paths\":[\"kept\",\"..\"]}\n", "`..`"),
        (b"{\"version\":1,\"command\":\"clean\",\"paths\":[\"/etc\"]}\n", "not relative"),
        (b"{\"version\":1,\"command\":\"clean\",\"paths\":[[46,46,47,255]]}\n", "`..`"),
        (b"{\"version\":1,\"command\":\"clean\",\"paths\":[\"a\\u0000b\"]}\n", "NUL"),
    ] {
        let said = answer(&mount, bytes);
        let document: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(document["version"], 1);
        assert!(document["error"].as_str().unwrap().contains(why), "{said}");
    }
    assert_eq!(answer(&mount, b""), "");
    assert!(answer(&mount, &vec![b'['; 60_000]).contains("no end"));
    assert_eq!(mount.status()["pid"], mount.pid());
    assert!(mount.path().join("kept").exists());
}

#[test]
fn paths_that_can_not_be_cleaned() {
    let mount = Mount::new();
    fs::create_dir(mount.path().join("kept")).unwrap();
    std::os::unix::fs::symlink("/", mount.path().join("out")).unwrap();
    let outside = tempfile::tempdir().unwrap();
    let (outside, store) = (outside.path().to_str().unwrap(), mount.store().to_str().unwrap());
    let up = mount.path().join("../kept");
    let too_many = vec!["a-name-that-is-not-there"; 4000];
    for (words, why) in [
        (&[".."][..], "`..`"),
        (&["kept", "kept/../.."], "`..`"),
        (&[up.to_str().unwrap()], "`..`"),
        (&["."], "no path at all"),
        (&["nowhere"], "there is no nowhere in the mount"),
        (&["kept/nowhere/at/all"], "there is no"),
        (&[outside], "is not in the mount"),
        (&[store], "is not in the mount"),
        // Nothing leads out of the store, nor into what is the daemon's own.
        (&["out/etc"], "out"),
        (&[".cachefs"], "there is no .cachefs"),
        (&[".cachefs/lock"], ".cachefs"),
        (&too_many, "name fewer paths"),
    ] {
        let said = mount.cachefs(["clean"]).arg(mount.path()).args(words).exits_with(1);
        said.says(why);
        assert_one_line(&said);
    }
    for mounts in [&["/nowhere"][..], &[outside], &["/"]] {
        let said = mount.cachefs(["clean"]).args(mounts).exits_with(1);
        assert_one_line(said.says("neither the mountpoint nor the store"));
    }
    mount.cachefs(["clean", "--everything"]).exits_with(2);
    mount.cachefs(["clean", ""]).exits_with(2);
    assert!(mount.path().join("kept").exists() && Path::new("/etc").exists());
    assert!(mount.store().join(".cachefs/lock").exists());
    assert_eq!(mount.status()["pid"], mount.pid());
}

#[test]
fn socket_that_is_told_too_much() {
    let mount = Mount::new();
    let before = memory(&mount);
    let said = answer(&mount, &vec![b'x'; 100 << 20]);
    assert!(said.is_empty() || said.contains("no more than 65536 bytes"), "{said}");
    assert!(answer(&mount, &vec![b'x'; 66_000]).contains("no more than 65536 bytes"));
    assert!(memory(&mount) < before + (16 << 10), "the daemon kept what it was told");
    // One more than is answered at a time, none of which says anything.
    let mut idle: Vec<_> = (0..64).map(|_| control(&mount)).collect();
    let mut line = String::new();
    let told = Instant::now();
    BufReader::new(control(&mount)).read_line(&mut line).unwrap();
    assert!(line.contains("too many clients"), "{line}");
    assert!(told.elapsed() < Duration::from_secs(5));
    fs::write(mount.path().join("meanwhile"), "files are served").unwrap();
    // Who says nothing is cut off.
    let mut nothing = [0];
    assert_eq!(idle[0].read(&mut nothing).unwrap(), 0);
    idle.clear();
    assert_eq!(mount.status()["pid"], mount.pid());
}

/// The daemon's resident memory, in KiB.
fn memory(mount: &Mount) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
