//! Contents: files without names, holes, ranges, room.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{
    FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink,
};

use rustix::fs::SeekFrom::{Data, Hole};

use crate::conformance::{drop_caches, everywhere, on_one};
use crate::errno;

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
        crate::common::Run::new("cp").args([place.at("from"), place.at("copied")]).succeeds();
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
