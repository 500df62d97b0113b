//! The trait [`Volume`] and its vocabulary.
//!
//! The rules of the game, for whoever implements or calls it:
//!
//! * A node is known to the operating system from the first [`Entry`] that names it until as many
//!   lookups have been given back by [`Volume::forget`]. Every `Entry` in a successful answer counts
//!   as one lookup; so does each entry of [`Volume::read_directory`] that was *taken* by the sink
//!   with attributes.
//! * A [`HandleId`] lives from [`Volume::open`], [`Volume::create`] or [`Volume::open_directory`]
//!   until [`Volume::release`] or [`Volume::release_directory`].
//! * No method waits for another client. A method may wait for the disk.
//! * Methods are called from several threads at once.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::system::{self, errno};

/// The number by which the operating system knows a file or directory of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root directory of every volume.
    pub const ROOT: NodeId = NodeId(1);
}

/// The number of an open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleId(pub u64);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Effective user id, as the volume's user namespace sees it.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// The *thread* that asks, as the mounter's pid namespace numbers it; 0 where it can't see it. On Windows
    /// the process.
    pub thread: u32,
}

/// An error number (`errno(3)`), also on Windows, whose own numbers become these.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// From a raw positive number; anything else becomes `EIO`, so that an error stays an error.
    pub const fn new(raw: i32) -> Errno {
        if raw > 0 { Errno(raw) } else { Errno(errno::EIO) }
    }
    /// The positive number.
    pub const fn raw(self) -> i32 {
        self.0
    }
}

macro_rules! errnos {
    ($($name:ident),+ $(,)?) => {
        #[allow(missing_docs, reason = "each is what errno(3) says it is")]
        impl Errno { $(pub const $name: Errno = Errno(errno::$name);)+ }
    };
}
errnos!(
    E2BIG,
    EACCES,
    EBADF,
    EBUSY,
    EDQUOT,
    EEXIST,
    EINVAL,
    EIO,
    EISDIR,
    ELOOP,
    EMFILE,
    ENAMETOOLONG,
    ENODATA,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    ENOTDIR,
    ENOTEMPTY,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    ERANGE,
    EROFS,
    ESTALE,
    EXDEV,
);

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", system::meaning(self.0))
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", system::meaning(self.0))
    }
}

impl std::error::Error for Errno {}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Errno {
        Errno::new(system::number(&error).unwrap_or(errno::EIO))
    }
}

/// What a [`Volume`]'s methods answer.
pub type Result<T> = std::result::Result<T, Errno>;

/// A name in a directory: bytes, not empty, without `/` and NUL, neither `.` nor `..`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Name<'a>(&'a OsStr);

impl<'a> Name<'a> {
    /// Longest name: in bytes (`NAME_MAX` of every Linux filesystem), on Windows in UTF-16 units.
    pub const MAX: usize = 255;

    /// Checks `name`: `EINVAL` for what can't be a name, `ENAMETOOLONG` for what is too long.
    pub fn new(name: &'a OsStr) -> Result<Name<'a>> {
        let bytes = name.as_encoded_bytes();
        if bytes.is_empty() || bytes == b"." || bytes == b".." {
            return Err(Errno::EINVAL);
        }
        if system::length(name) > Self::MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if bytes.iter().any(|&b| b == b'/' || b == 0) {
            return Err(Errno::EINVAL);
        }
        Ok(Name(name))
    }

    /// The name.
    pub fn as_os_str(self) -> &'a OsStr {
        self.0
    }

    /// The name's bytes.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0.as_encoded_bytes()
    }
}

/// What kind of thing a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// What `stat(2)` tells of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The node; also its `st_ino`.
    pub node: NodeId,
    /// What it is.
    pub kind: Kind,
    /// The lower twelve mode bits.
    pub permissions: u16,
    /// Number of names; 0 when it has none any more.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Preferred size of reads and writes, in bytes.
    pub block_size: u32,
    /// Device number of a device node, else 0.
    pub device: u32,
    /// Time of last reading.
    pub accessed: SystemTime,
    /// Time of last change of contents.
    pub modified: SystemTime,
    /// Time of last change of anything.
    pub changed: SystemTime,
}

/// A name's node, as answered to a lookup.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The node and what it is like.
    pub attributes: Attributes,
    /// How long the operating system may go on believing the *name*; zero: it asks each time.
    pub name_valid: Duration,
    /// How long it may go on believing the attributes.
    pub attributes_valid: Duration,
}

/// For ever, as far as a cache is concerned.
pub const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The answer to a lookup.
#[derive(Clone, Copy, Debug)]
pub enum Lookup {
    /// The name stands for this.
    Found(Entry),
    /// The name stands for nothing, which the operating system may remember for so long.
    Absent {
        /// How long; zero: it asks each time.
        valid: Duration,
    },
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time at which the request is carried out.
    Now,
    /// This time.
    At(SystemTime),
}

/// Which attributes to change (`chmod(2)`, `chown(2)`, `truncate(2)`, `utimensat(2)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// New permission bits.
    pub permissions: Option<u16>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size in bytes.
    pub size: Option<u64>,
    /// New time of last reading.
    pub accessed: Option<SetTime>,
    /// New time of last change of contents.
    pub modified: Option<SetTime>,
}

bitflags::bitflags! {
    /// How a file is opened (`open(2)`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OpenFlags: u32 {
        /// The caller wants to read.
        const READ = 1;
        /// The caller wants to write.
        const WRITE = 1 << 1;
        /// `O_TRUNC`.
        const TRUNCATE = 1 << 2;
        /// `O_APPEND`.
        const APPEND = 1 << 3;
        /// `O_EXCL`, on creation.
        const EXCLUSIVE = 1 << 4;
        /// `O_SYNC` or `O_DSYNC`: each write is on the disk when it returns.
        const SYNC = 1 << 5;
        /// `O_DIRECT`.
        const DIRECT = 1 << 6;
    }

    /// How to rename (`renameat2(2)`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RenameFlags: u32 {
        /// `RENAME_NOREPLACE`.
        const NO_REPLACE = 1;
        /// `RENAME_EXCHANGE`.
        const EXCHANGE = 1 << 1;
    }

    /// `fallocate(2)` modes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AllocateFlags: u32 {
        /// `FALLOC_FL_KEEP_SIZE`.
        const KEEP_SIZE = 0x01;
        /// `FALLOC_FL_PUNCH_HOLE`.
        const PUNCH_HOLE = 0x02;
        /// `FALLOC_FL_ZERO_RANGE`.
        const ZERO_RANGE = 0x10;
    }
}

/// Where `lseek(2)` shall look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next data at or after the offset.
    Data,
    /// The next hole at or after the offset.
    Hole,
}

/// How `setxattr(2)` shall behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetXattr {
    /// Create or replace.
    Any,
    /// `XATTR_CREATE`.
    Create,
    /// `XATTR_REPLACE`.
    Replace,
}

/// What a mount needs of an open file.
#[derive(Debug)]
pub struct Opened {
    /// Its handle.
    pub handle: HandleId,
    /// Whether the volume wants to hear of each close of a descriptor ([`Volume::flush`]).
    pub wants_flush: bool,
    /// Whether its bytes are not those of the node: nothing of it may be cached for the node.
    pub alone: bool,
    /// Whether all that is written to the node has to go by the volume, which counts it. So for all opens
    /// of a node, or for none.
    pub counted: bool,
    /// How often the bytes of the node were moved to another file before.
    pub moves: u32,
}

/// One entry of a listing.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// Its name; `.` and `..` among them.
    pub name: &'a OsStr,
    /// The node.
    pub node: NodeId,
    /// What it is.
    pub kind: Kind,
    /// Where to go on after this entry.
    pub next: u64,
    /// The whole entry, where it was asked for and could be had; counts as a lookup once taken.
    pub entry: Option<Entry>,
}

/// Takes the entries of a listing, until it is full.
pub trait ListingSink {
    /// Whether entries shall come with their attributes.
    fn wants_attributes(&self) -> bool;
    /// Takes an entry; false when it was not taken because there is no more room.
    fn take(&mut self, entry: &Listed<'_>) -> bool;
}

/// What `statfs(2)` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of statvfs(3)")]
pub struct Space {
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub block_size: u32,
    pub fragment_size: u32,
    pub name_max: u32,
}

/// Tells the operating system what it could not have noticed. Never to be called while a request is
/// being answered: the operating system may hold a lock on the very directory until it has its answer.
pub trait Notify: Send + Sync {
    /// What `name` in `parent` stands for may have changed: it is asked for again. Whoever has it
    /// open or works in it goes on undisturbed. Fine if the system does not know the name.
    fn expire(&self, parent: NodeId, name: &OsStr) -> io::Result<()>;

    /// The device number, major and minor, that files of the mount have (`st_dev`). On Windows, 0 and the
    /// volume's serial number.
    fn device(&self) -> (u32, u32);

    /// A node's attributes, and a directory's listing, have changed. Fine if it is not known.
    fn changed(&self, node: NodeId) -> io::Result<()>;
}

/// A tree of files that can be mounted. See the module's documentation for the rules.
pub trait Volume: Send + Sync + 'static {
    /// Called once, when the volume has been mounted, before anybody can ask.
    fn mounted(&self, kernel: Arc<dyn Notify>) {
        drop(kernel);
    }

    /// What `name` in `parent` stands for, for this caller.
    fn lookup(&self, caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<Lookup>;

    /// Whether the next lookup of this caller may take so long that others must not wait for it.
    fn takes_long(&self, _: &Caller) -> bool {
        false
    }

    /// The operating system gives back `lookups` lookups of `node`. True: it has none left.
    fn forget(&self, node: NodeId, lookups: u64) -> bool;

    /// Attributes and how long they may be believed.
    fn attributes(
        &self,
        caller: &Caller,
        node: NodeId,
        handle: Option<HandleId>,
    ) -> Result<(Attributes, Duration)>;

    /// Changes attributes; the new ones.
    fn set_attributes(
        &self,
        caller: &Caller,
        node: NodeId,
        handle: Option<HandleId>,
        changes: &SetAttributes,
    ) -> Result<(Attributes, Duration)>;

    /// A symbolic link's target.
    fn read_link(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>>;

    /// Creates a file, fifo or socket without opening it (`mknod(2)`).
    fn make_node(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        kind: Kind,
        permissions: u16,
    ) -> Result<Entry>;

    /// `mkdir(2)`.
    fn make_directory(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        permissions: u16,
    ) -> Result<Entry>;

    /// `symlink(2)`.
    fn make_symlink(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        target: &OsStr,
    ) -> Result<Entry>;

    /// `link(2)`.
    fn make_link(
        &self,
        caller: &Caller,
        node: NodeId,
        parent: NodeId,
        name: Name<'_>,
    ) -> Result<Entry>;

    /// `unlink(2)`.
    fn remove_file(&self, caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<()>;

    /// `rmdir(2)`.
    fn remove_directory(&self, caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<()>;

    /// `renameat2(2)`.
    fn rename(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        new_parent: NodeId,
        new_name: Name<'_>,
        flags: RenameFlags,
    ) -> Result<()>;

    /// Opens an existing file. It need not be opened in the store before its first use.
    fn open(&self, caller: &Caller, node: NodeId, flags: OpenFlags) -> Result<Opened>;

    /// Creates a file and opens it; opens what is there unless `flags` has `EXCLUSIVE`.
    fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: Name<'_>,
        permissions: u16,
        flags: OpenFlags,
    ) -> Result<(Entry, Opened)>;

    /// The file whose bytes are exactly those of the open node.
    fn backing(&self, handle: HandleId) -> Result<Arc<File>>;

    /// Reads at `offset`; fewer bytes than asked for only at the end of the file.
    fn read(&self, handle: HandleId, offset: u64, into: &mut [u8]) -> Result<usize>;

    /// Writes at `offset`, which the operating system has worked out for `APPEND` too; how many
    /// bytes it took.
    fn write(&self, handle: HandleId, offset: u64, data: &[u8]) -> Result<usize>;

    /// A descriptor of this handle was closed; others may be left.
    fn flush(&self, caller: &Caller, handle: HandleId) -> Result<()>;

    /// Nobody has the handle any more.
    fn release(&self, handle: HandleId);

    /// `fsync(2)`, or `fdatasync(2)` with `data_only`.
    fn sync(&self, handle: HandleId, data_only: bool) -> Result<()>;

    /// `fallocate(2)`.
    fn allocate(
        &self,
        handle: HandleId,
        offset: u64,
        length: u64,
        flags: AllocateFlags,
    ) -> Result<()>;

    /// `lseek(2)` with `SEEK_DATA` or `SEEK_HOLE`.
    fn seek(&self, handle: HandleId, offset: u64, seek: Seek) -> Result<u64>;

    /// `copy_file_range(2)`; how many bytes it copied.
    fn copy_range(&self, from: (HandleId, u64), to: (HandleId, u64), length: u64) -> Result<usize>;

    /// Opens a directory for listing. True: its listing is the same for everyone, and the operating
    /// system may keep it until it changes.
    fn open_directory(&self, caller: &Caller, node: NodeId) -> Result<(HandleId, bool)>;

    /// Lists from `offset` (0: from the start, else the `next` of an entry) until `sink` is full.
    fn read_directory(
        &self,
        caller: &Caller,
        handle: HandleId,
        offset: u64,
        sink: &mut dyn ListingSink,
    ) -> Result<()>;

    /// Nobody has the directory handle any more.
    fn release_directory(&self, handle: HandleId);

    /// `fsync(2)` on a directory.
    fn sync_directory(&self, handle: HandleId) -> Result<()>;

    /// `statfs(2)`.
    fn space(&self) -> Result<Space>;

    /// An extended attribute's value.
    fn xattr(&self, caller: &Caller, node: NodeId, name: &OsStr) -> Result<Vec<u8>>;

    /// The names of all extended attributes, each followed by a NUL.
    fn list_xattrs(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>>;

    /// Sets an extended attribute.
    fn set_xattr(
        &self,
        caller: &Caller,
        node: NodeId,
        name: &OsStr,
        value: &[u8],
        how: SetXattr,
    ) -> Result<()>;

    /// Removes an extended attribute.
    fn remove_xattr(&self, caller: &Caller, node: NodeId, name: &OsStr) -> Result<()>;
}
