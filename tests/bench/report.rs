//! The table for people and the document for programs.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Result;
use crate::environment::Environment;
use crate::measure::{Measured, OnSystem};
use crate::options::Options;
use crate::stats::Summary;

/// Prints what was measured.
pub(crate) fn table(environment: &Environment, results: &[Measured]) {
    println!(
        "\nLinux {}, {}, {} cores ({}), load {}\n\
         ratio: median over the rounds (quartiles); daemon: processor time for each; must: what it has to reach\n",
        environment.kernel,
        environment.filesystem,
        environment.cores,
        environment.processor,
        environment.load_average,
    );
    println!(
        "{:<32} {:<8} {:>10} {:>5}  {:>19} {:>5} {:>9} {:>6}  requests",
        "operation", "on", "time", "±%", "ratio", "must", "daemon", "asked"
    );
    for measured in results {
        if let Some(why) = measured.skipped {
            println!("{:<32} not measured: {why}", measured.operation);
        }
        for (number, system) in measured.systems.iter().enumerate() {
            let title = if number == 0 { &*measured.operation } else { "" };
            println!("{title:<32} {}", line(measured, system, number > 0));
        }
    }
}

fn line(measured: &Measured, system: &OnSystem, compared: bool) -> String {
    if let Some(why) = &system.failure {
        return format!("{:<8} FAILED: {why}", system.system);
    }
    let Some(time) = system.time() else {
        return format!("{:<8} nothing measured", system.system);
    };
    let mut line = format!(
        "{:<8} {:>10} {:>5.0}",
        system.system,
        duration(time.median),
        time.spread() * 100.0
    );
    if let Some(ratio) = system.ratio().filter(|_| compared) {
        let goal = measured.goal.map_or(String::new(), |goal| {
            let missed = if ratio.median > goal.must { "!" } else { "" };
            format!("{missed}{}", goal.must)
        });
        line += &format!("  {:>19} {goal:>5}", ratio_text(&ratio));
    }
    if let Some(daemon) = system.daemon_time() {
        line += &format!(" {:>9}", duration(daemon.median));
    }
    if let Some(all) = system.requests_in_all() {
        line += &format!(" {:>6}  {}", count(all), kinds(system));
    }
    line
}

fn ratio_text(ratio: &Summary) -> String {
    format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.lower_quartile, ratio.upper_quartile)
}

/// The kinds of requests that are at least a twentieth of all.
fn kinds(system: &OnSystem) -> String {
    let all = system.requests_in_all().unwrap_or(0.0);
    let each = system.requests.iter().flatten();
    let shown = each.filter(|(_, number)| *number > all / 20.0);
    let shown: Vec<_> = shown.map(|(kind, number)| format!("{kind} {}", count(*number))).collect();
    shown.join(", ")
}

fn count(number: f64) -> String {
    match number {
        0.0 => "0".to_owned(),
        0.0..0.01 => "<0.01".to_owned(),
        0.01..100.0 => format!("{number:.2}").trim_end_matches(".00").to_owned(),
        _ => format!("{number:.0}"),
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        0.0..1e-6 => format!("{:.0} ns", seconds * 1e9),
        1e-6..1e-3 => format!("{:.2} µs", seconds * 1e6),
        1e-3..1.0 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

/// Writes everything, each round's number included, to a file named after the time.
pub(crate) fn write_json(
    directory: &Path,
    options: &Options,
    environment: &Environment,
    results: &[Measured],
) -> Result<PathBuf> {
    let now = time::UtcDateTime::now();
    let written = now.format(&time::format_description::well_known::Rfc3339)?;
    let document = json!({
        "version": 1,
        "written": written,
        "rounds": options.rounds,
        "quick": options.quick,
        "environment": environment,
        "operations": results.iter().map(operation).collect::<Vec<_>>(),
    });
    fs::create_dir_all(directory)?;
    let path = directory.join(format!("{}.json", now.unix_timestamp()));
    fs::write(&path, serde_json::to_vec_pretty(&document)?)?;
    fs::copy(&path, directory.join("latest.json"))?;
    Ok(path)
}

fn operation(measured: &Measured) -> Value {
    json!({
        "name": measured.operation,
        "unit": measured.unit,
        "goal": measured.goal,
        "skipped": measured.skipped,
        "systems": measured.systems.iter().map(system).collect::<Vec<_>>(),
    })
}

fn system(system: &OnSystem) -> Value {
    json!({
        "system": system.system,
        "failure": system.failure,
        "seconds": system.time(),
        "ratio": system.ratio(),
        "daemon_seconds": system.daemon_time(),
        "rounds": system.seconds,
        "requests": system.requests_in_all(),
        "requests_by_kind": system.requests.as_ref().map(|each| {
            each.iter().cloned().map(|(kind, count)| (kind, json!(count))).collect::<serde_json::Map<_, _>>()
        }),
    })
}
