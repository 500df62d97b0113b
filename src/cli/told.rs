//! What a daemon tells of itself, as `status --json` has it.

use std::time::Duration;

use cachefs_mount::fuse::Operation;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::service::Running;
use super::{options, show};
use crate::cache::{Degraded, Known, PruneOptions, Totals, Usage};
use crate::store;

/// What a user has, and may have.
fn used(usage: &Usage) -> Value {
    let limit = |limit: u64| (limit < u64::MAX).then_some(limit);
    json!({
        "uid": usage.user,
        "used": {"bytes": usage.used.bytes, "files": usage.used.files},
        "limit": {"bytes": limit(usage.limit.bytes), "files": limit(usage.limit.files)},
        "over": usage.over.is_some(),
    })
}

/// How a mount is doing. What the store holds is counted anew if that was done longer ago than `fresh`.
pub(super) fn status(running: &Running, fresh: Duration) -> Value {
    let cache = &running.cache;
    let (counts, totals, known) = (cache.counts(), cache.totals(), cache.known(fresh));
    let (retired, spilled) = (cache.retired(), cache.spilled());
    let kernel: Map<String, Value> =
        running.mount.features().list().into_iter().map(|(k, v)| (k.into(), v.into())).collect();
    let operations = running.mount.requests();
    let requests: Map<String, Value> =
        operations.iter().map(|of| (of.name.into(), of.count().into())).collect();
    let space = rustix::fs::fstatvfs(running.store.root())
        .ok()
        .map(|s| json!({"bytes": s.f_blocks * s.f_frsize, "available": s.f_bavail * s.f_frsize}));
    let (step, done, of) = cache.prune_progress();
    let readers = cache.readers();
    let holders = readers.iter().filter(|reader| reader.retired.files > 0).count();
    let mut containment = running.containment.to_json();
    containment["store_closed"] = store::is_closed(running.store.path()).into();
    let all = totals.all_tools();
    json!({
        "mountpoint": running.mountpoint.to_string_lossy(),
        "store": running.store.path().to_string_lossy(),
        "pid": std::process::id(),
        "since": running.since.format(&Rfc3339).ok(),
        "access": running.access.name(),
        "degraded": cache.degraded().as_ref().map(degraded),
        "connection": running.mount.connection(),
        "space": space,
        "live": known.as_ref().map(live),
        "units": known.as_ref().map(|known| known.units),
        "pruning": {"step": step, "done": done, "of": of},
        "limits": limits(&running.pruning),
        "spilled": {"bytes": spilled.bytes, "files": spilled.files},
        "users": cache.usages().iter().map(used).collect::<Vec<_>>(),
        "retired": {"bytes": retired.bytes, "files": retired.files, "readers": holders},
        "readers": readers.len(),
        "reader": options::grouping_name(running.readers.grouping),
        "retain_for": running.keep.retain_for.as_secs(),
        "grace": running.keep.grace.as_secs(),
        "idle": running.readers.idle.as_secs(),
        "nodes": counts.nodes,
        "handles": counts.handles,
        "hits": all.hits,
        "misses": all.misses,
        "tools": tools(&totals, known.as_ref()),
        "pruned": {"units": all.pruned_units, "bytes": all.pruned_bytes},
        "reclaimed": {"bytes": totals.reclaimed.bytes, "files": totals.reclaimed.files},
        "published": totals.published,
        "spills": totals.spilled,
        "read_bytes": totals.read_bytes,
        "written_bytes": totals.written_bytes,
        "kernel": kernel,
        "containment": containment,
        "metrics": running.metrics.map(|at| at.to_string()),
        "requests": requests,
        "latency": latency(&operations),
    })
}

fn degraded(degraded: &Degraded) -> Value {
    let since = OffsetDateTime::from(degraded.since).replace_nanosecond(0).ok();
    json!({"since": since.and_then(|at| at.format(&Rfc3339).ok()), "reason": degraded.reason})
}

fn live(known: &Known) -> Value {
    json!({
        "bytes": known.live.bytes, "files": known.live.files,
        "in_use": known.in_use.bytes, "at": show::time(known.at),
    })
}

/// By tool: what it keeps, and what was asked of that. Only those of which there is something to tell.
fn tools(totals: &Totals, known: Option<&Known>) -> Value {
    let tools = totals.tools.iter().filter_map(|(name, numbers)| {
        let held = known.and_then(|known| known.tools.get(name));
        let (units, held) = held.copied().unwrap_or_default();
        let is_known = units > 0 || *numbers != Default::default();
        is_known.then(|| {
            json!({
                "tool": name, "units": units, "bytes": held.bytes, "files": held.files,
                "hits": numbers.hits, "misses": numbers.misses,
                "pruned_units": numbers.pruned_units, "pruned_bytes": numbers.pruned_bytes,
            })
        })
    });
    tools.collect()
}

/// How long answers took, by operation, in microseconds: the mean, and by which time half of them, and 99 of
/// 100, were made, to the ends of some classes; and how many were in each class.
fn latency(operations: &[Operation]) -> Value {
    let measured = operations.iter().filter(|of| of.measured() > 0).map(|of| {
        let mean = of.together.as_secs_f64() * 1e6 / of.measured() as f64;
        let told = json!({
            "mean": (mean * 10.0).round() / 10.0, "p50": of.quantile(0.5), "p99": of.quantile(0.99),
            "seconds": of.together.as_secs_f64(), "classes": of.took,
        });
        (of.name.to_owned(), told)
    });
    Value::Object(measured.collect())
}

/// What the mount was told to keep.
fn limits(options: &PruneOptions) -> Value {
    json!({
        "max_size": options.limits.max_size.map(|size| size.to_string()),
        "max_age": options.limits.max_age.map(|age| age.as_secs()),
        "min_free": options.limits.min_free.map(|size| size.to_string()),
        "prune_every": options.every.map(|every| every.as_secs()),
        "layout": options.layout.map_or_else(|| "auto".to_owned(), |layout| layout.name()),
    })
}
