//! What each command's `--help` and manual page show as examples. Lines that begin with four spaces are for a
//! shell; the test `every_example_works` runs them.

pub(super) const ALL: &str = "\
Examples:
    cachefs mount /var/lib/cachefs /mnt/cache
    cachefs status
    cachefs umount";

pub(super) const MOUNT: &str = "\
Examples:
    cachefs mount /var/lib/cachefs /mnt/cache
    cachefs mount --access posix --retain-for 2h /var/lib/cachefs /mnt/cache
    cachefs mount --access scoped --trust 1000,1001 --quota-default 2G /var/lib/cachefs /mnt/cache
    cachefs mount --quota root=50% --quota-default 2G:100000 /var/lib/cachefs /mnt/cache
    cachefs mount -o reader=cgroup,log=/var/log/cachefs.log /var/lib/cachefs /mnt/cache";

pub(super) const UMOUNT: &str = "\
Examples:
    cachefs umount
    cachefs umount --lazy /mnt/cache";

pub(super) const STATUS: &str = "\
Examples:
    cachefs status
    cachefs status --json /mnt/cache";

pub(super) const READERS: &str = "\
Examples:
    cachefs readers
    cachefs readers --json /var/lib/cachefs";

pub(super) const TOP: &str = "\
Examples:
    cachefs top --once
    cachefs top --once --interval 2s /mnt/cache | head -n 4

Without --once: until `q`.";

pub(super) const REPORT: &str = "\
Examples:
    cachefs report /var/lib/report.html
    cachefs report cache.html /mnt/cache";

pub(super) const CLEAN: &str = "\
Examples:
    cachefs clean /mnt/cache/uv
    cachefs clean /mnt/cache pip ruff
    cachefs clean";

pub(super) const PRUNE: &str = "\
Examples:
    cachefs prune --max-size 20G
    cachefs prune --older-than 30d --dry-run
    cachefs prune /mnt/cache --tool pip
    cachefs prune --min-free 1% uv pip

Without limits, tools and paths: what the mount's own limits do not allow.";

pub(super) const CHECK: &str = "\
Examples:
    cachefs check
    cachefs check --json /var/lib/cachefs";

pub(super) const ENV: &str = "\
Examples:
    eval \"$(cachefs env)\"
    cachefs env --shell fish /mnt/cache | head -n 1

Only what is a cache and nothing else is named: CARGO_HOME and HF_HOME hold credentials, Poetry's cache holds
virtual environments.";

pub(super) const TRY: &str = "\
Example:
    cachefs try";

pub(super) const COMPLETIONS: &str = "\
Examples:
    cachefs completions bash > /etc/bash_completion.d/cachefs
    cachefs completions fish | head -n 1";

pub(super) const MAN: &str = "\
Examples:
    cachefs man | head -n 1
    cachefs man /usr/local/share/man/man1";

pub(super) const RUN: &str = "\
Examples:
    cachefs run -- sh -c 'echo \"$UV_CACHE_DIR\"'
    cachefs run --store /var/lib/cachefs --at /mnt/cache -- ls -A /mnt/cache";

/// For the manual page of `mount.cachefs`.
pub(super) const HELPER: &str = "\
Examples:
    mount -t cachefs /var/lib/cachefs /mnt/cache -o retain-for=2h

In /etc/fstab:

    /var/lib/cachefs  /mnt/cache  cachefs  retain-for=2h,nofail  0  0";
