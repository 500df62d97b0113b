//! SEMANTICS 3.5 and 3.6: nobody's additions make `rmdir` fail for one who could not know of them, and whoever
//! works in a directory that is removed goes on working there.

mod common;
mod views;

use std::fs;

use common::Run;
use views::{Ground, everywhere};

#[test]
fn what_another_job_adds_meanwhile_does_not_keep_a_directory() {
    let ground = Ground::new();
    ground.shell("mkdir d; printf 1 >d/a");
    let (mut remover, mut other) = (ground.older(), ground.older());
    // As `rm -r` does it: list, remove what was listed, remove the directory.
    assert_eq!(remover.list("/d"), ["a"]);
    remover.does("unlink", ["/d/a"]);
    other.does("put", ["/d/added", "mine"]);
    other.does("mkdir", ["/d/inner"]);
    other.does("put", ["/d/inner/too", "mine"]);
    remover.does("rmdir", ["/d"]);
    ground.live_is([]);
    remover.refused(libc::ENOENT, "status", ["/d"]);
    let mut newer = ground.older();
    newer.refused(libc::ENOENT, "list", ["/d"]);
    // Its owner goes on using it.
    assert_eq!(other.read("/d/added"), "mine");
    assert_eq!(other.read("/d/inner/too"), "mine");
    other.does("put", ["/d/more", "mine"]);
    assert_eq!(other.read("/d/more"), "mine");
    ground.live_is([]);
    other.end();
    ground.reclaimed();
}

#[test]
fn what_the_remover_has_seen_in_a_directory_does_keep_it() {
    let ground = Ground::new();
    ground.shell("mkdir d; printf 1 >d/a");
    let (mut remover, mut other) = (ground.older(), ground.older());
    remover.refused(libc::ENOTEMPTY, "rmdir", ["/d"]);
    remover.does("unlink", ["/d/a"]);
    other.does("put", ["/d/added", "mine"]);
    assert_eq!(remover.list("/d"), ["added"]);
    remover.refused(libc::ENOTEMPTY, "rmdir", ["/d"]);
    ground.live_is([("d", "/"), ("d/added", "= mine")]);
    // What it has itself added is its own to remove.
    remover.does("unlink", ["/d/added"]);
    remover.does("put", ["/d/own", "text"]);
    remover.refused(libc::ENOTEMPTY, "rmdir", ["/d"]);
    remover.does("unlink", ["/d/own"]);
    remover.does("rmdir", ["/d"]);
    ground.live_is([]);
    // Not by one who never looked, either.
    ground.shell("mkdir e; printf 1 >e/a");
    ground.older().refused(libc::ENOTEMPTY, "rmdir", ["/e"]);
    ground.live_is([("e", "/"), ("e/a", "= 1")]);
}

#[test]
fn rm_succeeds_while_other_jobs_keep_adding() {
    let ground = Ground::new();
    // Jobs that go on running, so that what they added is theirs while `rm` works.
    let stop = ground.beside("signals").join("stop");
    let script = |own: usize| {
        format!(
            "set +e; exec 2>/dev/null; while ! [ -e {} ]; do
             mkdir -p d/x d/y/z; echo $$ >d/$$; echo $$ >d/y/z/{own}; done; true",
            stop.display()
        )
    };
    let mut writers = Vec::new();
    let root = ground.root().to_path_buf();
    for own in 0..2 {
        let (script, root) = (script(own), root.clone());
        writers.push(std::thread::spawn(move || {
            // A directory that is removed between two commands is no failure of the mount's.
            Run::shell(script).directory(root).succeeds();
        }));
    }
    let mut failed = Vec::new();
    for _ in 0..40 {
        // It is to be there when rm begins. Else rm takes what is made meanwhile for a file, on any filesystem.
        let removed = Run::shell("mkdir -p d; rm -rf d").directory(&root).finish();
        if !removed.status.success() {
            failed.push(removed.stderr);
        }
    }
    fs::write(&stop, "").unwrap();
    for writer in writers {
        writer.join().unwrap();
    }
    assert!(failed.is_empty(), "{} of 40 failed: {}", failed.len(), failed.concat());
    ground.shell("rm -rf d");
    ground.live_is([]);
    ground.reclaimed();
}

#[test]
fn a_job_goes_on_working_in_a_directory_that_was_removed_under_it() {
    everywhere(|ground| {
        ground.shell("mkdir -p d/sub; printf 1 >d/a; printf 2 >d/sub/b; printf outside >other");
        let mut older = ground.older();
        older.does("chdir", ["/d"]);
        older.does("open", ["d", "/d", "directory"]);
        ground.shell("rm -rf d");
        ground.live_is([("other", "= outside")]);
        let mut newer = ground.older();

        // By all three ways of naming what is in it.
        older.does("put", ["/d/new", "by path"]);
        older.does("put", ["here", "by working directory"]);
        older.does("put", ["@d/there", "by descriptor", "x"]);
        older.does("mkdir", ["made"]);
        older.does("put", ["/d/made/file", "below"]);
        older.does("symlink", ["here", "link"]);
        older.does("link", ["here", "hard"]);
        assert_eq!(older.list("/d"), ["a", "hard", "here", "link", "made", "new", "sub", "there"]);
        assert_eq!(older.read("@d/new"), "by path");
        assert_eq!(older.read("/d/link"), "by working directory");
        assert_eq!(older.read("there"), "by descriptor");
        // Writing again, renaming within, and removing.
        older.does("put", ["new", "twice"]);
        older.does("rename", ["new", "newest"]);
        older.does("unlink", ["hard"]);
        older.does("unlink", ["sub/b"]);
        older.refused(libc::ENOENT, "read", ["/d/new"]);
        older.refused(libc::ENOENT, "read", ["/d/sub/b"]);
        assert_eq!(older.read("/d/newest"), "twice");
        ground.live_is([("other", "= outside")]);

        // Out of it: what is finished there becomes live.
        older.does("rename", ["newest", "/result"]);
        older.does("rename", ["/d/made", "/made"]);
        let live = [
            ("other", "= outside"),
            ("result", "= twice"),
            ("made", "/"),
            ("made/file", "= below"),
        ];
        ground.live_is(live);
        assert_eq!(newer.read("/result"), "twice");
        assert_eq!(newer.read("/made/file"), "below");
        // And into it, where nobody who came later can look. Who ran before goes on seeing the name it had.
        older.does("rename", ["/other", "/d/in"]);
        assert_eq!(older.read("in"), "outside");
        assert_eq!(newer.read("/other"), "outside");
        let mut newest = ground.older();
        newest.refused(libc::ENOENT, "read", ["/other"]);
        newest.refused(libc::ENOENT, "list", ["/d"]);
        let live = [("result", "= twice"), ("made", "/"), ("made/file", "= below")];
        ground.live_is(live);
        older.end();
        newer.end();
        ground.reclaimed();
        ground.live_is(live);
        assert_eq!(newest.list("/"), ["anchor", "made", "result"]);
    });
}
