//! Linux: a volume shown through FUSE.
//!
//! fuser comes to terms with the kernel (`negotiate`). Then requests come through `/dev/fuse` (`device`); where
//! the kernel can bring them over io_uring, most come that way instead (`uring`). Either way they are read and
//! answered alike (`wire`, `serve`), and end in the same calls of the volume (`operations`). Mounting and
//! unmounting are our own (`mountpoint`), because a
//! mount has to outlive mistakes: it is found again by its device number, never by its path alone,
//! so that nobody else's mount on the same path is taken away.

mod convert;
mod counters;
mod device;
pub mod mountinfo;
mod mountpoint;
mod negotiate;
mod notify;
mod operations;
mod passthrough;
mod serve;
mod uring;
mod wire;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use parking_lot::Mutex;

pub use self::counters::{CLASSES, Operation};
use self::device::Crew;
pub use self::mountpoint::unmount;
pub use self::negotiate::Features;
use self::notify::Notifier;
use self::operations::Operations;
use self::passthrough::Connection;
use self::uring::{Refusal, Rings};
use crate::Volume;

/// The filesystem type as `/proc/self/mountinfo` shows it.
pub const FS_TYPE: &str = "fuse.cachefs";

/// How to mount.
#[derive(Clone, Debug)]
pub struct Options {
    /// What `/proc/self/mountinfo` shows as the source: the store's absolute path.
    pub source: OsString,
    /// Let the kernel check owners and modes (`default_permissions`).
    pub check_permissions: bool,
    /// Threads that serve requests; at least one.
    pub threads: usize,
    /// Let the kernel read the store's files directly where it can.
    pub passthrough: bool,
    /// What is read lies on a filesystem that is itself stacked on another (overlayfs).
    pub stacked_store: bool,
    /// Let the kernel refuse all changes (`ro`): EROFS.
    pub read_only: bool,
    /// Let the kernel run no program from it (`noexec`).
    pub no_exec: bool,
    /// How requests come.
    pub transport: Transport,
}

/// How requests come from the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Over io_uring where that can be had.
    #[default]
    Auto,
    /// Through the device, whatever can be had.
    Classic,
    /// Over io_uring, or not at all.
    IoUring,
}

/// Why a mount could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no `/dev/fuse`.
    #[error(
        "can't open /dev/fuse: {0}; load the kernel module (`modprobe fuse`), or give the container \
         the device (`--device /dev/fuse`)"
    )]
    NoDevice(io::Error),
    /// Mounting needs a privilege that this process lacks.
    #[error("not permitted to mount on {mountpoint}: {reason}; run as root, or {mend}")]
    NotPermitted {
        /// Where.
        mountpoint: PathBuf,
        /// What was tried, and the answer.
        reason: String,
        /// What would let a user mount.
        mend: &'static str,
    },
    /// Requests shall come over io_uring, and can't.
    #[error("requests can't come over io_uring: {0}; or mount with another --transport")]
    NoIoUring(String),
    /// Mounting failed.
    #[error("can't mount on {mountpoint}: {error}")]
    NotMounted {
        /// Where.
        mountpoint: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The kernel and the daemon did not come to terms.
    #[error("mounted on {mountpoint}, but the kernel's FUSE did not answer: {error}")]
    Handshake {
        /// Where.
        mountpoint: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
}

/// How a mountpoint is unmounted, lazily or not, instead of by [`unmount`]: by somebody else, where
/// this process has given up the right to. It is fine when nothing of ours is mounted there.
pub type Unmounter = Box<dyn Fn(&Path, bool) -> io::Result<()> + Send + Sync>;

/// A mount that nobody serves yet: whoever uses it waits. Dropping it unmounts.
#[derive(Debug)]
pub struct Unserved {
    place: Arc<mountpoint::Place>,
    /// None once it is served.
    device: Option<OwnedFd>,
    /// How many queues the kernel wants for requests over io_uring; none: they come through the device.
    queues: Option<u16>,
}

impl Unserved {
    /// Mounts on `mountpoint`, an existing directory, which `unmounter` will unmount if there is one. On
    /// an error nothing is left mounted.
    pub fn new(
        mountpoint: &Path,
        options: &Options,
        unmounter: Option<Unmounter>,
    ) -> Result<Unserved, MountError> {
        // Now, as the daemon may not be able to look later.
        let queues = match (options.transport, uring::offered()) {
            (Transport::Classic, _) => None,
            (Transport::IoUring, Err(why)) => return Err(MountError::NoIoUring(why)),
            (_, Err(why)) => {
                tracing::debug!(why, "requests come through the device");
                None
            }
            (_, Ok(queues)) => Some(queues),
        };
        let (place, device) = mountpoint::mount(mountpoint, options, unmounter)?;
        Ok(Unserved { place: Arc::new(place), device: Some(device), queues })
    }

    /// Its number below `/sys/fs/fuse/connections`.
    pub fn connection(&self) -> u32 {
        self.place.connection()
    }

    /// Whether users other than the one who mounted may use it.
    pub fn everyone(&self) -> bool {
        self.place.everyone()
    }

    /// Whether it was mounted by `fusermount3`, for lack of the right to.
    pub fn rootless(&self) -> bool {
        self.place.rootless()
    }

    /// Serves `volume` there; the mount answers when this returns. On an error nothing is left mounted.
    pub fn serve<V: Volume>(
        mut self,
        volume: Arc<V>,
        options: &Options,
    ) -> Result<Mount, MountError> {
        let failed = |error| {
            let mountpoint = self.place.mountpoint().to_path_buf();
            MountError::Handshake { mountpoint, error }
        };
        let Some(device) = self.device.take() else {
            return Err(failed(io::ErrorKind::NotConnected.into()));
        };
        match serve(volume, device, self.place.clone(), options, self.queues) {
            Ok(mount) if options.transport == Transport::IoUring && !mount.features.io_uring => {
                Err(MountError::NoIoUring("the log says why".to_owned()))
            }
            Ok(mount) => Ok(mount),
            Err(error) => {
                self.place.abandon();
                Err(failed(error))
            }
        }
    }
}

impl Drop for Unserved {
    fn drop(&mut self) {
        if self.device.is_some() {
            self.place.abandon();
        }
    }
}

/// A volume that is mounted and served. Dropping it unmounts (lazily, as a last resort).
pub struct Mount {
    place: Arc<mountpoint::Place>,
    features: Features,
    requests: Box<dyn Fn() -> Vec<Operation> + Send + Sync>,
    /// Has nobody serve any more, also where it stays mounted.
    stop: Box<dyn Fn() + Send + Sync>,
    server: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mount").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Mount {
    /// What the kernel does by itself.
    pub fn features(&self) -> Features {
        self.features
    }

    /// How often each operation was asked for, and how long it took.
    pub fn requests(&self) -> Vec<Operation> {
        (self.requests)()
    }

    /// Its number below `/sys/fs/fuse/connections`.
    pub fn connection(&self) -> u32 {
        self.place.connection()
    }

    /// Unmounts. `EBUSY` while somebody uses the mount, unless `lazy`: then it goes out of sight at
    /// once and ends with its last user. Fine when it is not mounted any more.
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        self.place.unmount(lazy)
    }

    /// Waits until the connection has ended, whoever ended it.
    pub fn wait(&self) {
        let server = self.server.lock().take();
        if let Some(server) = server {
            // Its panics are logged where they happen.
            let _ = server.join();
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.server.lock().is_some() {
            self.place.abandon();
            (self.stop)();
            self.wait();
        }
    }
}

fn serve<V: Volume>(
    volume: Arc<V>,
    device: OwnedFd,
    place: Arc<mountpoint::Place>,
    options: &Options,
    queues: Option<u16>,
) -> io::Result<Mount> {
    let second = Arc::new(device.try_clone()?);
    let operations = Operations::new(volume, Connection(Arc::downgrade(&second)));
    let operations = Arc::new(operations);
    let rings = queues.and_then(|queues| {
        Rings::prepare(operations.clone(), second.clone(), queues)
            .inspect_err(not_over_io_uring)
            .ok()
    });
    let wishes = negotiate::Wishes {
        passthrough: options.passthrough && !place.rootless(),
        everyone: place.everyone(),
        rootless: place.rootless(),
        stacked_store: options.stacked_store,
        io_uring: rings.is_some(),
    };
    let mut features = negotiate::agree(device, wishes)?;
    if features.passthrough {
        operations.ways.enable();
    }
    let notifier = Notifier {
        device: Arc::downgrade(&second),
        can_expire: features.expiring_names,
        mounted_as: place.device(),
    };
    operations.volume.mounted(Arc::new(notifier));
    let rings = begin(rings, &mut features)?;
    let crew = Crew::new(operations.clone(), second, options.threads)?;
    let (tell, begun) = channel();
    let stopped = Arc::downgrade(&crew);
    let server = std::thread::Builder::new().name("serve".into()).spawn(move || {
        let serves = crew.begin().inspect(|()| drop(tell.send(Ok(()))));
        if let Err(error) = serves {
            // Before that is told: nothing of the volume is to be held when it is.
            drop((crew, rings));
            return drop(tell.send(Err(error)));
        }
        crew.run();
        drop(rings);
    })?;
    begun.recv().map_err(io::Error::other)??;
    Ok(Mount {
        place,
        features,
        requests: Box::new(move || operations.counters.list()),
        stop: Box::new(move || stopped.upgrade().into_iter().for_each(|crew| crew.end())),
        server: Mutex::new(Some(server)),
    })
}

/// Lets requests come over io_uring if that was agreed on; the kernel holds them back until this is done.
fn begin<V: Volume>(
    rings: Option<Rings<V>>,
    features: &mut Features,
) -> io::Result<Option<Rings<V>>> {
    let Some(rings) = rings.filter(|_| features.io_uring) else { return Ok(None) };
    match rings.begin() {
        Ok(rings) => Ok(Some(rings)),
        Err(refusal @ Refusal::Kernel(_)) => {
            features.io_uring = false;
            not_over_io_uring(&refusal);
            Ok(None)
        }
        Err(Refusal::Own(error)) => Err(error),
    }
}

fn not_over_io_uring(refusal: &Refusal) {
    tracing::warn!(%refusal, "requests don't come over io_uring, but through the device");
}
