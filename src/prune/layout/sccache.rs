//! sccache: `A/B/KEY`, where A and B are the first two digits of the key. Each file is a unit: a result of
//! a compilation; so is each file below `preprocessor`. What is missing is a miss, also for a server that
//! runs and remembers that it was there.
//!
//! Kept: anything else.

use super::{Inside, Look, Place, Rules, is_hex, part_at, text};

pub(super) struct Sccache;

impl Rules for Sccache {
    fn name(&self) -> &'static str {
        "sccache"
    }

    fn is_at(&self, look: &Look) -> bool {
        let digit = |name: &[u8]| is_hex(name, 1);
        // ccache has shorter names, and hexadecimal ones only in its later releases.
        let key = |look: &Look| look.files().any(|name| is_hex(name, 64));
        look.any_inside(digit, |look| look.any_inside(digit, key))
    }

    fn place(&self, path: &Inside<'_>) -> Place {
        let skipped = usize::from(path[0] == b"preprocessor");
        match path[skipped..].iter().position(|name| !is_hex(name, 1)) {
            None => Place::Folder,
            Some(0) => Place::Kept,
            Some(at) => part_at(path, skipped + at + 1),
        }
    }

    fn title(&self, path: &Inside<'_>) -> Option<String> {
        Some(text(&path.join(&b'/')))
    }
}
