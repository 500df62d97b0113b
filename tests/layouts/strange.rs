//! Stores that hold what no tool writes, and stores that change while they are looked at.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use cachefs::prune::layout::{self, whole};
use cachefs::prune::{self, Units};

use crate::common::{Run, needs_root};
use crate::scene::{Scene, proved, proved_as, units};

fn fill(at: &Path, files: &[&str]) {
    for file in files {
        let path = at.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, *file).unwrap();
    }
}

fn paths(units: &Units) -> Vec<Vec<&str>> {
    let mut all: Vec<Vec<&str>> = units
        .units
        .iter()
        .map(|unit| unit.paths.iter().map(|path| path.to_str().unwrap_or("?")).collect())
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn links_fifos_sockets_and_names_of_bytes_are_files_like_others() {
    let scene = Scene::new();
    let archive = scene.cache.join("archive-v0/ID");
    fs::create_dir_all(&archive).unwrap();
    let outside = scene.work.join("outside");
    fill(&outside, &["secret/file"]);
    symlink(&outside, archive.join("out")).unwrap();
    symlink("/nowhere/archive-v0/gone", archive.join("dangling")).unwrap();
    symlink("loop", archive.join("loop")).unwrap();
    symlink("../../archive-v0/ID", archive.join("itself")).unwrap();
    Run::new("mkfifo").arg(archive.join("fifo")).succeeds();
    let _socket = UnixListener::bind(archive.join("socket")).unwrap();
    fs::write(archive.join(OsStr::from_bytes(b"\xff\xfe\n")), "x").unwrap();
    // In the places of pointers, where content is read.
    let package = scene.cache.join("wheels-v5/index/D/p");
    fs::create_dir_all(&package).unwrap();
    Run::new("mkfifo").arg(package.join("1-py3.http")).succeeds();
    symlink("/etc/passwd", package.join("2-py3.rev")).unwrap();
    fs::create_dir(package.join("3-py3.http")).unwrap();
    fs::write(package.join(OsStr::from_bytes(b"\xff-py3.http")), b"\xb0archive").unwrap();
    // A bucket that leads out of the store is none.
    symlink(&outside, scene.cache.join("archive-v1")).unwrap();

    let units = proved(&scene.cache, &|name| name == "archive-v1");
    let expected = [
        ["?"],
        ["archive-v0/ID"],
        ["wheels-v5/index/D/p/1-py3.http"],
        ["wheels-v5/index/D/p/2-py3.rev"],
        ["wheels-v5/index/D/p/3-py3.http"],
    ];
    assert_eq!(paths(&units), expected);
    assert!(units.units.iter().all(|unit| unit.needs.is_empty()));
}

#[test]
fn a_whole_cache_is_no_link() {
    let scene = Scene::new();
    let outside = scene.work.join("outside");
    fill(&outside, &["archive-v0/ID/file"]);
    symlink(&outside, scene.cache.join("uv")).unwrap();
    fill(&scene.cache, &[".cachefs/uv/archive-v0/ID/file", "a/b/c/d/archive-v0/ID/file"]);
    let (found, units) = units(&scene.cache);
    // Nor one that is the store's own, or lies deeper than any tool puts it.
    assert_eq!((found.len(), units.units.len()), (0, 0));
    // The link, and the folders and the file that lie deep; not what is in the private folder.
    assert_eq!(units.total().files, 1 + 1 + 7);
}

#[test]
fn links_between_units_and_to_elsewhere_are_counted_once() {
    let scene = Scene::new();
    let at = |path: &str| scene.cache.join(path);
    let content = vec![7; 64 << 10];
    for id in ["A", "B", "C"] {
        fs::create_dir_all(at("archive-v0").join(id)).unwrap();
    }
    let blocks = |path: &str| fs::metadata(at(path)).unwrap().blocks() * 512;
    // Within one unit, between two, between a unit and what is kept, and with one name outside.
    for (first, second) in [
        ("archive-v0/A/one", "archive-v0/A/two"),
        ("archive-v0/A/shared", "archive-v0/B/shared"),
        ("archive-v0/B/kept", "kept"),
    ] {
        fs::write(at(first), &content).unwrap();
        fs::hard_link(at(first), at(second)).unwrap();
    }
    fs::write(at("archive-v0/C/outside"), &content).unwrap();
    fs::hard_link(at("archive-v0/C/outside"), scene.work.join("outside")).unwrap();
    let units = proved(&scene.cache, &|name| name == "kept");
    let of = |id: &str| {
        let path = format!("archive-v0/{id}");
        units.units.iter().position(|unit| unit.paths[0].to_str() == Some(&path)).unwrap()
    };
    let folder = blocks("archive-v0/A");
    assert_eq!(units.units[of("A")].size.bytes, folder + blocks("archive-v0/A/one"));
    assert_eq!(units.units[of("B")].size.bytes, folder);
    let mut shared: Vec<_> = units.shared.iter().map(|s| (s.units.to_vec(), s.elsewhere)).collect();
    shared.sort_unstable();
    let mut both = vec![of("A") as u32, of("B") as u32];
    both.sort_unstable();
    let mut expected =
        vec![(both, false), (vec![of("B") as u32], true), (vec![of("C") as u32], true)];
    expected.sort_unstable();
    assert_eq!(shared, expected);
}

#[test]
fn what_is_deeper_than_any_cache_is_said_and_no_harm() {
    let scene = Scene::new();
    // Deeper than any path may be long.
    let script =
        "import os\nfor name in ['archive-v0'] + 3000 * ['d']:\n os.mkdir(name)\n os.chdir(name)";
    scene.run("/usr/bin/python3").args(["-c", script]).directory(&scene.cache).succeeds();
    fill(&scene.cache, &["archive-v0/ID/file"]);
    let units = scene.units();
    assert_eq!((units.units.len(), units.unread), (2, 1));
    scene.remove(&scene.cache.join("archive-v0"));
}

#[test]
fn what_can_t_be_read_is_said() {
    needs_root();
    let scene = Scene::new();
    fill(&scene.cache, &["archive-v0/A/file", "archive-v0/B/file", "wheels-v5/pypi/p/1.http"]);
    for path in ["archive-v0/A", "wheels-v5/pypi/p/1.http"] {
        let closed = fs::Permissions::from_mode(0o000);
        fs::set_permissions(scene.cache.join(path), closed).unwrap();
    }
    // Another user than the owner may not even look without leaving a trace.
    for path in [scene.cache.parent().unwrap(), &scene.cache] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let root = File::open(&scene.cache).unwrap();
    let look = thread::spawn(move || {
        // SAFETY: takes no pointers. By itself, the system call changes this thread alone.
        let done = unsafe { libc::syscall(libc::SYS_setresuid, 0, 12345, 0) };
        assert_eq!(done, 0);
        let found = layout::find(root.as_fd()).unwrap();
        (found.len(), prune::units(root.as_fd(), &found).unwrap())
    });
    let (found, units) = look.join().unwrap();
    assert_eq!((found, units.units.len(), units.unread), (1, 3, 1));
}

#[test]
fn times_before_1970_and_after_now_are_taken_as_they_are() {
    let scene = Scene::new();
    fill(&scene.cache, &["archive-v0/old/f", "archive-v0/new/f", "archive-v0/set/f"]);
    let at = |name: &str| scene.cache.join("archive-v0").join(name);
    Run::new("touch").args(["-a", "--date", "1931-01-01"]).arg(at("old")).succeeds();
    Run::new("touch").args(["-a", "--date", "2400-01-01"]).arg(at("new")).succeeds();
    let set = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123);
    File::open(at("set")).unwrap().set_times(fs::FileTimes::new().set_accessed(set)).unwrap();
    let units = scene.units();
    let of = |name: &str| {
        let unit = units.units.iter().find(|unit| unit.paths[0].ends_with(name)).unwrap();
        unit.last_use
    };
    assert_eq!((of("old"), of("set")), (SystemTime::UNIX_EPOCH, set));
    assert!(of("new") > SystemTime::now());
}

#[test]
fn any_tree_is_one_of_units_when_somebody_says_so() {
    let scene = Scene::new();
    fill(&scene.cache, &["a/b/c", "a/d", "e", "CACHEDIR.TAG", "f.lock", ".cachefs/retired/x"]);
    assert_eq!(units(&scene.cache).0, []);
    let root = File::open(&scene.cache).unwrap();
    for (layout, expected) in [
        ("generic:1", vec![vec!["a"], vec!["e"]]),
        ("generic:2", vec![vec!["a/b"], vec!["a/d"], vec!["e"]]),
        ("generic:3", vec![vec!["a/b/c"], vec!["a/d"], vec!["e"]]),
        // Of what another tool has made, a layout knows nothing.
        ("uv", vec![]),
    ] {
        let found = whole(layout.parse().unwrap());
        let units = prune::units(root.as_fd(), &found).unwrap();
        assert_eq!(paths(&units), expected, "{layout}");
        fs::rename(scene.cache.join(".cachefs"), scene.work.join("private")).unwrap();
        let kept = |name: &str| layout == "uv" || ["CACHEDIR.TAG", "f.lock"].contains(&name);
        let units = prune::units(root.as_fd(), &found).unwrap();
        proved_as(&scene.cache, &found, units, &kept);
        fs::rename(scene.work.join("private"), scene.cache.join(".cachefs")).unwrap();
    }
}

#[test]
fn files_of_npm_that_are_no_index_are_units_of_their_own() {
    let scene = Scene::new();
    let content = "_cacache/content-v2/sha512/00/01/02";
    fill(&scene.cache, &[content, "_cacache/index-v5/aa/bb/junk", "_cacache/tmp/half"]);
    let index = |integrity: &str| {
        format!("\n1\t{{\"key\":\"k\",\"integrity\":\"{integrity}\"}}\n2\t{{\"key\":\"k\",\"integ")
    };
    for (name, integrity) in [
        ("good", "sha512-AAEC sha1-AA=="),
        ("bad", "sha512-???"),
        ("short", "sha512-AA=="),
        ("none", "x"),
    ] {
        fill(&scene.cache, &[&format!("_cacache/index-v5/aa/bb/{name}")]);
        let mut file =
            File::create(scene.cache.join("_cacache/index-v5/aa/bb").join(name)).unwrap();
        file.write_all(index(integrity).as_bytes()).unwrap();
        file.write_all(b"\xff\xfe").unwrap();
    }
    let units = proved(&scene.cache, &|_| false);
    assert_eq!(units.units.len(), 6);
    assert!(paths(&units).contains(&vec![content, "_cacache/index-v5/aa/bb/good"]));
}

/// Whatever happens meanwhile, a walk ends, and what nobody touches is found.
#[test]
fn a_store_that_changes_is_walked() {
    let scene = Scene::new();
    for id in 0..50 {
        fill(&scene.cache, &[&format!("archive-v0/stays-{id}/a/b/file")]);
    }
    let over = AtomicBool::new(false);
    let cache = &scene.cache;
    thread::scope(|scope| {
        for worker in 0..2 {
            let over = &over;
            scope.spawn(move || {
                let at = |name: &str| cache.join(format!("archive-v0/{name}-{worker}"));
                while !over.load(Ordering::Relaxed) {
                    fill(&at("comes"), &["a/b/file", "c/file"]);
                    fs::rename(at("comes"), at("goes")).unwrap();
                    // A directory becomes a file, and a link to somewhere else.
                    fs::rename(at("goes").join("a"), at("goes").join("x")).unwrap();
                    symlink("/", at("goes").join("a")).unwrap();
                    fs::remove_dir_all(at("goes")).unwrap();
                    fs::write(at("goes"), "").unwrap();
                    fs::remove_file(at("goes")).unwrap();
                }
            });
        }
        for _ in 0..200 {
            let units = scene.units();
            let stays = units.units.iter().filter(|unit| {
                unit.paths[0].to_str().unwrap().starts_with("archive-v0/stays")
                    && unit.size.files == 4
            });
            let number = stays.count();
            if number != 50 {
                over.store(true, Ordering::Relaxed);
                panic!("{number} units of 50");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
}
