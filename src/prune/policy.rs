//! What is to be pruned, as people say it.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::unit::Unit;

/// What a store may hold. Nothing that is `None` is looked at.
#[derive(Clone, Debug)]
pub struct Policy {
    /// At most so many bytes. With [`Policy::only`], of what that chooses; else of all the store holds.
    pub max_size: Option<u64>,
    /// At most so many files, counted as bytes are.
    pub max_files: Option<u64>,
    /// Nothing that was last used longer ago.
    pub max_age: Option<Duration>,
    /// The filesystem should have so many bytes free.
    pub min_free: Option<u64>,
    /// When a limit is passed, how far to go: to so many hundredths of a maximum, or so many more free
    /// than the minimum. So it is not passed again at once. 1 to 100.
    pub down_to: u8,
    /// Which units may be chosen.
    pub only: Only,
}

impl Default for Policy {
    /// No limits; a limit that is passed is gone below by a tenth.
    fn default() -> Policy {
        Policy {
            max_size: None,
            max_files: None,
            max_age: None,
            min_free: None,
            down_to: 90,
            only: Only::default(),
        }
    }
}

/// Which units may be chosen: those for which both hold. What needs a chosen one goes along anyway.
#[derive(Clone, Debug, Default)]
pub struct Only {
    /// Of one of these tools or layouts; of any, if there are none.
    pub tools: Vec<String>,
    /// With a path at, below, or above one of these, relative to the store; anywhere, if there are none.
    /// (Above: whoever names a file in a unit means the unit.)
    pub paths: Vec<PathBuf>,
}

impl Only {
    /// Whether a unit may be chosen.
    pub fn allows(&self, unit: &Unit) -> bool {
        let of_tool = |tool: &String| tool == unit.layout.tool() || *tool == unit.layout.name();
        let at = |wanted: &PathBuf| {
            unit.paths.iter().any(|path| path.starts_with(wanted) || wanted.starts_with(path))
        };
        (self.tools.is_empty() || self.tools.iter().any(of_tool))
            && (self.paths.is_empty() || self.paths.iter().any(at))
    }

    /// Whether it allows all.
    pub(super) fn is_all(&self) -> bool {
        let root = |path: &PathBuf| path.as_os_str() == OsStr::new("");
        self.tools.is_empty() && (self.paths.is_empty() || self.paths.iter().any(root))
    }
}

/// The circumstances of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The time. Ages are told by it; a clock that is ahead makes everything old.
    pub time: SystemTime,
    /// How many bytes the filesystem has free, if that is known; without, [`Policy::min_free`] is no
    /// matter.
    pub free: Option<u64>,
}

impl Default for Now {
    /// Now, by the system's clock, with nothing known of the filesystem.
    fn default() -> Now {
        Now { time: SystemTime::now(), free: None }
    }
}
