//! What is agreed with the kernel when a mount begins (`FUSE_INIT`).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use fuser::{Config, InitFlags, KernelConfig, Session, SessionACL};

/// The largest read or write in one request, in bytes; the kernel's own bound is 256 pages.
pub(super) const MAX_IO: u32 = 1 << 20;

/// Requests that the kernel may have under way without anybody waiting for them (readahead).
const BACKGROUND: u16 = 64;

/// What the mount would like to have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes {
    pub(super) passthrough: bool,
    pub(super) everyone: bool,
    pub(super) rootless: bool,
    pub(super) stacked_store: bool,
    pub(super) io_uring: bool,
}

/// What the kernel does for a mount by itself, so that the daemon need not be asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// Reads of open files go to the store's files directly. (Linux 6.9, with `CAP_SYS_ADMIN`.)
    pub passthrough: bool,
    /// Listings carry the attributes of what they list.
    pub readdirplus: bool,
    /// Lookups and listings in one directory go on side by side.
    pub parallel_dirops: bool,
    /// Closing a file that was only read asks nobody. (Linux 5.16.)
    pub no_flush_for_readers: bool,
    /// Writing does not ask for `security.capability` each time. (Linux 5.12.)
    pub no_getxattr_on_write: bool,
    /// Listings are kept until the directory changes.
    pub cached_listings: bool,
    /// Targets of symbolic links are kept.
    pub cached_symlinks: bool,
    /// Opening a file to overwrite it says so, rather than truncating it first.
    pub atomic_overwrite: bool,
    /// A name can be asked for again without disturbing who has it open or works in it. (Linux 6.2.)
    pub expiring_names: bool,
    /// Requests come over io_uring. (Linux 6.14, where it is switched on.)
    pub io_uring: bool,
    /// Users other than the one who mounted may enter.
    pub everyone: bool,
    /// Mounted by `fusermount3` for a user who may not mount.
    pub rootless: bool,
    /// The protocol version that the kernel speaks.
    pub abi: (u32, u32),
}

impl Features {
    /// Each feature's name, and whether it is on.
    pub fn list(&self) -> Vec<(&'static str, bool)> {
        vec![
            ("passthrough", self.passthrough),
            ("readdirplus", self.readdirplus),
            ("parallel_dirops", self.parallel_dirops),
            ("no_flush_for_readers", self.no_flush_for_readers),
            ("no_getxattr_on_write", self.no_getxattr_on_write),
            ("cached_listings", self.cached_listings),
            ("cached_symlinks", self.cached_symlinks),
            ("atomic_overwrite", self.atomic_overwrite),
            ("expiring_names", self.expiring_names),
            ("io_uring", self.io_uring),
            ("everyone", self.everyone),
            ("rootless", self.rootless),
        ]
    }
}

/// Answers the first request that comes through `device`, by fuser, which knows what kernels have asked for over
/// the years.
pub(super) fn agree(device: OwnedFd, wishes: Wishes) -> io::Result<Features> {
    let agreed = Arc::new(OnceLock::new());
    let first = First { wishes, agreed: agreed.clone() };
    Session::from_fd(first, device, SessionACL::All, Config::default())?;
    Ok(agreed.get().copied().unwrap_or_default())
}

/// Is asked nothing but how to begin.
struct First {
    wishes: Wishes,
    agreed: Arc<OnceLock<Features>>,
}

impl fuser::Filesystem for First {
    fn init(&mut self, _: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        // Set once: a connection is initialised once.
        let _ = self.agreed.set(negotiate(&self.wishes, config));
        Ok(())
    }
}

fn negotiate(wishes: &Wishes, config: &mut KernelConfig) -> Features {
    let mut take = |flag| config.add_capabilities(flag).is_ok();
    // Always, not by the kernel's guess (`READDIRPLUS_AUTO`), which asks for the attributes of the
    // first batch only when all names are read before any is looked at: as find(1) and fts(3) do.
    let readdirplus = take(InitFlags::FUSE_DO_READDIRPLUS);
    let parallel_dirops = take(InitFlags::FUSE_PARALLEL_DIROPS);
    let cached_symlinks = take(InitFlags::FUSE_CACHE_SYMLINKS);
    // Only an open that says that it overwrites can be answered with another, fresh file. The kernel
    // then also passes on `O_RDONLY | O_TRUNC` before it finds that the file is just being executed.
    let atomic_overwrite = take(InitFlags::FUSE_ATOMIC_O_TRUNC);
    let expiring_names = take(InitFlags::FUSE_HAS_EXPIRE_ONLY);
    take(InitFlags::FUSE_ASYNC_DIO);
    take(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
    // Whoever takes this promises to drop set-id bits on writing, and is in return not asked for
    // `security.capability` before each write. A volume has neither set-id bits nor capabilities.
    let no_getxattr_on_write = take(InitFlags::FUSE_HANDLE_KILLPRIV_V2);
    let io_uring = wishes.io_uring && take(InitFlags::FUSE_OVER_IO_URING);
    let passthrough = wishes.passthrough && take(InitFlags::FUSE_PASSTHROUGH);
    if passthrough {
        // How many filesystems may lie on each other, this one included: the kernel has two at most,
        // and a mount that takes the second place can't be the lower layer of an overlay.
        let _ = config.set_max_stack_depth(if wishes.stacked_store { 2 } else { 1 });
    }
    let _ = config.set_max_write(MAX_IO);
    let _ = config.set_max_readahead(MAX_IO);
    let _ = config.set_max_background(BACKGROUND);
    let abi = config.kernel_abi();
    Features {
        passthrough,
        readdirplus,
        parallel_dirops,
        no_flush_for_readers: (abi.0, abi.1) >= (7, 35),
        no_getxattr_on_write,
        cached_listings: (abi.0, abi.1) >= (7, 28),
        cached_symlinks,
        atomic_overwrite,
        expiring_names,
        io_uring,
        everyone: wishes.everyone,
        rootless: wishes.rootless,
        abi: (abi.0, abi.1),
    }
}
