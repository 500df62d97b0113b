//! How something is asked for, by the names that Unix has. What NT has no word for means nothing here.
#![allow(missing_docs, reason = "each is what the manual page says it is")]

macro_rules! flags {
    ($(#[$doc:meta] $name:ident { $($flag:ident = $bits:expr,)* })+) => {
        $(bitflags::bitflags! {
            #[$doc]
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub struct $name: u32 {
                $(const $flag = $bits;)*
            }
        })+
    };
}
flags! {
    /// `open(2)`.
    OFlags {
        RDONLY = 0,
        WRONLY = 1,
        RDWR = 2,
        CREATE = 1 << 2,
        EXCL = 1 << 3,
        TRUNC = 1 << 4,
        DIRECTORY = 1 << 5,
        NOFOLLOW = 1 << 6,
        PATH = 1 << 7,
        DSYNC = 1 << 8,
        CLOEXEC = 1 << 9,
        NONBLOCK = 1 << 10,
        NOCTTY = 1 << 11,
        NOATIME = 1 << 12,
    }
    /// Permission bits. NTFS has none: all are always set, but for those that mean something else than permission.
    Mode {
        RWXU = 0o700,
        RUSR = 0o400,
        WUSR = 0o200,
        XGRP = 0o010,
        XOTH = 0o001,
        SUID = 0o4000,
        SGID = 0o2000,
    }
    /// `openat(2)` and its like.
    AtFlags {
        SYMLINK_NOFOLLOW = 1,
        EMPTY_PATH = 2,
        REMOVEDIR = 4,
        NO_AUTOMOUNT = 8,
    }
    /// `renameat2(2)`.
    RenameFlags {
        NOREPLACE = 1,
        EXCHANGE = 2,
    }
    /// `fallocate(2)`.
    FallocateFlags {
        KEEP_SIZE = 1,
        PUNCH_HOLE = 2,
        ZERO_RANGE = 0x10,
    }
    /// `openat2(2)`.
    ResolveFlags {
        BENEATH = 1,
        NO_SYMLINKS = 2,
    }
    /// `statx(2)`: what is asked for is always all.
    StatxFlags {
        BASIC_STATS = 0x7ff,
    }
    /// `setxattr(2)`.
    XattrFlags {
        CREATE = 1,
        REPLACE = 2,
    }
}

impl Mode {
    /// The mode bits among those of `st_mode`.
    pub fn from_raw_mode(mode: u32) -> Mode {
        Mode::from_bits_retain(mode & 0o7777)
    }
}

/// The bits of `st_mode` that say what it is (`inode(7)`).
const KIND: u32 = 0o170_000;

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    RegularFile,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
    Unknown,
}

impl FileType {
    /// By `st_mode`.
    pub fn from_raw_mode(mode: u32) -> FileType {
        match mode & KIND {
            0o100_000 => FileType::RegularFile,
            0o040_000 => FileType::Directory,
            0o120_000 => FileType::Symlink,
            _ => FileType::Unknown,
        }
    }

    /// Its part of `st_mode`.
    pub(super) fn raw_mode(self) -> u32 {
        match self {
            FileType::Directory => 0o040_000,
            FileType::Symlink => 0o120_000,
            _ => 0o100_000,
        }
    }
}

/// `lseek(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekFrom {
    Start(u64),
    Data(u64),
    Hole(u64),
}

macro_rules! ids {
    ($(#[$doc:meta] $name:ident)+) => {
        $(#[$doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(u32);

        impl $name {
            /// By its number.
            pub fn from_raw(raw: u32) -> $name {
                $name(raw)
            }

            /// The number.
            pub fn as_raw(self) -> u32 {
                self.0
            }
        })+
    };
}
ids! {
    /// A user.
    Uid
    /// A group.
    Gid
}
