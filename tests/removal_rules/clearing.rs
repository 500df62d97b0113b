//! Who removes a tree while others work in it.

use crate::common::Run;
use crate::views::{Ground, PYTHON, eventually, scripts, soak};
use crate::{PRODUCT, begins_to_remove};

#[test]
fn what_comes_and_goes_in_a_directory_does_not_keep_it_from_being_removed() {
    let ground = Ground::new();
    ground.shell("mkdir directory; printf 1 >directory/1");
    let mut worker = ground.older();
    let mut remover = ground.agent();
    begins_to_remove(&mut remover, "/directory");
    remover.does("unlink", ["/directory/1"]);
    worker.does("put", ["/directory/temporary", "text", "x"]);
    worker.does("unlink", ["/directory/temporary"]);
    worker.does("put", ["/directory/new", "text", "x"]);
    remover.does("rmdir", ["/directory"]);
    remover.refused(libc::ENOENT, "status", ["/directory"]);
    assert_eq!(worker.read("/directory/new"), "text");
}

#[test]
fn who_goes_back_to_a_directory_he_has_listed_has_not_listed_it_again() {
    let ground = Ground::new();
    ground.shell("mkdir -p directory/inner; printf 1 >directory/inner/1");
    let mut worker = ground.older();
    let mut remover = ground.agent();
    begins_to_remove(&mut remover, "/directory");
    remover.does("close", ["d"]);
    remover.does("open", ["inner", "/directory/inner", "directory"]);
    remover.does("unlink", ["@inner/1"]);
    worker.does("put", ["/directory/new", "text", "x"]);
    // As `fts` goes up, when it has closed what it came from.
    remover.does("open", ["up", "@inner/..", "directory"]);
    remover.does("rmdir", ["@up/inner"]);
    remover.does("rmdir", ["/directory"]);
    remover.refused(libc::ENOENT, "status", ["/directory"]);
    assert_eq!(worker.read("/directory/new"), "text");
}

#[test]
fn who_lists_again_what_is_there_does_not_remove_it() {
    let ground = Ground::new();
    ground.shell("mkdir directory; printf 1 >directory/1");
    let mut worker = ground.older();
    let mut remover = ground.agent();
    begins_to_remove(&mut remover, "/directory");
    remover.does("unlink", ["/directory/1"]);
    worker.does("put", ["/directory/new", "text", "x"]);
    assert_eq!(remover.list("/directory"), ["new"]);
    remover.refused(libc::ENOTEMPTY, "rmdir", ["/directory"]);
}

/// What others have moved away is there for the listing only.
#[test]
fn what_was_moved_away_does_not_keep_a_directory_from_being_removed() {
    let ground = Ground::new();
    ground.shell("mkdir archive cache");
    let [mut installer, mut remover] = ground.agents();
    installer.does("mkdir", ["/cache/.tmp"]);
    begins_to_remove(&mut remover, "/cache");
    installer.does("rename", ["/cache/.tmp", &format!("/archive/{PRODUCT}")]);
    remover.does("status", ["/cache/.tmp"]);
    remover.does("rmdir", ["/cache"]);
    remover.end();
    ground.agent().refused(libc::ENOENT, "status", ["/cache"]);
    assert_eq!(installer.list("/archive"), [PRODUCT]);
}

/// As `walkdir` does it, by which uv removes: far down in a tree it has read the directories above to their ends, and
/// closed them.
#[test]
fn what_is_moved_away_stays_for_who_has_closed_what_he_listed_and_removes_on() {
    let ground = Ground::new();
    ground.shell("mkdir -p archive cache/old; printf 1 >cache/old/1");
    let [mut installer, mut remover] = ground.agents();
    installer.does("mkdir", ["/cache/.tmp"]);
    installer.does("put", ["/cache/.file", "text", "x"]);
    begins_to_remove(&mut remover, "/cache");
    remover.does("open", ["old", "/cache/old", "directory"]);
    assert_eq!(remover.list("@old"), ["1"]);
    remover.does("close", ["d"]);
    remover.does("unlink", ["/cache/old/1"]);
    remover.does("close", ["old"]);
    remover.does("rmdir", ["/cache/old"]);
    installer.does("rename", ["/cache/.tmp", &format!("/archive/{PRODUCT}")]);
    installer.does("rename", ["/cache/.file", "/archive/file"]);
    remover.does("unlink", ["/cache/.file"]);
    assert_eq!(remover.list("/cache/.tmp"), [""; 0]);
    remover.does("rmdir", ["/cache/.tmp"]);
    remover.does("rmdir", ["/cache"]);
    remover.end();
    assert_eq!(installer.list("/archive"), ["file", PRODUCT]);
}

/// As tools that remove what is left over do it: they list, and then look at each. By then a job may have put its
/// temporary directory in place.
#[test]
fn who_lists_a_directory_removes_old_names_and_not_what_has_moved() {
    let ground = Ground::new();
    ground.shell("mkdir archive");
    let [mut installer, mut remover, mut other] = ground.agents();
    assert_eq!(other.list("/archive"), [""; 0]);
    installer.does("mkdir", ["/.tmp"]);
    installer.does("mkdir", ["/.tmp/code"]);
    for name in ["a", "b"] {
        installer.does("put", [&format!("/.tmp/code/{name}"), name]);
    }
    begins_to_remove(&mut remover, "/");
    assert_eq!(remover.list("/.tmp/code"), ["a", "b"]);
    remover.does("unlink", ["/.tmp/code/a"]);
    let product = format!("/archive/{PRODUCT}");
    installer.does("rename", ["/.tmp", &product]);
    // Everybody else sees the new name only.
    for agent in [&mut installer, &mut other] {
        agent.refused(libc::ENOENT, "status", ["/.tmp"]);
    }
    assert_eq!(remover.list("/.tmp"), ["code"]);
    remover.does("unlink", ["/.tmp/code/b"]);
    remover.does("rmdir", ["/.tmp/code"]);
    remover.does("rmdir", ["/.tmp"]);
    remover.refused(libc::ENOENT, "status", ["/.tmp"]);
    remover.does("close", ["d"]);
    remover.end();
    let mut later = ground.agent();
    for agent in [&mut installer, &mut other, &mut later] {
        assert_eq!(agent.list(&format!("{product}/code")), ["a", "b"]);
        assert_eq!(agent.read(&format!("{product}/code/a")), "a");
    }
}

/// As `rm -r` does it, by descriptors: it goes on in a directory wherever that is.
#[test]
fn who_removes_by_a_descriptor_does_not_remove_what_was_moved_away() {
    let ground = Ground::new();
    ground.shell("mkdir archive");
    let [mut installer, mut remover] = ground.agents();
    installer.does("mkdir", ["/.tmp"]);
    installer.does("mkdir", ["/.tmp/code"]);
    for name in ["a", "b", "code/c"] {
        installer.does("put", [&format!("/.tmp/{name}"), name]);
    }
    remover.does("open", ["top", "/", "directory"]);
    assert_eq!(remover.list("@top"), [".tmp", "anchor", "archive"]);
    remover.does("open", ["d", "/.tmp", "directory"]);
    assert_eq!(remover.list("@d"), ["a", "b", "code"]);
    remover.does("unlink", ["@d/a"]);
    let product = format!("/archive/{PRODUCT}");
    installer.does("rename", ["/.tmp", &product]);
    remover.does("unlink", ["@d/b"]);
    remover.does("open", ["e", "@d/code", "directory"]);
    assert_eq!(remover.list("@e"), ["c"]);
    remover.does("unlink", ["@e/c"]);
    remover.does("close", ["e"]);
    remover.does("rmdir", ["@d/code"]);
    remover.does("close", ["d"]);
    remover.does("rmdir", ["/.tmp"]);
    let mut later = ground.agent();
    for agent in [&mut installer, &mut later] {
        assert_eq!(agent.list(&product), ["a", "b", "code"]);
        assert_eq!(agent.read(&format!("{product}/code/c")), "code/c");
    }
    // Nor is it spared from him when he comes to where it is now.
    remover.does("remove", ["/archive"]);
    remover.end();
    ground.agent().refused(libc::ENOENT, "status", ["/archive"]);
}

/// As `rm -r` does it: it closes what it has listed, gets back by "..", and gives up where it has not come from.
#[test]
fn who_removes_gets_back_to_where_he_came_from_although_that_was_moved() {
    let ground = Ground::new();
    ground.shell("mkdir archive");
    let [mut installer, mut remover] = ground.agents();
    for directory in ["/.tmp", "/.tmp/a", "/.tmp/a/b", "/.tmp/a/b/c"] {
        installer.does("mkdir", [directory]);
    }
    installer.does("put", ["/.tmp/a/b/c/file", "text"]);
    begins_to_remove(&mut remover, "/");
    let came_from = ["/.tmp/a/b", "/.tmp/a", "/.tmp"].map(|path| remover.inode(path));
    for (path, below) in [("/.tmp", "a"), ("/.tmp/a", "b"), ("/.tmp/a/b", "c")] {
        remover.does("open", ["on the way", path, "directory"]);
        assert_eq!(remover.list("@on the way"), [below]);
        remover.does("close", ["on the way"]);
    }
    remover.does("open", ["at", "/.tmp/a/b/c", "directory"]);
    assert_eq!(remover.list("@at"), ["file"]);
    remover.does("unlink", ["@at/file"]);
    let product = format!("/archive/{PRODUCT}");
    installer.does("rename", ["/.tmp", &product]);
    let mut below = "c";
    for (above, inode) in ["b", "a", ".tmp"].into_iter().zip(came_from) {
        remover.does("open", ["up", "@at/..", "directory"]);
        assert_eq!(remover.inode("@up"), inode, "{above}");
        remover.does("close", ["at"]);
        remover.does("rmdir", [&format!("@up/{below}")]);
        remover.does("open", ["at", "@up", "directory"]);
        remover.does("close", ["up"]);
        below = above;
    }
    remover.does("open", ["up", "@at/..", "directory"]);
    assert_eq!(remover.inode("@up"), remover.inode("@d"));
    remover.does("rmdir", ["@up/.tmp"]);
    for name in ["at", "up", "d"] {
        remover.does("close", [name]);
    }
    // Under its new name it is one directory to all.
    let mut later = ground.agent();
    later.refused(libc::ENOENT, "status", [&format!("{product}/a/new")]);
    installer.does("put", [&format!("{product}/a/new"), "new"]);
    assert_eq!(later.read(&format!("{product}/a/new")), "new");
    for path in [product.clone(), format!("{product}/a"), format!("{product}/a/b/c")] {
        assert_eq!(installer.inode(&path), later.inode(&path));
    }
    for agent in [&mut installer, &mut later, &mut remover] {
        assert_eq!(agent.read(&format!("{product}/a/b/c/file")), "text");
        assert_eq!(agent.list(&format!("{product}/a")), ["b", "new"]);
    }
    // Who works there goes on.
    let work = format!("{product}/a/b");
    later.does("chdir", [&work]);
    remover.does("remove", ["/archive"]);
    remover.end();
    ground.agent().refused(libc::ENOENT, "status", ["/archive"]);
    eventually("it has a path", || later.ask("getcwd", ()) == Ok(work.as_str().into()));
    assert_eq!(later.read(&format!("{work}/c/file")), "text");
}

/// What a job made and takes away again is seen by nobody else, but by those who list the directory: until they
/// don't any more.
#[test]
fn who_lists_a_directory_goes_on_seeing_what_is_taken_away() {
    let ground = Ground::new();
    let [mut maker, mut lister, mut other] = ground.agents();
    maker.does("put", ["/temporary", "text"]);
    maker.does("mkdir", ["/lock"]);
    assert_eq!(other.read("/temporary"), "text");
    for name in ["/looked-at", "/cleared"] {
        maker.does("mkdir", [name]);
    }
    maker.does("put", ["/cleared/file", "text", "x"]);
    begins_to_remove(&mut lister, "/");
    assert!(lister.list("/looked-at").is_empty());
    for name in ["/lock", "/looked-at"] {
        maker.does("rmdir", [name]);
    }
    // As a tool removes a temporary directory, and nobody a lock.
    maker.does("remove", ["/cleared"]);
    maker.does("rename", ["/temporary", "/result"]);
    lister.does("status", ["/looked-at"]);
    assert!(lister.list("/cleared").is_empty());
    assert_eq!(lister.read("/temporary"), "text");
    lister.refused(libc::ENOENT, "status", ["/lock"]);
    for agent in [&mut maker, &mut other] {
        for name in ["/lock", "/looked-at", "/cleared", "/temporary"] {
            agent.refused(libc::ENOENT, "status", [name]);
        }
    }
    lister.does("close", ["d"]);
    // Closing a directory is told to the daemon a little later.
    eventually("it sees them no more", || {
        lister.list("/").iter().all(|name| name == "anchor" || name == "result")
    });
    for name in ["/looked-at", "/cleared", "/temporary"] {
        lister.refused(libc::ENOENT, "status", [name]);
    }
    for agent in [maker, lister, other] {
        agent.end();
    }
    ground.reclaimed();
}

/// Who goes through a deep tree may have too many directories open: it reads all that is left in one of them,
/// closes it, and goes on with that when it has come up again.
#[test]
fn who_removes_a_tree_goes_on_seeing_what_was_in_directories_that_it_has_closed() {
    let ground = Ground::new();
    ground.shell("mkdir -p tree/deep; echo >tree/old; echo >tree/deep/old");
    let [mut maker, mut remover] = ground.agents();
    for name in ["/tree/temporary", "/tree/later"] {
        maker.does("put", [name, "text"]);
    }
    for name in ["/tree/scratch", "/tree/uv.lock"] {
        maker.does("put", [name, "text", "x"]);
    }
    begins_to_remove(&mut remover, "/tree");
    remover.does("unlink", ["/tree/old"]);
    for name in ["/tree/scratch", "/tree/uv.lock"] {
        maker.does("unlink", [name]);
    }
    remover.does("unlink", ["/tree/scratch"]);
    remover.refused(libc::ENOENT, "unlink", ["/tree/uv.lock"]);
    maker.does("rename", ["/tree/temporary", "/tree/result"]);
    remover.does("open", ["deep", "/tree/deep", "directory"]);
    assert_eq!(remover.list("@deep"), ["old"]);
    remover.does("close", ["d"]);
    // The daemon hears of what was closed in order.
    remover.does("open", ["e", "/", "directory"]);
    remover.does("close", ["e"]);
    maker.does("rename", ["/tree/later", "/tree/other-result"]);
    remover.does("unlink", ["/tree/deep/old"]);
    for name in ["/tree/temporary", "/tree/later"] {
        remover.does("unlink", [name]);
        remover.refused(libc::ENOENT, "unlink", [name]);
    }
    remover.does("close", ["deep"]);
    for name in ["/tree/result", "/tree/other-result"] {
        maker.does("status", [name]);
    }
}

/// Two remove one tree at once: whoever comes second to a name finds it still. Else a lock that is given up is
/// gone for all at once.
#[test]
fn who_lists_a_directory_goes_on_seeing_what_another_removes_who_lists_it() {
    let ground = Ground::new();
    let [mut maker, mut one, mut two] = ground.agents();
    maker.does("mkdir", ["/tree"]);
    for name in ["/tree/.lock", "/tree/held.lock"] {
        maker.does("put", [name, "text"]);
    }
    for remover in [&mut one, &mut two] {
        begins_to_remove(remover, "/tree");
    }
    maker.does("unlink", ["/tree/held.lock"]);
    two.refused(libc::ENOENT, "status", ["/tree/held.lock"]);
    one.does("unlink", ["/tree/.lock"]);
    for agent in [&mut maker, &mut one] {
        agent.refused(libc::ENOENT, "status", ["/tree/.lock"]);
    }
    two.does("unlink", ["/tree/.lock"]);
    for remover in [&mut one, &mut two] {
        remover.does("close", ["d"]);
        remover.does("rmdir", ["/tree"]);
    }
    for agent in [maker, one, two] {
        agent.end();
    }
    ground.reclaimed();
}

/// Or two would build in one directory.
#[test]
fn a_lock_that_is_held_is_one_still_where_somebody_removes_all_around_it() {
    let ground = Ground::new();
    ground.shell("mkdir build; echo >build/.lock; echo >build/source");
    let [mut holder, mut waiter, mut remover, mut later] = ground.agents();
    holder.does("open", ["lock", "/build/.lock", "r+"]);
    holder.does("flock", ["lock", "EX"]);
    waiter.does("open", ["anchor", "/anchor", "r"]);
    begins_to_remove(&mut remover, "/build");
    for name in [".lock", "source"] {
        remover.does("unlink", [&format!("/build/{name}")]);
    }
    remover.does("rmdir", ["/build"]);
    remover.does("close", ["d"]);
    waiter.does("open", ["lock", "/build/.lock", "r+"]);
    waiter.refused(libc::EAGAIN, "flock", ["lock", "EX"]);
    later.refused(libc::ENOENT, "status", ["/build"]);
    // Nor for those who come when it is back.
    later.does("mkdir", ["/build"]);
    assert_eq!(later.list("/build"), [".lock"]);
    later.does("open", ["lock", "/build/.lock", "r+"]);
    later.refused(libc::EAGAIN, "flock", ["lock", "EX"]);
    holder.does("close", ["lock"]);
    waiter.does("flock", ["lock", "EX"]);
    later.refused(libc::EAGAIN, "flock", ["lock", "EX"]);
    waiter.does("close", ["lock"]);
    later.does("flock", ["lock", "EX"]);
    for agent in [holder, waiter, remover, later] {
        agent.end();
    }
    ground.reclaimed();
}

/// The kernel remembers listings, for all. What one alone sees in a directory is not listed to others.
#[test]
fn who_has_opened_a_directory_is_listed_what_he_sees_himself() {
    let ground = Ground::new();
    ground.shell("mkdir directory; touch directory/gone directory/there");
    let [mut reader, mut remover] = ground.agents();
    for agent in [&mut reader, &mut remover] {
        agent.does("open", ["d", "/directory", "directory"]);
    }
    remover.does("unlink", ["/directory/gone"]);
    for _ in 0..2 {
        assert_eq!(reader.list("@d"), ["gone", "there"]);
        assert_eq!(remover.list("@d"), ["there"]);
    }
}

#[test]
fn who_clears_up_beside_others_who_do_comes_through() {
    let ground = Ground::new();
    ground.shell("mkdir temporary");
    let script = scripts().join("clears_up.py");
    let rounds = if soak() { "2000" } else { "250" };
    Run::new(PYTHON).arg(script).arg(ground.root().join("temporary")).arg(rounds).succeeds();
}

#[test]
fn who_installs_beside_others_who_remove_all_comes_through() {
    let ground = Ground::new();
    let script = scripts().join("archives.py");
    let seconds = if soak() { "60" } else { "10" };
    Run::new(PYTHON).arg(script).arg(ground.root()).arg(seconds).succeeds();
}
