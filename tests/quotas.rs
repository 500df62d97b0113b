//! SEMANTICS 5.5: who has more in the store than his quota spills, and no one else notices.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Finished, Mount, MountBuilder, Run, needs_root, tool, wheelhouse};
use serde_json::{Value, json};

/// Has a quota.
const LIMITED: u32 = 64_121;

/// Has none, unless a test gives one to all.
const OTHER: u32 = 64_122;

const MIB: u64 = 1 << 20;

/// A mount, and a place that all users can enter.
struct Ground {
    mount: Mount,
    place: tempfile::TempDir,
}

impl Ground {
    fn new(options: &[&str]) -> Ground {
        Ground::of(Mount::builder(), options)
    }

    /// With eight mebibytes of anything in `big`.
    fn of(builder: MountBuilder, options: &[&str]) -> Ground {
        needs_root();
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let bytes: Vec<u8> = (0..MIB).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
        fs::write(place.path().join("big"), bytes).unwrap();
        Ground { mount: builder.options(options.iter().copied()).mount(), place }
    }

    fn sh(&self, user: u32, script: &str) -> Finished {
        let path = self.mount.path();
        let run = Run::shell(script).clean_environment(self.place.path()).directory(path);
        run.env("big", self.place.path().join("big")).user(user).finish()
    }

    #[track_caller]
    fn says(&self, user: u32, script: &str) -> String {
        let finished = self.sh(user, script);
        assert!(finished.status.success(), "{finished}\n{}", self.mount.log());
        finished.stdout
    }

    fn stored(&self, name: &str) -> bool {
        self.mount.store().join(name).symlink_metadata().is_ok()
    }

    /// What `status --json` says of a user.
    fn usage(&self, user: u32) -> Value {
        let status = self.mount.status();
        let users = status["users"].as_array().unwrap();
        users.iter().find(|told| told["uid"] == user).cloned().unwrap_or_default()
    }

    fn bytes(&self, user: u32) -> u64 {
        self.usage(user)["used"]["bytes"].as_u64().unwrap_or(0)
    }

    /// What was removed counts until its file is gone, soon after those who might have seen it have ended.
    #[track_caller]
    fn wait_until(&self, user: u32, what: impl Fn(u64) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !what(self.bytes(user)) {
            assert!(Instant::now() < deadline, "{}\n{}", self.mount.status(), self.mount.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// `--quota` for [`LIMITED`].
fn limited(size: &str) -> [String; 2] {
    ["--quota".into(), format!("{LIMITED}={size}")]
}

/// What a user does who has filled what he may have: everything of which a cache is made.
const ALL_KINDS: &str = "
    mkdir folder; echo in > folder/file; ln -s file folder/link; ln folder/file folder/hard
    echo out > moved; mv moved folder/moved; echo alone > alone; ln alone second; mkfifo fifo
    mkdir made; echo unit > made/file; mv made unit; mv unit/file taken; rm taken
    echo taken > taken; echo old > shared; echo replaced > old";

/// What of it is there in the end.
const ALL_SEEN: &str = "cat folder/* alone second taken shared old; ls; stat -c %h folder/hard";

/// He has filled what he may have; how it looks to somebody else, and what is in the store.
#[track_caller]
fn spills_everything(ground: &Ground) {
    ground.says(OTHER, "echo old > old; echo shared > shared; mkdir folders; echo x > folders/x");
    ground.says(LIMITED, "head -c 4M /dev/zero > full");
    assert_eq!(ground.bytes(LIMITED), 4 * MIB);
    assert!(ground.stored("full"));
    ground.says(LIMITED, ALL_KINDS);
    for user in [OTHER, LIMITED, 0] {
        let seen = ground.says(user, ALL_SEEN);
        let files = "in\nin\nin\nout\nalone\nalone\ntaken\nold\nreplaced\n";
        let listed = "alone\nfifo\nfolder\nfolders\nfull\nold\nsecond\nshared\ntaken\nunit\n";
        assert_eq!(seen, format!("{files}{listed}2\n"), "{user}");
    }
    // Among what he has spilled others work as anywhere, and elsewhere it goes to the store.
    ground.says(OTHER, "echo more >> folder/file; cmp folder/file folder/hard; mv folder/hard x");
    ground.says(OTHER, "cp $big big; cmp big $big; cat folders/x");
    assert!(ground.stored("big") && !ground.stored("folder"));
    let told = ground.usage(LIMITED);
    assert_eq!((&told["over"], &told["limit"]["bytes"]), (&json!(true), &json!(4 * MIB)), "{told}");
    assert_eq!(told["used"], json!({"bytes": 4 * MIB, "files": 1}));
    assert_eq!(ground.usage(OTHER)["over"], false);
}

#[test]
fn who_is_over_quota_spills_and_no_one_else_notices() {
    let quota = limited("4MiB");
    let mut ground = Ground::new(&[&quota[0], &quota[1]]);
    spills_everything(&ground);
    let status = ground.mount.status();
    let reason = status["degraded"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(&format!("user {LIMITED} is over quota")), "{status}");
    let told = ground.mount.cachefs(["status"]).arg(ground.mount.path()).succeeds();
    told.says(&format!("user {LIMITED}: 4.00 MiB of 4.00 MiB, 1 names; over quota"));

    // As soon as he has less, the store takes what he writes.
    ground.says(LIMITED, "rm full");
    ground.wait_until(LIMITED, |bytes| bytes == 0);
    ground.says(LIMITED, "echo again > again; mkdir directory; echo more > directory/file");
    assert!(ground.stored("again") && ground.stored("directory/file"));
    let status = ground.mount.status();
    assert_eq!(
        (&ground.usage(LIMITED)["over"], &status["degraded"]),
        (&json!(false), &Value::Null)
    );
    ground.mount.unmount();
    let old = fs::read_to_string(ground.mount.store().join("old")).unwrap();
    assert_eq!(old, "old\n", "what others had is as it was");
    for name in ["folder", "alone", "second", "taken", "unit", "fifo", "x", "made"] {
        assert!(!ground.stored(name), "{name}");
    }
}

/// Where the spill area lies on the store's own filesystem, nothing of it gets into the store.
#[test]
fn a_spill_area_beside_the_store_is_not_the_store() {
    let quota = limited("4MiB");
    let area = tempfile::tempdir().unwrap();
    let at = area.path().to_str().unwrap();
    let mut ground = Ground::new(&[&quota[0], &quota[1], "--spill", at]);
    spills_everything(&ground);
    ground.says(OTHER, "mv folder/moved out; ln folder/file linked; mv unit/ other-unit");
    assert_eq!(ground.says(0, "cat out linked"), "out\nin\nmore\n");
    ground.says(LIMITED, "rm full");
    ground.wait_until(LIMITED, |bytes| bytes == 0);
    ground.mount.unmount();
    let mut left: Vec<_> = fs::read_dir(ground.mount.store())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, [".cachefs", "big", "folders", "old", "shared"]);
}

/// What a job gives its name when it has made it whole is not in the store as a part of that.
#[test]
fn a_directory_of_which_a_part_is_spilled_gets_no_name_in_the_store() {
    let quota = limited("4MiB");
    let mut ground = Ground::new(&[&quota[0], &quota[1]]);
    let make = "mkdir -p tmp/deep; echo x > tmp/first; cp $big tmp/deep/big; echo x > tmp/last";
    // A job begins when it first makes something itself.
    ground.says(
        LIMITED,
        &format!("echo > begun; mkdir units; {make}; mv tmp units/one; {make}; mv -T tmp two"),
    );
    let whole = "cmp $big units/one/deep/big; cmp $big two/deep/big; ls . units/one two";
    let listed =
        ".:\nbegun\ntwo\nunits\n\ntwo:\ndeep\nfirst\nlast\n\nunits/one:\ndeep\nfirst\nlast\n";
    assert_eq!(ground.says(OTHER, whole), listed);
    // What is whole has its name, and what others rename.
    ground.says(LIMITED, "mkdir whole; echo x > whole/file; mv whole three");
    ground.says(OTHER, "mv units renamed; cmp $big renamed/one/deep/big");
    ground.mount.unmount();
    let stored = ["two", "renamed/one", "three/file", "renamed"].map(|name| ground.stored(name));
    assert_eq!(stored, [false, false, true, true]);
}

/// A file that is being written when there is too much goes on, and its writer does not notice.
#[test]
fn the_middle_of_a_write_is_like_its_beginning() {
    let quota = limited("4MiB");
    let ground = Ground::new(&[&quota[0], &quota[1]]);
    ground.says(LIMITED, "cp $big big; cmp $big big; stat -c %s big");
    ground.says(OTHER, "cmp $big big");
    assert!(!ground.stored("big"));
    assert_eq!(ground.bytes(LIMITED), 0, "nothing of it is in the store");
    // In place, with a descriptor that stays open, by him and then by another one.
    ground.says(OTHER, "echo begun > log");
    ground.says(LIMITED, "exec 3>> log; cat $big >&3; echo end >&3; sh -c 'echo mine' >> log");
    let sizes = ground.says(OTHER, "echo other >> log; tail -c 15 log; stat -c %s log");
    assert_eq!(sizes, format!("end\nmine\nother\n{}\n", 8 * MIB + 6 + 4 + 5 + 6));
    // As much of it stays in the store as he might write there.
    let stored = fs::metadata(ground.mount.store().join("log")).unwrap().len();
    assert!((3 * MIB..=4 * MIB + 4096).contains(&stored), "{stored}");
    ground.says(OTHER, "rm log");
    ground.wait_until(LIMITED, |bytes| bytes == 0);
    // By fallocate and copy_file_range, too.
    let python = "
import os
big = os.open('source', os.O_RDONLY)
made = os.open('allocated', os.O_RDWR | os.O_CREAT | os.O_EXCL)
os.posix_fallocate(made, 0, 6 << 20)
assert os.fstat(made).st_size == 6 << 20
made = os.open('copied', os.O_RDWR | os.O_CREAT | os.O_EXCL)
done = 0
while done < 8 << 20:
    copied = os.copy_file_range(big, made, (8 << 20) - done)
    assert copied > 0
    done += copied
sparse = os.open('sparse', os.O_RDWR | os.O_CREAT | os.O_EXCL)
os.ftruncate(sparse, 1 << 30)
os.pwrite(sparse, b'x', 1 << 29)
";
    ground.says(OTHER, "cp $big source");
    ground.says(LIMITED, &format!("python3 -c \"{python}\"; cmp $big copied"));
    assert_eq!(
        ["allocated", "copied", "sparse"].map(|name| ground.stored(name)),
        [false, false, true]
    );
    assert!(ground.bytes(LIMITED) <= 64 << 10, "{}", ground.usage(LIMITED));
}

/// A file takes more when its holes are filled, however much of it lies behind them.
#[test]
fn holes_and_what_is_behind_the_end_are_not_free() {
    let quota = limited("4MiB");
    let ground = Ground::new(&[&quota[0], &quota[1]]);
    let python = "
import os
made = os.open('sparse', os.O_RDWR | os.O_CREAT | os.O_EXCL)
os.ftruncate(made, 1 << 40)
os.pwrite(made, b'x' * (3 << 20), 61 << 20)
for at in range(0, 16 << 20, 1 << 20):
    assert os.pwrite(made, b'y' * (1 << 20), at) == 1 << 20
assert os.pread(made, 1 << 25, 0) == b'y' * (1 << 24) + bytes(1 << 24)
";
    ground.says(LIMITED, &format!("python3 -c \"{python}\""));
    assert!(ground.bytes(LIMITED) <= 4 * MIB, "{}", ground.usage(LIMITED));
    ground.says(LIMITED, "rm sparse");
    // What is reserved behind the end is taken, too. It is noticed when there is too much.
    ground.says(
        LIMITED,
        "head -c 1M /dev/zero > own; : > reserved; fallocate -n -o 1G -l 3M reserved",
    );
    assert_eq!(ground.bytes(LIMITED), 4 * MIB);
    ground.says(LIMITED, "fallocate -n -l 3M reserved; printf changed | dd of=own conv=notrunc");
    assert_eq!(ground.bytes(LIMITED), 7 * MIB);
    let own = fs::read(ground.mount.store().join("own")).unwrap();
    assert!(own.starts_with(b"changed"), "what is written over what was there adds nothing");
    ground.says(LIMITED, "for n in 3 6 9 12 15; do fallocate -n -o ${n}M -l 3M reserved; done");
    assert!(ground.bytes(LIMITED) <= 7 * MIB, "{}", ground.usage(LIMITED));
}

#[test]
fn hard_links_are_counted_once_and_names_as_they_are() {
    let quota = limited("1G:6");
    let ground = Ground::new(&[&quota[0], &quota[1]]);
    let files = || ground.usage(LIMITED)["used"]["files"].clone();
    ground.says(LIMITED, "head -c 3M /dev/zero > a; ln a b; mkdir d; ln b d/c");
    assert_eq!((ground.bytes(LIMITED) / MIB, files()), (3, json!(2)));
    ground.says(LIMITED, "rm a; ln -s b link");
    assert_eq!((ground.bytes(LIMITED) / MIB, files()), (3, json!(3)));
    ground.says(LIMITED, "for n in 1 2 3 4 5 6; do echo $n > file-$n; done; ln b another");
    let listed = "another\nb\nd\nfile-1\nfile-2\nfile-3\nfile-4\nfile-5\nfile-6\nlink\n";
    assert_eq!(ground.says(OTHER, "ls"), listed);
    let stored = |n: &u32| ground.stored(&format!("file-{n}"));
    assert_eq!((1..=6).filter(stored).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(ground.stored("another"));
    // Somebody else removes what he has, and it is his again.
    ground.says(OTHER, "rm -r b d another");
    ground.wait_until(LIMITED, |bytes| bytes < MIB);
    ground.says(LIMITED, "echo 7 > file-7");
    assert!(ground.stored("file-7"));
}

#[test]
fn each_pays_for_what_he_adds_until_it_is_gone() {
    let quota = limited("1G");
    let ground = Ground::new(&[&quota[0], &quota[1]]);
    let both = || [LIMITED, OTHER].map(|user| ground.bytes(user) / MIB);
    ground.says(LIMITED, "head -c 2M /dev/zero > file");
    ground.says(OTHER, "head -c 3M /dev/zero >> file");
    assert_eq!(both(), [2, 3]);
    ground.says(OTHER, "truncate -s 1M file");
    assert_eq!(both(), [1, 0]);
    ground.says(OTHER, ": > file; head -c 2M /dev/zero > file");
    assert_eq!(both(), [0, 2]);
    // Who replaces a file has another one.
    ground.says(LIMITED, "head -c 1M /dev/zero > new; mv new file");
    ground.wait_until(OTHER, |bytes| bytes == 0);
    assert_eq!(both(), [1, 0]);
    // What has no name takes its room as long as it is open.
    let script = "exec 3> open; rm open; head -c 3M /dev/zero >&3; echo; read go";
    let mut child = std::process::Command::new("setpriv")
        .args(["--reuid", &LIMITED.to_string(), "--clear-groups", "sh", "-ec", script])
        .current_dir(ground.mount.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(both(), [4, 0]);
    drop(child.stdin.take());
    child.wait().unwrap();
    ground.wait_until(LIMITED, |bytes| bytes == MIB);
    // So it does where it becomes too much meanwhile.
    let much = "head -c 1G /dev/zero > much; rm much";
    ground.says(LIMITED, &format!("exec 3> open; rm open; cat $big >&3; {much}; cat $big >&3"));
    ground.wait_until(LIMITED, |bytes| bytes == MIB);
    // An administrator takes it all away.
    ground.mount.cachefs(["clean"]).arg(ground.mount.path()).succeeds();
    ground.wait_until(LIMITED, |bytes| bytes == 0);
    assert_eq!(ground.usage(LIMITED)["used"]["files"], 0);
}

#[test]
fn the_next_mount_counts_the_same() {
    let quota = limited("4MiB");
    let mut ground = Ground::new(&[&quota[0], &quota[1]]);
    fs::write(ground.mount.store().join("of nobody"), "x").unwrap();
    ground.says(LIMITED, "mkdir d; head -c 3M /dev/zero > d/file; ln d/file link");
    ground.says(OTHER, "head -c 2M /dev/zero > other; cat 'of nobody'");
    let told = [LIMITED, OTHER].map(|user| ground.usage(user));
    for crash in [false, true] {
        match crash {
            true => ground.mount.kill(),
            false => ground.mount.unmount(),
        }
        ground.mount.mount_again();
        for (user, told) in [LIMITED, OTHER].iter().zip(&told) {
            ground.wait_until(*user, |bytes| Some(bytes) == told["used"]["bytes"].as_u64());
            assert_eq!(ground.usage(*user)["used"], told["used"]);
        }
        ground.says(LIMITED, "head -c 2M /dev/zero > more; stat -c %s more");
        assert!(!ground.stored("more"));
        assert_eq!(ground.usage(0), Value::Null, "what nobody has written is nobody's");
    }
    ground.says(0, "rm -r d link");
    ground.wait_until(LIMITED, |bytes| bytes == 0);
}

/// Whose a file is, is not shown, and not for users to change.
#[test]
fn marks_are_hidden() {
    let quota = limited("4MiB");
    let ground = Ground::new(&[&quota[0], &quota[1]]);
    let python = "
import os
name = 'user.cachefs.uid'
open('file', 'w').write('x'); os.mkdir('folder')
os.setxattr('file', 'user.own', b'1')
for path, own in ('file', ['user.own']), ('folder', []):
    assert os.listxattr(path) == own, os.listxattr(path)
    for act in (lambda: os.getxattr(path, name), lambda: os.setxattr(path, name, b'0'),
                lambda: os.removexattr(path, name)):
        try: act()
        except OSError as error: assert error.errno == 95, error
        else: raise SystemExit('done')
";
    ground.says(LIMITED, &format!("python3 -c \"{python}\""));
    let marks = "import os, sys; print(os.getxattr(sys.argv[1], 'user.cachefs.uid').decode())";
    for name in ["file", "folder"] {
        let path = ground.mount.store().join(name);
        let said = Run::new("python3").args(["-c", marks]).arg(path).succeeds();
        assert_eq!(said.stdout, format!("{LIMITED}\n"));
    }
}

#[test]
fn errors_are_given_back_where_that_is_wanted() {
    let quota = limited("4MiB");
    let ground = Ground::new(&[&quota[0], &quota[1], "--on-write-error", "fail"]);
    let failed = ground.sh(LIMITED, "cp $big big");
    assert_eq!(failed.status.code(), Some(1));
    failed.says("Disk quota exceeded");
    assert_eq!(ground.bytes(LIMITED), 4 * MIB, "{}", ground.mount.status());
    for script in ["echo x > new", "mkdir new", "ln -s x new", "mkfifo new", "echo x >> big"] {
        let failed = ground.sh(LIMITED, script);
        assert!(!failed.status.success(), "{failed}");
        assert!(!ground.stored("new"), "{script}");
    }
    ground.says(LIMITED, "ln big linked; mv linked moved; rm moved; cat big > /dev/null");
    ground.says(OTHER, "cp $big other; echo more >> big; cmp $big other");
    let status = ground.mount.status();
    assert_eq!((&status["degraded"], &ground.usage(LIMITED)["over"]), (&Value::Null, &json!(true)));
    ground.says(LIMITED, "rm big");
    ground.wait_until(LIMITED, |bytes| bytes == 0);
    ground.says(LIMITED, "echo x > new; mkdir made");
    assert!(ground.stored("new") && ground.stored("made"));
}

/// Root is a user like any other, and all are who are not named.
#[test]
fn root_and_those_who_are_not_named_have_quotas_too() {
    let options = ["--quota", "root=2MiB", "--quota-default", "1MiB", "--quota", "64122=50%"];
    let ground = Ground::new(&options);
    let sizes = [(0, "root", 1), (LIMITED, "limited", 0), (OTHER, "other", 7)];
    for (user, name, _) in sizes {
        ground.says(user, &format!("cp $big {name}; head -c 900000 /dev/zero > {name}-small"));
        ground.says(user, &format!("head -c 1000000 /dev/zero > {name}-second; cmp $big {name}"));
    }
    let stored =
        |name: &str| ["", "-small", "-second"].map(|end| ground.stored(&format!("{name}{end}")));
    assert_eq!(stored("root"), [false, true, true]);
    assert_eq!(stored("limited"), [false, true, false]);
    assert_eq!(stored("other"), [true, true, true]);
    let space = rustix::fs::statvfs(ground.mount.store()).unwrap();
    let half = space.f_blocks * space.f_frsize / 2;
    assert_eq!(ground.usage(OTHER)["limit"]["bytes"], half);
}

#[test]
fn with_owners_it_is_the_owner_who_has_it() {
    let quota = limited("4MiB");
    let mut ground = Ground::new(&[&quota[0], &quota[1], "--access", "posix"]);
    ground.says(0, "chmod 1777 .; cp $big roots");
    ground.says(LIMITED, "head -c 3M /dev/zero > first; cp $big second; cmp $big second");
    assert!(ground.stored("first") && !ground.stored("second"));
    ground.says(OTHER, "cmp $big second; cp $big other; cmp $big other");
    // Not a byte of it is on the disk's own account.
    let owner = |name: &str| {
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(ground.mount.store().join(name)).unwrap())
    };
    assert_eq!(["first", "other", "roots"].map(owner), [LIMITED, OTHER, 0]);
    ground.says(0, &format!("chown {OTHER} first; chown {LIMITED} roots"));
    assert_eq!(ground.bytes(LIMITED), 8 * MIB);
    ground.says(LIMITED, "echo x > third");
    assert!(!ground.stored("third"));
    ground.mount.unmount();
    ground.mount.mount_again();
    ground.wait_until(LIMITED, |bytes| bytes == 8 * MIB);
    ground.says(LIMITED, "rm roots; echo x > fourth");
    ground.wait_until(LIMITED, |bytes| bytes < MIB);
}

/// Reads, and once more when it is told to.
const READS_TWICE: &str = "
import sys
for _ in range(2):
    print(open('tree/moved').read(), open('tree/deep/file').read(), sep='', end='', flush=True)
    sys.stdin.readline()";

/// What is removed name by name is kept for who has seen it, also in a directory that was spilled itself.
#[test]
fn a_tree_that_was_spilled_is_removed_beside_others() {
    let quota = limited("4MiB");
    let ground = Ground::new(&[&quota[0], &quota[1]]);
    ground.says(LIMITED, "head -c 4M /dev/zero > full");
    assert_eq!(ground.bytes(LIMITED), 4 * MIB);
    for remove in ["rm -r tree", "python3 -c 'import shutil; shutil.rmtree(\"tree\")'"] {
        let make = "
            mkdir -p tree/deep; ln -s file tree/link; mkfifo tree/fifo
            for name in file deep/file; do echo $name > tree/$name; done; mv tree/file tree/moved";
        ground.says(LIMITED, make);
        assert!(!ground.stored("tree"));
        let mut command = Command::new("python3");
        command.args(["-c", READS_TWICE]).current_dir(ground.mount.path());
        let mut older = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut seen = [0; 15];
        older.stdout.as_mut().unwrap().read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"file\ndeep/file\n");
        ground.says(LIMITED, &format!("{remove}; test ! -e tree"));
        ground.says(OTHER, "test ! -e tree");
        older.stdin.take().unwrap().write_all(b"\n\n").unwrap();
        let said = older.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(said.stdout).unwrap(), "file\ndeep/file\n", "{remove}");
    }
    assert!(!ground.mount.log().contains("can't"), "{}", ground.mount.log());
}

/// uv of one who is over quota does and says what it does otherwise; and when what was spilled has gone with
/// the mount, the cache is as good for others as before.
#[test]
fn uv_of_who_is_over_quota_works_and_breaks_nothing() {
    let reference = Ground::new(&[]);
    Uv::new(&reference).install(&reference, OTHER);
    let whole = Uv { place: reference.place.path().to_owned() }.installed(OTHER);
    let sizes: Vec<String> = [1 << 40, 4 << 10, 60 << 10, 400 << 10, 1500 << 10, 3 << 20]
        .iter()
        .map(|bytes: &u64| format!("{}K", bytes >> 10))
        .collect();
    let mut expected = None;
    for size in &sizes {
        let quota = limited(size);
        let mut ground = Ground::new(&[&quota[0], &quota[1]]);
        let uv = Uv::new(&ground);
        let installed = uv.install(&ground, LIMITED);
        let said = (installed.status.code(), timeless(&installed.all_output()));
        assert_eq!(&said, expected.get_or_insert(said.clone()), "{size}: {installed}");
        assert_eq!(said.0, Some(0), "{installed}");
        let over = ground.usage(LIMITED);
        assert_eq!(over["over"], json!(size != &sizes[0]), "{size}: {over}");
        for user in [LIMITED, OTHER] {
            uv.install(&ground, user).says("Installed 6 packages").does_not_say("Prepared");
        }
        ground.mount.unmount();
        ground.mount.mount_again();
        for turn in 0..2 {
            let again = uv.install(&ground, OTHER);
            assert!(again.status.success(), "{size}: {again}");
            again.says("Installed 6 packages");
            // What is told of the installation itself has times and paths in it.
            let differ = Run::new("diff").args(["-r", "--exclude=*.dist-info"]);
            differ.args([&whole, &uv.installed(OTHER)]).succeeds();
            assert!(turn == 0 || !again.all_output().contains("Prepared"), "{size}: {again}");
        }
    }
}

/// uv, and what it installs.
struct Uv {
    place: PathBuf,
}

impl Uv {
    fn new(ground: &Ground) -> Uv {
        let copy = |from: &Path, name: &str| {
            Run::new("cp").arg("-rL").args([from, &ground.place.path().join(name)]).succeeds();
            Run::new("chmod").args(["-R", "a+rX"]).arg(ground.place.path().join(name)).succeeds();
        };
        copy(&tool("uv"), "uv");
        copy(&wheelhouse(), "wheels");
        for user in [LIMITED, OTHER] {
            let home = ground.place.path().join(format!("home-{user}"));
            fs::create_dir(&home).unwrap();
            std::os::unix::fs::chown(&home, Some(user), Some(user)).unwrap();
        }
        Uv { place: ground.place.path().to_owned() }
    }

    fn home(&self, user: u32) -> PathBuf {
        self.place.join(format!("home-{user}"))
    }

    /// Installs into a new environment.
    fn install(&self, ground: &Ground, user: u32) -> Finished {
        let run = |words: &[&str]| {
            Run::new(self.place.join("uv"))
                .clean_environment(self.home(user))
                .directory(self.home(user))
                .user(user)
                .env("UV_CACHE_DIR", ground.mount.path().join("uv"))
                .env("UV_NO_CONFIG", "1")
                .env("UV_LINK_MODE", "copy")
                .args(words)
        };
        run(&["venv", "--clear", "--python", "/usr/bin/python3", "environment"]).succeeds();
        let wheels = self.place.join("wheels");
        let words = ["pip", "install", "--offline", "--no-index", "--python", "environment"];
        let links = ["--find-links", wheels.to_str().unwrap()];
        run(&[&words[..], &links, &["rich", "toolz", "markupsafe"]].concat()).finish()
    }

    /// Where a package lies that consists of many files.
    fn installed(&self, user: u32) -> PathBuf {
        let lib = self.home(user).join("environment/lib");
        let python = fs::read_dir(lib).unwrap().next().unwrap().unwrap();
        python.path().join("site-packages")
    }
}

/// A text without how long something took.
fn timeless(text: &str) -> String {
    let is_time = |word: &str| {
        let number = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        number != word && number.parse::<f64>().is_ok()
    };
    let word = |word: &str| if is_time(word) { "#".to_owned() } else { word.to_owned() };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
