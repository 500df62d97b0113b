//! SEMANTICS 6: a store in use is pruned by unit, and no tool that uses it is disturbed.
//!
//! The tools are those of `tests/layouts`, and so are their tests: here their caches are filled through a mount,
//! and pruned to half while a job runs that uses them.

#[path = "../common/mod.rs"]
mod common;

#[path = "../layouts/cargo.rs"]
mod cargo;
#[path = "../layouts/compilers.rs"]
mod compilers;
#[path = "../conformance/mod.rs"]
mod conformance;
#[path = "../layouts/go.rs"]
mod go;
#[path = "../layouts/hub.rs"]
mod hub;
#[path = "../layouts/npm.rs"]
mod npm;
#[path = "../layouts/pre_commit.rs"]
mod pre_commit;
#[path = "../layouts/proof.rs"]
#[allow(dead_code, reason = "the tests of a plain directory use more of it")]
mod proof;
#[path = "../layouts/python.rs"]
mod python;
#[path = "../layouts/serve.rs"]
mod serve;
#[path = "../layouts/uv.rs"]
mod uv;

mod by_hand;
mod cap;
mod ground;
mod job;
mod limits;
mod many;
mod numbers;
mod recency;
mod scene;
mod view;
