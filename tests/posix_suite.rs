//! What pjdfstest finds right on ext4, it finds right on a mount.

mod common;
mod conformance;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Mount, Run, needs_root, tool};
use conformance::{Filesystem, Image};

/// What a mount refuses.
const REFUSED: &str = include_str!("conformance/pjdfstest-refused.txt");

/// What can't be tried on a mount: `pathconf` makes up the greatest number of links from the kind of the
/// filesystem, and glibc knows none for FUSE.
const SKIPPED: &[&str] = &["link::link_count_max"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

struct Suite {
    outcomes: BTreeMap<String, Outcome>,
    output: String,
}

impl Suite {
    /// The names with this outcome.
    fn with(&self, outcome: Outcome) -> Vec<&str> {
        let chosen = self.outcomes.iter().filter(|(_, is)| **is == outcome);
        chosen.map(|(name, _)| name.as_str()).collect()
    }
}

/// Runs all cases in a directory. Each has an outcome, or the test fails.
fn run(directory: &Path, other_filesystem: &Path, helpers: &Path) -> Suite {
    // Some case leaves a file open for writing, and then the filesystem can't be made read-only any more:
    // the cases that need that get a process of their own.
    let read_only = run_some(&["erofs"], directory, other_filesystem, helpers);
    let mut suite = run_some(&[], directory, other_filesystem, helpers);
    assert!(suite.outcomes.len() > 300, "too few cases:\n{}", suite.output);
    suite.outcomes.extend(read_only.outcomes);
    suite.output.insert_str(0, &read_only.output);
    suite
}

/// Runs the cases whose names contain one of the patterns, or all but those of a read-only filesystem.
fn run_some(patterns: &[&str], directory: &Path, other_filesystem: &Path, helpers: &Path) -> Suite {
    let configuration = helpers.join("pjdfstest.toml");
    let allow_remount = !patterns.is_empty();
    let text = format!(
        r#"
            [features]
            nfsv4_acls = {{}}
            posix_fallocate = {{}}
            rename_ctime = {{}}
            utime_now = {{}}
            utimensat = {{}}
            [settings]
            naptime = 0.02
            allow_remount = {allow_remount}
            [dummy_auth]
            entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
        "#
    );
    fs::write(&configuration, text).unwrap();
    // The cases of a read-only filesystem run `mount -o remount`, and mount(8) would leave that to a helper
    // for filesystems of this type. `-i` makes it ask the kernel.
    let shim = helpers.join("mount");
    fs::write(&shim, "#!/bin/sh\nexec /bin/mount -i \"$@\"\n").unwrap();
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", helpers.display(), std::env::var("PATH").unwrap());

    let finished = Run::new(tool("pjdfstest"))
        .arg("-c")
        .arg(&configuration)
        .arg("-p")
        .arg(directory)
        .arg("-s")
        .arg(other_filesystem)
        .args(patterns)
        .env("PATH", path)
        .env("NO_COLOR", "1")
        .timeout(Duration::from_secs(240))
        .finish();
    let mut outcomes = BTreeMap::new();
    for line in finished.stdout.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(word), None) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let outcome = match word {
            "ok" => Outcome::Passed,
            "FAILED" => Outcome::Failed,
            "skipped" => Outcome::Skipped,
            _ => continue,
        };
        if name.contains("::") {
            let before = outcomes.insert(name.to_owned(), outcome);
            assert!(before.is_none(), "{name} ran twice\n{finished}");
        }
    }
    let total = format!("{} total", outcomes.len());
    assert!(finished.stdout.contains(&total), "not understood:\n{finished}");
    Suite { outcomes, output: finished.stdout }
}

fn compare(options: &[&str]) {
    needs_root();
    let image = Image::new(Filesystem::Ext4, 256);
    let other = Image::new(Filesystem::Tmpfs, 16);
    let helpers = tempfile::tempdir().unwrap();

    let ext4 = run(&image.directory("plain"), other.path(), helpers.path());
    assert!(ext4.with(Outcome::Failed).is_empty(), "ext4 itself fails:\n{}", ext4.output);
    assert!(ext4.with(Outcome::Skipped).is_empty(), "ext4 can't be tried:\n{}", ext4.output);

    let mount = Mount::builder()
        .store(image.directory("store"))
        .options(["--access", "posix"])
        .options(options.to_vec())
        .watchdog(Duration::from_secs(300))
        .mount();
    let mounted = run(mount.path(), other.path(), helpers.path());
    println!(
        "pjdfstest, cases passed: ext4 {} of {}, mount {options:?} {}",
        ext4.with(Outcome::Passed).len(),
        ext4.outcomes.len(),
        mounted.with(Outcome::Passed).len()
    );

    // A case that fails leaves the program behind that it had started there, for some seconds.
    let used = format!(" {}/", mount.path().display());
    let runs = |maps: PathBuf| fs::read_to_string(maps).is_ok_and(|text| text.contains(&used));
    let is_used = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes.into_iter().any(|process| runs(process.path().join("maps")))
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while is_used() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }

    let lines = REFUSED.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut refused: Vec<&str> = lines.collect();
    refused.sort_unstable();
    let differing = |outcome| -> Vec<&str> {
        let passed_on_ext4 = |name: &&str| ext4.outcomes.get(*name) == Some(&Outcome::Passed);
        mounted.with(outcome).into_iter().filter(passed_on_ext4).collect()
    };
    let failed = differing(Outcome::Failed);
    let unexpected: Vec<_> = failed.iter().filter(|name| !refused.contains(name)).collect();
    assert!(unexpected.is_empty(), "fail, but pass on ext4: {unexpected:#?}\n{}", mounted.output);
    let listed: Vec<_> = refused.iter().filter(|name| !failed.contains(name)).collect();
    assert!(listed.is_empty(), "are listed as refused, but did not fail: {listed:#?}");
    assert_eq!(differing(Outcome::Skipped), SKIPPED);
}

#[test]
fn what_passes_on_ext4_passes_on_a_mount() {
    compare(&[]);
}

#[test]
fn what_passes_on_ext4_passes_on_a_mount_without_passthrough() {
    compare(&["--no-passthrough"]);
}
