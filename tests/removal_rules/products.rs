//! Products that files name: they go, stay and come back as a whole.

use crate::common::Run;
use crate::views::{Agent, Ground, eventually};
use crate::{PRODUCT, begins_to_remove};

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

/// To the kernel they must be two: it can't have one directory in two places.
#[test]
fn what_was_removed_and_is_moved_into_place_stays_apart_from_what_others_still_see() {
    let ground = Ground::new();
    ground.shell("mkdir archive cache");
    let [mut maker, mut remover] = ground.agents();
    maker.does("mkdir", ["/cache/.tmp"]);
    for name in ["a", "b"] {
        maker.does("put", [&format!("/cache/.tmp/{name}"), name]);
    }
    begins_to_remove(&mut remover, "/cache");
    ground.clean(&["cache/.tmp"]);
    let product = format!("/archive/{PRODUCT}");
    maker.does("rename", ["/cache/.tmp", &product]);
    assert_ne!(remover.inode("/cache/.tmp"), maker.inode(&product));
    assert_eq!(remover.list("/cache/.tmp"), ["a", "b"]);
    for path in ["/cache/.tmp/a", "/cache/.tmp/b"] {
        remover.does("unlink", [path]);
    }
    remover.does("rmdir", ["/cache/.tmp"]);
    remover.end();
    for agent in [&mut maker, &mut ground.agent()] {
        assert_eq!(agent.list(&product), ["a", "b"]);
        assert_eq!(agent.read(&format!("{product}/a")), "a");
    }
}

/// Whether that is renamed, or written in place: who finds it finds all that it names at once.
#[test]
fn a_directory_is_back_before_what_names_it_is_there() {
    const FILES: usize = 500;
    for renamed in [false, true] {
        let ground = Ground::new();
        let mut maker = ground.older();
        for directory in ["/archive", "/pointers", "/temporary"] {
            maker.does("mkdir", [directory]);
        }
        for file in 0..FILES {
            maker.does("put", [&format!("/temporary/{file}"), "text"]);
        }
        let product = format!("/archive/{PRODUCT}");
        maker.does("rename", ["/temporary", &product]);
        let names = format!("see {PRODUCT}");
        if renamed {
            maker.does("put", ["/pointers/temporary", &names]);
        }
        ground.agent().does("remove", ["/archive"]);
        let mut later = ground.agent();
        later.refused(libc::ENOENT, "status", [&product]);
        later.tell("list_when", ["/pointers/pointer", &product]);
        if renamed {
            maker.does("rename", ["/pointers/temporary", "/pointers/pointer"]);
        } else {
            maker.does("put", ["/pointers/pointer", &names]);
        }
        let found = later.finishes();
        assert_eq!(found.as_array().map(Vec::len), Some(FILES), "renamed: {renamed}");
    }
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

/// He knew another one by that name, which was empty.
#[test]
fn who_removes_what_has_become_a_named_directory_is_not_told_what_is_in_it() {
    let ground = Ground::new();
    let product = format!("/archive/{PRODUCT}");
    ground.shell(&format!("mkdir -p {}; mkdir pointers", &product[1..]));
    let [mut installer, mut pruner] = ground.agents();
    assert!(pruner.list("/pointers").is_empty());
    begins_to_remove(&mut pruner, "/archive");
    publishes(&mut installer, true);
    pruner.does("rmdir", [&product]);
    pruner.end();
    assert_eq!(ground.agent().read(&format!("{product}/inside")), "unpacked");
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
