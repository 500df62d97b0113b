//! What the integration tests share: real mounts that always go away, commands that always end, and
//! snapshots of directories that can be compared.
//!
//! ```ignore
//! mod common;
//! use common::{Mount, Run, Tree};
//!
//! #[test]
//! fn a_file_written_through_the_mount_lies_in_the_store() {
//!     let mount = Mount::new();
//!     std::fs::write(mount.path().join("a"), "b").unwrap();
//!     Tree::of(mount.path()).assert_same(&Tree::of(mount.store()));
//! }
//! ```
//!
//! Nothing here skips: where a program or a right is missing the test fails and says what to install.
#![allow(dead_code, unused_imports, reason = "each test program uses a part of what they share")]

mod index;
mod machine;
mod mount;
mod run;
mod tools;
mod tree;

pub(crate) use index::{Index, wheelhouse};
pub(crate) use machine::on_a_machine_of_its_own;
pub(crate) use mount::{Mount, MountBuilder};
pub(crate) use run::{FORGET_OTHERS, Finished, Run, ends_with_its_starter};
pub(crate) use tools::{binary, copy_program, needs, needs_root, tool, tools_directory};
pub(crate) use tree::{Entry, Kind, Tree, not_live, staged};
