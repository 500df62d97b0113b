//! Who begins while something is removed, and what he sees.

use crate::begins_to_remove;
use crate::views::{Agent, Ground};

#[test]
fn who_begins_in_the_middle_of_a_removal_sees_all_of_it_until_it_ends() {
    let ground = Ground::new();
    ground.shell("mkdir cache; for i in 1 2 3 4; do printf $i >cache/$i; done");
    let witness = ground.older();
    let [mut remover, mut middle] = ground.agents();
    begins_to_remove(&mut remover, "/cache");
    remover.does("unlink", ["/cache/1"]);
    remover.does("unlink", ["/cache/2"]);
    for name in ["1", "2", "3", "4"] {
        assert_eq!(middle.read(&format!("/cache/{name}")), name, "half a cache");
    }
    remover.does("unlink", ["/cache/3"]);
    remover.does("unlink", ["/cache/4"]);
    remover.does("rmdir", ["/cache"]);
    remover.does("close", ["d"]);
    let mut later = ground.older();
    assert_eq!(middle.list("/cache"), ["1", "2", "3", "4"]);
    assert_eq!(middle.read("/cache/1"), "1");
    later.refused(libc::ENOENT, "status", ["/cache"]);
    remover.refused(libc::ENOENT, "status", ["/cache"]);
    ground.live_is([("anchor", "= anchor")]);
    for agent in [witness, middle, later, remover] {
        agent.end();
    }
    ground.reclaimed();
}

/// Between two installs there may be none for a moment, and the next one begins before the removal ends.
#[test]
fn who_begins_in_the_middle_sees_also_what_went_while_nobody_else_ran() {
    let ground = Ground::new();
    ground.shell("mkdir cache; for i in 1 2 3 4; do printf $i >cache/$i; done");
    ground.reclaimed();
    let [mut remover, mut other, mut middle] = ground.agents();
    begins_to_remove(&mut remover, "/cache");
    remover.does("unlink", ["/cache/1"]);
    assert_eq!(other.list("/cache"), ["1", "2", "3", "4"]);
    other.end();
    remover.does("unlink", ["/cache/2"]);
    for name in ["1", "2", "3", "4"] {
        assert_eq!(middle.read(&format!("/cache/{name}")), name, "half a cache");
    }
    remover.does("close", ["d"]);
    for agent in [middle, remover] {
        agent.end();
    }
    ground.reclaimed();
}

/// One for whom all is kept, and one who has listed a directory and the first that lies in it, and closed the one above.
fn has_come_to_the_first_of_two(ground: &Ground) -> (Agent, Agent) {
    ground
        .shell("mkdir -p cache/one cache/two; printf 1 >cache/one/file; printf 2 >cache/two/file");
    let witness = ground.older();
    let mut remover = ground.agent();
    begins_to_remove(&mut remover, "/cache");
    remover.does("open", ["one", "/cache/one", "directory"]);
    assert_eq!(remover.list("@one"), ["file"]);
    remover.does("close", ["d"]);
    (witness, remover)
}

/// `fts` closes what it has listed before it is done there, and goes back by "..".
#[test]
fn a_removal_goes_on_between_two_directories() {
    let ground = Ground::new();
    let (witness, mut remover) = has_come_to_the_first_of_two(&ground);
    remover.does("unlink", ["@one/file"]);
    remover.does("open", ["up", "@one/..", "directory"]);
    remover.does("close", ["one"]);
    remover.does("rmdir", ["@up/one"]);
    let mut middle = ground.agent();
    assert_eq!(middle.read("/cache/one/file"), "1", "half a cache");
    assert_eq!(middle.read("/cache/two/file"), "2");
    remover.does("open", ["two", "@up/two", "directory"]);
    assert_eq!(remover.list("@two"), ["file"]);
    remover.does("close", ["up"]);
    remover.does("unlink", ["@two/file"]);
    remover.does("close", ["two"]);
    remover.does("rmdir", ["/cache/two"]);
    remover.does("rmdir", ["/cache"]);
    assert_eq!(middle.list("/cache"), ["one", "two"]);
    ground.agent().refused(libc::ENOENT, "status", ["/cache"]);
    for agent in [witness, middle, remover] {
        agent.end();
    }
    ground.reclaimed();
}

/// As `walkdir` does it, which may have none open between two of them.
#[test]
fn a_removal_goes_on_while_no_directory_is_open() {
    let ground = Ground::new();
    let (witness, mut remover) = has_come_to_the_first_of_two(&ground);
    remover.does("unlink", ["/cache/one/file"]);
    remover.does("close", ["one"]);
    remover.does("rmdir", ["/cache/one"]);
    let mut middle = ground.agent();
    assert_eq!(middle.read("/cache/one/file"), "1", "half a cache");
    remover.does("remove", ["/cache/two"]);
    assert_eq!(middle.read("/cache/two/file"), "2");
    remover.does("rmdir", ["/cache"]);
    ground.agent().refused(libc::ENOENT, "status", ["/cache"]);
    for agent in [witness, middle, remover] {
        agent.end();
    }
    ground.reclaimed();
}

/// What one of them has taken away is gone, also what it took away since the other began.
#[test]
fn who_begins_after_one_of_two_removals_sees_all_of_the_other_and_nothing_of_that() {
    let ground = Ground::new();
    ground.shell("mkdir one two; for i in 1 2; do printf $i >one/$i; printf $i >two/$i; done");
    let witness = ground.older();
    let [mut first, mut second, mut later] = ground.agents();
    begins_to_remove(&mut first, "/one");
    first.does("unlink", ["/one/1"]);
    begins_to_remove(&mut second, "/two");
    second.does("unlink", ["/two/1"]);
    first.does("unlink", ["/one/2"]);
    first.does("close", ["d"]);
    first.does("rmdir", ["/one"]);
    first.end();
    second.does("unlink", ["/two/2"]);
    later.refused(libc::ENOENT, "status", ["/one"]);
    assert_eq!(later.list("/two"), ["1", "2"]);
    second.does("rmdir", ["/two"]);
    assert_eq!(later.read("/two/1"), "1");
    for agent in [witness, second, later] {
        agent.end();
    }
    ground.reclaimed();
}

#[test]
fn who_begins_between_two_removals_sees_the_first() {
    let ground = Ground::new();
    ground.shell("mkdir one two; printf a >one/file; printf b >two/file");
    let mut remover = ground.older();
    remover.does("remove", ["/one"]);
    let mut between = ground.older();
    between.refused(libc::ENOENT, "status", ["/one"]);
    remover.does("remove", ["/two"]);
    between.refused(libc::ENOENT, "status", ["/one"]);
    assert_eq!(between.read("/two/file"), "b");
}

/// As `mkdir -p` does. The kernel knows that it is there, but asks once more for who means to make it.
#[test]
fn who_finds_that_a_directory_is_made_already_goes_on_seeing_it() {
    let ground = Ground::new();
    ground.shell("mkdir -p cache/part; printf text >cache/part/file");
    let witness = ground.older();
    let [mut maker, mut looker, mut remover] = ground.agents();
    for agent in [&mut maker, &mut looker] {
        assert!(agent.exists("/cache/part"));
    }
    maker.refused(libc::EEXIST, "mkdir", ["/cache"]);
    remover.does("remove", ["/cache"]);
    assert_eq!(maker.read("/cache/part/file"), "text");
    looker.refused(libc::ENOENT, "status", ["/cache"]);
    for agent in [witness, maker, looker, remover] {
        agent.end();
    }
    ground.reclaimed();
}

#[test]
fn what_looks_like_a_lock_is_kept_in_a_directory_that_was_put_in_place() {
    let ground = Ground::new();
    let mut maker = ground.older();
    maker.does("mkdir", ["/temporary"]);
    for name in ["uv.lock", "plain"] {
        maker.does("put", [&format!("/temporary/{name}"), "text"]);
    }
    maker.does("rename", ["/temporary", "/package"]);
    let mut older = ground.older();
    let mut remover = ground.older();
    remover.does("remove", ["/package"]);
    assert_eq!(older.list("/package"), ["plain", "uv.lock"]);
    assert_eq!(older.read("/package/uv.lock"), "text");
    older.end();
    // Beside it, it is a lock.
    let mut older = ground.older();
    maker.does("put", ["/uv.lock", ""]);
    assert!(older.exists("/uv.lock"));
    remover.does("unlink", ["/uv.lock"]);
    assert!(!older.exists("/uv.lock"));
}

/// It is nothing that anybody waits for the end of.
#[test]
fn who_clears_up_what_is_his_own_shows_nobody_half_of_what_others_have_removed() {
    let ground = Ground::new();
    ground.shell("mkdir cache; printf 1 >cache/archive; printf 2 >cache/pointer");
    let _older = ground.older();
    let [mut remover, mut builder] = ground.agents();
    builder.does("mkdir", ["/build"]);
    for file in ["/build/a", "/build/b"] {
        builder.does("put", [file, "text"]);
    }
    begins_to_remove(&mut remover, "/cache");
    remover.does("unlink", ["/cache/archive"]);
    begins_to_remove(&mut builder, "/build");
    builder.does("unlink", ["/build/a"]);
    remover.does("unlink", ["/cache/pointer"]);
    remover.does("rmdir", ["/cache"]);
    remover.end();
    let mut later = ground.agent();
    later.refused(libc::ENOENT, "status", ["/cache/pointer"]);
    later.refused(libc::ENOENT, "status", ["/cache"]);
}
