//! pre-commit: environments of hooks in `repoXXXXXXXX/`, and `db.db`, which says where each is.
//!
//! pre-commit does not look whether an environment that the database tells of is still there: it fails
//! without it, until somebody cleans the cache. So all that the database names is one unit with the
//! database. An environment that it does not name is a unit of its own: it was being made, or making it
//! broke off. With all of it gone, pre-commit makes a new database and the environments again.
//!
//! Kept: `.lock`, `pre-commit.log`, `patch*` (changes that pre-commit has put aside while it
//! runs, and nobody has elsewhere), `README`, anything else.

use super::{Inside, Look, Place, Rules, Seen};
use crate::prune::gather::{Bond, Links};

pub(super) struct PreCommit;

/// The database is some kilobytes.
const LONGEST: usize = 16 << 20;

/// The letters after `repo`, as Python's `mkdtemp` makes them up.
const LETTERS: usize = 8;

impl Rules for PreCommit {
    fn name(&self) -> &'static str {
        "pre-commit"
    }

    fn is_at(&self, look: &Look) -> bool {
        look.head("db.db").starts_with(b"SQLite format 3")
            || look.head("README").starts_with(b"This directory is maintained by the pre-commit")
    }

    fn place(&self, path: &Inside<'_>) -> Place {
        // What sqlite puts beside a database is nothing without that, and would be taken for a new one's.
        if path[0].starts_with(b"repo") || path[0] == b"db.db" || path[0].starts_with(b"db.db-") {
            Place::Part(1)
        } else {
            Place::Kept
        }
    }

    fn stem<'p>(&self, path: &Inside<'p>) -> Option<&'p [u8]> {
        path[0].starts_with(b"db.db").then_some(b"db.db")
    }

    fn reads(&self, path: &Inside<'_>) -> usize {
        if path[0].starts_with(b"db.db") { LONGEST } else { 0 }
    }

    fn names_parts(&self) -> bool {
        true
    }

    fn links(&self, _: &Inside<'_>, seen: Seen<'_>, links: &mut Links<'_>) {
        let Seen::Content(database) = seen else { return };
        let length = b"repo".len() + LETTERS;
        for (at, name) in database.windows(length).enumerate() {
            // It ends a path.
            if at > 0 && database[at - 1] == b'/' && name.starts_with(b"repo") {
                links.add(Bond::Same, &[name]);
            }
        }
    }

    fn title(&self, path: &Inside<'_>) -> Option<String> {
        (path[0] == b"db.db").then(|| "all hooks".into())
    }
}
