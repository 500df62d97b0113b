//! The contract as a program, and whether the engine and a real mount keep it.
//!
//! * `model`: SEMANTICS 1 to 3 once more, as the reference;
//! * `contract`: that the reference says what the contract's sentences say;
//! * `engine`: random programs of several readers against the engine itself;
//! * `mounted`: the same against a real mount, with a process for each reader;
//! * `users`: SEMANTICS 5.3 once more, and random deeds of several users;
//! * `regressions`: programs that once failed, shrunk;
//! * `lock_races`: what one does with a lock file in the midst of what another does;
//! * `interleavings`: publishing, retiring and looking up at the same time, in every order.
//!
//! `CACHEFS_SOAK=STEPS` runs that many steps instead of those of every day.

#[path = "../common/mod.rs"]
mod common;
#[path = "../conformance/mod.rs"]
mod conformance;

mod contract;
mod engine;
mod interleavings;
mod model;
mod mounted;
mod program;
mod races;
mod regressions;
mod users;

use engine::Engine;
use model::Model;
use mounted::{Ground, Mounted};
use program::{Step, Tricky, agree, programs};
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

/// Steps of one program.
const LENGTH: usize = 50;

/// How many steps to take.
fn steps(usual: usize) -> usize {
    let asked = std::env::var("CACHEFS_SOAK").ok();
    asked.map_or(usual, |steps| steps.parse().expect("CACHEFS_SOAK is a number of steps"))
}

/// Runs random programs; one that fails is shown as short as it gets.
fn soak(steps: usize, run: impl Fn(&[Step]) -> Result<(), String>) {
    let cases = (steps / LENGTH) as u32;
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let config = Config { max_shrink_iters: 20_000, ..config };
    let result = TestRunner::new(config)
        .run(&programs(1..LENGTH * 2), |program| run(&program).map_err(TestCaseError::fail));
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, program)) => {
            let steps: Vec<String> =
                program.iter().map(|step| format!("    {step:?},\n")).collect();
            panic!("{why}\nin the program\n[\n{}]", steps.concat());
        }
        Err(error) => panic!("{error}"),
    }
}

/// With a kernel that has memory for all it hears, and with one that has none.
fn in_the_engine(program: &[Step], tricky: Tricky) -> Result<(), String> {
    for remembers in [true, false] {
        let mut engine = Engine::new(remembers);
        agree(program, &mut Model::new(), &mut engine, tricky)
            .and_then(|()| engine.end())
            .map_err(|why| format!("(a kernel that remembers: {remembers}) {why}"))?;
    }
    Ok(())
}

#[test]
fn the_engine_does_as_the_model_says() {
    soak(steps(60_000), |program| in_the_engine(program, Tricky::Skipped));
}

#[test]
fn a_process_of_this_program_answers() {
    mounted::serve();
}

#[test]
fn a_mount_does_as_the_model_says() {
    let ground = std::cell::RefCell::new(Ground::new());
    soak(steps(4_000), |program| {
        let mut ground = ground.borrow_mut();
        let mut mounted = Mounted::new(&mut ground);
        agree(program, &mut Model::new(), &mut mounted, Tricky::Skipped)
    });
}
