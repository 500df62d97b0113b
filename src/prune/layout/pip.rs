//! pip.
//!
//! | path | a unit |
//! | --- | --- |
//! | `http-v2/A/B/C/D/E/KEY{,.body}` | an answer of an index and its head; both or none, as pip takes a head without a body for an answer that is empty |
//! | `http/A/B/C/D/E/KEY` | the same, of releases before 23.3, in one file |
//! | `wheels/AA/BB/CC/REST/` | the wheels that were built from one source distribution, and where that came from |
//! | `selfcheck/KEY` | when pip last looked for a newer pip |
//!
//! What is missing, pip fetches or builds again. Kept: anything else.

use super::{Inside, Look, Place, Rules, is_hex, part_at, text};

pub(super) struct Pip;

impl Rules for Pip {
    fn name(&self) -> &'static str {
        "pip"
    }

    fn is_at(&self, look: &Look) -> bool {
        let inside = |name: &str, digits| {
            look.inside(name.as_bytes())
                .is_some_and(|look| look.directories().any(|name| is_hex(name, digits)))
        };
        look.has_directory("http-v2")
            || look.has_directory("selfcheck")
            || inside("http", 1)
            || inside("wheels", 2)
    }

    fn place(&self, path: &Inside<'_>) -> Place {
        match path[0] {
            b"http-v2" | b"http" => part_at(path, 7),
            b"wheels" => part_at(path, 5),
            b"selfcheck" => part_at(path, 2),
            _ => Place::Kept,
        }
    }

    fn stem<'p>(&self, path: &Inside<'p>) -> Option<&'p [u8]> {
        let name = *path.last()?;
        path[0].starts_with(b"http").then(|| name.strip_suffix(b".body").unwrap_or(name))
    }

    fn title(&self, path: &Inside<'_>) -> Option<String> {
        Some(text(&path.join(&b'/')))
    }
}
