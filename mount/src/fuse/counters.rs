//! How often each operation was asked for: a number that does not depend on the machine.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! operations {
    ($($variant:ident $name:literal),+ $(,)?) => {
        #[derive(Clone, Copy, Debug)]
        pub(super) enum Op { $($variant),+ }

        impl Op {
            const ALL: &[Op] = &[$(Op::$variant),+];

            pub(super) fn name(self) -> &'static str {
                match self { $(Op::$variant => $name),+ }
            }
        }
    };
}

operations! {
    Lookup "lookup", Forget "forget", GetAttr "getattr", SetAttr "setattr", ReadLink "readlink",
    MkNod "mknod", MkDir "mkdir", Unlink "unlink", RmDir "rmdir", SymLink "symlink",
    Rename "rename", Link "link", Open "open", Create "create", Read "read", Write "write",
    Flush "flush", Release "release", Fsync "fsync", OpenDir "opendir", ReadDir "readdir",
    ReadDirPlus "readdirplus", ReleaseDir "releasedir", FsyncDir "fsyncdir", StatFs "statfs",
    SetXattr "setxattr", GetXattr "getxattr", ListXattr "listxattr", RemoveXattr "removexattr",
    Access "access", Fallocate "fallocate", Lseek "lseek", CopyFileRange "copy_file_range",
    Other "other",
    // Not a request: a file of the store registered for passthrough.
    Backing "backing",
}

#[derive(Debug)]
pub(super) struct Counters([AtomicU64; Op::ALL.len()]);

impl Counters {
    pub(super) fn new() -> Counters {
        Counters(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    pub(super) fn count(&self, op: Op) {
        self.0[op as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn list(&self) -> Vec<(&'static str, u64)> {
        Op::ALL.iter().map(|&op| (op.name(), self.0[op as usize].load(Ordering::Relaxed))).collect()
    }
}
