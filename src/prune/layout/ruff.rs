//! ruff: `VERSION/KEY`, a file for each package that a release of ruff has checked. Each is a unit; what is
//! missing, ruff checks again. Kept: `CACHEDIR.TAG`, `.gitignore`, anything else.

use super::{Inside, Look, Place, Rules, part_at, text};

pub(super) struct Ruff;

/// `1.2.3`, and what may follow.
fn is_version(name: &[u8]) -> bool {
    let mut numbers = name.splitn(3, |byte| *byte == b'.');
    let mut number = || numbers.next().is_some_and(|n| n.first().is_some_and(u8::is_ascii_digit));
    number() && number() && number()
}

impl Rules for Ruff {
    fn name(&self) -> &'static str {
        "ruff"
    }

    fn is_at(&self, look: &Look) -> bool {
        let tagged = look.has_file("CACHEDIR.TAG") && look.has_file(".gitignore");
        tagged && look.directories().next().is_some() && look.directories().all(is_version)
    }

    fn place(&self, path: &Inside<'_>) -> Place {
        if is_version(path[0]) { part_at(path, 2) } else { Place::Kept }
    }

    fn title(&self, path: &Inside<'_>) -> Option<String> {
        Some(text(&path.join(&b'/')))
    }
}
