//! Counts what the kernel asks a daemon, and what answering costs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Result;
use crate::scratch::Scratch;
use crate::systems::System;

/// Requests by kind.
pub(crate) type Requests = BTreeMap<String, u64>;

/// Where the numbers come from.
pub(crate) enum Counter {
    /// The kernel's own trace of requests sent to FUSE daemons, the same for all of them. It does
    /// not show FORGET, which nobody waits for.
    Trace(Trace),
    /// What the daemon says.
    Status,
}

impl Counter {
    pub(crate) fn new(scratch: &Scratch) -> Counter {
        Trace::new(scratch).map_or(Counter::Status, Counter::Trace)
    }

    pub(crate) fn source(&self) -> &'static str {
        match self {
            Counter::Trace(_) => "tracepoint fuse:fuse_request_send",
            Counter::Status => "cachefs status",
        }
    }

    /// What `system`'s daemon was asked during `work`; nothing where that can't be known.
    pub(crate) fn during(
        &self,
        system: &dyn System,
        work: impl FnOnce() -> Result<u64>,
    ) -> Result<(u64, Option<Requests>)> {
        match (self, system.connection()) {
            (Counter::Trace(trace), Some(connection)) => {
                trace.start()?;
                let done = work();
                let counted = trace.stop(connection);
                Ok((done?, Some(counted?)))
            }
            (Counter::Status, Some(_)) => {
                let before = system.requests();
                let done = work()?;
                let after = system.requests();
                Ok((done, before.zip(after).map(|(before, after)| difference(&before, after))))
            }
            (_, None) => Ok((work()?, None)),
        }
    }
}

fn difference(before: &Requests, mut after: Requests) -> Requests {
    for (kind, count) in &mut after {
        *count -= before.get(kind).copied().unwrap_or(0).min(*count);
    }
    after.retain(|_, count| *count > 0);
    after
}

/// An instance of the kernel's tracing of our own.
pub(crate) struct Trace {
    instance: PathBuf,
    /// Where tracing was mounted by us, to be unmounted.
    mounted: Option<PathBuf>,
}

impl Trace {
    /// None where tracing is not to be had.
    fn new(scratch: &Scratch) -> Option<Trace> {
        let usual = Path::new("/sys/kernel/tracing");
        let (tracing, mounted) = if usual.join("events").exists() {
            (usual.to_owned(), None)
        } else {
            let own = scratch.directory("tracing").ok()?;
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("tracefs", &own, "tracefs", flags, None).ok()?;
            (own.clone(), Some(own))
        };
        let instance =
            tracing.join("instances").join(format!("cachefs-bench-{}", std::process::id()));
        // From here on, dropping cleans up.
        let made = fs::create_dir(&instance);
        let trace = Trace { instance, mounted };
        made.ok()?;
        trace.write("tracing_on", "0").ok()?;
        trace.write("buffer_size_kb", "32768").ok()?;
        trace.write("events/fuse/fuse_request_send/enable", "1").ok()?;
        Some(trace)
    }

    fn write(&self, file: &str, value: &str) -> std::io::Result<()> {
        fs::write(self.instance.join(file), value)
    }

    fn start(&self) -> Result<()> {
        self.write("trace", "")?;
        Ok(self.write("tracing_on", "1")?)
    }

    fn stop(&self, connection: u64) -> Result<Requests> {
        // RELEASE is sent in the background.
        std::thread::sleep(Duration::from_millis(20));
        self.write("tracing_on", "0")?;
        let trace = fs::read_to_string(self.instance.join("trace"))?;
        let ours = format!("connection {connection} req ");
        let mut requests = Requests::new();
        for line in trace.lines().filter(|line| line.contains(&ours)) {
            let kind = line.split_once("(FUSE_").and_then(|(_, rest)| rest.split_once(')'));
            let kind = kind.map_or("other".to_owned(), |(kind, _)| kind.to_lowercase());
            *requests.entry(kind).or_default() += 1;
        }
        Ok(requests)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.instance);
        if let Some(mounted) = &self.mounted {
            let _ = rustix::mount::unmount(mounted, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Time that all threads of a process have spent on a processor so far.
pub(crate) fn processor_time(pid: u32) -> Option<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let schedstat = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        nanoseconds += schedstat.split(' ').next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(nanoseconds))
}
