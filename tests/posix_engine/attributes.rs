//! Attributes: times, modes, what users attach.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{
    FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink,
};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use crate::conformance::{drop_caches, everywhere, on_one};
use crate::{errno, some_of_everything};

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
