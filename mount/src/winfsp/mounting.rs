//! Mounting and unmounting.

use std::io;
use std::os::windows::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use windows_sys::w;
use winfsp_wrs_sys::{FSP_FSCTL_VOLUME_PARAMS, NTSTATUS};

use super::adapter::Adapter;
use super::attributes::UNIT;
use super::library::Library;
use super::notify::{Attached, Notifier, Pointer};
use super::security::Security;
use super::status::Status;
use super::table::{Served, interface};
use super::times::to_windows;
use crate::{FOREVER, Name, Volume};

/// The filesystem's type, as `fsutil fsinfo` shows it.
const TYPE: &str = "cachefs";

/// The smallest piece of a disk that there is, in bytes.
const SECTOR: u16 = 512;

/// How to mount.
#[derive(Clone, Debug)]
pub struct Options {
    /// The volume's name, which Explorer shows; cut after 32 UTF-16 units.
    pub label: String,
    /// Let Windows check owners and permissions. Otherwise everyone may do everything, and what is asked
    /// comes from user 0.
    pub check_permissions: bool,
    /// For how long Windows may believe attributes, for all callers alike; [`FOREVER`] lets it keep data, too.
    /// Zero for a volume that answers callers differently.
    pub attributes_valid: Duration,
    /// Let Windows refuse all changes.
    pub read_only: bool,
    /// Threads that serve requests; 0 for as many as WinFsp finds right.
    pub threads: u32,
}

/// Why a mount could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no WinFsp.
    #[error(
        "WinFsp, which shows volumes to Windows, is not installed; install it (`winget install WinFsp.WinFsp`, or \
         from https://winfsp.dev/rel/), and try again"
    )]
    NotInstalled,
    /// It is noted as installed, but can't be loaded.
    #[error("can't load WinFsp's library {}: {error}; install WinFsp again", path.display())]
    NotLoaded {
        /// Where it should be.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// It lacks a function.
    #[error(
        "WinFsp's library {} has no {missing} ({error}); install WinFsp 2.0 or newer",
        path.display()
    )]
    TooOld {
        /// Where it is.
        path: PathBuf,
        /// The function.
        missing: &'static str,
        /// The system's answer.
        error: io::Error,
    },
    /// Mounting failed.
    #[error("can't {what} on {}: WinFsp answers {status}; {mend}", mountpoint.display())]
    NotMounted {
        /// Where.
        mountpoint: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The NTSTATUS.
        status: String,
        /// What to do.
        mend: &'static str,
    },
    /// Windows refused something that needs no WinFsp.
    #[error("can't make a security descriptor: {0}")]
    NoDescriptor(io::Error),
}

/// Whether WinFsp serves the volume no longer.
#[derive(Default)]
struct Ended {
    ended: Mutex<bool>,
    told: Condvar,
}

impl Ended {
    fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.told.notify_all();
    }

    fn wait(&self) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = self.told.wait_while(ended, |ended| !*ended);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }
}

/// A volume that is mounted and served. Dropping it unmounts.
pub struct Mount {
    attached: Arc<Attached>,
    ended: Arc<Ended>,
    /// Calls WinFsp's functions that end it.
    detach: Box<dyn Fn(Pointer) + Send + Sync>,
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mount").finish_non_exhaustive()
    }
}

impl Mount {
    /// Shows `volume` at `mountpoint`: a drive (`X:`), or a directory that does not exist in one that does. It
    /// is served when this returns. On an error nothing is left mounted.
    pub fn new<V: Volume>(
        mountpoint: &Path,
        volume: Arc<V>,
        options: &Options,
    ) -> Result<Mount, MountError> {
        Mount::with(Library::load()?, mountpoint, volume, options)
    }

    /// As [`Mount::new`], by that library.
    pub(super) fn with<V: Volume>(
        library: Library,
        mountpoint: &Path,
        volume: Arc<V>,
        options: &Options,
    ) -> Result<Mount, MountError> {
        let refused = |what, mend| {
            move |status| {
                let (mountpoint, status) = (mountpoint.to_owned(), format!("{status:?}"));
                MountError::NotMounted { mountpoint, what, status, mend }
            }
        };
        let ended = Arc::new(Ended::default());
        let end = ended.clone();
        let served = Arc::new(Served {
            adapter: Adapter::new(volume),
            open: Default::default(),
            library,
            security: Security::new(options.check_permissions).map_err(MountError::NoDescriptor)?,
            label: options.label.encode_utf16().take(32).collect(),
            stopped: Box::new(move || end.end()),
        });
        let table = Box::new(interface::<V>());
        let parameters = parameters(options);
        let serial = parameters.VolumeSerialNumber;
        let mut fs = ptr::null_mut();
        let device = w!("WinFsp.Disk").cast_mut();
        // SAFETY: WinFsp only reads the name and the parameters; the table lives until the volume is deleted.
        let created = unsafe { (served.library.create)(device, &parameters, &*table, &mut fs) };
        succeeded(created).map_err(refused(
            "create a volume",
            "see whether its driver is there (`sc query WinFsp`), and install it again if not",
        ))?;
        // SAFETY: it was created just now. What is served lives until it is deleted.
        unsafe { (*fs).UserContext = Arc::as_ptr(&served).cast_mut().cast() };

        let attached = Arc::new(Attached(RwLock::new(Some(Pointer(fs)))));
        let notifier =
            Notifier { attached: attached.clone(), served: Arc::downgrade(&served), serial };
        let (holding, point) = (served.clone(), place(mountpoint));
        // From here on, all that was begun is ended when it is dropped.
        let mount = Mount {
            attached,
            ended,
            detach: Box::new(move |Pointer(fs)| {
                // The callbacks need it until they end.
                let _table = &table;
                // SAFETY: it was created, and is deleted only here. Ending the dispatcher waits for callbacks.
                unsafe {
                    (holding.library.stop_dispatcher)(fs);
                    (holding.library.remove_mount_point)(fs);
                    (holding.library.delete)(fs);
                }
            }),
        };
        // SAFETY: `fs` is there as long as `mount`; WinFsp copies the path, which ends with a NUL.
        succeeded(unsafe { (served.library.set_mount_point)(fs, point.as_ptr().cast_mut()) })
            .map_err(refused(
                "mount",
                "use a drive letter that is free, or a directory that does not exist yet in one that does",
            ))?;
        served.adapter.tree.volume.mounted(Arc::new(notifier));
        // SAFETY: as above.
        succeeded(unsafe { (served.library.start_dispatcher)(fs, options.threads) })
            .map_err(refused("serve", "see the system's event log"))?;
        Ok(mount)
    }

    /// Unmounts, and waits for requests that are being answered. Fine when it is not mounted any more.
    pub fn unmount(&self) {
        // Whoever notifies right now is waited for; nobody does afterwards.
        let attached = self.attached.0.write().take();
        if let Some(fs) = attached {
            (self.detach)(fs);
            self.ended.end();
        }
    }

    /// Waits until nobody serves it any more, whoever ended that: also who removes WinFsp's driver.
    pub fn wait(&self) {
        self.ended.wait();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn succeeded(status: NTSTATUS) -> Result<(), Status> {
    if status >= 0 { Ok(()) } else { Err(Status(status)) }
}

/// `mountpoint` as WinFsp wants it: a drive without `\`; and a NUL.
fn place(mountpoint: &Path) -> Vec<u16> {
    let wide: Vec<u16> = mountpoint.as_os_str().encode_wide().collect();
    let drive = wide.len() == 3 && wide[1..] == [u16::from(b':'), u16::from(b'\\')];
    let length = if drive { 2 } else { wide.len() };
    wide[..length].iter().copied().chain([0]).collect()
}

fn parameters(options: &Options) -> FSP_FSCTL_VOLUME_PARAMS {
    let now = to_windows(SystemTime::now());
    let mut of = FSP_FSCTL_VOLUME_PARAMS {
        Version: size_of::<FSP_FSCTL_VOLUME_PARAMS>() as u16,
        SectorSize: SECTOR,
        SectorsPerAllocationUnit: (UNIT / u64::from(SECTOR)) as u16,
        MaxComponentLength: Name::MAX as u16,
        VolumeCreationTime: now,
        // As other filesystems do: of when it was made. A mount is another volume each time.
        VolumeSerialNumber: now as u32,
        FileInfoTimeout: milliseconds(options.attributes_valid),
        // By path: what is seen in a directory, and what one of them holds, differs between callers.
        DirInfoTimeout: 0,
        ..Default::default()
    };
    of.set_DirInfoTimeoutValid(1);
    of.set_CasePreservedNames(1);
    of.set_UnicodeOnDisk(1);
    of.set_PersistentAcls(1);
    of.set_ReadOnlyVolume(options.read_only.into());
    of.set_SupportsPosixUnlinkRename(1);
    of.set_PassQueryDirectoryPattern(1);
    of.set_PassQueryDirectoryFileName(1);
    of.set_FlushAndPurgeOnCleanup(1);
    // A context for each open file, not for each path.
    of.set_UmFileContextIsUserContext2(1);
    for (to, from) in of.FileSystemName.iter_mut().zip(TYPE.encode_utf16()) {
        *to = from;
    }
    of
}

/// For WinFsp's timeouts, of which the longest never ends.
fn milliseconds(span: Duration) -> u32 {
    if span >= FOREVER { u32::MAX } else { u32::try_from(span.as_millis()).unwrap_or(u32::MAX - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_is_told_what_the_volume_can() {
        let options = Options {
            label: String::new(),
            check_permissions: false,
            attributes_valid: Duration::ZERO,
            read_only: true,
            threads: 0,
        };
        let none = parameters(&options);
        assert_eq!((none.FileInfoTimeout, none.ReadOnlyVolume()), (0, 1));
        assert_eq!(none.CaseSensitiveSearch(), 0);
        assert_eq!(none.SupportsPosixUnlinkRename(), 1);
        assert_eq!((none.DirInfoTimeout, none.DirInfoTimeoutValid()), (0, 1));
        let second = Options { attributes_valid: Duration::from_secs(1), ..options.clone() };
        assert_eq!(parameters(&second).FileInfoTimeout, 1000);
        let ever = Options { attributes_valid: FOREVER, ..options };
        assert_eq!(parameters(&ever).FileInfoTimeout, u32::MAX);
    }

    #[test]
    fn a_mountpoint_is_put_as_winfsp_wants_it() {
        let put = |path: &str| String::from_utf16(&place(Path::new(path))).unwrap();
        assert_eq!(put("X:"), "X:\0");
        assert_eq!(put("X:\\"), "X:\0");
        assert_eq!(put("C:\\cache"), "C:\\cache\0");
    }
}
