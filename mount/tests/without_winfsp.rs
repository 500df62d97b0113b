//! A program that mounts runs where there is no WinFsp, and says where to get it.

#![cfg(windows)]

use std::process::{Command, Stdio};

#[test]
fn the_example_says_what_is_missing() {
    // Examples are built with the tests, beside the folder that this one is in.
    let tests = std::env::current_exe().unwrap();
    let example = tests.parent().unwrap().with_file_name("examples").join("memory.exe");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&example);
        let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run(&["X:"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.starts_with("memory: WinFsp, which shows volumes to Windows, is not installed"),
        "{said}"
    );
    assert!(said.contains("winget install WinFsp.WinFsp"), "{said}");
    let (code, said) = run(&[]);
    assert_eq!((code, said.trim_end()), (Some(2), "memory: say where to mount: memory MOUNTPOINT"));
}
