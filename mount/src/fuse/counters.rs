//! How often each operation was asked for, a number that does not depend on the machine; and how long the
//! answers took, which does.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The upper ends of the classes of times, in microseconds; what took longer is in one more class.
pub const CLASSES: [u64; 9] = [2, 5, 10, 25, 100, 500, 2_500, 25_000, 250_000];

/// What was asked for, and how long that took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// Its name, as the kernel has it, in lower case.
    pub name: &'static str,
    /// How many took no longer than each of [`CLASSES`], and longer than the one before; the last: how many
    /// took longer than all.
    pub took: [u64; CLASSES.len() + 1],
    /// How long all took together.
    pub together: Duration,
    /// How many were counted, and not measured.
    pub unmeasured: u64,
}

impl Operation {
    /// How often it was asked for.
    pub fn count(&self) -> u64 {
        self.measured() + self.unmeasured
    }

    /// How often it was asked for and measured.
    pub fn measured(&self) -> u64 {
        self.took.iter().sum()
    }

    /// The end of the class in which one lies that is slower than `share` of all, in microseconds; none if
    /// nothing was measured, or if it lies above all classes.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let wanted = (self.measured() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        CLASSES.into_iter().zip(self.took).find_map(|(end, count)| {
            seen += count;
            (seen >= wanted).then_some(end)
        })
    }
}

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

/// So many threads count without meeting in one cache line.
const SHARDS: usize = 16;

/// The counts of one operation, by one thread.
#[derive(Debug, Default)]
struct Count {
    took: [AtomicU64; CLASSES.len() + 1],
    nanoseconds: AtomicU64,
    unmeasured: AtomicU64,
}

/// Apart from those of other threads.
#[derive(Debug)]
#[repr(align(128))]
struct Shard([Count; Op::ALL.len()]);

#[derive(Debug)]
pub(super) struct Counters(Box<[Shard]>);

thread_local! {
    /// Where this thread counts.
    static SHARD: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    SHARD.with(|shard| {
        if shard.get() == usize::MAX {
            shard.set(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        shard.get()
    })
}

impl Counters {
    pub(super) fn new() -> Counters {
        let shard = |_| Shard(std::array::from_fn(|_| Count::default()));
        Counters((0..SHARDS).map(shard).collect())
    }

    fn of(&self, op: Op) -> &Count {
        &self.0[shard()].0[op as usize]
    }

    /// Counts one that takes no time worth measuring.
    pub(super) fn count(&self, op: Op) {
        self.of(op).unmeasured.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one that was begun then, and is done now.
    pub(super) fn measure(&self, op: Op, began: Instant) {
        let took = began.elapsed();
        let microseconds = took.as_nanos().div_ceil(1000);
        let class = CLASSES.iter().position(|end| microseconds <= u128::from(*end));
        let count = self.of(op);
        count.took[class.unwrap_or(CLASSES.len())].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        count.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub(super) fn list(&self) -> Vec<Operation> {
        let sum = |op: Op| {
            let mut all = Operation { name: op.name(), ..Operation::default() };
            for shard in &self.0 {
                let count = &shard.0[op as usize];
                for (all, one) in all.took.iter_mut().zip(&count.took) {
                    *all += one.load(Ordering::Relaxed);
                }
                all.together += Duration::from_nanos(count.nanoseconds.load(Ordering::Relaxed));
                all.unmeasured += count.unmeasured.load(Ordering::Relaxed);
            }
            all
        };
        Op::ALL.iter().map(|op| sum(*op)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_count_is_added_up() {
        let counters = Counters::new();
        std::thread::scope(|scope| {
            for _ in 0..SHARDS + 3 {
                scope.spawn(|| {
                    counters.measure(Op::Lookup, Instant::now());
                    counters.count(Op::Other);
                });
            }
        });
        let told = counters.list();
        let all = |name| told.iter().find(|operation| operation.name == name).unwrap();
        assert_eq!(all("lookup").measured(), SHARDS as u64 + 3);
        assert_eq!((all("other").count(), all("other").measured()), (SHARDS as u64 + 3, 0));
        assert_eq!(all("read").count(), 0);
    }

    #[test]
    fn a_quantile_is_the_end_of_a_class() {
        let mut operation = Operation::default();
        assert_eq!(operation.quantile(0.5), None);
        operation.took[0] = 1;
        operation.took[3] = 98;
        operation.took[CLASSES.len()] = 1;
        assert_eq!(operation.quantile(0.5), Some(25));
        assert_eq!(operation.quantile(0.0), Some(2));
        assert_eq!(operation.quantile(0.99), Some(25));
        assert_eq!(operation.quantile(1.0), None);
    }
}
