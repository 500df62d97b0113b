//! What removals promise to those who begin, publish or clean up in the middle of them (SEMANTICS 3).
//!
//! * `beginning`: who begins while something is removed, and what he sees;
//! * `products`: products that files name: they go, stay and come back as a whole;
//! * `working`: working directories that are removed;
//! * `clearing`: who removes a tree while others work in it.

#[path = "../common/mod.rs"]
mod common;
#[path = "../views/mod.rs"]
mod views;

mod beginning;
mod clearing;
mod products;
mod working;

use views::Agent;

/// A name that stands in no file by chance.
const PRODUCT: &str = "q7Vx2-JmN0aPz";

/// Begins to remove as `rm -r` does: lists a directory, and keeps it open.
fn begins_to_remove(remover: &mut Agent, directory: &str) {
    remover.does("open", ["d", directory, "directory"]);
    assert!(!remover.list("@d").is_empty());
}
