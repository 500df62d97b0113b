//! Go's build cache.
//!
//! | path | a unit |
//! | --- | --- |
//! | `XX/ID-a` | an action, with the ID and the length of what came out of it |
//! | `XX/ID-d` | what came out: a file, or a directory with one program |
//!
//! What came out belongs to the actions that name it: nothing at all, for one, comes out of many. Go
//! takes an action whose output is missing, or has another length, for one that was never done.
//!
//! Kept: `README`, `trim.txt`, `testexpire.txt`, `fuzz` (what fuzzing has found is nowhere else).

use super::{Inside, Look, Place, Rules, Seen, is_hex, part_at, text};
use crate::prune::gather::{Bond, Links};

pub(super) struct GoBuild;

/// All of an action: `v1 ACTION OUTPUT LENGTH TIME`.
const ACTION: usize = 256;

impl Rules for GoBuild {
    fn name(&self) -> &'static str {
        "go-build"
    }

    fn tool(&self) -> &'static str {
        "go"
    }

    fn is_at(&self, look: &Look) -> bool {
        let entry =
            |name: &[u8]| name.len() == 66 && (name.ends_with(b"-a") || name.ends_with(b"-d"));
        look.has_file("trim.txt")
            || look.any_inside(|name| is_hex(name, 2), |look| look.files().any(entry))
    }

    fn place(&self, path: &Inside<'_>) -> Place {
        if is_hex(path[0], 2) { part_at(path, 2) } else { Place::Kept }
    }

    fn reads(&self, path: &Inside<'_>) -> usize {
        if path.last().is_some_and(|name| name.ends_with(b"-a")) { ACTION } else { 0 }
    }

    fn names_parts(&self) -> bool {
        true
    }

    fn links(&self, _: &Inside<'_>, seen: Seen<'_>, links: &mut Links<'_>) {
        let Seen::Content(action) = seen else { return };
        let output = action.split(|byte| *byte == b' ').nth(2).unwrap_or_default();
        if let Some(folder) = output.get(..2) {
            links.add(Bond::Belongs, &[folder, &[output, b"-d"].concat()]);
        }
    }

    fn title(&self, path: &Inside<'_>) -> Option<String> {
        Some(text(&path.join(&b'/')))
    }
}
