//! What is counted, and how it is told: by `status`, by `top` and as metrics.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use crate::common::{Mount, Run, tools_directory};
use crate::ground::{SIZE, path, prune, read, unit, wait_until};

fn mounted() -> Mount {
    let mount = Mount::builder().options(["--metrics", "127.0.0.1:0"]).mount();
    for (hours, name) in ["b", "a"].into_iter().enumerate() {
        unit(mount.store(), name, hours as u64 + 10);
    }
    // Has the daemon look whose caches there are.
    prune(&mount, &["--older-than", "1000d", "--dry-run"]);
    mount
}

fn connect(mount: &Mount) -> TcpStream {
    let status = mount.status();
    TcpStream::connect(status["metrics"].as_str().unwrap()).unwrap()
}

/// What is answered to one request, head and all.
fn ask(mount: &Mount, request: &str) -> String {
    let mut stream = connect(mount);
    write!(stream, "{request} HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn metrics(mount: &Mount) -> String {
    let answer = ask(mount, "GET /metrics");
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("version=0.0.4"), "{head}");
    text.to_owned()
}

/// The value of one metric.
#[track_caller]
fn value(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}\n{text}")).parse().unwrap()
}

fn tool<'a>(status: &'a Value, name: &str) -> &'a Value {
    let tools = status["tools"].as_array().unwrap();
    tools.iter().find(|tool| tool["tool"] == name).unwrap_or_else(|| panic!("{status:#}"))
}

#[test]
fn uses_are_counted_by_tool() {
    let mount = mounted();
    for name in ["a", "a", "b"] {
        read(&mount, &path(name));
    }
    for name in ["c", "d"] {
        Run::new("test").arg("!").arg("-e").arg(mount.path().join(path(name))).succeeds();
    }
    let script = "head -c 5000 /dev/zero > new; cat new >/dev/null";
    Run::shell(script).directory(mount.path()).succeeds();
    prune(&mount, &[&path("b")]);
    wait_until(&mount, "reclaimed", || mount.status()["reclaimed"]["files"] == 2);
    let status = mount.status();
    let pip = tool(&status, "pip");
    assert_eq!((&pip["hits"], &pip["misses"]), (&3.into(), &2.into()), "{status:#}");
    assert_eq!((&pip["units"], &pip["pruned_units"]), (&1.into(), &1.into()), "{status:#}");
    assert!(pip["pruned_bytes"].as_u64().unwrap() > SIZE as u64, "{status:#}");
    let other = tool(&status, "other");
    assert_eq!((&other["hits"], &other["misses"]), (&1.into(), &1.into()), "{status:#}");
    assert_eq!(status["hits"], 4);
    assert_eq!(status["published"], 1);
    assert_eq!(status["written_bytes"], 5000);
    assert!(status["latency"]["lookup"]["p50"].is_u64(), "{status:#}");

    let text = metrics(&mount);
    assert_eq!(value(&text, r#"cachefs_hits_total{tool="pip"}"#), 3);
    assert_eq!(value(&text, r#"cachefs_misses_total{tool="pip"}"#), 2);
    assert_eq!(value(&text, r#"cachefs_pruned_units_total{tool="pip"}"#), 1);
    assert_eq!(value(&text, "cachefs_written_bytes_total"), 5000);
    assert_eq!(value(&text, "cachefs_degraded"), 0);
    let lookups = value(&text, r#"cachefs_request_seconds_count{operation="lookup"}"#);
    assert!(lookups >= status["requests"]["lookup"].as_u64().unwrap());

    let top =
        Run::new(crate::common::binary()).args(["top", "--once"]).arg(mount.path()).succeeds();
    top.says("pip").says("lookup").says(" files, 1 unit\n");
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let mount = mounted();
    let parse = "import sys\nfrom prometheus_client.parser import text_string_to_metric_families as parse\n\
                 for family in parse(sys.stdin.read()):\n    print(family.name, family.type, len(family.samples))";
    let text = metrics(&mount);
    let python = Run::new(tools_directory().join("venv/bin/python")).args(["-c", parse]);
    let said = python.input(text.as_str()).succeeds();
    for line in said.stdout.lines() {
        let words: Vec<_> = line.split(' ').collect();
        assert!(words[1] != "unknown" && words[2] != "0", "{line}");
    }
    let readme = include_str!("../../README.md");
    for metric in cachefs::metrics::LIST {
        assert!(
            readme.contains(&format!("`{}", metric.name)),
            "{} is not in README.md",
            metric.name
        );
        let family = metric.name.trim_end_matches("_total");
        // What has never been counted is not told.
        let by_tool = text.contains(&format!("# TYPE {} ", metric.name));
        assert!(!by_tool || said.stdout.contains(family), "{family}\n{said}");
    }
}

#[test]
fn other_requests_are_refused() {
    let mount = mounted();
    assert!(ask(&mount, "GET /").contains("/metrics"));
    assert!(ask(&mount, "GET /else").starts_with("HTTP/1.1 404"));
    assert!(ask(&mount, "POST /metrics").starts_with("HTTP/1.1 405"));
    let mut stream = connect(&mount);
    stream.write_all(b"\xff\x00 what\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400"));
    // Those who say nothing are cut off; until then, others wait.
    let silent: Vec<TcpStream> = (0..20).map(|_| connect(&mount)).collect();
    assert!(metrics(&mount).contains("cachefs_readers"));
    drop(silent);
}

#[test]
fn an_address_that_is_taken_is_an_error() {
    let mount = mounted();
    let status = mount.status();
    let taken = status["metrics"].as_str().unwrap();
    let (refused, _) = Mount::builder().options(["--metrics", taken]).refused();
    refused.says("can't answer with metrics at").says(taken);
    let (refused, _) = Mount::builder().options(["--metrics", "9464"]).refused();
    refused.says("127.0.0.1:9464");
    assert!(Mount::builder().mount().status()["metrics"].is_null());
}
