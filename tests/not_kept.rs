//! SEMANTICS 3.7: nobody waits for a lock that is gone, nor sees a temporary that has been given its name.

mod common;
mod views;

use std::collections::BTreeSet;

use views::Ground;

#[test]
fn lock_names_are_gone_for_all_at_once() {
    let ground = Ground::new();
    let names = ["x.lock", ".lock", "x.lck", "x.pid"];
    ground.shell("touch x.lock .lock x.lck x.pid");
    let mut older = ground.older();
    for name in names {
        assert!(older.exists(&format!("/{name}")));
    }
    let mut remover = ground.older();
    for name in names {
        remover.does("unlink", [format!("/{name}")]);
        older.refused(libc::ENOENT, "status", [format!("/{name}")]);
        older.does("put", [&format!("/{name}"), "taken", "x"]);
    }
    let listed: BTreeSet<String> = older.list("/").into_iter().collect();
    assert_eq!(listed.len(), 5);
}

#[test]
fn what_a_job_made_for_itself_alone_is_gone_for_all_when_it_removes_it() {
    let ground = Ground::new();
    let (mut holder, mut waiter) = (ground.older(), ground.older());
    ground.shell("printf x >own");
    type Step = (&'static str, Vec<&'static str>);
    let ways: [(Step, &str); 5] = [
        (("put", vec!["/guard", "", "x"]), "unlink"),
        (("put", vec!["/guard", "pid", "x"]), "unlink"),
        (("mkdir", vec!["/guard"]), "rmdir"),
        (("link", vec!["/own", "/guard"]), "unlink"),
        (("symlink", vec!["own", "/guard"]), "unlink"),
    ];
    for ((take, arguments), release) in &ways {
        for _ in 0..3 {
            holder.does(take, arguments);
            assert!(waiter.exists("/guard"), "{take}");
            waiter.refused(libc::EEXIST, take, arguments);
            holder.does(release, ["/guard"]);
            waiter.refused(libc::ENOENT, "status", ["/guard"]);
            assert!(!waiter.list("/").contains(&"guard".to_owned()), "{take}");
            waiter.does(take, arguments);
            holder.refused(libc::EEXIST, take, arguments);
            waiter.does(release, ["/guard"]);
        }
    }
    // A temporary that gets its name: only the name that it has now.
    holder.does("put", ["/temporary", "text", "x"]);
    assert!(waiter.exists("/temporary"));
    holder.does("rename", ["/temporary", "/final"]);
    waiter.refused(libc::ENOENT, "status", ["/temporary"]);
    assert_eq!(waiter.read("/final"), "text");
    ground.live_is([("own", "= x"), ("final", "= text")]);
    ground.reclaimed();
}

#[test]
fn what_was_given_a_name_is_kept_although_its_maker_removes_it() {
    let ground = Ground::new();
    let mut maker = ground.older();
    maker.does("put", ["/temporary", "text", "x"]);
    maker.does("rename", ["/temporary", "/final"]);
    maker.does("mkdir", ["/building"]);
    maker.does("put", ["/building/file", "text", "x"]);
    maker.does("rename", ["/building", "/built"]);
    let mut older = ground.older();
    maker.does("unlink", ["/final"]);
    maker.does("remove", ["/built"]);
    maker.refused(libc::ENOENT, "read", ["/final"]);
    assert_eq!(older.read("/final"), "text");
    assert_eq!(older.read("/built/file"), "text");
    ground.live_is([]);
    older.end();
    ground.reclaimed();
}
