//! Metrics in the text format of Prometheus, at `http://ADDR:PORT/metrics`.
//!
//! They are what `status` tells ([`LIST`] says of each where), and nothing is counted for them alone.

mod http;

use std::fmt::Write;

use cachefs_mount::fuse::CLASSES;
use serde_json::Value;

pub use self::http::{Exporter, bind};

/// What is told of one number.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    kind: Kind,
    /// Where it is in what `status` tells.
    at: &'static str,
}

/// How a metric is found in a status.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A number.
    Gauge,
    /// A number that only grows.
    Counter,
    /// Whether there is something.
    Whether,
    /// A number of each tool.
    ToolGauge,
    /// A number of each tool that only grows.
    ToolCounter,
    /// How long operations took.
    Times,
    /// Words about the mount.
    About,
}

impl Kind {
    /// As the text format has it.
    fn name(self) -> &'static str {
        match self {
            Kind::Gauge | Kind::Whether | Kind::ToolGauge | Kind::About => "gauge",
            Kind::Counter | Kind::ToolCounter => "counter",
            Kind::Times => "histogram",
        }
    }
}

macro_rules! metrics {
    ($($name:literal $kind:ident $at:literal $help:literal;)+) => {
        &[$(Metric { name: $name, help: $help, kind: Kind::$kind, at: $at }),+]
    };
}

/// All of them.
pub const LIST: &[Metric] = metrics! {
    "cachefs_info" About "" "The mount; always 1.";
    "cachefs_degraded" Whether "degraded" "Whether the store can't take what is written (see cachefs status).";
    "cachefs_store_bytes" Gauge "space.bytes" "Size of the store's filesystem.";
    "cachefs_store_available_bytes" Gauge "space.available" "What is free on it.";
    "cachefs_live_bytes" Gauge "live.bytes" "What the store holds, as counted last.";
    "cachefs_live_files" Gauge "live.files" "Files in the store, as counted last.";
    "cachefs_live_in_use_bytes" Gauge "live.in_use" "What is in units that running jobs have used, as counted last.";
    "cachefs_units" Gauge "units" "Units in the store, as counted last.";
    "cachefs_retired_bytes" Gauge "retired.bytes" "What was removed, and is kept for running jobs.";
    "cachefs_retired_files" Gauge "retired.files" "Files that were removed, and are kept for running jobs.";
    "cachefs_spilled_bytes" Gauge "spilled.bytes" "What the store did not take, until it is unmounted.";
    "cachefs_spilled_files" Gauge "spilled.files" "Files that the store did not take, until it is unmounted.";
    "cachefs_readers" Gauge "readers" "Running jobs.";
    "cachefs_open_handles" Gauge "handles" "Open files and directories.";
    "cachefs_known_nodes" Gauge "nodes" "Files and directories that the kernel knows.";
    "cachefs_tool_bytes" ToolGauge "bytes" "What a tool keeps in the store, as counted last.";
    "cachefs_tool_units" ToolGauge "units" "Units of a tool in the store, as counted last.";
    "cachefs_hits_total" ToolCounter "hits" "Files that were opened and were there.";
    "cachefs_misses_total" ToolCounter "misses" "Names that were asked for and were not there, but for what the kernel answers alone.";
    "cachefs_pruned_units_total" ToolCounter "pruned_units" "Units that were pruned.";
    "cachefs_pruned_bytes_total" ToolCounter "pruned_bytes" "What was in units that were pruned.";
    "cachefs_reclaimed_bytes_total" Counter "reclaimed.bytes" "What was removed and is gone from the disk.";
    "cachefs_reclaimed_files_total" Counter "reclaimed.files" "Files that were removed and are gone from the disk.";
    "cachefs_published_total" Counter "published" "Files that took their names whole, in one step.";
    "cachefs_spills_total" Counter "spills" "Names that the store did not take.";
    "cachefs_read_bytes_total" Counter "read_bytes" "What the daemon has read for clients; with passthrough the kernel reads without it.";
    "cachefs_written_bytes_total" Counter "written_bytes" "What clients have written.";
    "cachefs_request_seconds" Times "latency" "How long the daemon took to answer the kernel.";
};

/// What a status says, as metrics.
pub fn text(status: &Value) -> String {
    let mut out = String::new();
    for metric in LIST {
        let mut rows = String::new();
        rows_of(metric, status, &mut rows);
        // What is not known yet is left out.
        if !rows.is_empty() {
            let (name, kind) = (metric.name, metric.kind.name());
            // Writing to a string does not fail.
            let _ = write!(out, "# HELP {name} {}\n# TYPE {name} {kind}\n{rows}", metric.help);
        }
    }
    out
}

fn rows_of(metric: &Metric, status: &Value, out: &mut String) {
    let name = metric.name;
    let said = |at: &str| at.split('.').fold(status, |value, key| &value[key]);
    let mut row = |labels: &str, value: f64| {
        let _ = writeln!(out, "{name}{labels} {value}");
    };
    match metric.kind {
        Kind::Gauge | Kind::Counter => {
            if let Some(value) = said(metric.at).as_f64() {
                row("", value);
            }
        }
        Kind::Whether => row("", if said(metric.at).is_null() { 0.0 } else { 1.0 }),
        Kind::ToolGauge | Kind::ToolCounter => {
            for tool in status["tools"].as_array().into_iter().flatten() {
                if let (Some(tool), Some(value)) = (tool["tool"].as_str(), tool[metric.at].as_f64())
                {
                    row(&format!("{{tool=\"{}\"}}", escaped(tool)), value);
                }
            }
        }
        Kind::Times => {
            for (operation, told) in said(metric.at).as_object().into_iter().flatten() {
                times(name, operation, told, out);
            }
        }
        Kind::About => {
            let word = |key: &str| escaped(status[key].as_str().unwrap_or(""));
            let labels = format!(
                "{{version=\"{}\",mountpoint=\"{}\",store=\"{}\",access=\"{}\"}}",
                env!("CARGO_PKG_VERSION"),
                word("mountpoint"),
                word("store"),
                word("access")
            );
            row(&labels, 1.0);
        }
    }
}

fn times(name: &str, operation: &str, told: &Value, out: &mut String) {
    let operation = escaped(operation);
    let classes = told["classes"].as_array().into_iter().flatten().filter_map(Value::as_u64);
    let mut seen = 0;
    let ends = CLASSES.iter().map(|end| (*end as f64 / 1e6).to_string());
    for (end, count) in ends.chain(["+Inf".to_owned()]).zip(classes) {
        seen += count;
        let _ = writeln!(out, "{name}_bucket{{operation=\"{operation}\",le=\"{end}\"}} {seen}");
    }
    let seconds = told["seconds"].as_f64().unwrap_or(0.0);
    let _ = writeln!(out, "{name}_sum{{operation=\"{operation}\"}} {seconds}");
    let _ = writeln!(out, "{name}_count{{operation=\"{operation}\"}} {seen}");
}

/// As the value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_known_is_told() {
        let status = json!({
            "mountpoint": "/m \"x\"\n", "store": "/s\\", "access": "shared",
            "degraded": null, "readers": 2, "live": null,
            "tools": [{"tool": "uv", "hits": 3, "bytes": 4096}],
            "latency": {"open": {"seconds": 0.5, "classes": [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]}},
        });
        let told = text(&status);
        for line in [
            "# TYPE cachefs_readers gauge",
            "cachefs_readers 2",
            "cachefs_degraded 0",
            "cachefs_hits_total{tool=\"uv\"} 3",
            "cachefs_request_seconds_bucket{operation=\"open\",le=\"0.000002\"} 1",
            "cachefs_request_seconds_bucket{operation=\"open\",le=\"+Inf\"} 3",
            "cachefs_request_seconds_sum{operation=\"open\"} 0.5",
            "cachefs_request_seconds_count{operation=\"open\"} 3",
        ] {
            assert!(told.lines().any(|told| told == line), "{line}\n{told}");
        }
        assert!(told.contains(r#"mountpoint="/m \"x\"\n",store="/s\\""#), "{told}");
        // It is not known yet.
        assert!(!told.contains("cachefs_live_bytes"), "{told}");
    }

    #[test]
    fn names_are_as_they_should_be() {
        for metric in LIST {
            let counts = matches!(metric.kind, Kind::Counter | Kind::ToolCounter);
            assert_eq!(metric.name.ends_with("_total"), counts, "{}", metric.name);
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{}", metric.name);
            let same = LIST.iter().filter(|other| other.name == metric.name).count();
            assert_eq!(same, 1, "{}", metric.name);
        }
    }
}
