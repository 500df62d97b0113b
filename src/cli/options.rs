//! The options of `mount`, as words of their own and as `-o name=value,...` (for `mount -t cachefs`).

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use cachefs_mount::fuse::Transport;
use clap::CommandFactory;
use clap::error::ErrorKind;

use super::duration;
use crate::cache::Limit;
use crate::prune::layout::Layout;
use crate::prune::size::Size;
use crate::readers::Grouping;
use crate::telemetry::Format;

/// `cachefs mount`.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct MountArgs {
    /// The directory that holds the cache; created if it is missing
    pub store: PathBuf,

    /// Where to mount it: an empty directory; created if it is missing
    pub mountpoint: PathBuf,

    #[command(flatten)]
    named: Settings,

    /// Options as `mount -t cachefs` gives them: each of the others as NAME or NAME=VALUE
    #[arg(short = 'o', value_name = "NAME=VALUE,...")]
    options: Vec<String>,
}

/// What both ways of giving options come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct Settings {
    /// Who may do what: `shared` (everyone who may enter may use all of it), `posix` (owners and modes
    /// as on a local filesystem) or `scoped` (what those of `--trust` write is everyone's, what anyone
    /// else writes they alone see) [default: shared]
    #[arg(long, value_name = "MODE")]
    pub access: Option<AccessMode>,

    /// With `--access scoped`: users who write for everyone, as root and the daemon's user do; names or
    /// numbers, as in `--trust ci,1001`
    #[arg(long, value_name = "USER", value_delimiter = ',', value_parser = user)]
    pub trust: Vec<u32>,

    /// With `--access shared` or `scoped`: to whom what is everyone's seems to belong [default: who
    /// mounts]
    #[arg(long, value_name = "UID:GID")]
    pub owner: Option<Owner>,

    /// How much of the store one user may take, in space (of its filesystem, where it is `10%`) and, if
    /// it is said, in files; may be given for several, as in `--quota alice=20G:100000 --quota
    /// root=50%`. What he writes beyond that goes to the spill area. With `--access scoped`: how much he
    /// may have to himself, in the spill area, if he is not trusted
    #[arg(long, value_name = "USER=SIZE[:FILES]", value_parser = quota)]
    pub quota: Vec<(u32, Limit)>,

    /// The same for all users who are not named, root too [default: no limit; with `--access scoped` a
    /// tenth of the spill area's filesystem, and 250000 names]
    #[arg(long, value_name = "SIZE[:FILES]", value_parser = limit)]
    pub quota_default: Option<Limit>,

    /// How long what was removed is kept at most, for those who began before; `30d`, `12h`, `10m` or
    /// `45s` [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub retain_for: Option<Duration>,

    /// How long it is kept for processes whose pids can't be seen from here [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub grace: Option<Duration>,

    /// What makes a job: `tree` (a process and its descendants) or `cgroup` (all processes of one)
    /// [default: tree]
    #[arg(long, value_name = "KIND", value_parser = grouping)]
    pub reader: Option<Grouping>,

    /// A job with nothing open that has not used the mount for so long takes in no new children
    /// [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub idle: Option<Duration>,

    /// Write nothing in the store: what is written goes to the spill area, and is gone with the mount
    #[arg(long)]
    pub read_only_store: bool,

    /// Where what the store can't take is put, in a directory of its own that goes with the mount
    /// [default: where temporary files are, on another filesystem than the store's if there is one]
    #[arg(long, value_name = "DIR")]
    pub spill: Option<PathBuf>,

    /// What becomes of writes that the store can't take: `absorb` (they go to the spill area, and the
    /// tool sees success) or `fail` (the tool sees the error) [default: absorb]
    #[arg(long, value_name = "WHAT")]
    pub on_write_error: Option<OnWriteError>,

    /// How much the store may hold, `20G`, `512MiB` or `10%` of its filesystem: what was used least
    /// recently is pruned
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<Size>,

    /// What was last used longer ago is pruned: `30d`, `12h`, `10m` or `45s`
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub max_age: Option<Duration>,

    /// How much of the store's filesystem should be free, `20G`, `512MiB` or `10%`
    #[arg(long, value_name = "SIZE")]
    pub min_free: Option<Size>,

    /// How often these limits are looked after, apart from when much was written [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub prune_every: Option<Duration>,

    /// What goes together when it is pruned: `auto` (found by looking which tools' caches there are), the
    /// name of a tool whose cache all of the store is, or `generic:DEPTH` (every entry at that depth)
    /// [default: auto]
    #[arg(long, value_name = "LAYOUT")]
    pub layout: Option<LayoutChoice>,

    /// Answer with metrics for Prometheus at `http://ADDR:PORT/metrics`; everyone who reaches the address
    /// may read them
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    pub metrics: Option<SocketAddr>,

    /// How many threads at most answer at once what comes through /dev/fuse, but for what takes long
    /// [default: one for each processor]
    #[arg(long, value_name = "NUMBER")]
    pub threads: Option<NonZeroUsize>,

    /// How requests come from the kernel: `io-uring` (faster; Linux 6.14 or later, where it is switched
    /// on), `classic` (through /dev/fuse), or `auto` (over io_uring where that can be had) [default: auto]
    #[arg(long, value_name = "TRANSPORT", value_parser = transport)]
    pub transport: Option<Transport>,

    /// Append the log to this file
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,

    /// How log lines are written: `text` or `json` (one JSON document a line) [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<Format>,

    /// Stay in the foreground and log to standard error
    #[arg(long)]
    pub foreground: bool,

    /// Let all reading go through the daemon, also where the kernel could read by itself
    #[arg(long)]
    pub no_passthrough: bool,

    /// Let the daemon keep all rights it was started with: to find out whether they are what is missing
    #[arg(long, hide = true)]
    pub no_containment: bool,

    /// `-o ro`: nobody changes anything through the mount.
    #[arg(skip)]
    pub ro: bool,

    /// `-o noexec`: nobody runs a program from it.
    #[arg(skip)]
    pub noexec: bool,
}

/// SEMANTICS 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum AccessMode {
    /// 5.1
    #[default]
    Shared,
    /// 5.2
    Posix,
    /// 5.3
    Scoped,
}

impl AccessMode {
    pub(super) fn name(self) -> &'static str {
        match self {
            AccessMode::Shared => "shared",
            AccessMode::Posix => "posix",
            AccessMode::Scoped => "scoped",
        }
    }
}

impl FromStr for AccessMode {
    type Err = String;

    fn from_str(text: &str) -> Result<AccessMode, String> {
        match text {
            "shared" => Ok(AccessMode::Shared),
            "posix" => Ok(AccessMode::Posix),
            "scoped" => Ok(AccessMode::Scoped),
            _ => Err("use `shared`, `posix` or `scoped`".into()),
        }
    }
}

/// How the store is laid out: found by looking, or said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct LayoutChoice(pub Option<Layout>);

impl FromStr for LayoutChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<LayoutChoice, String> {
        match text {
            "auto" => Ok(LayoutChoice(None)),
            name => match name.parse() {
                Ok(layout) => Ok(LayoutChoice(Some(layout))),
                Err(error) => Err(format!("{error}, or `auto`")),
            },
        }
    }
}

/// A user, by name or number.
fn user(text: &str) -> Result<u32, String> {
    let found = match text.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => crate::system::users::number(text),
    };
    match found {
        // The highest number stands for "none" in system calls.
        Ok(Some(number)) if number != u32::MAX => Ok(number),
        Ok(_) => Err(format!("there is no user `{text}`; give a name or a number")),
        Err(error) => Err(format!("can't look up the user `{text}`: {error}; give the number")),
    }
}

fn limit(text: &str) -> Result<Limit, String> {
    let (bytes, files) = match text.split_once(':') {
        Some((bytes, files)) => (bytes, Some(files)),
        None => (text, None),
    };
    let files = files.map(|files| files.parse().map_err(|_| "use a number of files after the `:`"));
    Ok(Limit { bytes: bytes.parse()?, files: files.transpose()? })
}

fn quota(text: &str) -> Result<(u32, Limit), String> {
    let (who, much) = text.split_once('=').ok_or("use USER=SIZE, such as `alice=20G`")?;
    Ok((user(who)?, limit(much)?))
}

/// SEMANTICS 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum OnWriteError {
    /// 4.1
    #[default]
    Absorb,
    /// 4.3
    Fail,
}

impl FromStr for OnWriteError {
    type Err = String;

    fn from_str(text: &str) -> Result<OnWriteError, String> {
        match text {
            "absorb" => Ok(OnWriteError::Absorb),
            "fail" => Ok(OnWriteError::Fail),
            _ => Err("use `absorb` or `fail`".into()),
        }
    }
}

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Owner, String> {
        // The highest number stands for "none" in system calls.
        let number = |part: &str| part.parse().ok().filter(|&id: &u32| id != u32::MAX);
        text.split_once(':')
            .and_then(|(uid, gid)| Some(Owner { uid: number(uid)?, gid: number(gid)? }))
            .ok_or_else(|| "use two numbers, UID:GID, such as `1000:1000`".into())
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "use an address and a port, such as `127.0.0.1:9464`, `0.0.0.0:9464` (all addresses) or `[::1]:9464`"
            .into()
    })
}

fn grouping(text: &str) -> Result<Grouping, String> {
    match text {
        "tree" => Ok(Grouping::Tree),
        "cgroup" => Ok(Grouping::Cgroup),
        _ => Err("use `tree` or `cgroup`".into()),
    }
}

fn transport(text: &str) -> Result<Transport, String> {
    match text {
        "auto" => Ok(Transport::Auto),
        "classic" => Ok(Transport::Classic),
        "io-uring" => Ok(Transport::IoUring),
        _ => Err("use `auto`, `classic` or `io-uring`".into()),
    }
}

pub(super) fn grouping_name(grouping: Grouping) -> &'static str {
    match grouping {
        Grouping::Tree => "tree",
        Grouping::Cgroup => "cgroup",
    }
}

/// Options of `mount(8)` that say nothing to a daemon, or what it does anyway.
const GENERIC: &[&str] = &[
    "_netdev", "async", "auto", "defaults", "group", "noauto", "nodev", "nofail", "nosuid",
    "nouser", "owner", "user", "users",
];

impl Settings {
    /// Takes one `-o` option; says what is wrong with it otherwise.
    fn take(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let wrong = |why: &str| format!("invalid value in `-o {option}`: {why}");
        match (name, value) {
            ("access", Some(value)) => {
                self.access = Some(value.parse().map_err(|e: String| wrong(&e))?)
            }
            // In `-o`, commas are between options.
            ("trust", Some(value)) => {
                for name in value.split(':') {
                    self.trust.push(user(name).map_err(|e| wrong(&e))?);
                }
            }
            ("quota", Some(value)) => self.quota.push(quota(value).map_err(|e| wrong(&e))?),
            ("quota-default", Some(value)) => {
                self.quota_default = Some(limit(value).map_err(|e| wrong(&e))?);
            }
            ("owner", Some(value)) => {
                self.owner = Some(value.parse().map_err(|e: String| wrong(&e))?)
            }
            ("retain-for", Some(value)) => {
                self.retain_for = Some(duration::parse(value).map_err(|e| wrong(&e))?)
            }
            ("grace", Some(value)) => {
                self.grace = Some(duration::parse(value).map_err(|e| wrong(&e))?)
            }
            ("reader", Some(value)) => self.reader = Some(grouping(value).map_err(|e| wrong(&e))?),
            ("idle", Some(value)) => {
                self.idle = Some(duration::parse(value).map_err(|e| wrong(&e))?)
            }
            ("max-size", Some(value)) => {
                self.max_size = Some(value.parse().map_err(|e: String| wrong(&e))?)
            }
            ("max-age", Some(value)) => {
                self.max_age = Some(duration::parse(value).map_err(|e| wrong(&e))?)
            }
            ("min-free", Some(value)) => {
                self.min_free = Some(value.parse().map_err(|e: String| wrong(&e))?)
            }
            ("prune-every", Some(value)) => {
                self.prune_every = Some(duration::parse(value).map_err(|e| wrong(&e))?)
            }
            ("layout", Some(value)) => {
                self.layout = Some(value.parse().map_err(|e: String| wrong(&e))?)
            }
            ("metrics", Some(value)) => self.metrics = Some(address(value).map_err(|e| wrong(&e))?),
            ("read-only-store", None) => self.read_only_store = true,
            ("spill", Some("")) => return Err(wrong("name a directory")),
            ("spill", Some(value)) => self.spill = Some(value.into()),
            ("on-write-error", Some(value)) => {
                self.on_write_error = Some(value.parse().map_err(|e: String| wrong(&e))?);
            }
            ("threads", Some(value)) => {
                self.threads = Some(value.parse().map_err(|_| wrong("use a number from 1 up"))?);
            }
            ("transport", Some(value)) => {
                self.transport = Some(transport(value).map_err(|e| wrong(&e))?);
            }
            ("log-format", Some(value)) => {
                self.log_format = Some(value.parse().map_err(|e: String| wrong(&e))?);
            }
            ("log", Some("")) => return Err(wrong("name a file")),
            ("log", Some(value)) => self.log = Some(value.into()),
            ("foreground", None) => self.foreground = true,
            ("no-passthrough", None) => self.no_passthrough = true,
            ("no-containment", None) => self.no_containment = true,
            (
                "access" | "retain-for" | "grace" | "reader" | "idle" | "threads" | "log"
                | "log-format" | "spill" | "on-write-error" | "max-size" | "max-age" | "min-free"
                | "prune-every" | "layout" | "metrics" | "trust" | "quota" | "quota-default"
                | "transport",
                None,
            ) => {
                return Err(format!("`-o {name}` needs a value"));
            }
            (name, None) if GENERIC.contains(&name) => {}
            ("comment", _) => {}
            (name, _) if name.starts_with("x-") => {}
            ("sync" | "noatime" | "nodiratime" | "relatime" | "norelatime" | "lazytime", None) => {}
            // The last one counts, as in mount(8).
            ("ro" | "rw", None) => self.ro = name == "ro",
            ("noexec" | "exec", None) => self.noexec = name == "noexec",
            ("dev" | "suid", _) => {
                return Err(format!(
                    "`-o {name}` is refused: a cache has no device nodes and no set-id files"
                ));
            }
            _ => return Err(format!("unknown option in `-o {option}`")),
        }
        Ok(())
    }

    /// `self` where it says something, else `other`.
    fn or(self, other: Settings) -> Settings {
        Settings {
            access: self.access.or(other.access),
            trust: [self.trust, other.trust].concat(),
            owner: self.owner.or(other.owner),
            // What is said first of a user counts.
            quota: [self.quota, other.quota].concat(),
            quota_default: self.quota_default.or(other.quota_default),
            retain_for: self.retain_for.or(other.retain_for),
            grace: self.grace.or(other.grace),
            reader: self.reader.or(other.reader),
            idle: self.idle.or(other.idle),
            read_only_store: self.read_only_store || other.read_only_store,
            spill: self.spill.or(other.spill),
            on_write_error: self.on_write_error.or(other.on_write_error),
            max_size: self.max_size.or(other.max_size),
            max_age: self.max_age.or(other.max_age),
            min_free: self.min_free.or(other.min_free),
            prune_every: self.prune_every.or(other.prune_every),
            layout: self.layout.or(other.layout),
            metrics: self.metrics.or(other.metrics),
            threads: self.threads.or(other.threads),
            transport: self.transport.or(other.transport),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
            foreground: self.foreground || other.foreground,
            no_passthrough: self.no_passthrough || other.no_passthrough,
            no_containment: self.no_containment || other.no_containment,
            ro: self.ro || other.ro,
            noexec: self.noexec || other.noexec,
        }
    }
}

impl MountArgs {
    /// All that was said in either way; ends the process, as clap does, where it makes no sense.
    pub(super) fn settings(&self) -> Settings {
        self.checked().unwrap_or_else(|why| {
            let mut command = super::Cli::command();
            command.error(ErrorKind::InvalidValue, why).exit()
        })
    }

    /// For options that all come by `-o`.
    pub(super) fn of(store: PathBuf, mountpoint: PathBuf, options: Vec<String>) -> MountArgs {
        MountArgs { store, mountpoint, named: Settings::default(), options }
    }

    /// All that was said in either way; says what is wrong with it otherwise.
    pub(super) fn checked(&self) -> Result<Settings, String> {
        let mut by_option = Settings::default();
        for option in self.options.iter().flat_map(|o| o.split(',')).filter(|o| !o.is_empty()) {
            by_option.take(option)?;
        }
        let settings = self.named.clone().or(by_option);
        if settings.owner.is_some() && settings.access == Some(AccessMode::Posix) {
            return Err(
                "`owner` is not for `access` `posix`, with which each file has its own".into()
            );
        }
        let scoped = settings.access == Some(AccessMode::Scoped);
        if !settings.trust.is_empty() && !scoped {
            return Err("`trust` is for `access` `scoped` only; otherwise all users write for \
                        everyone"
                .into());
        }
        if settings.spill.is_some() && settings.on_write_error == Some(OnWriteError::Fail) {
            return Err("`spill` is for `on-write-error` `absorb` only; with `fail` nothing is \
                        spilled"
                .into());
        }
        let limited =
            [settings.max_size.is_some(), settings.max_age.is_some(), settings.min_free.is_some()];
        if settings.prune_every.is_some() && !limited.contains(&true) {
            return Err(
                "`prune-every` needs something to prune for: give `max-size`, `max-age` or \
                        `min-free`"
                    .into(),
            );
        }
        if settings.prune_every == Some(Duration::ZERO) {
            return Err("`prune-every` can't be nothing; use `1m`, for example".into());
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> Result<Settings, String> {
        MountArgs { options: vec![options.into()], ..MountArgs::default() }.checked()
    }

    #[test]
    fn options_are_taken_by_name() {
        let all = parse(
            "rw,access=posix,retain-for=2h,grace=0s,reader=cgroup,idle=3m,threads=3,transport=classic,log=/l,log-format=json,noatime,foreground,\
             max-size=20G,max-age=30d,min-free=10%,prune-every=5m,layout=generic:2,metrics=[::1]:9464,\
             read-only-store,spill=/s,on-write-error=absorb,no-passthrough,no-containment,ro,noexec,\
             x-systemd.a=b,user,_netdev",
        );
        let expected = Settings {
            access: Some(AccessMode::Posix),
            trust: Vec::new(),
            owner: None,
            quota: Vec::new(),
            quota_default: None,
            retain_for: Some(Duration::from_secs(7200)),
            grace: Some(Duration::ZERO),
            reader: Some(Grouping::Cgroup),
            idle: Some(Duration::from_secs(180)),
            max_size: Some(Size::Bytes(20 << 30)),
            max_age: Some(Duration::from_secs(30 * 86_400)),
            min_free: Some(Size::Percent(10)),
            prune_every: Some(Duration::from_secs(300)),
            layout: Some(LayoutChoice(Some("generic:2".parse().unwrap()))),
            metrics: Some("[::1]:9464".parse().unwrap()),
            read_only_store: true,
            spill: Some("/s".into()),
            on_write_error: Some(OnWriteError::Absorb),
            threads: NonZeroUsize::new(3),
            transport: Some(Transport::Classic),
            log: Some("/l".into()),
            log_format: Some(Format::Json),
            foreground: true,
            no_passthrough: true,
            no_containment: true,
            ro: true,
            noexec: true,
        };
        assert_eq!(all, Ok(expected));
        let last = parse("ro,noexec,rw,exec").unwrap();
        assert!(!last.ro && !last.noexec);
        assert_eq!(parse("owner=1:2").unwrap().owner, Some(Owner { uid: 1, gid: 2 }));
        let scoped =
            parse("access=scoped,trust=root:1001,quota=1002=2G:10,quota-default=1MiB").unwrap();
        assert_eq!(scoped.trust, [0, 1001]);
        assert_eq!(scoped.quota, [(1002, Limit { bytes: Size::Bytes(2 << 30), files: Some(10) })]);
        assert_eq!(scoped.quota_default, Some(Limit { bytes: Size::Bytes(1 << 20), files: None }));
        // `owner` without a value is an option of mount(8).
        assert_eq!(parse("owner,,defaults,"), Ok(Settings::default()));
    }

    #[test]
    fn words_win_over_options() {
        let args = MountArgs {
            named: Settings { threads: NonZeroUsize::new(7), ..Settings::default() },
            options: vec!["threads=2,access=posix".into()],
            ..MountArgs::default()
        };
        let settings = args.checked().unwrap();
        assert_eq!(settings.threads, NonZeroUsize::new(7));
        assert_eq!(settings.access, Some(AccessMode::Posix));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (options, why) in [
            ("trust=root", "`scoped` only"),
            ("access=scoped,trust=no-such-user-here", "there is no user"),
            ("access=scoped,trust", "needs a value"),
            ("quota=1G", "USER=SIZE"),
            ("quota=0=1G:many", "number of files"),
            ("access=scoped,quota-default=much", "number and a unit"),
            ("quota-default=110%", "more than all"),
            ("access", "needs a value"),
            ("access=all", "`shared`, `posix` or `scoped`"),
            ("owner=root:root", "UID:GID"),
            ("owner=1", "UID:GID"),
            ("owner=4294967295:0", "UID:GID"),
            ("retain-for", "needs a value"),
            ("retain-for=soon", "whole number and a unit"),
            ("grace=10", "unit is missing"),
            ("idle=36501d", "too long"),
            ("reader=user", "`tree` or `cgroup`"),
            ("reader", "needs a value"),
            ("threads=0", "from 1 up"),
            ("transport=fast", "`auto`, `classic` or `io-uring`"),
            ("transport", "needs a value"),
            ("ro=1", "unknown"),
            ("suid", "refused"),
            ("foreground=yes", "unknown"),
            ("nonsense", "unknown"),
            ("log-format=xml", "`text` or `json`"),
            ("owner=1:1,access=posix", "each file has its own"),
            ("max-size=20", "unit is missing"),
            ("max-size", "needs a value"),
            ("min-free=110%", "more than all"),
            ("layout=emacs", "or `auto`"),
            ("layout=generic:0", "depth"),
            ("prune-every=5m", "something to prune for"),
            ("max-size=1G,prune-every=0s", "can't be nothing"),
            ("on-write-error=ignore", "`absorb` or `fail`"),
            ("on-write-error", "needs a value"),
            ("spill=", "name a directory"),
            ("spill=/s,on-write-error=fail", "only"),
        ] {
            let said = parse(options).unwrap_err();
            assert!(said.contains(why), "{options}: {said}");
        }
    }
}
