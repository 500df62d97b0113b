//! What removals promise to those who begin, publish or clean up in the middle of them (SEMANTICS 3).

mod common;
mod views;

use common::Run;
use views::{Agent, Ground, PYTHON, eventually, scripts, soak};

/// A name that stands in no file by chance.
const PRODUCT: &str = "q7Vx2-JmN0aPz";

/// Begins to remove as `rm -r` does: lists a directory, and keeps it open.
fn begins_to_remove(remover: &mut Agent, directory: &str) {
    remover.does("open", ["d", directory, "directory"]);
    assert!(!remover.list("@d").is_empty());
}

#[test]
fn who_begins_in_the_middle_of_a_removal_sees_all_of_it_until_it_ends() {
    let ground = Ground::new();
    ground.shell("mkdir cache; for i in 1 2 3 4; do printf $i >cache/$i; done");
    // Without anybody else, nothing is kept.
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

/// `fts` closes what it has listed before it is done there, and goes back by "..".
#[test]
fn a_removal_goes_on_between_two_directories() {
    let ground = Ground::new();
    ground
        .shell("mkdir -p cache/one cache/two; printf 1 >cache/one/file; printf 2 >cache/two/file");
    let witness = ground.older();
    let mut remover = ground.agent();
    begins_to_remove(&mut remover, "/cache");
    remover.does("open", ["one", "/cache/one", "directory"]);
    assert_eq!(remover.list("@one"), ["file"]);
    remover.does("close", ["d"]);
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

#[test]
fn a_directory_comes_back_with_the_file_that_names_it() {
    let ground = Ground::new();
    let mut maker = ground.older();
    maker.does("mkdir", ["/archive"]);
    maker.does("mkdir", ["/temporary"]);
    maker.does("put", ["/temporary/code", "text"]);
    let product = format!("/archive/{PRODUCT}");
    maker.does("rename", ["/temporary", &product]);
    ground.agent().does("remove", ["/archive"]);
    let mut between = ground.older();
    between.refused(libc::ENOENT, "status", [&product]);
    assert_eq!(maker.read(&format!("{product}/code")), "text");
    maker.does("put", ["/pointer", &format!("see {PRODUCT}")]);
    for agent in [&mut maker, &mut between, &mut ground.agent()] {
        assert_eq!(agent.read("/pointer"), format!("see {PRODUCT}"));
        assert_eq!(agent.read(&format!("{product}/code")), "text");
    }
    let code = format!("archive/{PRODUCT}/code");
    assert_eq!(ground.live().get(&code).map(String::as_str), Some("= text"));
}

#[test]
fn what_a_job_has_not_made_does_not_come_back() {
    let ground = Ground::new();
    let product = format!("/archive/{PRODUCT}");
    ground.shell(&format!("mkdir -p archive/{PRODUCT}; printf text >archive/{PRODUCT}/code"));
    let mut other = ground.older();
    assert_eq!(other.read(&format!("{product}/code")), "text");
    ground.agent().does("remove", ["/archive"]);
    other.does("put", ["/pointer", &format!("see {PRODUCT}")]);
    ground.agent().refused(libc::ENOENT, "status", [&product]);
    assert_eq!(other.read(&format!("{product}/code")), "text");
}

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

/// Whether the directory with the name was removed name by name, or at once.
#[test]
fn what_comes_back_brings_back_what_it_names() {
    for at_once in [false, true] {
        let ground = Ground::new();
        let mut maker = ground.older();
        for directory in ["/archive", "/index-of-wheels", "/index-of-wheels/rich", "/temporary"] {
            maker.does("mkdir", [directory]);
        }
        maker.does("put", ["/temporary/code", "text"]);
        maker.does("rename", ["/temporary", &format!("/archive/{PRODUCT}")]);
        let wheel = "/index-of-wheels/rich/wheel";
        maker.does("symlink", [&format!("../../archive/{PRODUCT}"), wheel]);
        if at_once {
            assert!(ground.clean(&["archive", "index-of-wheels"]).status.success());
        } else {
            ground.shell("rm -rf archive index-of-wheels");
        }
        ground.live_is([("anchor", "= anchor")]);
        // Named by name, and only that.
        maker.does("put", ["/list", "index-of-wheels"]);
        let mut later = ground.older();
        assert_eq!(later.read(&format!("{wheel}/code")), "text");
    }
}

/// A word of a file may be the name of a directory inside a product. Half a product would be worse than none.
#[test]
fn a_part_of_what_was_put_in_place_does_not_come_back_without_the_rest() {
    let ground = Ground::new();
    let mut maker = ground.older();
    maker.does("mkdir", ["/archive"]);
    maker.does("mkdir", ["/temporary"]);
    maker.does("mkdir", ["/temporary/code-of-package"]);
    for file in ["/temporary/code-of-package/code", "/temporary/list-of-files"] {
        maker.does("put", [file, "text"]);
    }
    let product = format!("/archive/{PRODUCT}");
    maker.does("rename", ["/temporary", &product]);
    ground.shell("rm -r archive/*");
    maker.does("put", ["/log", "import code-of-package"]);
    ground.agent().refused(libc::ENOENT, "status", [&product]);
    // Nor is it spared, by one who has looked where the log is now.
    maker.does("put", ["/pointer", &format!("see {PRODUCT}")]);
    let mut remover = ground.agent();
    assert!(remover.list("/").contains(&"pointer".into()));
    maker.does("put", ["/log", "import code-of-package once more"]);
    remover.does("remove", [&product]);
    ground.agent().refused(libc::ENOENT, "status", [&product]);
}

/// The kernel has forgotten directories of which only those who saw them still know.
#[test]
fn all_of_a_directory_comes_back_however_deep_it_is() {
    let ground = Ground::new();
    let mut maker = ground.older();
    maker.does("mkdir", ["/archive"]);
    maker.does("mkdir", ["/temporary"]);
    let mut files = Vec::new();
    for branch in ["a", "b", "c", "d"] {
        let mut directory = format!("/{branch}");
        for below in ["", "/x", "/y", "/z"] {
            directory += below;
            maker.does("mkdir", [&format!("/temporary{directory}")]);
            maker.does("mkdir", [&format!("/temporary{directory}/empty")]);
            maker.does("put", [&format!("/temporary{directory}/file"), branch]);
            files.push((format!("{directory}/file"), branch));
        }
    }
    ground.shell("rm -r temporary");
    let forgotten = || ground.mount().status()["requests"]["forget"].as_u64().unwrap();
    let before = forgotten();
    Run::shell("echo 2 >/proc/sys/vm/drop_caches").succeeds();
    eventually("the kernel has forgotten", || forgotten() > before);
    maker.does("rename", ["/temporary", &format!("/archive/{PRODUCT}")]);
    let mut later = ground.agent();
    for (file, text) in files {
        assert_eq!(later.read(&format!("/archive/{PRODUCT}{file}")), text, "{file}");
    }
}

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

/// A directory with a random name is put in place, and then a file that names it.
fn publishes(installer: &mut Agent, with_file_in: bool) {
    installer.does("mkdir", ["/archive/.tmp"]);
    installer.does("put", ["/archive/.tmp/inside", "unpacked"]);
    installer.does("rename", ["/archive/.tmp", &format!("/archive/{PRODUCT}")]);
    if with_file_in {
        installer.does("put", ["/pointers/.tmp", &format!("id {PRODUCT}")]);
        installer.does("rename", ["/pointers/.tmp", "/pointers/rich"]);
    }
}

/// As `uv cache prune` does it: looks what is named, and removes what is not.
#[test]
fn who_did_not_see_that_a_directory_is_named_does_not_remove_it() {
    let ground = Ground::new();
    ground.shell("mkdir archive pointers");
    let product = format!("/archive/{PRODUCT}");
    let [mut installer, mut pruner] = ground.agents();
    assert!(pruner.list("/pointers").is_empty());
    publishes(&mut installer, true);
    begins_to_remove(&mut pruner, "/archive");
    pruner.does("unlink", [&format!("{product}/inside")]);
    pruner.does("rmdir", [&product]);
    // Nor does it fail at what it lies in.
    pruner.does("rmdir", ["/archive"]);
    pruner.end();
    let mut later = ground.agent();
    assert_eq!(later.read("/pointers/rich"), format!("id {PRODUCT}"));
    assert_eq!(later.read(&format!("{product}/inside")), "unpacked");
    assert_eq!(installer.read(&format!("{product}/inside")), "unpacked");
    installer.end();
    // Who does see it, or did not look, removes it.
    ground.shell("rm -r archive");
    ground.live_is([("pointers", "/"), ("pointers/rich", &format!("= id {PRODUCT}"))]);
}

/// A wheel has a file that names one of its own parts, which says nothing of whether the wheel is named.
#[test]
fn what_is_named_is_not_removed_in_part() {
    const PART: &str = "rich-15.0.0.dist-info";
    let ground = Ground::new();
    ground.shell("mkdir archive pointers; echo >other");
    let [mut installer, mut pruner] = ground.agents();
    assert!(pruner.list("/pointers").is_empty());
    installer.does("mkdir", ["/archive/.tmp"]);
    // What is named is looked for only while there is something that was removed.
    pruner.does("unlink", ["/other"]);
    installer.does("mkdir", [&format!("/archive/.tmp/{PART}")]);
    installer.does("put", [&format!("/archive/.tmp/{PART}/RECORD"), &format!("{PART}/RECORD,,")]);
    installer.does("put", ["/archive/.tmp/inside", "unpacked"]);
    let product = format!("/archive/{PRODUCT}");
    installer.does("rename", ["/archive/.tmp", &product]);
    installer.does("put", ["/pointers/rich", &format!("id {PRODUCT}")]);
    begins_to_remove(&mut pruner, "/archive");
    assert_eq!(pruner.list(&format!("{product}/{PART}")), ["RECORD"]);
    pruner.does("unlink", [&format!("{product}/{PART}/RECORD")]);
    pruner.does("rmdir", [&format!("{product}/{PART}")]);
    pruner.does("unlink", [&format!("{product}/inside")]);
    pruner.does("rmdir", [&product]);
    pruner.end();
    let mut later = ground.agent();
    assert_eq!(later.list(&product), ["inside", PART]);
    assert_eq!(later.list(&format!("{product}/{PART}")), ["RECORD"]);
}

#[test]
fn who_saw_that_a_directory_is_named_or_did_not_look_removes_it() {
    for (looks, named) in [(true, true), (false, true), (true, false)] {
        let ground = Ground::new();
        ground.shell("mkdir archive pointers");
        let product = format!("/archive/{PRODUCT}");
        let [mut installer, mut pruner] = ground.agents();
        if looks && !named {
            assert!(pruner.list("/pointers").is_empty());
        }
        publishes(&mut installer, named);
        installer.end();
        if looks && named {
            assert_eq!(pruner.list("/pointers"), ["rich"]);
        }
        pruner.does("unlink", [&format!("{product}/inside")]);
        pruner.does("rmdir", [&product]);
        ground.agent().refused(libc::ENOENT, "status", [&product]);
        pruner.end();
    }
}

/// What the file lay in was removed with it: then it names nothing.
#[test]
fn what_is_named_by_something_removed_is_removed() {
    let ground = Ground::new();
    ground.shell("mkdir archive pointers");
    let [mut installer, mut remover] = ground.agents();
    assert!(remover.list("/pointers").is_empty());
    publishes(&mut installer, true);
    remover.does("rmdir", ["/pointers"]);
    let product = format!("/archive/{PRODUCT}");
    remover.does("unlink", [&format!("{product}/inside")]);
    remover.does("rmdir", [&product]);
    remover.end();
    ground.agent().refused(libc::ENOENT, "status", [&product]);
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

/// A job that clears up after itself removes what it has named, whenever it has looked where.
#[test]
fn who_has_named_a_directory_removes_it() {
    let ground = Ground::new();
    ground.shell("mkdir archive pointers");
    let _other = ground.older();
    let mut installer = ground.agent();
    assert!(installer.list("/pointers").is_empty());
    publishes(&mut installer, true);
    let product = format!("/archive/{PRODUCT}");
    installer.does("unlink", [&format!("{product}/inside")]);
    installer.does("rmdir", [&product]);
    ground.agent().refused(libc::ENOENT, "status", [&product]);
    assert_eq!(ground.agent().list("/archive"), [""; 0]);
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
