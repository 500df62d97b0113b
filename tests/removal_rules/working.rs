//! Working directories that are removed.

use crate::views::{Ground, eventually};

/// Nobody looks anything up there: the daemon sees to it.
#[test]
fn a_working_directory_that_was_removed_keeps_its_path() {
    let ground = Ground::new();
    ground.shell("mkdir -p one/two");
    let mut worker = ground.older();
    worker.does("chdir", ["/one/two"]);
    ground.agent().does("remove", ["/one"]);
    let mut later = ground.agent();
    later.refused(libc::ENOENT, "status", ["/one"]);
    eventually("it has a path", || worker.ask("getcwd", ()) == Ok("/one/two".into()));
    later.refused(libc::ENOENT, "status", ["/one"]);
}

/// The kernel lets go of a name when somebody asks for it who does not see it any more, long after that.
#[test]
fn a_working_directory_keeps_its_path_when_others_look_for_it() {
    let ground = Ground::new();
    ground.shell("mkdir -p one/two");
    let mut worker = ground.older();
    worker.does("chdir", ["/one"]);
    let cleaned = ground.clean(&["one"]);
    assert!(cleaned.status.success(), "{cleaned}");
    for _ in 0..3 {
        ground.agent().refused(libc::ENOENT, "status", ["/one"]);
        eventually("it has a path", || worker.ask("getcwd", ()) == Ok("/one".into()));
    }
}

/// Two work in directories that had one name, of which only one can be shown by it.
#[test]
fn nobody_is_shown_his_working_directory_for_ever() {
    let ground = Ground::new();
    ground.shell("mkdir one two");
    let [mut first, mut second] = ground.agents();
    let name = "/one";
    for (worker, next) in [(&mut first, "/two"), (&mut second, "/three")] {
        worker.list(name);
        worker.does("chdir", [name]);
        let mut remover = ground.agent();
        remover.does("rmdir", [name]);
        if next == "/two" {
            remover.does("rename", [next, name]);
        }
        remover.end();
    }
    ground.agent().refused(libc::ENOENT, "status", [name]);
    eventually("one of them has a path", || {
        [&mut first, &mut second].into_iter().any(|it| it.ask("getcwd", ()) == Ok(name.into()))
    });
    let lookups = || ground.mount().status()["requests"]["lookup"].as_u64().unwrap();
    let mut before = lookups();
    eventually("nobody looks anything up any more", || {
        let now = lookups();
        std::mem::replace(&mut before, now) == now
    });
}
