//! Names: numbers, links, renames, bytes, kinds.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, RenameFlags};

use crate::conformance::{drop_caches, on_one};
use crate::{dots, errno, some_of_everything};

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
