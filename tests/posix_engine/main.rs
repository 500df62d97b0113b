//! What tools rely on, one process at a time.
//!
//! * `names`: numbers, links, renames, bytes, kinds;
//! * `contents`: files without names, holes, ranges, room;
//! * `attributes`: times, modes, what users attach;
//! * `directories`: listings, and directories in use that move or go.

#[path = "../common/mod.rs"]
mod common;
#[path = "../conformance/mod.rs"]
mod conformance;

mod attributes;
mod contents;
mod directories;
mod names;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use conformance::serve;
use rustix::fs::{CWD, FileType, Mode};

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
