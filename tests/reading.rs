//! Whichever way the bytes of a file go, small or large, what is read is what was written last.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use common::Mount;

const SIZES: [usize; 4] = [1, 4096, 128 << 10, 1 << 20];

fn content(byte: u8, length: usize) -> Vec<u8> {
    vec![byte; length]
}

#[track_caller]
fn holds(path: &Path, wanted: &[u8]) {
    assert!(fs::read(path).unwrap() == wanted, "{} holds something else", path.display());
    assert_eq!(fs::metadata(path).unwrap().len(), wanted.len() as u64);
}

fn to_write(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

#[test]
fn a_file_written_in_place_between_readings_is_read_anew() {
    let mount = Mount::new();
    for size in SIZES {
        let path = mount.path().join(format!("file-{size}"));
        fs::write(&path, content(b'a', size)).unwrap();
        for byte in *b"bcd" {
            holds(&path, &fs::read(mount.store().join(format!("file-{size}"))).unwrap());
            to_write(&path).write_all_at(&content(byte, size), 0).unwrap();
            // A small file goes another way each of the first times.
            for _ in 0..3 {
                holds(&path, &content(byte, size));
            }
        }
    }
}

#[test]
fn an_open_reader_sees_what_is_written_beside_it() {
    let mount = Mount::new();
    for size in SIZES {
        let path = mount.path().join(format!("file-{size}"));
        fs::write(&path, content(b'a', size)).unwrap();
        holds(&path, &content(b'a', size));
        let mut reader = File::open(&path).unwrap();
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).unwrap();
        let writer = to_write(&path);
        writer.write_all_at(&content(b'b', size), 0).unwrap();
        // One that was open before, and one that comes while the writer is there.
        for mut reader in [reader, File::open(&path).unwrap()] {
            seen.clear();
            reader.seek(SeekFrom::Start(0)).unwrap();
            reader.read_to_end(&mut seen).unwrap();
            assert!(seen == content(b'b', size), "{size} bytes");
        }
    }
}

#[test]
fn a_file_may_become_large_and_small_again() {
    let mount = Mount::new();
    let path = mount.path().join("file");
    fs::write(&path, b"small").unwrap();
    holds(&path, b"small");
    let large = content(b'x', 3 << 20);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(&large).unwrap();
    holds(&path, &[b"small", &large[..]].concat());
    to_write(&path).set_len(2).unwrap();
    holds(&path, b"sm");
    fs::write(&path, b"new").unwrap();
    holds(&path, b"new");
}
