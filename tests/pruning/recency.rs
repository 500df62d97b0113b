//! What was used is known by what the mount saw, and kept in the store (SEMANTICS 6.2).

use std::time::{Duration, SystemTime};

use crate::common::{Mount, Run};
use crate::ground::{HOUR, left, names, path, prune, read, set_used, unit, used};

fn filled(options: &[&str]) -> Mount {
    let mount = Mount::builder().options(options.iter().copied()).mount();
    for (hours, name) in ["c", "b", "a"].into_iter().enumerate() {
        unit(mount.store(), name, hours as u64 + 10);
    }
    mount
}

/// Prunes what was not used in the last hour.
fn prune_unused(mount: &Mount) {
    prune(mount, &["--older-than", "1h"]);
}

#[test]
fn what_is_opened_is_used() {
    for options in [&[][..], &["--no-passthrough"]] {
        let mount = filled(options);
        read(&mount, &path("a"));
        prune_unused(&mount);
        assert_eq!(left(mount.store()), names(["a"]), "{options:?}");
    }
}

#[test]
fn to_be_looked_at_is_no_use() {
    let mount = filled(&[]);
    Run::new("find").arg(mount.path()).args(["-ls"]).succeeds();
    Run::new("du").arg("-a").arg(mount.path()).succeeds();
    mount.status();
    prune(&mount, &["--max-size", "1G", "--dry-run"]);
    prune_unused(&mount);
    assert_eq!(left(mount.store()), names([]));
}

#[test]
fn it_outlives_the_mount() {
    let mut mount = filled(&[]);
    let before = used(&mount.store().join(path("a")));
    read(&mount, &path("a"));
    read(&mount, &path("b"));
    mount.unmount();
    assert!(used(&mount.store().join(path("a"))) > before + Duration::from_secs(HOUR));
    mount.mount_again();
    prune_unused(&mount);
    assert_eq!(left(mount.store()), names(["a", "b"]));
}

/// A directory that is a unit is used when what lies in it is.
#[test]
fn a_directory_is_used_through_its_files() {
    let mut mount = Mount::builder().options(["--layout", "generic:1"]).mount();
    let at = |name: &str| mount.store().join(name);
    let old = SystemTime::now() - Duration::from_secs(10 * HOUR);
    for name in ["one", "two"] {
        std::fs::create_dir_all(at(name).join("in/it")).unwrap();
        std::fs::write(at(name).join("in/it/file"), name).unwrap();
        set_used(&at(name), old);
    }
    read(&mount, "one/in/it/file");
    let (one, two) = (at("one"), at("two"));
    mount.unmount();
    assert!(used(&one) > old + Duration::from_secs(HOUR));
    assert!(used(&two) < old + Duration::from_secs(1));
    mount.mount_again();
    prune_unused(&mount);
    assert!(one.join("in/it/file").exists() && !two.exists());
}

/// The clock was put back: what seems to be used later than now counts as used now, and does not go
/// on being the newest for ever.
#[test]
fn times_to_come_are_put_right() {
    let mount = filled(&[]);
    let ahead = SystemTime::now() + Duration::from_secs(1000 * HOUR);
    set_used(&mount.store().join(path("a")), ahead);
    prune(&mount, &["--older-than", "1h"]);
    assert_eq!(left(mount.store()), names(["a"]));
    let put_right = used(&mount.store().join(path("a")));
    assert!(put_right <= SystemTime::now(), "{put_right:?}");
}
