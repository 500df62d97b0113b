//! `cachefs check`: each of the usual mistakes is found, said to be one, and its mend is said; where it was not
//! made, nothing is said of it.

mod common;

use common::{needs_root, on_a_machine_of_its_own};

/// A mistake.
struct Mistake {
    /// The script that makes it and then checks, in mounts of its own.
    made_by: &'static str,
    level: &'static str,
    /// What is found, and what is told to be done.
    found: &'static str,
    mend: &'static str,
}

const fn warning(made_by: &'static str, found: &'static str, mend: &'static str) -> Mistake {
    Mistake { made_by, level: "warning", found, mend }
}

const fn error(made_by: &'static str, found: &'static str, mend: &'static str) -> Mistake {
    Mistake { made_by, level: "error", found, mend }
}

/// What the scripts share. Users other than root have what root has left them.
const PREPARE: &str = r#"
    as_user() { setpriv --reuid 4242 --regid 4242 --clear-groups env PATH="$path" "$@"; }
    path=$PATH
    umask 022
    new_dev() { mount -t tmpfs none /dev; [ -z "$1" ] || mknod -m "$1" /dev/fuse c 10 229; }
"#;

const MISTAKES: &[Mistake] = &[
    error("new_dev ''; cachefs check", "there is no /dev/fuse", "modprobe fuse"),
    error("new_dev 600; as_user cachefs check", "/dev/fuse can't be opened", "chmod 666 /dev/fuse"),
    warning(
        "ulimit -Sn 4096; ulimit -Hn 4096; cachefs check",
        "no more than 4096 files",
        "ulimit -Hn 65536",
    ),
    warning("cachefs check", "this is a pid namespace of its own", "--pid=host"),
    warning("cd /srv; cachefs check", "/srv is a private mount", "mount --make-rshared /srv"),
    error(
        "mkdir -p /srv/bin; cp \"$(command -v cachefs)\" /srv/bin; path=/srv/bin; as_user cachefs check",
        "mounting needs fusermount3, which is not there",
        "install the package `fuse3`",
    ),
    error(
        "mkdir -p /srv/bin; cp \"$(command -v cachefs)\" \"$(command -v fusermount3)\" /srv/bin
         chmod 755 /srv/bin/fusermount3; path=/srv/bin; as_user cachefs check",
        "fusermount3 has lost its rights to mount",
        "chmod u+s",
    ),
    warning(
        ": >/etc/fuse.conf; as_user cachefs check",
        "only you can use the mount",
        "user_allow_other",
    ),
    warning(
        "mkdir /srv/open; cachefs check /srv/open",
        "is open to other users",
        "chmod 700 /srv/open",
    ),
    error(": >/srv/file; cachefs check /srv/file", "is not a directory", "name a directory"),
    error("cachefs check /srv/no/where", "and its parent are missing", "create the parent"),
    error(
        "mkdir -m 700 /srv/closed; as_user cachefs check /srv/closed",
        "/srv/closed can't be",
        "run as its owner or as root",
    ),
    error(
        "mkdir /srv/ro; mount --bind /srv/ro /srv/ro; mount -o remount,ro,bind /srv/ro; cachefs check /srv/ro",
        "/srv/ro can't be written",
        "remount its filesystem if it is read-only",
    ),
    error(
        "cachefs mount /srv/used /mnt/used; cachefs umount; echo 4242 >/srv/used/.cachefs/format
         cachefs check /srv/used",
        "was written by a newer cachefs (format 4242",
        "",
    ),
    error(
        "mkdir -p /srv/odd/.cachefs; echo odd >/srv/odd/.cachefs/format; cachefs check /srv/odd",
        "format is not what cachefs writes",
        "out of the way; the cached files stay",
    ),
    error(
        "cachefs mount /srv/store /mnt/cache; mkdir /mnt/cache/in; cachefs check /mnt/cache/in",
        "is itself on a cachefs mount",
        "use a local directory",
    ),
    warning(
        "mkdir /srv/small; mount -t tmpfs -o size=1M none /srv/small
         head -c 1M /dev/zero >/srv/small/file || true; cachefs check /srv/small",
        "little space",
        "make room",
    ),
];

/// What a check says of `found`: its level, and the mend that follows.
fn finding<'a>(said: &'a str, found: &str) -> Option<(&'a str, &'a str)> {
    let mut lines = said.lines();
    let line = lines.find(|line| line.contains(found))?;
    let mend = lines.next().and_then(|next| next.trim().strip_prefix("-> ")).unwrap_or("");
    Some((line.split_whitespace().next()?, mend))
}

#[test]
fn usual_mistakes_are_found_with_their_mends() {
    needs_root();
    for mistake in MISTAKES {
        let home = tempfile::tempdir().unwrap();
        let script = format!("{PREPARE}\n{}", mistake.made_by);
        let run = on_a_machine_of_its_own(home.path(), &script);
        let said = match mistake.level {
            "error" => run.exits_with(1),
            _ => run.succeeds(),
        };
        let (level, mend) = finding(&said.stdout, mistake.found)
            .unwrap_or_else(|| panic!("{:?} is not found\n{said}", mistake.found));
        assert_eq!(level, mistake.level, "{said}");
        assert!(!mend.is_empty() && mend.contains(mistake.mend), "{said}");
    }
}

#[test]
fn nothing_is_said_of_what_is_right() {
    needs_root();
    let home = tempfile::tempdir().unwrap();
    let script = "mount --make-shared /srv; cd /srv; mkdir -m 700 store; cachefs check /srv/store";
    let said = on_a_machine_of_its_own(home.path(), script).succeeds();
    // That it is a machine in a machine is all that is wrong.
    for mistake in MISTAKES.iter().filter(|mistake| !mistake.found.contains("pid namespace")) {
        assert!(finding(&said.stdout, mistake.found).is_none(), "{:?}: {said}", mistake.found);
    }
    assert!(said.stdout.lines().filter(|line| line.starts_with("ok ")).count() >= 8, "{said}");
}
