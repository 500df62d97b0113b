//! A machine of a test's own, as far as its mounts, processes and users go.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use super::{Run, binary};

/// What comes before a script. Its `$0` is the program, `$1` the home, and `$2` the script.
const PREPARE: &str = r#"
    sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .* - fuse\.cachefs .*/\1/p' /proc/self/mountinfo |
        while read -r other; do umount --lazy "$other"; done
    mkdir "$1/bin"; cp "$0" "$1/bin/cachefs"
    mkdir -p "$1/etc"
    for name in manpath.config passwd group shadow pam.d login.defs nsswitch.conf security environment profile \
        alternatives default fuse.conf; do
        [ ! -e /etc/$name ] || cp -a /etc/$name "$1/etc"
    done
    # As if mount(8) had the helper.
    mkdir "$1/real" "$1/sbin"
    mount --bind /usr/sbin "$1/real"; cp -as "$1/real/." "$1/sbin"; ln -s "$1/bin/cachefs" "$1/sbin/mount.cachefs"
    mount --bind "$1/sbin" /usr/sbin
    for place in mnt etc var srv home usr/local; do
        mkdir -p "$1/$place"
        mount --bind "$1/$place" "/$place"
    done
    ln -s /proc/self/mounts /etc/mtab
    mkdir -p /var/lib /var/log /etc/bash_completion.d /etc/profile.d /usr/local/bin
    PATH=$1/bin:/usr/sbin:/usr/bin:/bin HOME=$1
    cd "$1"
    eval "$2"
"#;

/// Runs a script as root of a machine with an empty `/mnt`, `/srv`, `/home`, `/var` and `/usr/local`, next to nothing
/// in `/etc`, the helper of `mount(8)`, and no cachefs mount of anybody else's. Nothing of it outlives it.
#[track_caller]
pub(crate) fn on_a_machine_of_its_own(home: &Path, script: &str) -> Run {
    // Users other than root live there.
    fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
    Run::new("unshare")
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "bash", "-eo", "pipefail", "-c", PREPARE])
        .arg(binary())
        .arg(home)
        .arg(script)
        .timeout(Duration::from_secs(120))
}
