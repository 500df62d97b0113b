//! A few threads for operations that wait for the disk as a matter of course (`fsync(2)` and the
//! like), so that they don't keep others from being served.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;

const THREADS: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs in the order given, up to [`THREADS`] at once. Its threads end when it is dropped.
#[derive(Debug)]
pub(super) struct Pool {
    jobs: Sender<Job>,
}

impl Pool {
    pub(super) fn new() -> io::Result<Pool> {
        let (jobs, receiver) = channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..THREADS {
            let receiver = receiver.clone();
            std::thread::Builder::new()
                .name(format!("slow-{number}"))
                .spawn(move || work(&receiver))?;
        }
        Ok(Pool { jobs })
    }

    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The receiver lives as long as its threads, and they as long as this sender.
        if self.jobs.send(Box::new(job)).is_err() {
            tracing::error!("the threads for slow operations are gone");
        }
    }
}

fn work(receiver: &Mutex<Receiver<Job>>) {
    loop {
        let job = receiver.lock().recv();
        let Ok(job) = job else { return };
        // The reply inside a job answers EIO when it is dropped.
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("panic in a slow operation");
        }
    }
}
