//! SEMANTICS 4.1 and 4.5 on a store whose filesystem gives I/O errors: what can't be written is spilled, and what
//! can't be read is an error.

mod common;
mod faulty;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::time::{Duration, Instant};

use common::{Mount, Run};
use faulty::Faulty;

#[test]
fn writes_are_taken_all_the_same() {
    let faulty = Faulty::new();
    fs::write(faulty.source().join("there"), "there\n").unwrap();
    let mut mount = Mount::builder().store(faulty.store()).mount();
    let at = |name: &str| mount.path().join(name);
    let mut half = fs::File::create(at("half")).unwrap();
    half.write_all(b"before, ").unwrap();
    fs::write(at("whole"), "whole").unwrap();
    faulty.fails("write");
    half.write_all(b"after").unwrap();
    drop(half);
    OpenOptions::new().append(true).open(at("there")).unwrap().write_all(b"more\n").unwrap();
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("folder/file"), "in it").unwrap();
    fs::rename(at("whole"), at("folder/moved")).unwrap();
    for (name, text) in [
        ("half", "before, after"),
        ("there", "there\nmore\n"),
        ("folder/file", "in it"),
        ("folder/moved", "whole"),
    ] {
        assert_eq!(Run::new("cat").arg(at(name)).succeeds().stdout, text, "{name}");
    }
    let listed = Run::new("ls").arg(mount.path()).succeeds().stdout;
    assert_eq!(listed, "folder\nhalf\nthere\n");
    let status = mount.status();
    let reason = status["degraded"]["reason"].as_str().unwrap_or_else(|| panic!("{status}"));
    assert!(reason.contains("Input/output error"), "{reason}");
    assert_eq!(fs::read_to_string(faulty.source().join("there")).unwrap(), "there\n");
    assert!(!faulty.source().join("half").exists());

    faulty.fails("");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !mount.status()["degraded"].is_null() {
        assert!(Instant::now() < deadline, "{}", mount.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    fs::write(at("again"), "stored").unwrap();
    assert_eq!(fs::read_to_string(faulty.source().join("again")).unwrap(), "stored");
    mount.unmount();
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let faulty = Faulty::new();
    fs::write(faulty.source().join("there"), "there\n").unwrap();
    let mount = Mount::builder().store(faulty.store()).mount();
    let there = mount.path().join("there");
    faulty.fails("read");
    let failed = fs::read(&there).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(libc::EIO), "{failed}");
    assert!(mount.status()["degraded"].is_null(), "{}", mount.log());
    // Nor is a copy made of what can't be read.
    faulty.fails("read write");
    let failed = OpenOptions::new().append(true).open(&there).and_then(|mut f| f.write_all(b"x"));
    let failed = failed.unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(libc::EIO), "{failed}");
    faulty.fails("");
    assert_eq!(fs::read_to_string(&there).unwrap(), "there\n");
}
