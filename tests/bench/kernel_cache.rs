//! Making the kernel forget.

use std::fs;

use crate::Result;

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// What a cold operation finds forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cold {
    /// Names and attributes.
    Names,
    /// Names, attributes and contents of files.
    Contents,
}

impl Cold {
    /// Forgets, everywhere on this machine.
    pub(crate) fn chill(self) -> Result<()> {
        // What has not been written back can't be dropped.
        rustix::fs::sync();
        let what = match self {
            Cold::Names => "2",
            Cold::Contents => "3",
        };
        // Dropping names makes inodes unused, which only the next turn drops.
        for _ in 0..2 {
            fs::write(DROP_CACHES, what)?;
        }
        // A daemon hears of what was forgotten, and shall have dealt with it.
        std::thread::sleep(std::time::Duration::from_millis(100));
        Ok(())
    }

    /// Whether this process may.
    pub(crate) fn allowed() -> bool {
        fs::OpenOptions::new().write(true).open(DROP_CACHES).is_ok()
    }
}
