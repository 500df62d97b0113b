//! cargo: a `CARGO_HOME`, or what lies in it, in a cache.
//!
//! | path | a unit |
//! | --- | --- |
//! | `registry/cache/REGISTRY/NAME-VERSION.crate` | a crate as it was fetched |
//! | `registry/src/REGISTRY/NAME-VERSION/` | the same unpacked; `.cargo-ok` in it says that it is whole |
//! | `registry/index/REGISTRY/` | what is known of a registry |
//! | `git/db/REPOSITORY/` | a repository |
//! | `git/checkouts/REPOSITORY/COMMIT/` | a commit of it |
//!
//! cargo unpacks a crate again when its sources are missing. It fetches a crate again when that is
//! missing, even with the sources there, and knows no crate whose registry's index is missing: so
//! sources need their crate, and crates the index. A checkout needs its repository.
//!
//! Kept: `.package-cache` and `.package-cache-mutate` (locks), `.global-cache` (cargo's own notes of
//! what was used, which it mends by itself), `bin`, `config.toml`, credentials and anything else.

use super::{Inside, Look, Place, Rules, Seen, part_at, text};
use crate::prune::gather::{Bond, Links};

pub(super) struct Cargo;

impl Rules for Cargo {
    fn name(&self) -> &'static str {
        "cargo"
    }

    fn is_at(&self, look: &Look) -> bool {
        let holds = |name: &str, parts: &[&str]| {
            look.inside(name.as_bytes())
                .is_some_and(|look| parts.iter().all(|part| look.has_directory(part)))
        };
        holds("registry", &["index"]) || holds("git", &["db", "checkouts"])
    }

    fn place(&self, path: &Inside<'_>) -> Place {
        match (path[0], path.get(1).copied()) {
            (b"registry" | b"git", None) => Place::Folder,
            (b"registry", Some(b"index")) | (b"git", Some(b"db")) => part_at(path, 3),
            (b"registry", Some(b"cache" | b"src")) | (b"git", Some(b"checkouts")) => {
                part_at(path, 4)
            }
            _ => Place::Kept,
        }
    }

    fn names_parts(&self) -> bool {
        true
    }

    fn links(&self, path: &Inside<'_>, seen: Seen<'_>, links: &mut Links<'_>) {
        let Seen::Part = seen else { return };
        match path {
            [b"registry", b"cache", registry, _] => {
                links.add(Bond::Needs, &[b"registry", b"index", registry]);
            }
            [b"registry", b"src", registry, name] => {
                let name = [name, b".crate".as_slice()].concat();
                links.add(Bond::Needs, &[b"registry", b"cache", registry, &name]);
            }
            [b"git", b"checkouts", repository, _] => {
                links.add(Bond::Needs, &[b"git", b"db", repository]);
            }
            _ => {}
        }
    }

    fn title(&self, path: &Inside<'_>) -> Option<String> {
        let [_, kind, of, ..] = path else { return None };
        Some(match (*kind, path.get(3)) {
            (b"cache", Some(name)) => text(name),
            (b"src", Some(name)) => format!("{} (sources)", text(name)),
            (b"index", _) => format!("index of {}", text(of)),
            (_, Some(commit)) => format!("{} {}", text(of), text(commit)),
            (_, None) => format!("{} (repository)", text(of)),
        })
    }
}
