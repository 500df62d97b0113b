//! Jobs of made-up processes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::made_up::MadeUp;
use super::registry::LATELY;
use super::*;
use crate::cache::view::During;

const IDLE: Duration = Duration::from_secs(60);

struct Bench {
    system: Arc<MadeUp>,
    readers: Readers,
    ended: Arc<parking_lot::Mutex<Vec<u64>>>,
}

impl Bench {
    fn new(grouping: Grouping) -> Bench {
        let system = MadeUp::new();
        let asked = Arc::clone(&system) as Arc<dyn System>;
        let readers = Readers::new(asked, ReaderOptions { grouping, idle: IDLE });
        let ended = Arc::<parking_lot::Mutex<Vec<u64>>>::default();
        let told = Arc::clone(&ended);
        readers.when_one_ends(Box::new(move |job| told.lock().push(job.id)));
        Bench { system, readers, ended }
    }

    fn job(&self, thread: u32) -> Arc<Job> {
        self.readers.job(&caller(thread))
    }

    fn known(&self, thread: u32) -> Option<u64> {
        self.readers.known(&caller(thread)).map(|job| job.id)
    }

    fn ended(&self) -> Vec<u64> {
        self.ended.lock().clone()
    }

    fn is_empty(&self) -> bool {
        self.readers.registry.records() == [0; 5] && self.system.watched() == [0; 3]
    }
}

fn caller(thread: u32) -> Caller {
    Caller { uid: 1000, gid: 1000, thread }
}

#[test]
fn descendants_belong_to_the_job_of_their_ancestors() {
    let bench = Bench::new(Grouping::Tree);
    bench.system.start(10, 1);
    bench.system.start(11, 10);
    bench.system.start(12, 11);
    bench.system.start(20, 1);
    let job = bench.job(10);
    assert_eq!((job.pid, job.uid, job.reader().id), (10, 1000, job.id));
    assert_eq!(bench.job(12).id, job.id, "the one between has never been here");
    let other = bench.job(20);
    assert!(other.id != job.id && other.began > job.began);
    let all: Vec<u64> = bench.readers.all().iter().map(|job| job.id).collect();
    assert_eq!(all, [job.id, other.id]);
    let later = bench.readers.tick();
    let seen = |by, at| bench.readers.is_seen_by_others(by, at);
    assert!(!seen(job.id, other.began) && seen(job.id, later));
    assert!(!seen(other.id, job.began) && seen(other.id, other.began));
    assert!(!seen(12345, job.began) && seen(12345, other.began));
    // The first process ends, the job does not.
    bench.system.end(10);
    assert!(bench.readers.runs(job.id) && bench.ended().is_empty());
    assert_eq!(bench.known(12), Some(job.id));
    bench.system.end(12);
    assert!(!bench.readers.runs(job.id));
    assert_eq!(bench.ended(), [job.id]);
    bench.system.end(20);
    assert_eq!(bench.ended(), [job.id, other.id]);
    assert!(!bench.readers.is_seen_by_others(0, later));
    assert!(bench.is_empty());
}

#[test]
fn an_idle_job_adopts_nobody() {
    let bench = Bench::new(Grouping::Tree);
    bench.system.start(10, 1);
    for child in 11..16 {
        bench.system.start(child, 10);
    }
    let shell = bench.job(10);
    bench.system.pass(IDLE / 2);
    assert_eq!(bench.job(11).id, shell.id);
    bench.system.pass(IDLE);
    assert_ne!(bench.job(12).id, shell.id);
    // What belongs to it goes on doing so.
    bench.system.start_thread(99, 11);
    assert_eq!(bench.job(99).id, shell.id);
    bench.system.pass(IDLE);
    shell.opened();
    assert_eq!(bench.job(13).id, shell.id, "it has something open");
    bench.system.pass(IDLE);
    shell.closed();
    assert_eq!(bench.known(14), None);
    assert_eq!(bench.job(10).id, shell.id, "it is used again");
    assert_eq!(bench.known(14), Some(shell.id), "and that was not remembered for too long");
}

#[test]
fn an_idle_job_is_passed_over() {
    let bench = Bench::new(Grouping::Tree);
    bench.system.start(10, 1);
    bench.system.start(11, 10);
    let outer = bench.job(10);
    bench.system.pass(IDLE);
    let inner = bench.job(11);
    assert_ne!(outer.id, inner.id);
    bench.system.pass(IDLE);
    outer.opened();
    bench.system.start(12, 11);
    assert_eq!(bench.job(12).id, outer.id);
}

#[test]
fn who_looks_around_begins_no_job() {
    let bench = Bench::new(Grouping::Tree);
    bench.system.start(10, 1);
    bench.system.start(11, 10);
    assert_eq!(bench.known(10), None);
    assert_eq!(bench.known(0), None);
    assert!(bench.is_empty());
    let job = bench.job(10);
    assert_eq!(bench.known(11), Some(job.id), "it is remembered no longer than it is true");
    bench.system.start(20, 1);
    assert_eq!((bench.known(20), bench.known(20)), (None, None));
    assert_ne!(bench.job(20).id, job.id);
}

#[test]
fn ancestors_are_asked_up_to_a_bound() {
    let bench = Bench::new(Grouping::Tree);
    bench.system.start(1000, 1);
    for pid in 1001..1200 {
        bench.system.start(pid, pid - 1);
    }
    let job = bench.job(1000);
    assert_eq!(bench.job(1064).id, job.id);
    assert_ne!(bench.job(1064 + 65).id, job.id);
    // Two that are each other's parents hang nobody.
    bench.system.start(30, 31);
    bench.system.start(31, 30);
    assert_ne!(bench.job(30).id, Job::UNKNOWN);
}

#[test]
fn all_whose_pids_are_unknown_are_one_job_that_never_ends() {
    let bench = Bench::new(Grouping::Tree);
    assert!(!bench.readers.runs(Job::UNKNOWN));
    assert!(!bench.readers.is_seen_by_others(7, bench.readers.tick()));
    let unknown = bench.job(0);
    assert_eq!((unknown.id, unknown.pid, unknown.began), (Job::UNKNOWN, 0, Moment(0)));
    assert!(bench.readers.runs(Job::UNKNOWN));
    // One who is gone already has a job that does not run.
    let gone = bench.job(4711).id;
    assert!(gone != Job::UNKNOWN && !bench.readers.runs(gone));
    assert!(bench.readers.is_seen_by_others(7, Moment(1)));
    assert!(!bench.readers.is_seen_by_others(Job::UNKNOWN, bench.readers.tick()));
    assert_eq!((bench.known(0), bench.readers.process(&caller(0))), (Some(Job::UNKNOWN), 0));
    // A process whose end would not be noticed is one of them.
    bench.system.start(10, 1);
    bench.system.refuse(true);
    assert_eq!(bench.job(10).id, Job::UNKNOWN);
    bench.system.refuse(false);
    assert_ne!(bench.job(10).id, Job::UNKNOWN);
    bench.system.end(10);
    assert_eq!(bench.ended().len(), 1);
    assert_eq!(bench.readers.all().len(), 1);
}

#[test]
fn a_refused_process_leaves_no_job() {
    let bench = Bench::new(Grouping::Tree);
    bench.system.start(10, 1);
    bench.system.refuse(true);
    assert_eq!(bench.known(10), None);
    bench.job(10);
    assert_eq!(bench.readers.registry.records(), [0, 0, 0, 0, 1]);
}

#[test]
fn threads_belong_to_their_process() {
    let bench = Bench::new(Grouping::Tree);
    bench.system.start(10, 1);
    bench.system.start_thread(11, 10);
    bench.system.start_thread(12, 10);
    let job = bench.job(11);
    assert_eq!((job.pid, bench.job(10).id, bench.job(12).id), (10, job.id, job.id));
    assert_eq!(bench.readers.process(&caller(12)), 10);
    bench.system.end_thread(11);
    assert_eq!(bench.readers.registry.records(), [2, 1, 1, 0, 1]);
    // Its number is used again, by another job.
    bench.system.start(11, 1);
    assert_ne!(bench.job(11).id, job.id);
    bench.system.end(10);
    bench.system.end(11);
    assert_eq!(bench.ended().len(), 2);
    assert!(bench.is_empty());
}

#[test]
fn a_number_used_again_is_another_job() {
    let bench = Bench::new(Grouping::Tree);
    let mut ids = Vec::new();
    for _ in 0..10_000 {
        bench.system.start(10, 1);
        ids.push(bench.job(10).id);
        bench.system.end(10);
    }
    assert_eq!(bench.ended(), ids);
    ids.dedup();
    assert_eq!(ids.len(), 10_000);
    assert!(bench.is_empty());
}

#[test]
fn a_cgroup_is_a_job() {
    let bench = Bench::new(Grouping::Cgroup);
    bench.system.start_in(10, 1, 500);
    bench.system.start_in(11, 1, 500);
    bench.system.start_in(12, 1, 500);
    bench.system.start_in(20, 10, 600);
    let job = bench.job(10);
    bench.system.pass(IDLE * 2);
    assert_eq!(bench.job(11).id, job.id);
    assert_ne!(bench.job(20).id, job.id);
    bench.system.end(10);
    bench.system.end(11);
    assert!(bench.readers.runs(job.id), "there is one left, which has never been here");
    assert_eq!(bench.known(12), Some(job.id));
    bench.system.end(12);
    assert_eq!(bench.ended(), [job.id]);
    // Without a cgroup it is the ancestors that count.
    bench.system.start_in(30, 1, 0);
    bench.system.start_in(31, 30, 0);
    let job = bench.job(30);
    assert_eq!(bench.job(31).id, job.id);
    for pid in [20, 30, 31] {
        bench.system.end(pid);
    }
    assert!(bench.is_empty());
}

#[test]
fn a_cgroup_that_can_t_be_read_ends_with_its_last_known_process() {
    let bench = Bench::new(Grouping::Cgroup);
    bench.system.hide_groups();
    bench.system.start_in(10, 1, 500);
    bench.system.start_in(11, 1, 500);
    let job = bench.job(10);
    bench.system.end(10);
    assert_eq!(bench.ended(), [job.id]);
    bench.system.end(11);
    assert!(bench.is_empty());
}

#[test]
fn fates_files_and_locks_are_the_system_s() {
    let bench = Bench::new(Grouping::Tree);
    bench.system.start(10, 1);
    bench.system.start_thread(11, 10);
    let fate = |thread| bench.readers.fate(&caller(thread));
    assert_eq!((fate(10), fate(0)), (Fate::Fine, Fate::Fine));
    bench.job(11);
    bench.system.kill(10);
    assert_eq!(fate(11), Fate::Killed);
    bench.system.open(10, 77);
    bench.system.lock(78);
    assert!(bench.readers.has_open(10, 77) && !bench.readers.has_open(10, 78));
    assert!(bench.readers.is_locked((0, 0), 78) && !bench.readers.is_locked((0, 0), 77));
    bench.system.close(10, 77);
    bench.system.unlock(78);
    assert!(!bench.readers.has_open(10, 77) && !bench.readers.is_locked((0, 0), 78));
}

#[test]
fn one_that_ends_may_be_asked_about_while_it_is_told() {
    let system = MadeUp::new();
    let asked = Arc::clone(&system) as Arc<dyn System>;
    let options = ReaderOptions { grouping: Grouping::Tree, idle: IDLE };
    let readers = Arc::new(Readers::new(asked, options));
    let (inside, saw) = (Arc::downgrade(&readers), Arc::new(AtomicBool::new(false)));
    let told = Arc::clone(&saw);
    readers.when_one_ends(Box::new(move |job| {
        let Some(readers) = inside.upgrade() else { return };
        let is_gone = !readers.runs(job.id) && readers.all().is_empty();
        let records = readers.registry.records();
        readers.job(&caller(20));
        told.store(is_gone && records == [0; 5], Ordering::Relaxed);
    }));
    system.start(10, 1);
    system.start(20, 1);
    readers.job(&caller(10));
    system.end(10);
    assert!(saw.load(Ordering::Relaxed));
}

#[test]
fn a_removal_that_others_run_beside_keeps_all_that_it_takes_from_then_on() {
    let bench = Bench::new(Grouping::Tree);
    bench.system.pass(Duration::from_secs(1));
    bench.system.start(10, 1);
    let remover = bench.job(10);
    let kept = || {
        let at = bench.readers.tick_of_removal(&remover, &caller(10));
        bench.readers.is_seen_by_others(remover.id, at)
    };
    assert!(!kept(), "nobody else has been there");
    bench.system.start(20, 1);
    bench.job(20);
    assert!(kept());
    bench.system.end(20);
    assert!(kept(), "who begins now sees what the other one would have seen");
    bench.system.pass(LATELY * 2);
    assert!(!kept(), "the first removal has ended by itself");
    bench.system.start(30, 1);
    bench.job(30);
    bench.system.end(30);
    bench.readers.removal_ended(&remover);
    bench.system.pass(LATELY / 2);
    assert!(kept(), "others come and go");
    bench.readers.removal_ended(&remover);
    let at = bench.readers.tick();
    assert!(!bench.readers.is_seen_by_others(remover.id, at), "one name alone");
}

/// Processes come, call and go in several threads at once, while others remove things.
#[test]
fn in_any_order_nothing_is_lost_and_nothing_left() {
    const THREADS: u32 = 4;
    const ROUNDS: u32 = 3000;
    let bench = Bench::new(Grouping::Tree);
    let (begun, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let remover = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let at = bench.readers.tick();
                if !bench.readers.is_seen_by_others(0, at) {
                    // From now on nobody is there who began before.
                    let all = bench.readers.all();
                    assert!(all.iter().all(|job| job.began > at));
                }
            }
        });
        let workers: Vec<_> = (0..THREADS)
            .map(|worker| {
                let (bench, begun) = (&bench, &begun);
                scope.spawn(move || {
                    let mut random = u64::from(worker) + 1;
                    for round in 0..ROUNDS {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let pid = 100_000 * (worker + 1) + 4 * round;
                        bench.system.start(pid, 1);
                        bench.system.start(pid + 1, pid);
                        bench.system.start_thread(pid + 2, pid + 1);
                        let job = bench.job(pid);
                        begun.fetch_add(1, Ordering::Relaxed);
                        assert_eq!(bench.job(pid + 2).id, job.id);
                        assert_eq!(bench.known(pid + 1), Some(job.id));
                        if random >> 63 == 0 {
                            bench.system.end(pid);
                            assert!(bench.readers.runs(job.id));
                            bench.system.end(pid + 1);
                        } else {
                            bench.system.end_thread(pid + 2);
                            bench.system.end(pid + 1);
                            assert!(bench.readers.runs(job.id));
                            bench.system.end(pid);
                        }
                        assert!(!bench.readers.runs(job.id));
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        remover.join().unwrap();
    });
    let mut ended = bench.ended();
    assert_eq!(ended.len() as u64, begun.load(Ordering::Relaxed));
    ended.sort_unstable();
    ended.dedup();
    assert_eq!(ended.len() as u64, begun.load(Ordering::Relaxed));
    assert!(bench.is_empty());
}

/// All threads of one process, and its children, call for the first time at the same moment.
#[test]
fn one_process_never_gets_two_jobs() {
    for round in 0..300 {
        let bench = Bench::new(Grouping::Tree);
        bench.system.start(10, 1);
        for thread in 11..15 {
            bench.system.start_thread(thread, 10);
        }
        let start = std::sync::Barrier::new(5);
        let ids: Vec<u64> = std::thread::scope(|scope| {
            let (bench, start) = (&bench, &start);
            let call = |thread| {
                scope.spawn(move || {
                    start.wait();
                    bench.job(thread).id
                })
            };
            let calls: Vec<_> = (10..15).map(call).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{round}: {ids:?}");
        bench.system.end(10);
        assert!(bench.is_empty());
    }
}

/// The kernel tells of closing a directory by the way, and of its removal at once.
#[test]
fn who_removes_directories_before_he_is_known_to_have_closed_them_goes_on_with_those_above() {
    let job = Job::new(Moment(1), (During::NONE, Moment(1)), 7, 0, Duration::ZERO);
    let [top, inner] = [1, 2];
    job.begins_to_list(top);
    job.begins_to_list(inner);
    assert!(job.ends_to_list(top).is_empty());
    for node in 100..1000 {
        job.begins_to_list(node);
        assert!(!job.has_done_with(node));
        assert!(job.is_listing(node));
        assert_eq!(job.ends_to_list(node).as_slice(), [node]);
    }
    assert!(job.is_listing(top));
    job.begins_to_list(3);
    assert!(job.ends_to_list(3).is_empty());
    assert!(job.has_done_with(3));
    assert!(job.goes_through_any());
    assert!(job.has_done_with(top) && !job.has_done_with(inner));
    assert!(!job.goes_through_any());
    assert_eq!(job.ends_to_list(inner).as_slice(), [inner]);
    assert!(!job.is_listing(inner));
}

/// Some close what they list when they have too many open, and remove what is in it later.
#[test]
fn who_removes_goes_on_with_what_he_has_closed() {
    let at = Duration::from_secs;
    let job = Job::new(Moment(1), (During::NONE, Moment(1)), 7, 0, at(1));
    let [top, inner, other] = [1, 2, 3];
    job.begins_to_list(top);
    job.begins_to_list(inner);
    job.note_removal();
    assert!(job.ends_to_list(top).is_empty());
    assert_eq!(job.ends_to_list(inner).as_slice(), [inner]);
    assert!(!job.is_listing(top));
    assert!(job.goes_through(top) && job.goes_through_any());
    assert!(!job.goes_through(inner) && !job.goes_through(other));
    job.touch(at(100), at(1));
    assert!(!job.goes_through(top) && !job.goes_through_any());
    job.note_removal();
    assert!(job.has_done_with(top));
    assert!(!job.goes_through_any());
    // Who removes nothing has done with what he has closed.
    let job = Job::new(Moment(2), (During::NONE, Moment(2)), 8, 0, at(1));
    job.begins_to_list(top);
    assert_eq!(job.ends_to_list(top).as_slice(), [top]);
}

#[test]
fn a_removal_ends_with_its_process() {
    let bench = Bench::new(Grouping::Tree);
    bench.system.start(10, 1);
    bench.system.start(11, 10);
    let job = bench.job(10);
    assert_eq!(bench.job(11).id, job.id);
    let at = bench.readers.tick_of_removal(&job, &caller(11));
    assert!(bench.readers.removals_began().is_some_and(|began| began < at));
    bench.system.end(11);
    assert!(bench.readers.runs(job.id));
    assert_eq!(bench.readers.removals_began(), None);
}
