//! What tools rely on, one process at a time: numbers, times, names, kinds, holes, attributes.

mod common;
mod conformance;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{
    DirEntryExt as _, FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
    PermissionsExt as _, symlink,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use conformance::{Agent, drop_caches, everywhere, on_one, serve};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, XattrFlags};

#[test]
fn a_process_of_this_program_answers() {
    serve(&|words| Err(format!("no job {words:?}")));
}

fn errno<T: std::fmt::Debug>(result: rustix::io::Result<T>) -> rustix::io::Errno {
    result.expect_err("was to be refused")
}

/// A tree with something of every kind.
fn some_of_everything(root: &Path) -> Vec<PathBuf> {
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/file"), "contents").unwrap();
    fs::write(root.join("a/b/c/deep"), "deep").unwrap();
    fs::hard_link(root.join("a/file"), root.join("a/b/second name")).unwrap();
    symlink("file", root.join("a/link")).unwrap();
    rustix::fs::mknodat(CWD, root.join("a/fifo"), FileType::Fifo, Mode::from(0o644), 0).unwrap();
    rustix::fs::mknodat(CWD, root.join("a/socket"), FileType::Socket, Mode::from(0o644), 0)
        .unwrap();
    ["a", "a/b", "a/b/c", "a/file", "a/b/c/deep", "a/b/second name", "a/link", "a/fifo", "a/socket"]
        .map(|name| root.join(name))
        .to_vec()
}

#[test]
fn inode_numbers_stay_while_it_is_mounted() {
    on_one(|place| {
        let paths = some_of_everything(place.root());
        let numbers = || -> Vec<u64> {
            paths.iter().map(|path| fs::symlink_metadata(path).unwrap().ino()).collect()
        };
        let before = numbers();
        for _ in 0..3 {
            drop_caches();
            assert_eq!(numbers(), before);
        }
        let named: BTreeMap<_, _> = paths.iter().zip(&before).collect();
        assert_eq!(
            named[&place.at("a/file")],
            named[&place.at("a/b/second name")],
            "names of one file"
        );
        let different: BTreeSet<_> = before.iter().collect();
        assert_eq!(different.len(), paths.len() - 1, "different files");

        // Nor does a number change with the name.
        fs::rename(place.at("a/b"), place.at("moved")).unwrap();
        assert_eq!(fs::metadata(place.at("moved")).unwrap().ino(), *named[&place.at("a/b")]);
        assert_eq!(
            fs::metadata(place.at("moved/c/deep")).unwrap().ino(),
            *named[&place.at("a/b/c/deep")]
        );
    });
}

#[test]
fn a_listing_and_a_stat_tell_the_same_number() {
    on_one(|place| {
        some_of_everything(place.root());
        let compare = |directory: &Path| {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                let metadata = fs::symlink_metadata(entry.path()).unwrap();
                assert_eq!(entry.ino(), metadata.ino(), "{}", entry.path().display());
                assert_eq!(
                    entry.file_type().unwrap(),
                    metadata.file_type(),
                    "{}",
                    entry.path().display()
                );
            }
        };
        for directory in ["a", "a/b", "a/b/c"] {
            compare(&place.at(directory));
            // Also when the listing comes first.
            drop_caches();
            compare(&place.at(directory));
        }
        // "." and ".." are in it, and are what they say.
        let numbers = dots(&place.at("a/b"));
        let number = |name: &str| fs::metadata(place.at(name)).unwrap().ino();
        assert_eq!(numbers, (number("a/b"), number("a")));
    });
}

/// The numbers that a listing gives for `.` and `..`.
fn dots(directory: &Path) -> (u64, u64) {
    let directory = File::open(directory).unwrap();
    let mut listing = rustix::fs::Dir::read_from(&directory).unwrap();
    let (mut own, mut parent) = (0, 0);
    while let Some(entry) = listing.read() {
        let entry = entry.unwrap();
        match entry.file_name().to_bytes() {
            b"." => own = entry.ino(),
            b".." => parent = entry.ino(),
            _ => {}
        }
    }
    (own, parent)
}

#[test]
fn a_file_without_a_name_lives_on_in_its_descriptor() {
    everywhere(|place| {
        let path = place.at("file");
        fs::write(&path, "before").unwrap();
        let mut file = OpenOptions::new().read(true).append(true).open(&path).unwrap();
        let number = file.metadata().unwrap().ino();
        fs::remove_file(&path).unwrap();
        drop_caches();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.nlink(), metadata.ino(), metadata.size()), (0, number, 6));
        file.write_all(b" and after").unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        let mut text = [0; 32];
        let got = file.read_at(&mut text, 0).unwrap();
        assert_eq!(&text[..got], b"before and after");
        file.sync_all().unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.nlink(), metadata.size(), metadata.mode() & 0o7777), (0, 16, 0o600));
        // By way of /proc it can still be opened, and it is the same file.
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert_eq!(fs::read(&again).unwrap(), b"before and after");
        assert_eq!(fs::metadata(&again).unwrap().ino(), number);

        // A new file gets a number of its own, although the store may use the inode again.
        // A plain filesystem does use it again.
        drop(file);
        for round in 0..if place.is_mount() { 50 } else { 0 } {
            fs::write(&path, "new").unwrap();
            assert_ne!(fs::metadata(&path).unwrap().ino(), number, "round {round}");
            fs::remove_file(&path).unwrap();
        }
    });
}

#[test]
fn temporary_files_without_a_name_work() {
    on_one(|place| {
        // Whether O_TMPFILE is there is the filesystem's affair; tempfile falls back. The file works.
        let mut file = tempfile::tempfile_in(place.root()).unwrap();
        file.write_all(b"text").unwrap();
        let mut buffer = [0; 8];
        assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 4);
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert_eq!(fs::read_dir(place.root()).unwrap().count(), 0);
    });
}

#[test]
fn link_counts_are_true() {
    on_one(|place| {
        let links = |name: &str| fs::symlink_metadata(place.at(name)).unwrap().nlink();
        fs::write(place.at("one"), "").unwrap();
        fs::create_dir(place.at("d")).unwrap();
        let held = File::open(place.at("one")).unwrap();
        for count in 2..=5 {
            fs::hard_link(place.at("one"), place.at(format!("d/name{count}"))).unwrap();
            assert_eq!((links("one"), links(&format!("d/name{count}"))), (count, count));
            assert_eq!(held.metadata().unwrap().nlink(), count);
        }
        // Whichever of the names goes: the file stays, with one fewer.
        fs::remove_file(place.at("one")).unwrap();
        assert_eq!((links("d/name2"), links("d/name5")), (4, 4));
        assert_eq!(held.metadata().unwrap().nlink(), 4);
        fs::write(place.at("d/name3"), "by any name").unwrap();
        drop_caches();
        assert_eq!(fs::read_to_string(place.at("d/name5")).unwrap(), "by any name");
        fs::write(place.at("other"), "").unwrap();
        fs::rename(place.at("other"), place.at("d/name2")).unwrap();
        assert_eq!((links("d/name2"), links("d/name4")), (1, 3));
        // A rename onto another name of the same file does nothing, and says so.
        fs::rename(place.at("d/name3"), place.at("d/name4")).unwrap();
        assert_eq!((links("d/name3"), links("d/name4")), (3, 3));
        for name in ["d/name3", "d/name4", "d/name5"] {
            fs::remove_file(place.at(name)).unwrap();
        }
        assert_eq!(held.metadata().unwrap().nlink(), 0);

        let before = links("d");
        fs::create_dir(place.at("d/sub")).unwrap();
        assert_eq!(links("d"), before + 1);
        fs::rename(place.at("d/sub"), place.at("sub")).unwrap();
        assert_eq!(links("d"), before);
    });
}

/// Modification and change of a path, as one number each.
fn times(path: &Path) -> (i128, i128) {
    let of = |seconds: i64, nanoseconds: i64| {
        i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
    };
    let metadata = fs::symlink_metadata(path).unwrap();
    (of(metadata.mtime(), metadata.mtime_nsec()), of(metadata.ctime(), metadata.ctime_nsec()))
}

/// Lets the filesystem's clock go on: it stamps by ticks, up to 10 ms apart.
fn tick() {
    std::thread::sleep(Duration::from_millis(25));
}

#[test]
fn times_move_when_they_should_and_only_then() {
    everywhere(|place| {
        let (dir, path) = (place.at("d"), place.at("d/file"));
        fs::create_dir(&dir).unwrap();
        let empty = times(&dir);
        tick();
        fs::write(&path, "text").unwrap();
        let (created, full) = (times(&path), times(&dir));
        assert!(full.0 > empty.0 && full.1 > empty.1, "a new name changes its directory");

        tick();
        fs::read(&path).unwrap();
        fs::read_dir(&dir).unwrap().count();
        assert_eq!((times(&path), times(&dir)), (created, full), "reading changes neither");

        tick();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        assert_eq!(times(&path), created, "opening changes neither");
        file.write_at(b"T", 0).unwrap();
        drop(file);
        let written = times(&path);
        assert!(written.0 > created.0 && written.1 > created.1, "writing changes both");
        assert_eq!(times(&dir), full);

        tick();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let moded = times(&path);
        assert_eq!(moded.0, written.0, "a mode is no contents");
        assert!(moded.1 > written.1);

        tick();
        fs::hard_link(&path, place.at("second")).unwrap();
        let linked = times(&path);
        assert!(linked.0 == moded.0 && linked.1 > moded.1, "a link is a change");

        tick();
        fs::rename(&path, place.at("third")).unwrap();
        let left = times(&dir);
        assert!(left.0 > full.0, "a name that leaves changes its directory");
        assert_eq!(times(&place.at("third")).0, written.0);

        // Through a mapping.
        let third = OpenOptions::new().read(true).write(true).open(place.at("third")).unwrap();
        tick();
        // SAFETY: the mapping is ours; the file is longer than what is written.
        unsafe {
            let map = libc::mmap(
                std::ptr::null_mut(),
                4,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                third.as_raw_fd(),
                0,
            );
            assert_ne!(map, libc::MAP_FAILED);
            *map.cast::<u8>() = b'M';
            assert_eq!(libc::msync(map, 4, libc::MS_SYNC), 0);
            libc::munmap(map, 4);
        }
        drop(third);
        assert!(times(&place.at("third")).0 > written.0, "stores to a mapping are writing");
    });
}

#[test]
fn times_are_set_exactly() {
    everywhere(|place| {
        let path = place.at("file");
        fs::write(&path, "text").unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for (seconds, nanoseconds) in
            [(1_000_000_000, 123_456_789), (0, 1), (4_000_000_000, 999_999_999)]
        {
            let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
            let times = fs::FileTimes::new()
                .set_modified(time)
                .set_accessed(time - Duration::from_nanos(1));
            file.set_times(times).unwrap();
            drop_caches();
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(metadata.modified().unwrap(), time);
            assert_eq!(metadata.accessed().unwrap(), time - Duration::from_nanos(1));
        }
        // What is written before they are set must not come after it (`cp -p`, `tar -x`).
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(77);
        let copied = place.at("copied");
        let mut file = File::create(&copied).unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        file.set_modified(time).unwrap();
        drop(file);
        drop_caches();
        assert_eq!(fs::metadata(&copied).unwrap().modified().unwrap(), time);
        // Before 1970 too.
        let link = place.at("link");
        symlink("x", &link).unwrap();
        let timespec = rustix::fs::Timespec { tv_sec: -5, tv_nsec: 250_000_000 };
        let both = rustix::fs::Timestamps { last_access: timespec, last_modification: timespec };
        rustix::fs::utimensat(CWD, &link, &both, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let metadata = fs::symlink_metadata(&link).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (-5, 250_000_000));
    });
}

#[test]
fn a_sparse_file_takes_what_it_holds() {
    everywhere(|place| {
        let path = place.at("sparse");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        file.set_len(1 << 30).unwrap();
        file.write_at(&[1; 4096], 512 << 20).unwrap();
        file.sync_all().unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.size(), 1 << 30);
        assert!((8..2048).contains(&metadata.blocks()), "{} blocks", metadata.blocks());
        drop(file);
        if let Some(mount) = place.mount() {
            let stored = fs::metadata(mount.store().join("sparse")).unwrap();
            assert_eq!(metadata.blocks(), stored.blocks());
        }

        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let seek = |to| rustix::fs::seek(&file, to);
        use rustix::fs::SeekFrom::{Data, Hole};
        assert_eq!(seek(Data(0)).unwrap(), 512 << 20);
        assert_eq!(seek(Hole(512 << 20)).unwrap(), (512 << 20) + 4096);
        assert_eq!(seek(Hole(0)).unwrap(), 0);
        assert_eq!(errno(seek(Data((512 << 20) + 4096))), rustix::io::Errno::NXIO);
        assert_eq!(errno(seek(Hole(1 << 30))), rustix::io::Errno::NXIO);

        use rustix::fs::{FallocateFlags, fallocate};
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, punch, 512 << 20, 4096).unwrap();
        file.sync_all().unwrap();
        let mut page = [9; 4096];
        file.read_exact_at(&mut page, 512 << 20).unwrap();
        assert!(page.iter().all(|&byte| byte == 0));
        assert_eq!(errno(seek(Data(0))), rustix::io::Errno::NXIO);

        fallocate(&file, FallocateFlags::empty(), 1 << 30, 8192).unwrap();
        assert_eq!(file.metadata().unwrap().size(), (1 << 30) + 8192);
        fallocate(&file, FallocateFlags::KEEP_SIZE, (1 << 30) + 8192, 1 << 20).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().size(), (1 << 30) + 8192);
        assert!(fs::metadata(&path).unwrap().blocks() >= 2048);
        file.write_at(&[5; 100], 100).unwrap();
        fallocate(&file, FallocateFlags::ZERO_RANGE, 0, 150).unwrap();
        let mut part = [9; 100];
        file.read_exact_at(&mut part, 100).unwrap();
        assert_eq!((&part[..50], &part[50..]), (&[0; 50][..], &[5; 50][..]));
    });
}

#[test]
fn ranges_are_copied_within_the_mount() {
    everywhere(|place| {
        let text: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        fs::write(place.at("from"), &text).unwrap();
        let from = File::open(place.at("from")).unwrap();
        let to = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(place.at("to"))
            .unwrap();
        let copy = |length: usize, at: u64| {
            let (mut source, mut target) = (at, at);
            let mut left = length;
            while left > 0 {
                let copied = rustix::fs::copy_file_range(
                    &from,
                    Some(&mut source),
                    &to,
                    Some(&mut target),
                    left,
                )
                .unwrap();
                assert!(copied > 0);
                left -= copied;
            }
        };
        copy(1_000_000, 100_000);
        let got = fs::read(place.at("to")).unwrap();
        assert_eq!(got.len(), 1_100_000);
        assert!(got[..100_000].iter().all(|&byte| byte == 0));
        assert!(got[100_000..] == text[100_000..1_100_000]);
        // What the target holds in its pages must give way.
        copy(50_000, 0);
        let mut head = vec![0; 50_000];
        to.read_exact_at(&mut head, 0).unwrap();
        assert!(head == text[..50_000]);
        // And it is what cp uses.
        common::Run::new("cp").args([place.at("from"), place.at("copied")]).succeeds();
        assert!(fs::read(place.at("copied")).unwrap() == text);
        // Within one file.
        let (mut source, mut target) = (0, 600_000);
        rustix::fs::copy_file_range(&to, Some(&mut source), &to, Some(&mut target), 4096).unwrap();
        let mut part = vec![0; 4096];
        to.read_exact_at(&mut part, 600_000).unwrap();
        assert!(part == text[..4096]);
    });
}

#[test]
fn renames_keep_their_promises() {
    on_one(|place| {
        let rename = |from: &str, to: &str, flags| {
            rustix::fs::renameat_with(CWD, place.at(from), CWD, place.at(to), flags)
        };
        let text = |name: &str| fs::read_to_string(place.at(name)).unwrap();
        fs::write(place.at("a"), "a").unwrap();
        fs::write(place.at("b"), "b").unwrap();
        fs::create_dir_all(place.at("d/e")).unwrap();
        fs::write(place.at("d/e/f"), "f").unwrap();
        let exists = rustix::io::Errno::EXIST;
        assert_eq!(errno(rename("a", "b", RenameFlags::NOREPLACE)), exists);
        assert_eq!(errno(rename("a", "d", RenameFlags::NOREPLACE)), exists);
        assert_eq!((text("a"), text("b")), ("a".into(), "b".into()));
        rename("a", "c", RenameFlags::NOREPLACE).unwrap();
        assert_eq!(text("c"), "a");

        rename("b", "c", RenameFlags::EXCHANGE).unwrap();
        assert_eq!((text("b"), text("c")), ("a".into(), "b".into()));
        // A file with a directory, across directories.
        rename("b", "d/e", RenameFlags::EXCHANGE).unwrap();
        assert_eq!((text("d/e"), text("b/f")), ("a".into(), "f".into()));
        drop_caches();
        assert_eq!((text("d/e"), text("b/f")), ("a".into(), "f".into()));
        assert_eq!(fs::metadata(place.at("b")).unwrap().ino(), dots(&place.at("b")).0);
        assert_eq!(fs::metadata(place.root()).unwrap().ino(), dots(&place.at("b")).1);
        let absent = rustix::io::Errno::NOENT;
        assert_eq!(errno(rename("b", "nothing", RenameFlags::EXCHANGE)), absent);
        assert_eq!(errno(rename("nothing", "b", RenameFlags::empty())), absent);
        let both = RenameFlags::EXCHANGE | RenameFlags::NOREPLACE;
        assert_eq!(errno(rename("b", "c", both)), rustix::io::Errno::INVAL);
        if place.is_mount() {
            // A whiteout is a device node (SEMANTICS 5.4).
            assert_eq!(errno(rename("c", "w", RenameFlags::WHITEOUT)), rustix::io::Errno::INVAL);
            assert_eq!(text("c"), "b");
        }
        // A directory does not go below itself, nor over one that is not empty, nor over a file.
        fs::create_dir_all(place.at("x/y/z")).unwrap();
        let none = RenameFlags::empty();
        assert_eq!(errno(rename("x", "x/y/z/x", none)), rustix::io::Errno::INVAL);
        assert_eq!(errno(rename("b", "x", none)), rustix::io::Errno::NOTEMPTY);
        assert_eq!(errno(rename("b", "c", none)), rustix::io::Errno::NOTDIR);
        assert_eq!(errno(rename("c", "b", none)), rustix::io::Errno::ISDIR);
        rename("b", "x/y/z", none).unwrap();
        assert_eq!(text("x/y/z/f"), "f");
    });
}

#[test]
fn user_attributes_are_kept() {
    on_one(|place| {
        some_of_everything(place.root());
        let list = |name: &str| -> Vec<String> {
            let mut buffer = vec![0_u8; 65536];
            let length = rustix::fs::llistxattr(place.at(name), &mut buffer[..]).unwrap();
            let names = buffer[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
            let mut names: Vec<String> =
                names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
            names.retain(|name| name.starts_with("user."));
            names.sort();
            names
        };
        let get = |name: &str, key: &str| -> rustix::io::Result<Vec<u8>> {
            let mut buffer = vec![0_u8; 65536];
            let length = rustix::fs::lgetxattr(place.at(name), key, &mut buffer[..])?;
            buffer.truncate(length);
            Ok(buffer)
        };
        let set = |name: &str, key: &str, value: &[u8], flags| {
            rustix::fs::lsetxattr(place.at(name), key, value, flags)
        };
        for name in ["a/file", "a/b"] {
            assert_eq!(list(name), [""; 0]);
            set(name, "user.one", b"1\0\xff", XattrFlags::empty()).unwrap();
            set(name, "user.empty", b"", XattrFlags::CREATE).unwrap();
            assert_eq!(
                errno(set(name, "user.one", b"", XattrFlags::CREATE)),
                rustix::io::Errno::EXIST
            );
            assert_eq!(
                errno(set(name, "user.no", b"", XattrFlags::REPLACE)),
                rustix::io::Errno::NODATA
            );
            assert_eq!(list(name), ["user.empty", "user.one"]);
            assert_eq!(get(name, "user.one").unwrap(), b"1\0\xff");
            assert_eq!(get(name, "user.empty").unwrap(), b"");
            assert_eq!(errno(get(name, "user.no")), rustix::io::Errno::NODATA);
            let mut small = [0_u8; 1];
            let short = rustix::fs::lgetxattr(place.at(name), "user.one", &mut small);
            assert_eq!(errno(short), rustix::io::Errno::RANGE);
            rustix::fs::lremovexattr(place.at(name), "user.empty").unwrap();
            let again = rustix::fs::lremovexattr(place.at(name), "user.empty");
            assert_eq!(errno(again), rustix::io::Errno::NODATA);
            assert_eq!(list(name), ["user.one"]);
        }
        assert_eq!(get("a/b/second name", "user.one").unwrap(), b"1\0\xff", "by another name");
        for name in ["a/link", "a/fifo", "a/socket"] {
            // As on any local filesystem: user attributes are for files and directories.
            let refused = errno(set(name, "user.one", b"1", XattrFlags::empty()));
            assert_eq!(refused, rustix::io::Errno::PERM, "{name}");
            assert_eq!(list(name), [""; 0]);
        }
        if let Some(mount) = place.mount() {
            let mut buffer = [0_u8; 16];
            let path = mount.store().join("a/file");
            let length = rustix::fs::lgetxattr(path, "user.one", &mut buffer[..]).unwrap();
            assert_eq!(&buffer[..length], b"1\0\xff");
        }
    });
}

#[test]
fn only_harmless_kinds_can_be_made() {
    on_one(|place| {
        let make = |name: &str, kind, device| {
            rustix::fs::mknodat(CWD, place.at(name), kind, Mode::from(0o640), device)
        };
        make("fifo", FileType::Fifo, 0).unwrap();
        make("socket", FileType::Socket, 0).unwrap();
        make("file", FileType::RegularFile, 0).unwrap();
        let kind = |name: &str| fs::symlink_metadata(place.at(name)).unwrap().file_type();
        assert!(kind("fifo").is_fifo() && kind("socket").is_socket() && kind("file").is_file());

        // A fifo and a socket work.
        let path = place.at("fifo");
        let writer = std::thread::spawn(move || fs::write(path, "through the pipe").unwrap());
        assert_eq!(fs::read_to_string(place.at("fifo")).unwrap(), "through the pipe");
        writer.join().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(place.at("listener")).unwrap();
        let mut client = std::os::unix::net::UnixStream::connect(place.at("listener")).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        let mut buffer = [0; 5];
        server.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"hello");

        if place.is_mount() {
            for kind in [FileType::CharacterDevice, FileType::BlockDevice] {
                let null = rustix::fs::makedev(1, 3);
                assert_eq!(errno(make("device", kind, null)), rustix::io::Errno::PERM);
                assert!(fs::symlink_metadata(place.at("device")).is_err());
            }
        }
    });
}

#[test]
fn set_id_bits_never_appear() {
    on_one(|place| {
        if !place.is_mount() {
            return;
        }
        let mode = |name: &str| fs::metadata(place.at(name)).unwrap().mode() & 0o7777;
        let in_store = |name: &str| {
            fs::metadata(place.mount().unwrap().store().join(name)).unwrap().mode() & 0o7777
        };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o6755)
            .open(place.at("f"))
            .unwrap();
        assert_eq!(mode("f"), 0o755);
        // It has a name in the store once it is closed.
        drop(file);
        let file = fs::File::open(place.at("f")).unwrap();
        assert_eq!((mode("f"), in_store("f")), (0o755, 0o755));
        file.set_permissions(fs::Permissions::from_mode(0o4711)).unwrap();
        assert_eq!((mode("f"), in_store("f")), (0o711, 0o711));
        fs::set_permissions(place.at("f"), fs::Permissions::from_mode(0o6777)).unwrap();
        assert_eq!((mode("f"), in_store("f")), (0o777, 0o777));
        rustix::fs::mkdirat(CWD, place.at("d"), Mode::from(0o6755)).unwrap();
        assert_eq!((mode("d"), in_store("d")), (0o755, 0o755));
        fs::set_permissions(place.at("d"), fs::Permissions::from_mode(0o2755)).unwrap();
        assert_eq!((mode("d"), in_store("d")), (0o755, 0o755));
        rustix::fs::mknodat(CWD, place.at("p"), FileType::Fifo, Mode::from(0o6644), 0).unwrap();
        assert_eq!((mode("p"), in_store("p")), (0o644, 0o644));
        // The sticky bit harms nobody.
        fs::set_permissions(place.at("d"), fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(mode("d"), 0o1777);
        // One that was in the store before is not shown.
        let adopted = place.mount().unwrap().store().join("adopted");
        fs::write(&adopted, "").unwrap();
        fs::set_permissions(&adopted, fs::Permissions::from_mode(0o6755)).unwrap();
        assert_eq!(mode("adopted"), 0o755);
    });
}

#[test]
fn names_are_bytes() {
    on_one(|place| {
        let names: Vec<OsString> = vec![
            OsString::from_vec(vec![0xff, 0xfe, b'x']),
            OsString::from_vec(
                (1..=255).filter(|&byte| byte != b'/').collect::<Vec<u8>>()[..200].to_vec(),
            ),
            OsString::from_vec(
                (1..=255).filter(|&byte| byte != b'/').collect::<Vec<u8>>()[54..].to_vec(),
            ),
            "n".repeat(255).into(),
            "ü".repeat(127).into(),
            " ".into(),
            "\n".into(),
            "\\".into(),
            "...".into(),
            ".cachefs2".into(),
            "-rf".into(),
            "cafe\u{301}".into(),
            "caf\u{e9}".into(),
            "CAF\u{c9}".into(),
        ];
        fs::create_dir(place.at("d")).unwrap();
        for name in &names {
            fs::write(place.at("d").join(name), name.as_bytes()).unwrap();
        }
        drop_caches();
        let listed: BTreeSet<OsString> =
            fs::read_dir(place.at("d")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(listed, names.iter().cloned().collect());
        for name in &names {
            let path = place.at("d").join(name);
            assert_eq!(fs::read(&path).unwrap(), name.as_bytes());
            let mut other = name.clone();
            if other.len() < 255 {
                other.push("+");
            } else {
                other = "m".repeat(255).into();
            }
            fs::rename(&path, place.at("d").join(&other)).unwrap();
            fs::remove_file(place.at("d").join(&other)).unwrap();
        }
        let long = place.at("n".repeat(256));
        let refused = fs::write(&long, "").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENAMETOOLONG));
        assert_eq!(fs::metadata(&long).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
        assert_eq!(fs::create_dir(&long).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    });
}

#[test]
fn symlinks_hold_what_they_are_given() {
    on_one(|place| {
        for length in [1, 60, 255, 1000, 4095] {
            let target: String = "0123456789/".chars().cycle().take(length).collect();
            let link = place.at(format!("l{length}"));
            symlink(&target, &link).unwrap();
            drop_caches();
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(&target));
            assert_eq!(fs::symlink_metadata(&link).unwrap().size(), length as u64);
        }
        let bytes = OsStr::from_bytes(b"\xff\xfe//../x");
        symlink(bytes, place.at("bytes")).unwrap();
        assert_eq!(fs::read_link(place.at("bytes")).unwrap().as_os_str(), bytes);
        // Followed by the kernel of whoever asks, relative to where it lies.
        fs::create_dir_all(place.at("x/y")).unwrap();
        fs::write(place.at("x/file"), "text").unwrap();
        symlink("../file", place.at("x/y/up")).unwrap();
        assert_eq!(fs::read_to_string(place.at("x/y/up")).unwrap(), "text");
        symlink("loop", place.at("loop")).unwrap();
        assert_eq!(fs::read(place.at("loop")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    });
}

/// Names, each with where `telldir` stands after it.
fn walk(directory: *mut libc::DIR) -> Vec<(CString, libc::c_long)> {
    let mut names = Vec::new();
    loop {
        // SAFETY: the stream is open; the entry is copied before the next call.
        unsafe {
            let entry = libc::readdir(directory);
            if entry.is_null() {
                return names;
            }
            let name = CStr::from_ptr((*entry).d_name.as_ptr()).to_owned();
            names.push((name, libc::telldir(directory)));
        }
    }
}

#[test]
fn a_listing_goes_on_wherever_it_is_told_to() {
    on_one(|place| {
        let path = place.at("d");
        fs::create_dir(&path).unwrap();
        for number in 0..3000 {
            File::create(path.join(format!("name-{number}"))).unwrap();
        }
        let c_path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the path is a C string, and the stream is closed once, at the end.
        unsafe {
            let directory = libc::opendir(c_path.as_ptr());
            assert!(!directory.is_null(), "{}", io::Error::last_os_error());
            let all = walk(directory);
            assert_eq!(all.len(), 3002);
            let names = |list: &[(CString, libc::c_long)]| -> Vec<CString> {
                list.iter().map(|(name, _)| name.clone()).collect()
            };
            for &index in &[0, 1, 2, 17, 1500, 700, 2999, 3000, 3001, 5] {
                libc::seekdir(directory, all[index].1);
                assert_eq!(names(&walk(directory)), names(&all[index + 1..]), "after {index}");
            }
            libc::rewinddir(directory);
            assert_eq!(names(&walk(directory)), names(&all));
            // A rewound stream sees what has changed meanwhile.
            File::create(path.join("fresh")).unwrap();
            fs::remove_file(path.join("name-0")).unwrap();
            libc::rewinddir(directory);
            let now: BTreeSet<CString> = names(&walk(directory)).into_iter().collect();
            assert_eq!(now.len(), 3002);
            assert!(now.contains(c"fresh") && !now.contains(c"name-0"));
            libc::closedir(directory);
        }
    });
}

#[test]
fn a_removed_working_directory_is_empty_and_stays_so() {
    on_one(|place| {
        let directory = place.at("gone");
        fs::create_dir(&directory).unwrap();
        let mut agent = Agent::new();
        agent.does(format!("chdir {}", directory.display()));
        let before = agent.does("stat .");
        fs::remove_dir(&directory).unwrap();
        assert_eq!(agent.ask("cwd"), Err(libc::ENOENT));
        assert_eq!(agent.does("list ."), "");
        let inode = |text: &str| text.split(' ').next().unwrap().to_owned();
        assert_eq!(inode(&agent.does("stat .")), inode(&before));
        assert_eq!(
            agent.ask(format!("open x {} new", libc::O_CREAT | libc::O_WRONLY)),
            Err(libc::ENOENT)
        );
        // The name is free, and stands for another directory.
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), "").unwrap();
        assert_eq!(agent.does("list ."), "");
        agent.does("chdir ..");
        assert_eq!(agent.does("list gone"), "file");
    });
}

#[test]
fn directories_high_above_may_move_while_what_is_below_is_in_use() {
    everywhere(|place| {
        let deep = (0..40).fold(place.at("top"), |path, level| path.join(format!("level{level}")));
        fs::create_dir_all(&deep).unwrap();
        let path = deep.join("file");
        fs::write(&path, "text").unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let directory = File::open(&deep).unwrap();
        let mut agent = Agent::new();
        agent.does(format!("chdir {}", deep.display()));
        agent.does(format!("open f {} file", libc::O_RDONLY));
        let mut top = place.at("top");
        fs::create_dir(place.at("elsewhere")).unwrap();
        for round in 0..20 {
            let to = match round % 3 {
                0 => place.at(format!("top{round}")),
                1 => place.at(format!("elsewhere/top{round}")),
                _ => place.at("top"),
            };
            fs::rename(&top, &to).unwrap();
            if round % 4 == 0 {
                drop_caches();
            }
            // By descriptor, relative to a descriptor, relative to a working directory, and by the new path.
            let text = format!("text{round:02}");
            file.write_at(text.as_bytes(), 0).unwrap();
            let relative =
                rustix::fs::openat(&directory, "file", rustix::fs::OFlags::RDONLY, Mode::empty())
                    .unwrap();
            let mut buffer = [0; 6];
            File::from(relative).read_exact_at(&mut buffer, 0).unwrap();
            assert_eq!(&buffer, text.as_bytes());
            assert_eq!(agent.does("read f 0 6"), text);
            assert!(agent.does("stat file").ends_with(" 6 1"));
            let below = path.strip_prefix(place.at("top")).unwrap();
            assert_eq!(fs::read_to_string(to.join(below)).unwrap(), text);
            assert_eq!(agent.does("cwd"), to.join(below.parent().unwrap()).display().to_string());
            assert_eq!(fs::metadata(top.join(below)).unwrap_err().kind(), io::ErrorKind::NotFound);
            fs::write(to.join(below).with_file_name(format!("new{round}")), "").unwrap();
            top = to;
        }
        assert_eq!(agent.does("list .").split(' ').count(), 21);
    });
}

#[test]
fn the_space_of_the_store_is_the_space_of_the_mount() {
    on_one(|place| {
        let Some(mount) = place.mount() else { return };
        let (mounted, stored) = (
            rustix::fs::statvfs(mount.path()).unwrap(),
            rustix::fs::statvfs(mount.store()).unwrap(),
        );
        assert_eq!(mounted.f_blocks * mounted.f_frsize, stored.f_blocks * stored.f_frsize);
        assert_eq!((mounted.f_files, mounted.f_namemax), (stored.f_files, stored.f_namemax));
        let flags = rustix::fs::StatVfsMountFlags::NOSUID | rustix::fs::StatVfsMountFlags::NODEV;
        assert!(mounted.f_flag.contains(flags));
    });
}

#[test]
fn cachefs_own_directory_is_not_there() {
    on_one(|place| {
        let Some(mount) = place.mount() else { return };
        assert!(mount.store().join(".cachefs").is_dir());
        let own = place.at(".cachefs");
        assert_eq!(fs::read_dir(place.root()).unwrap().count(), 0);
        assert_eq!(fs::symlink_metadata(&own).unwrap_err().kind(), io::ErrorKind::NotFound);
        // And can't be made, replaced, removed or entered by that name.
        fs::write(place.at("file"), "").unwrap();
        assert!(fs::create_dir(&own).is_err());
        assert!(fs::write(&own, "").is_err());
        assert!(symlink("x", &own).is_err());
        assert!(fs::rename(place.at("file"), &own).is_err());
        assert!(fs::hard_link(place.at("file"), &own).is_err());
        assert!(fs::remove_dir(&own).is_err());
        assert!(fs::read(own.join("control.sock")).is_err());
        // Deeper down it is a name like any other.
        fs::create_dir_all(place.at("d/.cachefs")).unwrap();
        fs::write(place.at("d/.cachefs/x"), "x").unwrap();
    });
}

#[test]
fn open_checks_what_posix_says_it_checks() {
    everywhere(|place| {
        let path = place.at("file");
        let options = |flags: i32| {
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(flags);
            options
        };
        fs::write(&path, "text").unwrap();
        symlink("file", place.at("link")).unwrap();
        fs::create_dir(place.at("d")).unwrap();
        let code = |result: io::Result<File>| result.unwrap_err().raw_os_error().unwrap();
        assert_eq!(code(options(libc::O_NOFOLLOW).open(place.at("link"))), libc::ELOOP);
        assert_eq!(code(options(libc::O_DIRECTORY).open(&path)), libc::ENOTDIR);
        assert_eq!(code(OpenOptions::new().write(true).open(place.at("d"))), libc::EISDIR);
        assert_eq!(code(File::open(place.at("file/x"))), libc::ENOTDIR);
        assert_eq!(code(OpenOptions::new().write(true).create_new(true).open(&path)), libc::EEXIST);
        assert_eq!(
            code(OpenOptions::new().write(true).create_new(true).open(place.at("link"))),
            libc::EEXIST
        );
        // Through a dangling symlink a file comes to be.
        symlink("d/made", place.at("dangling")).unwrap();
        fs::write(place.at("dangling"), "made").unwrap();
        assert_eq!(fs::read_to_string(place.at("d/made")).unwrap(), "made");
        // A mode that forbids writing holds for the next one, not for the one who makes it.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(place.at("read-only"))
            .unwrap();
        file.write_all(b"text").unwrap();
        assert_eq!(fs::read_to_string(place.at("read-only")).unwrap(), "text");
        // O_PATH opens nothing, and yet holds it.
        let held = options(libc::O_PATH).open(&path).unwrap();
        fs::rename(&path, place.at("moved")).unwrap();
        assert_eq!(held.metadata().unwrap().ino(), fs::metadata(place.at("moved")).unwrap().ino());
    });
}
