//! npm, and what else keeps its things by cacache in `_cacache`.
//!
//! | path | a unit |
//! | --- | --- |
//! | `_cacache/index-vN/AA/BB/REST` | what is known of an address, with the digest of what was there |
//! | `_cacache/content-vN/ALGORITHM/AA/BB/REST` | what was there, by its digest |
//! | `_cacache/tmp/NAME` | what is being fetched, or was when it broke off |
//! | `_npx/KEY/` | an environment of `npx` |
//! | `_prebuilds/NAME` | a fetched binary |
//!
//! Content belongs to the addresses that it came from: with one, it is one unit with that; with several,
//! it goes with the last of them. Of an address several lines may tell, of which the last counts; what
//! only the others tell of is a unit of its own. npm fetches what is missing again.
//!
//! Kept: `_cacache/_lastverified`, `_update-notifier-last-checked`, `_logs`, anything else.

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;

use super::{Inside, Look, Place, Rules, Seen, part_at, text, versioned};
use crate::prune::gather::{Bond, Links};

pub(super) struct Npm;

/// A file of the index is longer only where one address was asked for thousands of times.
const LONGEST: usize = 4 << 20;

/// One line of the index: a digest of the rest, and the rest.
#[derive(serde::Deserialize)]
struct Entry {
    key: String,
    /// `ALGORITHM-BASE64`, once or several times; null for what was removed.
    integrity: Option<String>,
}

/// The last entry for each address.
fn entries(content: &[u8]) -> Vec<Entry> {
    let mut last: Vec<Entry> = Vec::new();
    for line in content.split(|byte| *byte == b'\n').rev() {
        let Some(tab) = line.iter().position(|byte| *byte == b'\t') else { continue };
        if let Ok(entry) = serde_json::from_slice::<Entry>(&line[tab + 1..])
            && !last.iter().any(|known| known.key == entry.key)
        {
            last.push(entry);
        }
    }
    last
}

/// Adds the content that an integrity tells of.
fn content(integrity: &str, links: &mut Links<'_>) {
    for digest in integrity.split_ascii_whitespace() {
        let Some((algorithm, rest)) = digest.split_once('-') else { continue };
        let digest = rest.split('?').next().unwrap_or_default();
        let Ok(bytes) = STANDARD.decode(digest) else { continue };
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        if let (Some(one), Some(two), Some(rest)) = (hex.get(..2), hex.get(2..4), hex.get(4..)) {
            let names = ["_cacache", "content-v2", algorithm, one, two, rest];
            links.add(Bond::Belongs, &names.map(str::as_bytes));
        }
    }
}

impl Rules for Npm {
    fn name(&self) -> &'static str {
        "npm"
    }

    fn is_at(&self, look: &Look) -> bool {
        look.has_directory("_cacache") || look.has_directory("_npx")
    }

    fn place(&self, path: &Inside<'_>) -> Place {
        match (path[0], path.get(1).copied()) {
            (b"_npx" | b"_prebuilds", _) => part_at(path, 2),
            (b"_cacache", None) => Place::Folder,
            (b"_cacache", Some(b"tmp")) => part_at(path, 3),
            (b"_cacache", Some(name)) => match versioned(name) {
                Some(b"index") => part_at(path, 5),
                Some(b"content") => part_at(path, 6),
                _ => Place::Kept,
            },
            _ => Place::Kept,
        }
    }

    fn reads(&self, path: &Inside<'_>) -> usize {
        let index = path.len() == 5 && versioned(path[1]) == Some(b"index");
        if index { LONGEST } else { 0 }
    }

    fn names_parts(&self) -> bool {
        true
    }

    fn links(&self, _: &Inside<'_>, seen: Seen<'_>, links: &mut Links<'_>) {
        let Seen::Content(index) = seen else { return };
        for entry in entries(index) {
            content(entry.integrity.as_deref().unwrap_or_default(), links);
        }
    }

    fn title(&self, path: &Inside<'_>) -> Option<String> {
        Some(text(&path.join(&b'/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_an_address_counts() {
        let line = |key: &str, integrity: &str| {
            format!("\n0123\t{{\"key\":\"{key}\",\"integrity\":{integrity},\"size\":1}}")
        };
        let index = [
            line("a", "\"sha512-AA==\""),
            line("b", "\"sha512-AQ==\""),
            line("a", "\"sha512-Ag==\""),
            line("b", "null"),
            "\n99\t{\"key\":\"a\",\"integ".into(),
            "\nno tab".into(),
        ]
        .concat();
        let found: Vec<_> =
            entries(index.as_bytes()).into_iter().map(|e| (e.key, e.integrity)).collect();
        assert_eq!(found, [("b".into(), None), ("a".into(), Some("sha512-Ag==".into()))]);
    }
}
