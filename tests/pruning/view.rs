//! A plan is applied as one change of view (SEMANTICS 6.3), whoever begins meanwhile.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::common::{Mount, Run};
use crate::ground::{left, prune, unit, wait_until};

const UNITS: usize = 1500;

#[test]
fn who_begins_meanwhile_sees_all_or_nothing() {
    let mount = Mount::builder().option("--layout").option("generic:2").mount();
    // In two folders, of which each has half of every pair.
    for folder in ["one", "two"] {
        fs::create_dir(mount.store().join(folder)).unwrap();
        for number in 0..UNITS {
            fs::create_dir(mount.store().join(folder).join(number.to_string())).unwrap();
        }
    }
    let over = AtomicBool::new(false);
    let count = || {
        // One job: the shell itself has something open.
        let script = "exec 3< one; ls one | wc -l; ls two | wc -l";
        let said = Run::shell(script).directory(mount.path()).succeeds();
        assert!(!said.stderr.contains("ls:"), "{said}");
        let counts = said.stdout.split_whitespace();
        counts.map(|count| count.parse::<usize>().unwrap()).collect::<Vec<_>>()
    };
    let seen = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = Vec::new();
            while !over.load(Ordering::SeqCst) {
                seen.push(count());
            }
            seen
        });
        let done = prune(&mount, &["--tool", "generic"]);
        over.store(true, Ordering::SeqCst);
        assert_eq!(done["units"].as_array().unwrap().len(), 2 * UNITS);
        watch.join().unwrap()
    });
    for counts in &seen {
        assert!(*counts == [UNITS; 2] || *counts == [0, 0], "{seen:?}");
    }
    assert_eq!(count(), [0, 0]);
}

/// Tools go on writing units while others are pruned.
#[test]
fn units_that_come_and_go_meanwhile_stay_whole() {
    let mount = Mount::new();
    for number in 0..20 {
        unit(mount.store(), &format!("old{number}"), 100 + number);
    }
    let folder = mount.path().join("pip/http-v2/a/b/c/d/e");
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let folder = &folder;
                scope.spawn(move || {
                    // As pip does: a body, then what tells of it.
                    let script = format!(
                        "for n in $(seq 150); do name=new{writer}-$n; echo body > t{writer}; mv t{writer} \
                         $name.body; echo head > t{writer}; mv t{writer} $name; cat old$((n % 20)) \
                         old$((n % 20)).body > /dev/null 2>&1 || true; done"
                    );
                    Run::shell(script).directory(folder).succeeds();
                })
            })
            .collect();
        let mut pruned = 0;
        while writers.iter().any(|writer| !writer.is_finished()) {
            pruned += prune(&mount, &["--max-size", "512K"])["units"].as_array().unwrap().len();
        }
        println!("{pruned} units pruned meanwhile");
    });
    // Whole, all of them; and when their makers have ended, any may go.
    left(mount.store());
    wait_until(&mount, "emptied", || {
        prune(&mount, &["--max-size", "0B"]);
        left(mount.store()).is_empty()
    });
}
