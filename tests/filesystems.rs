//! A store may lie on any of the filesystems that caches lie on.

mod common;
mod conformance;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::time::Duration;

use common::{Mount, Run, Tree, tool};
use conformance::{Filesystem, Image, LOWERED, drop_caches};
use rustix::fs::{CWD, RenameFlags};

fn works_on(filesystem: Filesystem) {
    // xfs and btrfs want some room.
    let image = Image::new(filesystem, 512);
    for way in ["default", "--no-passthrough"] {
        let store = image.directory(way);
        fs::create_dir(store.join("adopted")).unwrap();
        fs::write(store.join("adopted/file"), "was there before").unwrap();
        let mut builder = Mount::builder().store(&store).options(["--access", "posix"]);
        if way != "default" {
            builder = builder.option(way);
        }
        let mut mount = builder.watchdog(Duration::from_secs(200)).mount();
        println!("{filesystem:?}, {way}: {}", mount.status()["kernel"]);
        let at = |name: &str| mount.path().join(name);

        assert_eq!(fs::read_to_string(at("adopted/file")).unwrap(), "was there before");
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/file"), "text").unwrap();
        fs::hard_link(at("a/file"), at("a/b/second")).unwrap();
        symlink("file", at("a/link")).unwrap();
        let numbers = || {
            ["a", "a/b", "a/file", "a/b/second", "adopted/file"]
                .map(|name| fs::symlink_metadata(at(name)).unwrap().ino())
        };
        let before = numbers();
        assert_eq!(before[2], before[3]);
        drop_caches();
        assert_eq!(numbers(), before);

        fs::write(at("a/other"), "other").unwrap();
        rustix::fs::renameat_with(CWD, at("a/other"), CWD, at("a/file"), RenameFlags::EXCHANGE)
            .unwrap();
        let refused = rustix::fs::renameat_with(
            CWD,
            at("a/other"),
            CWD,
            at("a/file"),
            RenameFlags::NOREPLACE,
        );
        assert_eq!(refused, Err(rustix::io::Errno::EXIST));
        assert_eq!(fs::read_to_string(at("a/b/second")).unwrap(), "text");
        assert_eq!(fs::metadata(at("a/other")).unwrap().nlink(), 2);
        fs::rename(at("a"), at("moved")).unwrap();
        fs::set_permissions(at("moved/file"), fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::chown(at("moved/file"), Some(1234), Some(4321)).unwrap();
        // One that was there before is written.
        let number = fs::metadata(at("adopted/file")).unwrap().ino();
        let reader = File::open(at("adopted/file")).unwrap();
        OpenOptions::new()
            .append(true)
            .open(at("adopted/file"))
            .unwrap()
            .write_at(b"!", 0)
            .unwrap();
        assert_eq!(fs::read_to_string(at("adopted/file")).unwrap(), "was there before!");
        assert_eq!(fs::metadata(at("adopted/file")).unwrap().ino(), number);
        let mut buffer = [0; 32];
        assert_eq!(reader.read_at(&mut buffer, 0).unwrap(), 17);
        drop(reader);

        let held = OpenOptions::new().read(true).write(true).open(at("moved/link")).unwrap();
        fs::remove_file(at("moved/file")).unwrap();
        assert_eq!(held.metadata().unwrap().nlink(), 0);
        held.write_at(b"still", 0).unwrap();
        assert_eq!(held.read_at(&mut buffer, 0).unwrap(), 5);
        drop(held);

        rustix::fs::lsetxattr(at("moved"), "user.key", b"value", rustix::fs::XattrFlags::empty())
            .unwrap();
        let length = rustix::fs::lgetxattr(at("moved"), "user.key", &mut buffer[..]).unwrap();
        assert_eq!(&buffer[..length], b"value");

        for number in 0..3000 {
            File::create(at(&format!("moved/b/n{number}"))).unwrap();
        }
        assert_eq!(fs::read_dir(at("moved/b")).unwrap().count(), 3001);
        fs::remove_dir_all(at("moved/b")).unwrap();

        // Every way of reading and writing one file.
        let configuration = image.path().join("fsx.toml");
        let text = "flen = 262144\nnomsyncafterwrite = true\n[weights]\nclose_open = 5\nread = 10\n\
            write = 10\nmapread = 10\nmapwrite = 10\ntruncate = 5\nposix_fallocate = 2\npunch_hole = 2\n\
            copy_file_range = 3\n";
        fs::write(&configuration, text).unwrap();
        Run::new(tool("fsx"))
            .args(["-N", "10000", "-S", "5", "-P"])
            .arg(mount.beside("fsx"))
            .arg("-f")
            .arg(&configuration)
            .arg(at("fsx"))
            .timeout(Duration::from_secs(120))
            .succeeds();

        let seen = Tree::of(mount.path());
        mount.unmount();
        seen.assert_same(&Tree::of(&store));
    }
}

#[test]
fn ext4() {
    works_on(Filesystem::Ext4);
}

#[test]
fn xfs() {
    works_on(Filesystem::Xfs);
}

#[test]
fn btrfs() {
    works_on(Filesystem::Btrfs);
}

#[test]
fn tmpfs() {
    works_on(Filesystem::Tmpfs);
}

#[test]
fn overlayfs() {
    works_on(Filesystem::Overlay);
}

/// What lies in a lower directory is copied up by the first change, and is the same file to everyone after.
#[test]
fn overlayfs_copies_up_under_an_open_file() {
    for way in ["default", "--no-passthrough"] {
        let image = Image::new(Filesystem::Overlay, 64);
        let mut builder = Mount::builder().store(image.path().join("lowered"));
        if way != "default" {
            builder = builder.option(way);
        }
        let mount = builder.mount();
        let path = mount.path().join("file");
        let number = fs::metadata(&path).unwrap().ino();
        let reader = File::open(&path).unwrap();
        let text = |file: &File| {
            let mut buffer = [0; 64];
            let length = file.read_at(&mut buffer, 0).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        assert_eq!(text(&reader), LOWERED);
        let writer = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        writer.write_at(b"is changed", 0).unwrap();
        let changed = format!("is changed{}", &LOWERED[10..]);
        assert_eq!(text(&writer), changed);
        assert_eq!(fs::read_to_string(&path).unwrap(), changed, "{way}");
        assert_eq!(fs::metadata(&path).unwrap().ino(), number, "{way}");
        assert_eq!(writer.metadata().unwrap().ino(), number, "{way}");
        assert_eq!(fs::metadata(&path).unwrap().nlink(), 1, "{way}");
        drop((reader, writer));
        drop_caches();
        assert_eq!(fs::read_to_string(&path).unwrap(), changed, "{way}");
        assert_eq!(fs::metadata(&path).unwrap().ino(), number, "{way}");
        fs::remove_file(&path).unwrap();
        assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 0);
    }
}
