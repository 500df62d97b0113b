//! Caches that the tools themselves have made, several releases of them: every file belongs to one unit or
//! is known to be kept, and whichever unit goes, the tool gets along.
//!
//! A cache lies in a plain directory here; `tests/pruning` does the same with one that is mounted.
//! `CACHEFS_SOAK=1` removes every single unit of each cache; otherwise some are left out where the tool
//! takes long.

#[path = "../common/mod.rs"]
mod common;

mod cargo;
mod compilers;
mod go;
mod hub;
mod many;
mod npm;
mod pre_commit;
mod proof;
mod python;
mod scene;
mod serve;
mod strange;
mod together;
mod uv;
