//! The daemon: from the words of `mount` to the end of the mount.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use cachefs_mount::fuse::{Mount, Options};
use rustix::process::{Resource, Rlimit};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::Failure;
use super::options::{AccessMode, MountArgs, Settings};
use super::places::Place;
use crate::cache::{Access, Cache, CacheOptions};
use crate::control::server::{self, Server, Service};
use crate::store::Store;
use crate::system::{busy, notify};

/// A mount that is busy when the daemon shall end is unmounted lazily after this time.
const BUSY_TIME: Duration = Duration::from_secs(5);

/// Mounts, calls `ready` when the mount answers, and returns when it has ended.
pub(super) fn run(
    args: &MountArgs,
    settings: &Settings,
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<(), Failure> {
    let descriptors = settle()?;
    let place = Place::prepare(&args.mountpoint, &args.store)?;
    let opened = Store::open(&args.store).map(Arc::new);
    let store = opened.inspect_err(|_| place.abandon())?;
    std::env::set_current_dir("/")?;
    let abandon = || {
        store.abandon();
        place.abandon();
    };
    let started = start(&store, &place, settings, descriptors);
    let (running, control) = started.inspect_err(|_| abandon())?;
    if let Err(error) = ready() {
        let _ = running.mount.unmount(true);
        abandon();
        return Err(format!("nobody waits for the mount any more ({error}); unmounted").into());
    }
    notify::send(&format!("READY=1\nMAINPID={}", std::process::id()));
    tracing::info!(
        mountpoint = %place.mountpoint.display(), store = %store.path().display(),
        access = running.access.name(), "mounted",
    );
    running.mount.wait();
    notify::send("STOPPING=1");
    control.stop();
    server::remove(store.private());
    tracing::info!(mountpoint = %place.mountpoint.display(), "unmounted");
    Ok(())
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
    // No limit is as good as a million; the rest is for clients' handles.
    Ok(usize::try_from(current.unwrap_or(1 << 20)).unwrap_or(1 << 20).min(1 << 20) / 4)
}

/// Everything up to the mount that answers.
fn start(
    store: &Arc<Store>,
    place: &Place,
    settings: &Settings,
    descriptors: usize,
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
    let access = settings.access.unwrap_or_default();
    let owner = settings.owner.map_or_else(
        || (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()),
        |owner| (owner.uid, owner.gid),
    );
    let options = CacheOptions {
        access: match access {
            AccessMode::Posix => Access::Posix,
            AccessMode::Shared => Access::Shared { owner },
        },
        descriptors,
    };
    let cache = Cache::new(store.clone(), options)
        .map_err(|e| format!("can't read the store {}: {e}", store.path().display()))?;
    let cache = Arc::new(cache);
    let options = Options {
        source: store.path().as_os_str().to_owned(),
        check_permissions: access == AccessMode::Posix,
        threads: settings.threads.map_or_else(threads, usize::from),
        passthrough: !settings.no_passthrough,
        stacked_store: store.is_stacked(),
    };
    let mount = Mount::new(cache.clone(), &place.mountpoint, &options)?;
    let running = Arc::new(Running {
        mount,
        cache,
        store: store.clone(),
        mountpoint: place.mountpoint.clone(),
        access,
        since: OffsetDateTime::now_utc(),
    });
    match Control::start(runtime, signals, bound, running.clone()) {
        Ok(control) => Ok((running, control)),
        Err(error) => {
            let _ = running.mount.unmount(true);
            Err(format!("can't start the control thread: {error}").into())
        }
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// A mount and all that belongs to it.
struct Running {
    mount: Mount,
    cache: Arc<Cache>,
    store: Arc<Store>,
    mountpoint: PathBuf,
    access: AccessMode,
    since: OffsetDateTime,
}

impl Running {
    /// Who is using the mount, for a message.
    fn users(&self) -> String {
        match busy::list(&busy::users(&self.mountpoint)) {
            users if users.is_empty() => "someone who can't be seen from here".into(),
            users => users,
        }
    }
}

impl Service for Running {
    fn status(&self) -> Value {
        let counts = self.cache.counts();
        let kernel: Map<String, Value> =
            self.mount.features().list().into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let requests: Map<String, Value> =
            self.mount.requests().into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let space = rustix::fs::fstatvfs(self.store.root()).ok().map(
            |s| json!({"bytes": s.f_blocks * s.f_frsize, "available": s.f_bavail * s.f_frsize}),
        );
        json!({
            "mountpoint": self.mountpoint.to_string_lossy(),
            "store": self.store.path().to_string_lossy(),
            "pid": std::process::id(),
            "since": self.since.format(&Rfc3339).ok(),
            "access": self.access.name(),
            "degraded": null,
            "connection": self.mount.connection(),
            "space": space,
            "nodes": counts.nodes,
            "handles": counts.handles,
            "hits": counts.hits,
            "misses": counts.misses,
            "kernel": kernel,
            "requests": requests,
        })
    }

    fn unmount(&self, lazy: bool) -> Result<(), String> {
        let at = self.mountpoint.display();
        match self.mount.unmount(lazy) {
            Ok(()) => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Err(format!(
                "{at} is in use by {}; end that, or use `cachefs umount --lazy {at}`",
                self.users()
            )),
            Err(e) => Err(format!("can't unmount {at}: {e}")),
        }
    }
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

/// What answers on the control socket and to signals, in a thread of its own.
struct Control {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Control {
    fn start(
        runtime: Runtime,
        signals: Signals,
        bound: server::Bound,
        running: Arc<Running>,
    ) -> io::Result<Control> {
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            runtime.block_on(async {
                let server = Server::new(running.clone());
                tokio::spawn(server.clone().serve(bound));
                tokio::spawn(obey(signals, running));
                // It also ends, with an error, when the daemon gives up.
                let _ = stopped.await;
                server.finish().await;
            });
            runtime.shutdown_background();
        })?;
        Ok(Control { thread, stop })
    }

    /// Lets answers that are on their way arrive, and ends.
    fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the control thread had failed");
        }
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
