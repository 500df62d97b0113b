//! SEMANTICS, first paragraph: where the contract is silent, a mount behaves as a local filesystem does.
//! pjdfstest asks some four hundred questions about that; ext4 is asked beside it.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{Mount, Run, needs_root, tool};

/// What a mount refuses by contract (SEMANTICS 5.4), beside every case that makes a device node.
const REFUSED: &[&str] = &["chmod::clear_isgid_bit"];

/// What can't be asked on a mount: the C library answers `pathconf(_PC_LINK_MAX)` by a table of
/// filesystem types, and has no entry for FUSE.
const NOT_ASKED: &[&str] = &["link::link_count_max"];

const SETTINGS: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [ ["daemon", "daemon"], ["bin", "bin"] ]
"#;

/// Each case's name and how it ended.
fn results(directory: &Path, settings: &Path) -> (BTreeMap<String, String>, String) {
    let said = Run::new(tool("pjdfstest"))
        .args(["-c".as_ref(), settings.as_os_str(), "-p".as_ref(), directory.as_os_str()])
        .timeout(Duration::from_secs(300))
        .finish();
    let mut results = BTreeMap::new();
    for line in said.stdout.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(end @ ("ok" | "FAILED" | "skipped")), None) =
            (words.next(), words.next(), words.next())
        {
            results.insert(name.to_owned(), end.to_owned());
        }
    }
    assert!(results.len() > 350, "pjdfstest came to no end:\n{said}");
    (results, said.all_output())
}

/// Device nodes are refused to everyone, so that a case that begins by making one goes no further.
fn makes_a_device(case: &str) -> bool {
    case.ends_with("::char") || case.ends_with("::block")
}

fn the_mount_does_what_ext4_does(options: &[&str]) {
    needs_root();
    let mount = Mount::builder()
        .options(["--access", "posix"].iter().chain(options))
        .watchdog(Duration::from_secs(400))
        .mount();
    let plain = mount.beside("plain");
    let settings = mount.beside("settings").join("pjdfstest.toml");
    fs::write(&settings, SETTINGS).unwrap();
    let (wanted, _) = results(&plain, &settings);
    let (found, said) = results(mount.path(), &settings);
    assert_eq!(wanted.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());

    let (mut worse, mut refused) = (Vec::new(), Vec::new());
    for (case, wanted) in wanted {
        let found = &found[&case];
        if *found == wanted {
            continue;
        }
        if found == "FAILED" && (makes_a_device(&case) || REFUSED.contains(&&*case)) {
            refused.push(case);
        } else if !(found == "skipped" && NOT_ASKED.contains(&&*case)) {
            worse.push(format!("{case}: {wanted} on ext4, {found} on the mount"));
        }
    }
    assert!(worse.is_empty(), "{worse:#?}\n{said}");
    // The list is true both ways: whatever it names is refused.
    for case in REFUSED {
        assert!(refused.iter().any(|refused| refused == case), "{case} is not refused any more");
    }
    assert!(refused.iter().any(|case| case == "mknod::device_files::char"), "{refused:#?}");
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 0, "the suite cleans up");
}

#[test]
fn with_passthrough() {
    the_mount_does_what_ext4_does(&[]);
}

#[test]
fn without_passthrough() {
    the_mount_does_what_ext4_does(&["--no-passthrough"]);
}
