//! Requests that come over io_uring are answered as those that come through the device, and it ends as that
//! does; where it can't be had, a mount works without. Either way nobody waits for what takes others long.

mod common;
mod conformance;

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Finished, Mount, MountBuilder, Run, Tree, needs_root};
use conformance::{Filesystem, Image, drop_caches};

const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

const PATIENCE: Duration = Duration::from_secs(30);

/// The kernel's switch, turned for this test alone, and as it was when dropped. What was mounted in between
/// stays what it is.
struct Switch {
    file: File,
    was: String,
}

impl Switch {
    /// None where the kernel has no such switch: then it can't do this.
    fn turn(on: bool) -> Option<Switch> {
        needs_root();
        let file = File::options().read(true).write(true).open(SWITCH).ok()?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let mut was = String::new();
        (&file).read_to_string(&mut was).unwrap();
        fs::write(SWITCH, if on { "Y" } else { "N" }).unwrap();
        Some(Switch { file, was })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Before the lock on it goes.
        let written = rustix::io::pwrite(&self.file, self.was.trim().as_bytes(), 0);
        if !std::thread::panicking() {
            written.unwrap();
        }
    }
}

fn over_io_uring(mount: &Mount) -> bool {
    mount.status()["kernel"]["io_uring"].as_bool().unwrap()
}

/// A mount whose requests come over io_uring; none where the kernel can't do that, and the command has said so.
fn ring(builder: MountBuilder) -> Option<Mount> {
    let builder = builder.option("--transport=io-uring");
    let Some(_on) = Switch::turn(true) else {
        refusal(builder).says("requests can't come over io_uring").says("Linux 6.14");
        return None;
    };
    let mount = builder.mount();
    assert!(over_io_uring(&mount));
    Some(mount)
}

#[track_caller]
fn refusal(builder: MountBuilder) -> Finished {
    let (refused, _) = builder.refused();
    refused
}

/// Does everything that a program can do with a directory, and tells what came of it.
const EVERYTHING: &str = r#"
import ctypes, errno, mmap, os, stat, sys
os.chdir(sys.argv[1])
def told(name, call):
    try:
        print(name, call())
    except OSError as error:
        print(name, errno.errorcode[error.errno])
def write(name, data):
    with open(name, "wb") as file:
        file.write(data)
def read(name):
    with open(name, "rb") as file:
        return file.read()
big = bytes(range(256)) * (3 << 12) + b"end"
os.mkdir("d", 0o755)
os.makedirs("d/e/f")
write("d/small", b"text")
write("d/big", big)
write("d/empty", b"")
told("big", lambda: read("d/big") == big)
told("small", lambda: read("d/small"))
told("absent", lambda: os.stat("d/absent"))
told("too long", lambda: os.stat("d/" + "x" * 256))
told("longest", lambda: write("d/" + "y" * 255, b"y"))
told("no directory", lambda: os.stat("d/small/x"))
told("there", lambda: os.mkdir("d"))
told("full", lambda: os.rmdir("d"))
with open("d/big", "r+b") as file:
    file.seek(4 << 20); file.write(b"beyond"); file.flush(); os.fsync(file.fileno()); os.fdatasync(file.fileno())
    told("data", lambda: os.lseek(file.fileno(), 0, os.SEEK_DATA))
    told("no data", lambda: os.lseek(file.fileno(), 5 << 20, os.SEEK_DATA))
    told("size", lambda: os.fstat(file.fileno()).st_size)
    os.ftruncate(file.fileno(), 100000)
    os.posix_fallocate(file.fileno(), 0, 200000)
told("big", lambda: read("d/big") == big[:100000] + bytes(100000))
with open("d/small", "ab") as file:
    file.write(b" and more")
with open("d/small", "rb") as source, open("d/copy", "wb") as copy:
    told("copied", lambda: os.copy_file_range(source.fileno(), copy.fileno(), 8, 2, 1))
told("copy", lambda: read("d/copy"))
with open("d/mapped", "w+b") as file:
    file.truncate(8192)
    with mmap.mmap(file.fileno(), 8192) as map:
        map[4096:4099] = b"map"
        map.flush()
told("mapped", lambda: read("d/mapped")[4090:4100])
os.link("d/small", "d/second")
told("links", lambda: os.stat("d/small").st_nlink)
os.symlink("small", "d/link")
os.symlink("/" + "t" * 4000, "d/long")
told("link", lambda: (os.readlink("d/link"), len(os.readlink("d/long")), read("d/link")))
os.mkfifo("d/fifo", 0o600)
told("fifo", lambda: stat.S_ISFIFO(os.stat("d/fifo").st_mode))
os.rename("d/copy", "d/e/moved")
libc = ctypes.CDLL(None, use_errno=True)
def rename(old, new, flags):
    if libc.renameat2(-100, old, -100, new, flags):
        raise OSError(ctypes.get_errno(), "")
told("kept", lambda: rename(b"d/small", b"d/big", 1))
told("exchanged", lambda: rename(b"d/small", b"d/big", 2))
told("small", lambda: len(read("d/small")))
os.chmod("d/e/moved", 0o640)
os.utime("d/e/moved", ns=(-1500000000, 1234567890123456789))
told("times", lambda: (os.stat("d/e/moved").st_atime_ns, os.stat("d/e/moved").st_mtime_ns))
os.utime("d/big")
told("attribute", lambda: os.setxattr("d/big", "user.a", b"value"))
told("attribute", lambda: os.setxattr("d/big", "user.a", b"x", os.XATTR_CREATE))
told("attribute", lambda: os.setxattr("d/big", "user.b", b"b" * 1000))
told("attribute", lambda: (os.getxattr("d/big", "user.a"), len(os.getxattr("d/big", "user.b"))))
told("attributes", lambda: sorted(os.listxattr("d/big")))
told("attribute", lambda: os.removexattr("d/big", "user.a"))
told("attribute", lambda: os.getxattr("d/big", "user.a"))
told("ioctl", lambda: __import__("fcntl").ioctl(os.open("d/big", os.O_RDONLY), 0x5401, b"0" * 64))
told("space", lambda: os.statvfs("d").f_namemax)
os.mkdir("many")
for number in range(2000):
    write(f"many/{number:04}-{'n' * (number % 150)}", str(number).encode())
listed = sorted(os.listdir("many"))
told("many", lambda: (len(listed), listed[0], listed[-1]))
told("many", lambda: sum(entry.stat().st_size for entry in os.scandir("many")))
for name in listed[1000:]:
    os.unlink("many/" + name)
told("left", lambda: len(os.listdir("many")))
with open("d/unlinked", "w+b") as file:
    file.write(b"still there"); os.unlink("d/unlinked"); file.seek(0)
    told("unlinked", lambda: (file.read(), os.fstat(file.fileno()).st_nlink))
os.rmdir("d/e/f")
directory = os.open("d", os.O_RDONLY)
os.fsync(directory)
told("exclusive", lambda: os.open("d/big", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
told("overwritten", lambda: os.write(os.open("d/big", os.O_TRUNC | os.O_WRONLY), b"new"))
told("directory", lambda: os.open("d", os.O_WRONLY))
"#;

#[test]
fn every_operation_does_what_it_does_in_a_plain_directory() {
    for way in [&["--access=posix"][..], &["--access=posix", "--no-passthrough"]] {
        let builder = Mount::builder().options(way);
        let Some(mount) = ring(builder) else { return };
        let plain = mount.beside("plain");
        let does = |directory: &Path| {
            let run = Run::new("/usr/bin/python3").arg("-c").arg(EVERYTHING).arg(directory);
            run.succeeds().stdout
        };
        let expected = does(&plain);
        assert_eq!(does(mount.path()), expected, "{way:?}");
        Tree::of(mount.path()).assert_same(&Tree::of(&plain));
        drop_caches();
        Tree::of(mount.path()).assert_same(&Tree::of(&plain));
        Tree::of(mount.store()).assert_same(&Tree::of(&plain));
        let asked = &mount.status()["requests"];
        for operation in [
            "lookup",
            "getattr",
            "setattr",
            "readlink",
            "mknod",
            "mkdir",
            "unlink",
            "rmdir",
            "symlink",
            "rename",
            "link",
            "open",
            "create",
            "write",
            "flush",
            "release",
            "fsync",
            "opendir",
            "readdirplus",
            "releasedir",
            "fsyncdir",
            "statfs",
            "setxattr",
            "getxattr",
            "listxattr",
            "removexattr",
            "fallocate",
            "lseek",
            "copy_file_range",
            "other",
        ] {
            assert!(
                asked[operation].as_u64().is_some_and(|count| count > 0),
                "{operation}: {asked}"
            );
        }
    }
}

#[test]
fn many_processes_at_once_find_what_each_has_written() {
    const SCRIPT: &str = r#"
        cd "$1"
        for round in 1 2 3 4 5 6; do
            mkdir -p own-$2 shared
            for number in 1 2 3 4 5 6 7 8; do
                echo $2-$round-$number >own-$2/$number
                echo $2 >shared/$2-$number.new
                mv shared/$2-$number.new shared/$2-$number
            done
            for number in 1 2 3 4 5 6 7 8; do
                test "$(cat own-$2/$number)" = $2-$round-$number
                test "$(cat shared/$2-$number)" = $2
                rm own-$2/$number
            done
            ls shared >/dev/null
            rmdir own-$2
        done
    "#;
    let Some(mount) = ring(Mount::builder()) else { return };
    let all = Run::shell("seq 24 | xargs -P 24 -I ME sh -ec \"$0\" sh \"$1\" ME");
    all.arg(SCRIPT).arg(mount.path()).succeeds();
    let names: Vec<_> = fs::read_dir(mount.store().join("shared")).unwrap().collect();
    assert_eq!(names.len(), 24 * 8);
    Tree::of(mount.path()).assert_same(&Tree::of(mount.store()));
}

/// A filesystem that takes no changes for now: whoever changes something waits.
struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    fn new(path: &'a Path) -> Frozen<'a> {
        Run::new("fsfreeze").arg("--freeze").arg(path).succeeds();
        Frozen(path)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let thawed = Command::new("fsfreeze").arg("--unfreeze").arg(self.0).status();
        assert!(thawed.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// The first processor that this process may use.
fn a_processor() -> String {
    let may = rustix::thread::sched_getaffinity(None).unwrap();
    (0..1024).find(|number| may.is_set(*number)).unwrap().to_string()
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// Processes that are ended, if they don't by themselves.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Has many programs wait in `call`, by which each changes its open `file`, as the store's filesystem takes no
/// changes for now; whoever asks for something quick is answered in the meantime. The mount after that.
fn nobody_waits(mount: impl FnOnce(MountBuilder) -> Option<Mount>, call: (&str, i64)) {
    const SLOW: usize = 12;
    const QUICK: &str = "cd \"$1/quick\"; ls; cat a; test ! -e absent";
    let image = Image::new(Filesystem::Ext4, 64);
    let store = image.directory("store");
    fs::create_dir(store.join("quick")).unwrap();
    for name in ["a", "b"] {
        fs::write(store.join("quick").join(name), "quick\n").unwrap();
    }
    let Some(mount) = mount(Mount::builder().store(&store)) else { return };
    let processor = a_processor();
    let (call, number) = call;
    let script = format!(
        "import os, sys\n\
         file = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)\n\
         os.write(file, b'ready')\n\
         sys.stdin.readline()\n\
         {call}"
    );
    let started = (0..SLOW).map(|number| {
        let mut command = Command::new("taskset");
        command.args(["-c", &processor, "/usr/bin/python3", "-c", &script]);
        command.arg(mount.path().join(format!("slow-{number}")));
        command.stdin(Stdio::piped()).spawn().unwrap()
    });
    let mut slow = Children(started.collect());
    let ready = || {
        (0..SLOW).all(|n| fs::metadata(store.join(format!("slow-{n}"))).is_ok_and(|f| f.len() > 0))
    };
    wait_until("all have their files", ready);
    let frozen = Frozen::new(image.path());
    for child in &mut slow.0 {
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    }
    let calls: Vec<_> =
        slow.0.iter().map(|child| format!("/proc/{}/syscall", child.id())).collect();
    let waits = |call: &String| {
        let call = fs::read_to_string(call).unwrap_or_default();
        call.split(' ').next() == Some(&*number.to_string())
    };
    wait_until("all wait", || calls.iter().all(waits));
    // On the same processor, and by names that nobody has asked for.
    let quick = Run::new("taskset").args(["-c", &processor]).args(["sh", "-ec", QUICK, "sh"]);
    assert_eq!(quick.arg(mount.path()).succeeds().stdout, "a\nb\nquick\n");
    assert!(calls.iter().all(waits), "they did not wait");
    drop(frozen);
    for child in &mut slow.0 {
        assert!(child.wait().unwrap().success());
    }
    for number in 0..SLOW {
        assert_eq!(
            fs::metadata(mount.path().join(format!("slow-{number}"))).unwrap().len(),
            100_000
        );
    }
    if !over_io_uring(&mount) {
        // Who was there for them has gone, but for a few.
        wait_until("few are left", || serving(&mount) <= 1 + 2 * THREADS);
    }
}

/// Up to so many threads serve at once what takes no long time, where a test says how many.
const THREADS: usize = 1;

fn classic(builder: MountBuilder) -> Option<Mount> {
    Some(builder.option("--transport=classic").option(format!("--threads={THREADS}")).mount())
}

/// How many threads serve what comes through the device, or wait for that.
fn serving(mount: &Mount) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", mount.pid())).unwrap();
    let name = |task: std::io::Result<fs::DirEntry>| {
        fs::read_to_string(task.ok()?.path().join("comm")).ok().filter(|n| n.starts_with("serve-"))
    };
    tasks.filter_map(name).count()
}

const ALLOCATE: (&str, i64) = ("os.posix_fallocate(file, 0, 100000)", libc::SYS_fallocate);
const TRUNCATE: (&str, i64) = ("os.ftruncate(file, 100000)", libc::SYS_ftruncate);

#[test]
fn who_asks_over_io_uring_does_not_wait_for_what_takes_long() {
    nobody_waits(ring, ALLOCATE);
}

#[test]
fn who_asks_through_the_device_does_not_wait_for_what_takes_long() {
    nobody_waits(classic, ALLOCATE);
}

#[test]
fn who_asks_through_the_device_does_not_wait_for_what_takes_long_by_chance() {
    nobody_waits(classic, TRUNCATE);
}

#[test]
fn the_daemon_ends_when_its_connection_is_broken() {
    let Some(mut mount) = ring(Mount::builder()) else { return };
    fs::write(mount.path().join("a"), "a").unwrap();
    mount.abort();
    mount.ended();
    let on = Switch::turn(true);
    mount.mount_again();
    drop(on);
    assert_eq!(fs::read(mount.path().join("a")).unwrap(), b"a");
}

#[test]
fn who_uses_a_mount_that_is_taken_away_goes_on() {
    let Some(mut mount) = ring(Mount::builder()) else { return };
    let path = mount.path().join("a");
    let script = "exec 3<>\"$1\"; echo one >&3; read go; echo two >&3; ls /proc/self/fd >/dev/null";
    let mut child = Command::new("sh");
    child.args(["-ec", script, "sh"]).arg(&path).stdin(Stdio::piped());
    let mut user = Children(vec![child.spawn().unwrap()]);
    wait_until("it is used", || fs::read(&path).is_ok_and(|text| text == b"one\n"));
    mount.cachefs(["umount", "--lazy"]).arg(mount.path()).succeeds();
    std::io::Write::write_all(user.0[0].stdin.as_mut().unwrap(), b"go\n").unwrap();
    assert!(user.0[0].wait().unwrap().success());
    mount.ended();
    assert_eq!(fs::read(mount.store().join("a")).unwrap(), b"one\ntwo\n");
}

#[test]
fn without_it_a_mount_works_through_the_device() {
    let Some(off) = Switch::turn(false) else { return };
    refusal(Mount::builder().option("--transport=io-uring"))
        .says("switched off")
        .says("`echo Y > /sys/module/fuse/parameters/enable_uring`");
    let mount = Mount::new();
    drop(off);
    assert!(!over_io_uring(&mount));
    fs::write(mount.path().join("a"), "a").unwrap();
    let on = Switch::turn(true);
    let classic = Mount::builder().option("--transport=classic").mount();
    let by_itself = Mount::new();
    drop(on);
    assert!(!over_io_uring(&classic));
    assert!(over_io_uring(&by_itself));
}

#[test]
fn a_daemon_that_may_not_use_io_uring_works_without() {
    const FORBIDDEN: &str = "/proc/sys/kernel/io_uring_disabled";
    let Some(_on) = Switch::turn(true) else { return };
    let was = fs::read_to_string(FORBIDDEN).unwrap();
    fs::write(FORBIDDEN, "2").unwrap();
    let mount = std::panic::catch_unwind(Mount::new);
    let refused = Mount::builder().option("--transport=io-uring").refused();
    fs::write(FORBIDDEN, was).unwrap();
    let mount = mount.unwrap();
    assert!(!over_io_uring(&mount));
    assert_eq!(mount.log().matches("don't come over io_uring").count(), 1, "{}", mount.log());
    fs::write(mount.path().join("a"), "a").unwrap();
    assert_eq!(fs::read(mount.store().join("a")).unwrap(), b"a");
    refused.0.says("requests can't come over io_uring");
    assert!(refused.1.log().contains("don't come over io_uring"), "{}", refused.1.log());
}
