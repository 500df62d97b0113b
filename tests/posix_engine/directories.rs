//! Directories: listings, and directories in use that move or go.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, FileExt as _, MetadataExt as _, symlink};
use std::path::Path;

use rustix::fs::Mode;

use crate::conformance::{Agent, drop_caches, everywhere, on_one};
use crate::{dots, some_of_everything};

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
