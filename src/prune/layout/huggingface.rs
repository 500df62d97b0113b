//! The hub cache of Hugging Face. For each repository a folder, `{models,datasets,spaces}--OWNER--NAME`:
//!
//! | path | a unit |
//! | --- | --- |
//! | `snapshots/COMMIT/**` | a revision: links to blobs |
//! | `refs/**` that say COMMIT, `.no_exist/COMMIT/**` | belong to that revision: the names that led to it, and which files it does not have |
//! | `blobs/DIGEST` | a file; belongs to the revisions that link to it |
//! | `blobs/DIGEST.incomplete` | what is being fetched, or was when it broke off |
//!
//! A revision goes whole, with the names for it, so that nobody believes it is there; a blob goes with the
//! last revision that links to it. Files are used through links: whichever revision they are used
//! by, it is the blob that is opened.
//!
//! Kept: `.locks`, `version.txt`, anything else.

use super::{Inside, Look, Place, Rules, Seen, components, part_at, text};
use crate::cache::view::is_lock_name;
use crate::prune::gather::{Bond, Links};

pub(super) struct HuggingFace;

fn is_repository(name: &[u8]) -> bool {
    let kinds: [&[u8]; 4] = [b"models--", b"datasets--", b"spaces--", b"kernels--"];
    kinds.into_iter().any(|kind| name.starts_with(kind))
}

impl Rules for HuggingFace {
    fn name(&self) -> &'static str {
        "huggingface"
    }

    fn is_at(&self, look: &Look) -> bool {
        look.any_inside(is_repository, |look| {
            ["blobs", "snapshots", "refs"].iter().any(|name| look.has_directory(name))
        })
    }

    fn place(&self, path: &Inside<'_>) -> Place {
        match (is_repository(path[0]), path.get(1).copied()) {
            (false, _) => Place::Kept,
            (true, None) => Place::Folder,
            (true, Some(b"snapshots" | b".no_exist" | b"blobs")) => part_at(path, 3),
            (true, Some(b"refs")) => {
                let lock = path[2..].iter().any(|name| is_lock_name(name));
                if lock { Place::Kept } else { Place::Loose }
            }
            (true, Some(_)) => Place::Kept,
        }
    }

    fn reads(&self, path: &Inside<'_>) -> usize {
        if path[1] == b"refs" { 256 } else { 0 }
    }

    fn links_inside(&self, path: &Inside<'_>) -> bool {
        path[1] == b"snapshots"
    }

    fn names_parts(&self) -> bool {
        true
    }

    fn links(&self, path: &Inside<'_>, seen: Seen<'_>, links: &mut Links<'_>) {
        let repository = path[0];
        match (path[1], seen) {
            (b"refs", Seen::Content(commit)) => {
                links.add(Bond::Same, &[repository, b"snapshots", commit.trim_ascii()]);
            }
            (b".no_exist", Seen::Part) => {
                links.add(Bond::Same, &[repository, b"snapshots", path[2]]);
            }
            (b"snapshots", Seen::LinkInside(target)) => {
                if let [.., b"blobs", digest] = components(target)[..] {
                    links.add(Bond::BelongsAndTells, &[repository, b"blobs", digest]);
                }
            }
            _ => {}
        }
    }

    fn title(&self, path: &Inside<'_>) -> Option<String> {
        let repository = text(path[0]).replace("--", "/");
        match path[1] {
            b"snapshots" => Some(format!("{repository} {}", text(path.get(2)?))),
            // A revision says more; a blob alone has nothing better than its digest.
            _ => None,
        }
    }
}
