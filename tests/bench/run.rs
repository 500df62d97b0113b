//! How fast is a mount, compared with the plain directory it replaces?
//!
//! ```text
//! cargo bench                       # everything, a few minutes
//! cargo bench -- stat               # the operations whose name contains "stat"
//! cargo bench -- --quick            # small and short: does it still run?
//! cargo bench -- --with bindfs      # a rival beside it
//! ```
//!
//! All systems are measured in one run, on one filesystem, in turns: each round measures each
//! operation once on each system, every other round in the opposite order. What is reported is the
//! median over the rounds, and the ratio to the plain directory within the same round, so that a
//! machine that gets slower meanwhile does not change it.
//!
//! *Warm* means: the same was done just before. *Cold* means: the kernel was told to forget what it
//! can (`/proc/sys/vm/drop_caches`: names, or names and contents), for the plain directory as for the
//! mount, right before the clock was started; that needs root, and without it these are left out.
//!
//! The number of requests that the daemon gets for one operation is counted in a round of its own,
//! which is not timed. It does not depend on the machine.

mod environment;
mod kernel_cache;
mod measure;
mod operations;
mod options;
mod place;
mod report;
mod requests;
mod scratch;
mod stats;
mod systems;
mod watchdog;

use std::process::ExitCode;

/// What may go wrong, said to whoever started the benchmark.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let options = match options::Options::from_arguments(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}\n\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    if options.help {
        println!("{}", options::USAGE);
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and reports; whether every operation worked on every system.
fn run(options: &options::Options) -> Result<bool> {
    let operations = operations::selected(options);
    if options.list {
        for operation in &operations {
            println!("{}", operation.name);
        }
        return Ok(true);
    }
    if operations.is_empty() {
        return Err(format!("no operation is called like {:?}", options.filters).into());
    }
    let scratch = scratch::Scratch::new(&options.directory)?;
    let outside = scratch::Scratch::new(&options.outside.join("cachefs-bench"))?;
    let systems = systems::start(options, &scratch)?;
    let results = measure::all(options, (&scratch, &outside), &systems, &operations)?;
    let environment = environment::Environment::look(scratch.path(), &systems);
    drop(systems);
    report::table(&environment, &results);
    let written = report::write_json(&options.output, options, &environment, &results)?;
    eprintln!("written to {}", written.display());
    Ok(results.iter().all(measure::Measured::worked))
}
