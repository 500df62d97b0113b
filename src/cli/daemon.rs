//! The daemon: from the words of `mount` to the end of the mount.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use cachefs_mount::fuse::{Options, Unmounter, Unserved};
use rustix::process::{Resource, Rlimit};
use time::OffsetDateTime;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::Failure;
use super::options::{AccessMode, MountArgs, OnWriteError, Settings};
use super::places::Place;
use super::service::Running;
use crate::cache::{Access, Cache, CacheOptions, Keep, Limits, PruneOptions, Quotas};
use crate::control::public::Public;
use crate::control::server::{self, Server};
use crate::metrics::{self, Exporter};
use crate::readers::{Linux, ReaderOptions, Readers};
use crate::store::{self, Spilling, Store, Wishes};
use crate::system::containment::{self, Allowed, Containment};
use crate::system::notify;
use crate::system::outside::Outside;

/// A mount that is busy when the daemon shall end is unmounted lazily after this time.
const BUSY_TIME: Duration = Duration::from_secs(5);

/// The most descriptors of the store that are kept open for later use.
const MOST_KEPT: usize = 8192;

/// With fewer descriptors than this a daemon would fail half-way, or at once.
const FEWEST: u64 = 64;

/// A job that has not used the mount for so long takes in no new children, unless it was said
/// otherwise.
const IDLE: Duration = Duration::from_secs(10 * 60);

/// How often it is looked whether the limits are kept, unless it was said otherwise.
const PRUNED: Duration = Duration::from_secs(10 * 60);

/// Mounts, calls `ready` when the mount answers, and returns when it has ended.
pub(super) fn run(
    args: &MountArgs,
    settings: &Settings,
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<(), Failure> {
    let descriptors = settle()?;
    let place = Place::prepare(&args.mountpoint, &args.store)?;
    let opened = Store::open_as(&args.store, &wishes(settings)).map(Arc::new);
    let store = opened.inspect_err(|_| place.abandon())?;
    std::env::set_current_dir("/")?;
    let abandon = || {
        store.abandon();
        place.abandon();
    };
    share_memory();
    // Before anything is given up, and before there are threads.
    let outside = Outside::start(&place.mountpoint, store.path(), &store.leftovers());
    let outside = outside.map_err(|e| format!("can't start the process that unmounts: {e}"));
    let outside = outside.map(Arc::new).inspect_err(|_| abandon())?;
    let abandon = || {
        // Last: it unmounts what is left, and what was created then is empty.
        abandon();
        outside.abandon(store.is_new(), place.created);
    };
    let started = start(&store, &place, settings, descriptors, outside.clone());
    let (running, control) = started.inspect_err(|_| abandon())?;
    // Before anybody hears of it, so that who was told that it is mounted finds it in the log.
    tracing::info!(
        mountpoint = %place.mountpoint.display(), store = %store.path().display(),
        access = running.access.name(), "mounted",
    );
    if let Err(error) = ready() {
        let _ = running.mount.unmount(true);
        abandon();
        return Err(format!("nobody waits for the mount any more ({error}); unmounted").into());
    }
    notify::send(&format!("READY=1\nMAINPID={}", std::process::id()));
    running.mount.wait();
    notify::send("STOPPING=1");
    control.stop();
    running.cache.keep_recency();
    // In this order: without the socket, the store is free, or will be in a moment.
    store.let_go();
    server::remove(store.private());
    tracing::info!(mountpoint = %place.mountpoint.display(), "unmounted");
    Ok(())
}

/// How the store is to be opened.
fn wishes(settings: &Settings) -> Wishes {
    let spilling = match (settings.on_write_error.unwrap_or_default(), &settings.spill) {
        (OnWriteError::Fail, _) => Spilling::Off,
        (OnWriteError::Absorb, None) => Spilling::Somewhere,
        (OnWriteError::Absorb, Some(path)) => Spilling::In(path.clone()),
    };
    let users = settings.access == Some(AccessMode::Scoped);
    Wishes { read_only: settings.read_only_store, spilling, users }
}

/// Makes the process fit to serve everyone; how many descriptors the engine may keep.
fn settle() -> Result<usize, Failure> {
    // Seen in `ps` and by who looks for the holder of a store; no reason to fail.
    let _ = rustix::thread::set_name(c"cachefs");
    // Modes are the callers' business.
    rustix::process::umask(rustix::fs::Mode::empty());
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    if let Some(limit @ ..FEWEST) = current {
        return Err(format!(
            "the daemon may open no more than {limit} files, and needs {FEWEST} for itself; raise that limit \
             (`ulimit -Hn 65536`, LimitNOFILE= in a unit)"
        )
        .into());
    }
    // The rest is for clients' handles. What is kept is only for speed, and some thousands do.
    let quarter = current.map_or(u64::MAX, |limit| limit / 4);
    Ok(usize::try_from(quarter).unwrap_or(usize::MAX).min(MOST_KEPT))
}

/// Everything up to the mount that answers.
fn start(
    store: &Arc<Store>,
    place: &Place,
    settings: &Settings,
    descriptors: usize,
    outside: Arc<Outside>,
) -> Result<(Arc<Running>, Control), Failure> {
    let what = |what: &'static str| move |e: io::Error| format!("can't {what}: {e}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(8)
        .thread_name("control-work")
        .enable_all()
        .build()
        .map_err(what("start the control threads"))?;
    // Before there is a mount: a signal must never leave one without its daemon.
    let signals = Signals::new(&runtime).map_err(what("handle signals"))?;
    let bound = server::bind(store.private()).map_err(what("open the control socket"))?;
    let listener = settings.metrics.map(|at| {
        metrics::bind(at)
            .map_err(|e| format!("can't answer with metrics at {at}: {e}; say another --metrics"))
    });
    let listener = listener.transpose()?;
    let (access, keep) = (settings.access.unwrap_or_default(), keep(settings));
    let readers = reader_options(settings);
    let pruning = prune_options(settings);
    let owner = settings.owner.map_or_else(
        || (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()),
        |owner| (owner.uid, owner.gid),
    );
    let engine = CacheOptions {
        access: match access {
            AccessMode::Posix => Access::Posix,
            AccessMode::Shared => Access::Shared { owner },
            AccessMode::Scoped => Access::Scoped { owner, trusted: settings.trust.clone() },
        },
        quotas: Quotas {
            // What is said first of a user counts.
            users: settings.quota.iter().rev().copied().collect(),
            usual: settings.quota_default,
        },
        descriptors,
        keep,
        pruning,
    };
    let options = Options {
        source: store.path().as_os_str().to_owned(),
        check_permissions: access == AccessMode::Posix,
        threads: settings.threads.map_or_else(threads, usize::from),
        // The kernel can't pass on what is written to a file that is read, and which can't be written.
        passthrough: !settings.no_passthrough && store.read_only().is_none(),
        stacked_store: store.is_stacked(),
        read_only: settings.ro,
        no_exec: settings.noexec,
        transport: settings.transport.unwrap_or_default(),
    };
    let unmounter = outside.clone();
    let unmounter: Unmounter = Box::new(move |_, lazy| unmounter.unmount(lazy));
    let mount = Unserved::new(&place.mountpoint, &options, Some(unmounter))?;
    let public = publish(&mount);
    let containment = match settings.no_containment {
        true => Containment::none(),
        false => confine(store, &mount, public.as_ref(), &options),
    };
    // From here on there are threads, and what is given up stays so for all of them.
    store.sweep().map_err(what("remove what a crash has left"))?;
    let system = Linux::new().map_err(what("watch processes"))?.seen_by(outside.clone());
    let jobs = Arc::new(Readers::new(Arc::new(system), readers));
    let cache = Cache::new(store.clone(), engine, jobs)
        .map_err(|e| format!("can't read the store {}: {e}", store.path().display()))?;
    cache.guided_by(outside.clone()).map_err(what("start a thread"))?;
    let mount = mount.serve(cache.clone(), &options)?;
    let running = Arc::new(Running {
        mount,
        cache,
        store: store.clone(),
        mountpoint: place.mountpoint.clone(),
        access,
        keep,
        pruning,
        readers,
        since: OffsetDateTime::now_utc(),
        metrics: listener.as_ref().and_then(|listener| listener.local_addr().ok()),
        containment,
        outside,
    });
    let sockets = Sockets { bound, public, metrics: listener };
    match Control::start(runtime, signals, sockets, running.clone()) {
        Ok(control) => Ok((running, control)),
        Err(error) => {
            let _ = running.mount.unmount(true);
            Err(format!("can't start the control thread: {error}").into())
        }
    }
}

/// Opens the control socket to everyone who may use the mount; it works without.
fn publish(mount: &Unserved) -> Option<Public> {
    if !mount.everyone() {
        // Its user gets at the store.
        return None;
    }
    let bound = Public::bind(mount.connection());
    bound
        .inspect_err(|error| {
            tracing::warn!(
                "only root and the daemon's user can ask for the status: no control socket for \
                 everyone: {error}"
            );
        })
        .ok()
}

/// Gives up what is not needed to serve the mount.
fn confine(
    store: &Store,
    mount: &Unserved,
    public: Option<&Public>,
    options: &Options,
) -> Containment {
    let held = containment::contain(&Allowed {
        own: store.directories(),
        remove_from: public.map(Public::folder),
        passthrough: options.passthrough && !mount.rootless(),
    });
    tracing::debug!(?held, "confined");
    for lacking in &held.lacking {
        tracing::warn!("the daemon is not confined as it should be: {lacking}");
    }
    if !store::is_closed(store.path()) {
        let path = store.path().display();
        tracing::warn!(
            "the store {path} is open to other users, who can get at its files past the mount; `chmod \
             700 {path}` closes it"
        );
    }
    held
}

/// How long what was removed is kept.
fn keep(settings: &Settings) -> Keep {
    let usual = Keep::default();
    Keep {
        retain_for: settings.retain_for.unwrap_or(usual.retain_for),
        grace: settings.grace.unwrap_or(usual.grace),
    }
}

/// How jobs are told from each other.
fn reader_options(settings: &Settings) -> ReaderOptions {
    ReaderOptions {
        grouping: settings.reader.unwrap_or_default(),
        idle: settings.idle.unwrap_or(IDLE),
    }
}

/// How the store is pruned while it is mounted.
fn prune_options(settings: &Settings) -> PruneOptions {
    let limits = Limits {
        max_size: settings.max_size,
        max_age: settings.max_age,
        min_free: settings.min_free,
    };
    let every = (!limits.is_empty()).then(|| settings.prune_every.unwrap_or(PRUNED));
    PruneOptions { limits, every, layout: settings.layout.unwrap_or_default().0 }
}

/// Has threads share what one of them has given back: they come and go, and each would have an arena of its own
/// otherwise, in which what is free is of no use to the others (`M_ARENA_MAX`, mallopt(3)).
fn share_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes numbers, and there are no other threads yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// The signals that end a daemon.
struct Signals([Signal; 3]);

impl Signals {
    fn new(runtime: &Runtime) -> io::Result<Signals> {
        let _inside = runtime.enter();
        Ok(Signals([
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) -> &'static str {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hangup.recv() => "SIGHUP",
        }
    }
}

/// What is answered on.
struct Sockets {
    bound: server::Bound,
    /// For everyone.
    public: Option<Public>,
    metrics: Option<std::net::TcpListener>,
}

/// What answers on the sockets and to signals, in a thread of its own.
struct Control {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    /// The socket for everyone.
    public: Option<Public>,
}

impl Control {
    fn start(
        runtime: Runtime,
        signals: Signals,
        sockets: Sockets,
        running: Arc<Running>,
    ) -> io::Result<Control> {
        let (stop, stopped) = oneshot::channel();
        let Sockets { bound, mut public, metrics } = sockets;
        let second = public.as_mut().and_then(server::Bound::public);
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            runtime.block_on(async {
                let server = Server::new(running.clone());
                for bound in [Some(bound), second].into_iter().flatten() {
                    tokio::spawn(server.clone().serve(bound));
                }
                if let Some(listener) = metrics {
                    let running = running.clone();
                    let text = move || metrics::text(&running.status_for_metrics());
                    tokio::spawn(Exporter::new(text).serve(listener));
                }
                tokio::spawn(obey(signals, running));
                // It also ends, with an error, when the daemon gives up.
                let _ = stopped.await;
                server.finish().await;
            });
            runtime.shutdown_background();
        })?;
        Ok(Control { thread, stop, public })
    }

    /// Lets answers that are on their way arrive, and ends.
    fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the control thread had failed");
        }
        drop(self.public);
    }
}

/// Unmounts at the first signal: at once, or lazily when the mount has been busy for a while. Ends
/// the process at the second.
async fn obey(mut signals: Signals, running: Arc<Running>) {
    let name = signals.next().await;
    tracing::info!("{name}: unmounting");
    tokio::task::spawn_blocking({
        let running = running.clone();
        move || unmount_in_time(&running)
    });
    // Once it is unmounted lazily, those who have files open may finish; who is in a hurry says so.
    signals.next().await;
    tracing::warn!("another signal: ending while files are open");
    let _ = running.mount.unmount(true);
    server::remove(running.store.private());
    std::process::exit(1);
}

fn unmount_in_time(running: &Running) {
    // While it is known which files were used.
    running.cache.keep_recency();
    let busy_until = std::time::Instant::now() + BUSY_TIME;
    let mut said = false;
    loop {
        match running.mount.unmount(false) {
            Ok(()) => return,
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
            Err(e) => {
                tracing::warn!("can't unmount: {e}; trying lazily");
                break;
            }
        }
        if !said {
            said = true;
            tracing::warn!("in use by {}; unmounting lazily in {BUSY_TIME:?}", running.users());
        }
        if std::time::Instant::now() >= busy_until {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    if let Err(error) = running.mount.unmount(true) {
        tracing::error!("can't unmount: {error}; unmount {} by hand", running.mountpoint.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readers::Grouping;

    #[test]
    fn what_is_not_said_is_as_documented() {
        let nothing = Settings::default();
        let day = Duration::from_secs(24 * 60 * 60);
        let ten_minutes = Duration::from_secs(10 * 60);
        assert_eq!(keep(&nothing), Keep { retain_for: day, grace: ten_minutes });
        assert_eq!(reader_options(&nothing).grouping, Grouping::Tree);
        assert_eq!(reader_options(&nothing).idle, ten_minutes);
    }

    #[test]
    fn what_is_said_counts() {
        let seconds = Duration::from_secs;
        let settings = Settings {
            retain_for: Some(seconds(1)),
            grace: Some(seconds(2)),
            reader: Some(Grouping::Cgroup),
            idle: Some(seconds(3)),
            ..Settings::default()
        };
        assert_eq!(keep(&settings), Keep { retain_for: seconds(1), grace: seconds(2) });
        assert_eq!(reader_options(&settings).grouping, Grouping::Cgroup);
        assert_eq!(reader_options(&settings).idle, seconds(3));
    }
}
