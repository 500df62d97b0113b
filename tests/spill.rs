//! SEMANTICS 4: a store that can't take a write makes no tool fail. What is written is seen by everyone all the
//! same, nothing half-written is live, and `status` says what is going on.

mod common;
mod conformance;

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Mount, MountBuilder, Run, Tree, needs_root};
use conformance::{Filesystem, Image};

/// A small filesystem with a store on it.
struct Small {
    image: Image,
    store: PathBuf,
}

impl Small {
    fn new(mebibytes: u64) -> Small {
        // All of it is for everyone.
        let image = Image::with(Filesystem::Ext4, mebibytes, &["-m", "0"]);
        let store = image.directory("store");
        Small { image, store }
    }

    fn mount(&self) -> MountBuilder {
        Mount::builder().store(&self.store)
    }

    fn ballast(&self) -> PathBuf {
        self.image.path().join("ballast")
    }

    /// Takes all the room that there is.
    fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        for size in [1 << 20, 1 << 12, 1] {
            let piece = vec![1; size];
            while ballast.write_all(&piece).is_ok() {}
        }
        ballast.sync_all().unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// What another process sees.
fn seen_by_others(path: &Path) -> String {
    Run::new("cat").arg(path).succeeds().stdout
}

fn wait_until_degraded(mount: &Mount, wanted: bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while mount.status()["degraded"].is_null() == wanted {
        assert!(Instant::now() < deadline, "{}\n{}", mount.status(), mount.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Bytes that are different everywhere.
fn pattern(length: usize) -> Vec<u8> {
    (0..length / 8)
        .flat_map(|number| (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect()
}

#[test]
fn everything_goes_on_in_a_full_store() {
    let small = Small::new(32);
    fs::create_dir(small.store.join("old")).unwrap();
    fs::write(small.store.join("old/file"), "before\n").unwrap();
    fs::write(small.store.join("removed"), "x").unwrap();
    let mut mount = small.mount().mount();
    let at = |name: &str| mount.path().join(name);
    small.fill();

    fs::write(at("new"), pattern(64 << 10)).unwrap();
    fs::create_dir_all(at("a/b")).unwrap();
    fs::write(at("a/b/file"), "inside\n").unwrap();
    symlink("file", at("a/b/link")).unwrap();
    fs::hard_link(at("a/b/file"), at("a/second")).unwrap();
    fs::write(at("old/file"), "replaced\n").unwrap();
    fs::rename(at("a/b/file"), at("old/moved")).unwrap();
    fs::remove_file(at("removed")).unwrap();
    append(&at("old/moved"), &"more\n".repeat(4000));
    fs::set_permissions(at("new"), fs::Permissions::from_mode(0o600)).unwrap();
    OpenOptions::new().write(true).open(at("new")).unwrap().set_len(8 << 10).unwrap();

    assert_eq!(fs::read(at("new")).unwrap(), pattern(64 << 10)[..8 << 10]);
    assert_eq!(fs::metadata(at("new")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(seen_by_others(&at("old/file")), "replaced\n");
    assert_eq!(seen_by_others(&at("a/second")).len(), 7 + 5 * 4000);
    assert_eq!(
        fs::metadata(at("a/second")).unwrap().ino(),
        fs::metadata(at("old/moved")).unwrap().ino()
    );
    assert_eq!(fs::read_link(at("a/b/link")).unwrap(), Path::new("file"));
    let listed = Run::new("ls").args(["-A1"]).arg(mount.path()).succeeds().stdout;
    assert_eq!(listed, "a\nnew\nold\n");
    let status = mount.status();
    let reason = status["degraded"]["reason"].as_str().unwrap_or_else(|| panic!("{status}"));
    assert!(reason.contains("full") || reason.contains("No space"), "{reason}");
    assert!(status["spilled"]["files"].as_u64().unwrap() > 0, "{status}");
    assert!(mount.log().contains("degraded: "), "{}", mount.log());
    mount.cachefs(["status"]).arg(mount.path()).succeeds().says("degraded since").says("spilled");

    mount.unmount();
    // What the store took before it was full is whole.
    for (path, entry) in Tree::of(&small.store).entries {
        println!("{} {:?}", path.display(), entry.kind);
    }
    let kept = fs::read_to_string(small.store.join("old/file")).unwrap();
    assert!(["before\n", "replaced\n"].contains(&&*kept), "{kept:?}");
    assert!(!small.store.join("new").exists(), "a part of what did not fit is live");
}

#[test]
fn a_store_fills_up_in_the_middle_of_a_large_file() {
    const LENGTH: usize = 200 << 20;
    let small = Small::new(64);
    let mount = small.mount().mount();
    let at = |name: &str| mount.path().join(name);
    let bytes = pattern(LENGTH);
    let mut file =
        OpenOptions::new().read(true).write(true).create_new(true).open(at("large")).unwrap();
    let second = file.try_clone().unwrap();
    let number = file.metadata().unwrap().ino();
    for piece in bytes.chunks(1 << 20) {
        file.write_all(piece).unwrap();
    }
    // The descriptors go on where they were.
    assert_eq!(file.metadata().unwrap().len(), LENGTH as u64);
    assert_eq!(file.metadata().unwrap().ino(), number);
    second.write_all_at(b"changed", 3).unwrap();
    let mut start = [0; 16];
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_exact(&mut start).unwrap();
    assert_eq!((&start[..3], &start[3..10]), (&bytes[..3], &b"changed"[..]));
    // There is room again, since the file has moved.
    assert!(mount.log().contains("degraded: "), "{}", mount.log());
    // It has no name yet.
    assert!(!small.store.join("large").exists());
    drop((file, second));
    let found = fs::read(at("large")).unwrap();
    assert!(found[..3] == bytes[..3] && found[3..10] == *b"changed" && found[10..] == bytes[10..]);
    Run::new("test").arg("-s").arg(at("large")).succeeds();
    assert!(!small.store.join("large").exists());
    assert!(common::not_live(&small.store).is_empty());
}

#[test]
fn a_store_that_has_room_again_is_used_again() {
    let small = Small::new(32);
    let mut mount = small.mount().mount();
    let at = |name: &str| mount.path().join(name);
    small.fill();
    fs::write(at("spilled"), pattern(1 << 20)).unwrap();
    wait_until_degraded(&mount, true);
    small.free();
    wait_until_degraded(&mount, false);
    assert!(mount.log().contains("no longer degraded"), "{}", mount.log());
    fs::write(at("stored"), "whole").unwrap();
    assert_eq!(fs::read_to_string(small.store.join("stored")).unwrap(), "whole");
    // What was spilled stays as it is, until it is replaced.
    assert_eq!(fs::read(at("spilled")).unwrap(), pattern(1 << 20));
    assert!(!small.store.join("spilled").exists());
    fs::write(at("spilled"), "replaced").unwrap();
    assert_eq!(fs::read_to_string(at("spilled")).unwrap(), "replaced");
    assert_eq!(fs::read_to_string(small.store.join("spilled")).unwrap(), "replaced");
    assert_eq!(mount.status()["spilled"]["files"], 0);
    mount.unmount();
}

#[test]
fn a_file_that_is_written_in_place_goes_on() {
    let small = Small::new(32);
    fs::write(small.store.join("log"), "first\n").unwrap();
    let mount = small.mount().mount();
    let log = mount.path().join("log");
    let number = fs::metadata(&log).unwrap().ino();
    let mut held = OpenOptions::new().append(true).open(&log).unwrap();
    small.fill();
    for _ in 0..100 {
        held.write_all(&[b'x'; 4096]).unwrap();
    }
    let text = seen_by_others(&log);
    assert_eq!(text.len(), 6 + 100 * 4096);
    assert!(text.starts_with("first\nxxx"));
    // Another job appends to the same file.
    Run::shell(format!("echo last >> {}", log.display())).succeeds();
    assert!(fs::read_to_string(&log).unwrap().ends_with("xlast\n"));
    held.write_all(b"after\n").unwrap();
    assert!(fs::read_to_string(&log).unwrap().ends_with("last\nafter\n"));
    assert_eq!(fs::metadata(&log).unwrap().ino(), number);
}

#[test]
fn the_filesystem_is_not_driven_to_its_last_byte() {
    let small = Small::new(64);
    let mount = small.mount().mount();
    fs::write(mount.path().join("large"), pattern(100 << 20)).unwrap();
    for number in 0..60 {
        fs::write(mount.path().join(number.to_string()), pattern(1 << 20)).unwrap();
    }
    let space = rustix::fs::statvfs(&small.store).unwrap();
    let free = space.f_bavail * space.f_frsize;
    assert!(free >= 256 << 10, "{free} bytes are left");
    for number in 0..60 {
        let found = fs::read(mount.path().join(number.to_string())).unwrap();
        assert!(found == pattern(1 << 20), "{number}");
    }
}

#[test]
fn errors_are_given_back_where_that_is_wanted() {
    let small = Small::new(16);
    let mount = small.mount().options(["--on-write-error", "fail"]).mount();
    small.fill();
    let failed = fs::write(mount.path().join("new"), pattern(1 << 20)).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(libc::ENOSPC), "{failed}");
    assert!(mount.status()["degraded"].is_null());
}

#[test]
fn a_spill_area_that_is_full_gives_the_error_back() {
    let small = Small::new(16);
    let area = Image::new(Filesystem::Tmpfs, 8);
    let mount = small.mount().option("--spill").option(area.path()).mount();
    small.fill();
    fs::write(mount.path().join("fits"), pattern(2 << 20)).unwrap();
    let failed = fs::write(mount.path().join("does not"), pattern(16 << 20)).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(libc::ENOSPC), "{failed}");
    let space = rustix::fs::statvfs(area.path()).unwrap();
    assert!(space.f_bavail > 0, "the spill area's filesystem is full");
    assert!(fs::read(mount.path().join("fits")).unwrap() == pattern(2 << 20));
}

#[test]
fn the_spill_area_goes_with_the_mount_and_after_a_crash() {
    let small = Small::new(16);
    let parent = tempfile::tempdir().unwrap();
    let areas = || fs::read_dir(parent.path()).unwrap().count();
    let mut mount = small.mount().option("--spill").option(parent.path()).mount();
    small.fill();
    fs::write(mount.path().join("new"), pattern(1 << 20)).unwrap();
    assert_eq!(areas(), 1);
    let area = fs::read_dir(parent.path()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::metadata(&area).unwrap().mode() & 0o777, 0o700);
    mount.kill();
    assert_eq!(areas(), 1);
    mount.mount_again();
    assert!(!mount.path().join("new").exists());
    assert_eq!(fs::read_dir(area.join("spilled")).unwrap().count(), 0);
    mount.unmount();
    assert_eq!(areas(), 0);
}

#[test]
fn what_was_used_least_recently_makes_room_first() {
    needs_root();
    let small = Small::new(64);
    for name in ["oldest", "older", "newest"] {
        let entry = small.store.join("entries").join(name);
        fs::create_dir_all(&entry).unwrap();
        fs::write(entry.join("file"), pattern(15 << 20)).unwrap();
    }
    let touch = |name: &str, at: &str| {
        Run::new("touch").args(["-d", at]).arg(small.store.join("entries").join(name)).succeeds();
    };
    for (name, year) in [("oldest", "2001"), ("older", "2002"), ("newest", "2003")] {
        touch(&format!("{name}/file"), &format!("{year}-01-01"));
        touch(name, &format!("{year}-01-01"));
    }
    let mount = small.mount().mount();
    let path = mount.path().join("new");
    Run::shell(format!("head -c 15M /dev/zero > {}", path.display())).succeeds();
    assert!(mount.status()["degraded"].is_null(), "{}", mount.log());
    assert_eq!(fs::metadata(small.store.join("new")).unwrap().len(), 15 << 20);
    let left = Run::new("ls").arg(mount.path().join("entries")).succeeds().stdout;
    assert_eq!(left, "newest\nolder\n", "{}", mount.log());
}
