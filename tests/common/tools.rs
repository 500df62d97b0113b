//! Where the programs are that tests use.

use std::path::{Path, PathBuf};

/// The `cachefs` under test: the one cargo built, or the one that `CACHEFS_TEST_BIN` names.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("CACHEFS_TEST_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_cachefs")), PathBuf::from)
}

/// Where `tests/setup` put what no distribution packages; `CACHEFS_TEST_TOOLS` names another place, so that
/// several work trees may share one.
pub(crate) fn tools_directory() -> PathBuf {
    std::env::var_os("CACHEFS_TEST_TOOLS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools"),
        PathBuf::from,
    )
}

/// The full path of a program that `tests/setup` installed.
#[track_caller]
pub(crate) fn tool(name: &str) -> PathBuf {
    let path = tools_directory().join("bin").join(name);
    assert!(path.exists(), "this test needs {name} at {}: run tests/setup", path.display());
    path
}

/// The full path of a program of the system; the test fails where it is missing.
#[track_caller]
pub(crate) fn needs(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("this test needs the program {program}: run tests/setup"))
}

/// Makes a copy of a program that can be run at once. If the test copied it itself, programs that other threads
/// start at that moment would inherit the file open for writing, and the kernel refuses to run it for as long.
#[track_caller]
pub(crate) fn copy_program(program: &Path, to: &Path) {
    super::Run::new("cp").args([program, to]).succeeds();
}

/// The test fails when it isn't run by root.
#[track_caller]
pub(crate) fn needs_root() {
    // SAFETY: geteuid has no arguments and can't fail.
    let uid = unsafe { libc::geteuid() };
    assert!(uid == 0, "this test acts as several users: run it as root");
}
