//! SEMANTICS 1.1: a cache is adopted as it is, and can be taken back by unmounting.

mod common;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use common::{Finished, Index, Mount, Run, Tree, tool};

const PACKAGES: [&str; 3] = ["markupsafe", "requests", "rich"];

/// Installs into a new environment; `index` is asked only if it is given.
fn install(cache: &Path, environment: &Path, index: &str, offline: bool) -> Finished {
    let home = environment.parent().unwrap();
    let uv = || {
        Run::new(tool("uv"))
            .clean_environment(home)
            .env("UV_CACHE_DIR", cache)
            .env("UV_DEFAULT_INDEX", index)
            .env("UV_LINK_MODE", "copy")
            .env("UV_NO_CONFIG", "1")
            .env("UV_OFFLINE", if offline { "1" } else { "0" })
            .timeout(Duration::from_secs(60))
    };
    uv().args(["venv", "--clear", "--python", "/usr/bin/python3"]).arg(environment).succeeds();
    let finished =
        uv().args(["pip", "install", "--python"]).arg(environment).args(PACKAGES).succeeds();
    Run::new(environment.join("bin/python"))
        .clean_environment(home)
        .args(["-c", "import markupsafe._speedups, requests, rich.table"])
        .succeeds();
    finished
}

#[test]
fn a_cache_filled_before_it_was_mounted_is_used_and_given_back() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let (cache, environment) = (at("cache"), at("environment"));
    let index = Index::new();
    let url = index.url();
    install(&cache, &environment, &url, false).says("Prepared 10 packages");
    // One of them is built from source, by a back end that is downloaded too.
    let downloads = index.downloads();
    assert!(downloads >= 11, "{downloads} downloads are too few for 11 packages");
    let filled = Tree::of(&cache);

    let mut mount = Mount::builder().store(&cache).mount();
    Tree::of(mount.path()).assert_same(&filled);
    install(mount.path(), &environment, &url, true)
        .says("Installed 10 packages")
        .does_not_say("Prepared");
    // Online as well, nothing needs to be downloaded.
    install(mount.path(), &environment, &url, false)
        .says("Installed 10 packages")
        .does_not_say("Prepared");
    assert_eq!(index.downloads(), downloads, "the mounted cache was not used");
    mount.unmount();

    install(&cache, &environment, &url, true)
        .says("Installed 10 packages")
        .does_not_say("Prepared");
    assert_eq!(index.downloads(), downloads);
}

#[test]
fn what_one_adopts_is_what_one_gets_back() {
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("store");
    // Whatever a cache may hold: depth, odd names, links of both kinds, modes, holes.
    Run::shell(
        "mkdir -p store/a/b/c store/empty && cd store
         printf 1 >a/one && ln a/one a/b/same && ln -s ../one a/b/link && ln -s /nowhere broken
         printf x >\"$(printf 'not-utf8-\\377')\" && printf y >\"$(printf 'line\\nbreak')\"
         truncate -s 10M holes && mkfifo fifo && install -m 700 /dev/null program && chmod 500 a/b/c",
    )
    .directory(place.path())
    .succeeds();
    let before = Tree::of(&store);
    let mut mount = Mount::builder().store(&store).option("--access").option("posix").mount();
    Tree::of(mount.path()).assert_same(&before);
    mount.unmount();
    Tree::of(&store).assert_same(&before);
    Run::shell("rm -r .cachefs").directory(&store).succeeds();
    // What the mount added is all in that one folder.
    let top: Vec<_> =
        fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let known = before.entries.keys().filter(|path| path.components().count() == 1).count();
    assert_eq!(top.len(), known, "{top:?}");
}

#[test]
fn the_folder_of_the_mount_itself_is_out_of_reach() {
    let mount = Mount::new();
    let own = mount.path().join(".cachefs");
    fs::write(mount.path().join("file"), "x").unwrap();
    fs::create_dir(mount.path().join("folder")).unwrap();
    assert!(mount.store().join(".cachefs").is_dir());
    let before = Run::shell("find .cachefs -printf '%P %y %s %i\\n' | sort")
        .directory(mount.store())
        .succeeds()
        .stdout;

    let names: Vec<_> =
        fs::read_dir(mount.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    for result in [
        fs::symlink_metadata(&own).map(drop),
        fs::File::open(&own).map(drop),
        fs::read_dir(&own).map(drop),
        fs::File::open(own.join("lock")).map(drop),
        fs::symlink_metadata(mount.path().join("folder/../.cachefs")).map(drop),
        fs::remove_dir(&own),
        fs::rename(&own, mount.path().join("stolen")),
    ] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::NotFound);
    }
    // Nothing can be put there either, and the error isn't one that says it were there.
    let refused = |result: std::io::Result<()>, what: &str| {
        let error = result.expect_err(what);
        let allowed = [libc::EPERM, libc::EACCES, libc::EINVAL];
        assert!(
            error.raw_os_error().is_some_and(|number| allowed.contains(&number)),
            "{what}: {error}"
        );
    };
    refused(fs::create_dir(&own), "mkdir");
    refused(fs::write(&own, "x"), "create");
    refused(std::os::unix::fs::symlink("file", &own), "symlink");
    refused(fs::hard_link(mount.path().join("file"), &own), "link");
    refused(fs::rename(mount.path().join("file"), &own), "rename of a file");
    refused(fs::rename(mount.path().join("folder"), &own), "rename of a folder");

    let after = Run::shell("find .cachefs -printf '%P %y %s %i\\n' | sort")
        .directory(mount.store())
        .succeeds()
        .stdout;
    assert_eq!(before, after);
    // Further down it's a name as any other.
    let deeper = mount.path().join("folder/.cachefs");
    fs::create_dir(&deeper).unwrap();
    fs::write(deeper.join("x"), "y").unwrap();
    assert_eq!(fs::read(mount.store().join("folder/.cachefs/x")).unwrap(), b"y");
}
