//! ccache: `X/[X/..]NAME`, where each X is a hexadecimal digit.
//!
//! A unit is a result or a manifest: `HASH` (4.10 and later), `HASH{R,M}` (4.0 and later) or
//! `HASH-SIZE{.o,.d,.stderr,.manifest,..}` (3), with the files of a result that are kept as they are
//! (`HASH_NN`, `HASHNNW`). A manifest whose results are missing is a miss, as is a result that is missing.
//!
//! Kept: `stats` and `CACHEDIR.TAG` in the folders, `ccache.conf`, `lock`, `tmp`, anything else. The sizes
//! that `ccache --show-stats` tells go by those counters, which `ccache --cleanup` sets right.

use super::{Inside, Look, Place, Rules, is_hex, part_at, text};

pub(super) struct Ccache;

impl Rules for Ccache {
    fn name(&self) -> &'static str {
        "ccache"
    }

    fn is_at(&self, look: &Look) -> bool {
        let digit = |name: &[u8]| is_hex(name, 1);
        // The counters are at the first level, or at the second.
        look.has_file("ccache.conf")
            || look.any_inside(digit, |look| {
                look.has_file("stats") || look.any_inside(digit, |look| look.has_file("stats"))
            })
    }

    fn place(&self, path: &Inside<'_>) -> Place {
        match path.iter().position(|name| !is_hex(name, 1)) {
            None => Place::Folder,
            Some(0) => Place::Kept,
            Some(at) if matches!(path[at], b"stats" | b"CACHEDIR.TAG") => Place::Kept,
            Some(at) => part_at(path, at + 1),
        }
    }

    fn stem<'p>(&self, path: &Inside<'p>) -> Option<&'p [u8]> {
        let name = path.last()?.split(|byte| *byte == b'.').next()?;
        if let Some(hash) = name.strip_suffix(b"R").or_else(|| name.strip_suffix(b"M")) {
            return Some(hash);
        }
        // A file of a result that is kept as it is has a number: of one digit, or of two.
        Some(match name {
            [hash @ .., b'0'..=b'9', b'W'] | [hash @ .., b'_', b'0'..=b'9', b'0'..=b'9'] => hash,
            whole => whole,
        })
    }

    fn title(&self, path: &Inside<'_>) -> Option<String> {
        Some(text(&path.join(&b'/')))
    }
}
