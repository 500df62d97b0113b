//! What the engine relies on, on this system.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::fd::{AsFd, OwnedFd};
use super::fs::*;
use super::io::Errno;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// A directory, open, in which what is open can be removed.
fn ground() -> (tempfile::TempDir, OwnedFd, Graves) {
    let folder = tempfile::tempdir().unwrap();
    let open = open_directory(folder.path());
    mkdirat(&open, ".cachefs", Mode::RWXU).unwrap();
    let private = openat(&open, ".cachefs", DIRECTORY, Mode::empty()).unwrap();
    let graves = Graves::open(&private).unwrap();
    (folder, open, graves)
}

fn open_directory(path: &Path) -> OwnedFd {
    openat(CWD, path, DIRECTORY, Mode::empty()).unwrap()
}

fn put(at: impl AsFd, name: &str, text: &str) {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
    let file = openat(at, name, flags, Mode::empty()).unwrap();
    File::from(file).write_all(text.as_bytes()).unwrap();
}

fn get(at: impl AsFd, name: &str) -> Result<String, Errno> {
    let file = openat(at, name, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())?;
    Ok(std::io::read_to_string(File::from(file)).unwrap())
}

fn held(at: impl AsFd, name: &str) -> OwnedFd {
    openat(at, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap()
}

fn text(of: &OwnedFd) -> String {
    let file = File::from(open_again(of, OFlags::RDONLY).unwrap());
    let mut buffer = vec![0; 100];
    let length = FileExt::read_at(&file, &mut buffer, 0).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

fn of(what: impl AsFd) -> Statx {
    statx(what, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).unwrap()
}

fn names(at: &OwnedFd) -> Vec<String> {
    let mut entries = Entries::new(openat(at, ".", DIRECTORY, Mode::empty()).unwrap());
    let mut names = Vec::new();
    while let Some(entry) = entries.peek().unwrap() {
        let (name, length, next) =
            (entry.name.to_str().unwrap().to_owned(), entry.length, entry.next);
        names.push(name);
        entries.advance(length, next);
    }
    assert_eq!(names[..2], [".", ".."]);
    names.drain(..2);
    names.retain(|name| name != ".cachefs");
    names.sort();
    names
}

fn unlink(at: impl AsFd, name: &str) -> Result<(), Errno> {
    unlinkat(at, name, AtFlags::empty())
}

fn rmdir(at: impl AsFd, name: &str) -> Result<(), Errno> {
    unlinkat(at, name, AtFlags::REMOVEDIR)
}

#[test]
fn what_is_open_can_be_removed_and_stays() {
    let (_folder, at, _graves) = ground();
    put(&at, "a", "old");
    let open = held(&at, "a");
    let (before, reader) = (of(&open), File::from(open_again(&open, OFlags::RDONLY).unwrap()));
    unlink(&at, "a").unwrap();
    assert_eq!(get(&at, "a"), Err(Errno::NOENT));
    assert_eq!(unlink(&at, "a"), Err(Errno::NOENT));
    put(&at, "a", "new");
    assert_eq!((get(&at, "a").unwrap(), text(&open)), ("new".into(), "old".into()));
    let after = of(&open);
    assert_eq!((before.stx_nlink, after.stx_nlink), (1, 0));
    assert_eq!(before.stx_ino, after.stx_ino);
    assert_ne!(of(held(&at, "a")).stx_ino, after.stx_ino);
    FileExt::write_all_at(&reader, b"more", 3).unwrap();
    assert_eq!(text(&open), "oldmore");
    assert_eq!(link_open(&open, &at, b"again"), Err(Errno::NOENT));
    assert_eq!(names(&at), ["a"]);
}

#[test]
fn what_is_open_can_be_replaced_and_stays() {
    let (_folder, at, _graves) = ground();
    for number in 0..20 {
        put(&at, "a", "old");
        put(&at, "b", "new");
        let (old, new) = (held(&at, "a"), held(&at, "b"));
        renameat(&at, "b", &at, "a").unwrap();
        assert_eq!(
            (get(&at, "a").unwrap(), text(&old), text(&new)),
            ("new".into(), "old".into(), "new".into()),
            "{number}"
        );
        assert_eq!((of(&old).stx_nlink, of(&new).stx_nlink), (0, 1));
        assert_eq!(names(&at), ["a"]);
    }
}

#[test]
fn numbers_that_are_used_again_are_of_files_that_have_names() {
    let (_folder, at, _graves) = ground();
    for _ in 0..100 {
        put(&at, "a", "x");
        assert_eq!(of(held(&at, "a")).stx_nlink, 1);
        unlink(&at, "a").unwrap();
    }
}

#[test]
fn kinds_are_kept_apart() {
    let (_folder, at, _graves) = ground();
    put(&at, "file", "");
    for name in ["empty", "full", "full/below", "other"] {
        mkdirat(&at, name, Mode::RWXU).unwrap();
    }
    assert_eq!(mkdirat(&at, "file", Mode::RWXU), Err(Errno::EXIST));
    assert_eq!(unlink(&at, "empty"), Err(Errno::ISDIR));
    assert_eq!(rmdir(&at, "file"), Err(Errno::NOTDIR));
    assert_eq!(rmdir(&at, "full"), Err(Errno::NOTEMPTY));
    assert_eq!(renameat(&at, "file", &at, "empty"), Err(Errno::ISDIR));
    assert_eq!(renameat(&at, "empty", &at, "file"), Err(Errno::NOTDIR));
    assert_eq!(renameat(&at, "empty", &at, "full"), Err(Errno::NOTEMPTY));
    assert_eq!(renameat(&at, "none", &at, "file"), Err(Errno::NOENT));
    let no_replace = RenameFlags::NOREPLACE;
    assert_eq!(renameat_with(&at, "other", &at, "empty", no_replace), Err(Errno::EXIST));
    let open = held(&at, "empty");
    renameat(&at, "full", &at, "empty").unwrap();
    assert_eq!(names(&at), ["empty", "file", "other"]);
    assert_eq!(names(&held(&at, "empty")), ["below"]);
    assert_eq!(of(&open).stx_nlink, 0);
    assert_eq!(mkdirat(&open, "in what is gone", Mode::RWXU), Err(Errno::NOENT));
    let opened = openat(&at, "file", DIRECTORY, Mode::empty()).map(drop);
    assert_eq!(opened, Err(Errno::NOTDIR));
    assert_eq!(openat(&at, "empty", OFlags::RDWR, Mode::empty()).map(drop), Err(Errno::ISDIR));
    let new = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    assert_eq!(openat(&at, "file", new, Mode::empty()).map(drop), Err(Errno::EXIST));
    let parent = openat(&held(&at, "empty"), "..", DIRECTORY, Mode::empty()).unwrap();
    assert_eq!(of(parent).stx_ino, of(&at).stx_ino);
}

#[test]
fn a_file_has_two_names() {
    let (_folder, at, _graves) = ground();
    put(&at, "a", "text");
    link_open(held(&at, "a"), &at, b"b").unwrap();
    assert_eq!(link_open(held(&at, "a"), &at, b"b"), Err(Errno::EXIST));
    let (a, b) = (held(&at, "a"), held(&at, "b"));
    assert_eq!((of(&a).stx_ino, of(&a).stx_nlink), (of(&b).stx_ino, 2));
    // They are one file: nothing happens.
    renameat(&at, "a", &at, "b").unwrap();
    assert_eq!(names(&at), ["a", "b"]);
    unlink(&at, "a").unwrap();
    assert_eq!((of(&a).stx_nlink, of(&b).stx_nlink), (1, 1));
    unlink(&at, "b").unwrap();
    assert_eq!((of(&a).stx_nlink, text(&a)), (0, "text".into()));
}

#[test]
fn names_are_as_they_are_told() {
    let (_folder, at, _graves) = ground();
    let given = ["con", "end.", "ä🦀", "%20", "a b"];
    for name in given {
        put(&at, name, name);
        assert_eq!(get(&at, name).unwrap(), name);
    }
    assert_eq!(names(&at).len(), given.len());
    for name in given {
        unlink(&at, name).unwrap();
    }
    for wrong in ["a:b", r"a\b"] {
        assert_eq!(get(&at, wrong), Err(Errno::INVAL));
    }
    let deep = "0123456789".repeat(20);
    let mut below = open_again(&at, OFlags::PATH).unwrap();
    for _ in 0..5 {
        mkdirat(&below, &deep, Mode::RWXU).unwrap();
        below = held(&below, &deep);
    }
    put(&below, "deep", "text");
    assert_eq!(get(&below, "deep").unwrap(), "text");
}

#[test]
fn a_listing_goes_on_where_it_was() {
    let (_folder, at, _graves) = ground();
    mkdirat(&at, "many", Mode::RWXU).unwrap();
    let many = held(&at, "many");
    for number in 0..1000 {
        put(&many, &format!("name that is not short {number}"), "");
    }
    let mut entries = Entries::new(openat(&many, ".", DIRECTORY, Mode::empty()).unwrap());
    let mut seen = Vec::new();
    while let Some(entry) = entries.peek().unwrap() {
        let (name, length, next) = (entry.name.to_owned(), entry.length, entry.next);
        seen.push((next, name));
        entries.advance(length, next);
    }
    assert_eq!(seen.len(), 1002);
    let (offset, _) = seen[499];
    entries.go_to(offset).unwrap();
    assert_eq!(entries.peek().unwrap().unwrap().name, seen[500].1);
    put(&many, "one more", "");
    entries.go_to(0).unwrap();
    let mut count = 0;
    while let Some(entry) = entries.peek().unwrap() {
        let (length, next) = (entry.length, entry.next);
        entries.advance(length, next);
        count += 1;
    }
    assert_eq!(count, 1003);
    let mut buffer = Vec::with_capacity(8192);
    let mut raw = RawDir::new(&many, buffer.spare_capacity_mut());
    let mut count = 0;
    while let Some(entry) = raw.next() {
        assert_eq!(entry.unwrap().file_type(), FileType::RegularFile);
        count += 1;
    }
    assert_eq!(count, 1001);
    let dir = Dir::new(openat(&many, ".", DIRECTORY, Mode::empty()).unwrap()).unwrap();
    assert_eq!(dir.map(|entry| entry.unwrap().file_name().to_owned()).count(), 1003);
}

#[test]
fn what_a_file_is_like() {
    let (_folder, at, _graves) = ground();
    put(&at, "a", "12345");
    let open = held(&at, "a");
    let times = Timestamps {
        last_access: Timespec { tv_sec: 1_000_000, tv_nsec: 500 },
        last_modification: Timespec { tv_sec: 2_000_000, tv_nsec: 0 },
    };
    utimensat(&at, "a", &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    let found = of(&open);
    assert_eq!(found.stx_atime, StatxTimestamp { tv_sec: 1_000_000, tv_nsec: 500 });
    assert_eq!((found.stx_mtime.tv_sec, found.stx_size), (2_000_000, 5));
    assert_eq!(FileType::from_raw_mode(u32::from(found.stx_mode)), FileType::RegularFile);
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    futimens(&open, &Timestamps { last_access: omit, last_modification: now }).unwrap();
    let found = of(&open);
    assert_eq!(found.stx_atime.tv_sec, 1_000_000);
    assert!(found.stx_mtime.tv_sec > 1_500_000_000);
    ftruncate(&open, 2).unwrap();
    assert_eq!((of(&open).stx_size, text(&open)), (2, "12".into()));
    fallocate(&open, FallocateFlags::empty(), 0, 100).unwrap();
    assert_eq!(of(&open).stx_size, 100);
    put(&at, "b", "");
    let (mut from, mut to) = (1, 3);
    let to_file = held(&at, "b");
    let copied = copy_file_range(&open, Some(&mut from), &to_file, Some(&mut to), 4).unwrap();
    assert_eq!((copied, from, to, of(&to_file).stx_size), (4, 5, 7, 7));
    let space = fstatvfs(&at).unwrap();
    assert!(space.f_blocks > 0 && space.f_bavail <= space.f_blocks, "{space:?}");
    fsync(&at).unwrap();
    assert_eq!(stat(self_path(&open)).unwrap().st_dev, fstat(&at).unwrap().st_dev);
}

#[test]
fn what_a_crash_has_buried_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone");
    fs::create_dir(&gone).unwrap();
    fs::write(gone.join("17"), "x").unwrap();
    let _graves = Graves::open(open_directory(folder.path())).unwrap();
    assert_eq!(fs::read_dir(&gone).unwrap().count(), 0);
}
