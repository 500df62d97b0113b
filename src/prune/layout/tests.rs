//! The rules by themselves: paths that no tool here writes, and what holds of all of them.

use proptest::prelude::*;

use super::*;

fn place(layout: &str, path: &str) -> Place {
    let layout: Layout = layout.parse().unwrap();
    layout.rules().place(&components(path.as_bytes()))
}

fn marked<'p>(layout: &str, path: &'p str) -> Option<&'p str> {
    let found = whole(layout.parse().unwrap());
    mark(&found, Path::new(path)).map(|mark| mark.to_str().unwrap())
}

#[test]
fn a_file_s_mark_is_the_part_that_it_is_in() {
    for (layout, path, expected) in [
        ("uv", "archive-v0/ID/pkg/__init__.py", Some("archive-v0/ID")),
        (
            "uv",
            "wheels-v0/pypi/anyio/anyio-4.0.0/anyio/x.py",
            Some("wheels-v0/pypi/anyio/anyio-4.0.0"),
        ),
        (
            "uv",
            "wheels-v9/path/D/p/1-py3-none-any.rev",
            Some("wheels-v9/path/D/p/1-py3-none-any.rev"),
        ),
        ("uv", "wheels-v9/git/R/C/p/1-py3-none-any", Some("wheels-v9/git/R/C/p/1-py3-none-any")),
        ("uv", "wheels-v5/.tmpABC/x/y", Some("wheels-v5/.tmpABC")),
        ("uv", "wheels-v5/index/D/rich/15.0.0.lock", None),
        ("uv", "built-wheels-v3/pypi/a/1/REV/src/x", Some("built-wheels-v3/pypi/a/1/REV")),
        ("uv", "sdists-v9/git/R/C/metadata.msgpack", Some("sdists-v9/git/R/C/metadata.msgpack")),
        ("uv", "sdists-v9/.git", None),
        ("uv", "usage-v0/archive-v0/ID", Some("usage-v0/archive-v0/ID")),
        ("uv", "binaries-v0/ruff/0.12.0/x86_64/ruff", Some("binaries-v0/ruff/0.12.0")),
        (
            "uv",
            "environments-v2/script-0123456789abcdef/bin/x",
            Some("environments-v2/script-0123456789abcdef"),
        ),
        (
            "uv",
            "environments-v2/0123456789abcdef/fedcba9876543210",
            Some("environments-v2/0123456789abcdef/fedcba9876543210"),
        ),
        ("uv", "git-v0/locks/D", None),
        ("uv", "newer-v1/x/y", None),
        ("uv", ".lock", None),
        ("pip", "http/a/b/c/d/e/KEY", Some("http/a/b/c/d/e/KEY")),
        ("pip", "http-v2/a/b/c/d/e/KEY.body", Some("http-v2/a/b/c/d/e/KEY.body")),
        ("pip", "wheels/aa/bb/cc/rest/a-1-py3-none-any.whl", Some("wheels/aa/bb/cc/rest")),
        ("ruff", "0.17.5/123", Some("0.17.5/123")),
        ("ruff", "0.18.0-rc.1/123", Some("0.18.0-rc.1/123")),
        ("cargo", "registry/src/index-1/a-1.0.0/src/lib.rs", Some("registry/src/index-1/a-1.0.0")),
        ("cargo", "registry/index/index-1/.cache/a/b", Some("registry/index/index-1")),
        ("cargo", ".package-cache", None),
        ("cargo", "bin/tool", None),
        ("npm", "_cacache/tmp/git-cloneXXX/file", Some("_cacache/tmp/git-cloneXXX")),
        ("npm", "_npx/0123/node_modules/x/y.js", Some("_npx/0123")),
        ("npm", "_update-notifier-last-checked", None),
        ("npm", "_logs/2026-debug-0.log", None),
        ("go-build", "fuzz/example.com/FuzzX/0123", None),
        (
            "go-mod",
            "github.com/!burnt!sushi/toml@v1.4.0/decode.go",
            Some("github.com/!burnt!sushi/toml@v1.4.0"),
        ),
        ("go-mod", "a.b/c/v2@v2.0.0-beta@x/f", Some("a.b/c/v2@v2.0.0-beta@x")),
        (
            "go-mod",
            "cache/download/a.b/c/@v/v1.0.0.zip",
            Some("cache/download/a.b/c/@v/v1.0.0.zip"),
        ),
        ("go-mod", "cache/download/a.b/c/@v/v1.0.0.lock", None),
        ("go-mod", "cache/download/a.b/c/@latest", Some("cache/download/a.b/c/@latest")),
        (
            "go-mod",
            "cache/download/sumdb/s.org/tile/8/0/x000/123",
            Some("cache/download/sumdb/s.org/tile/8/0/x000/123"),
        ),
        ("go-mod", "cache/vcs/0123/objects/pack/p", Some("cache/vcs/0123")),
        ("go-mod", "cache/lock", None),
        ("ccache", "a/b/c/0123R", Some("a/b/c/0123R")),
        ("ccache", "a/b/stats", None),
        ("ccache", "tmp/x", None),
        ("sccache", "preprocessor/a/b/abcd", Some("preprocessor/a/b/abcd")),
        ("huggingface", "models--o--n/snapshots/C/sub/file", Some("models--o--n/snapshots/C")),
        ("huggingface", "models--o--n/refs/pr/1", Some("models--o--n/refs/pr/1")),
        ("huggingface", ".locks/models--o--n/D.lock", None),
        ("pre-commit", "repoabcdefgh/py_env-python3/bin/x", Some("repoabcdefgh")),
        ("pre-commit", "db.db-journal", Some("db.db-journal")),
        ("pre-commit", "patch1700000000-1", None),
        ("generic:2", "a/b/c", Some("a/b")),
        ("generic:2", "a", Some("a")),
        ("generic:2", "CACHEDIR.TAG", None),
        ("generic:1", "a.lock", None),
        ("generic:1", ".cachefs/retired/x", None),
    ] {
        assert_eq!(marked(layout, path), expected, "{layout}: {path}");
    }
}

#[test]
fn folders_are_no_marks() {
    for (layout, path) in [
        ("uv", "archive-v0"),
        ("uv", "wheels-v5/index/D/rich"),
        ("pip", "http-v2/a/b/c"),
        ("go-mod", "github.com/x"),
        ("go-mod", "cache/download/github.com/x"),
        ("huggingface", "models--o--n/blobs"),
        ("ccache", "a/b"),
    ] {
        assert_eq!(place(layout, path), Place::Folder, "{layout}: {path}");
        assert_eq!(marked(layout, path), None, "{layout}: {path}");
    }
}

#[test]
fn caches_in_folders_are_told_apart() {
    let found = |prefix: &str, layout: &str| Found::new(prefix.as_bytes(), layout.parse().unwrap());
    let all = [found("a/uv", "uv"), found("ruff", "ruff")];
    for (path, expected) in [
        ("a/uv/archive-v0/ID/x", Some("a/uv/archive-v0/ID")),
        ("a/uv2/archive-v0/ID/x", None),
        ("a/uv", None),
        ("ruff/1.2.3/4", Some("ruff/1.2.3/4")),
        ("other/1.2.3/4", None),
        ("", None),
    ] {
        assert_eq!(mark(&all, Path::new(path)), expected.map(Path::new), "{path}");
    }
}

#[test]
fn files_of_one_entry_have_a_stem_in_common() {
    let same = |layout: &str, folder: &str, names: &[&str]| {
        let layout: Layout = layout.parse().unwrap();
        let stems = names.iter().map(|name| {
            let path = format!("{folder}/{name}");
            layout.rules().stem(&components(path.as_bytes())).map(<[u8]>::to_vec)
        });
        let mut stems: Vec<_> = stems.collect();
        stems.dedup();
        stems.len() == 1 && stems[0].is_some()
    };
    assert!(same("uv", "wheels-v5/index/D/rich", &["15-py3", "15-py3.http", "15-py3.msgpack"]));
    assert!(!same("uv", "wheels-v5/index/D/rich", &["15-py3.http", "16-py3.http"]));
    assert!(same("uv", "git-v1/checkouts/R", &["0123456", "0123456.ok"]));
    assert!(same("uv", "sdists-v9/url/D", &["revision.http", "REV"]));
    assert!(!same("uv", "archive-v0", &["A", "A"]));
    assert!(same("pip", "http-v2/a/b/c/d/e", &["K", "K.body"]));
    assert!(same(
        "go-mod",
        "cache/download/a/@v",
        &["v1.2.3.info", "v1.2.3.zip", "v1.2.3.ziphash"]
    ));
    assert!(!same("go-mod", "cache/download/a/@v", &["v1.2.3.mod", "v1.2.30.mod"]));
    assert!(same("ccache", "a/b", &["01ab0R", "01ab00W", "01ab01W"]));
    assert!(same("ccache", "a/b", &["01ab23", "01ab23_00", "01ab23_11"]));
    assert!(same("ccache", "a", &["01ab-17.o", "01ab-17.d", "01ab-17.stderr"]));
    assert!(!same("ccache", "a", &["01ab-17.o", "01ab-18.o"]));
    assert!(same("pre-commit", "", &["db.db", "db.db-journal"]));
}

#[test]
fn layouts_are_known_by_name() {
    for name in Layout::all().chain(["generic:1", "generic:16"]) {
        assert_eq!(name.parse::<Layout>().unwrap().name(), name);
    }
    for (text, why) in [
        ("", "use one of `uv`"),
        ("UV", "use one of"),
        ("generic", "`generic:DEPTH`"),
        ("generic:0", "from 1 to 16"),
        ("generic:17", "from 1 to 16"),
        ("generic:x", "from 1 to 16"),
    ] {
        let said = text.parse::<Layout>().unwrap_err();
        assert!(said.contains(why), "{text}: {said}");
    }
}

/// Names that mean something in one of the layouts, and others.
fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let meant = prop::sample::select(
        "archive-v0 wheels-v5 sdists-v9 built-wheels-v3 git-v0 environments-v2 usage-v0 builds-v0 \
         simple-v1 pypi index url path editable git db checkouts locks .tmpX 0123456789abcdef \
         revision.http a.lock .lock .git CACHEDIR.TAG http http-v2 wheels selfcheck 1.2.3 registry \
         cache src _cacache content-v2 index-v5 tmp _npx download @v @latest sumdb vcs x@v1 00 a b \
         stats preprocessor models--a--b snapshots blobs refs .no_exist repoabcdefgh db.db db.db-wal \
         list"
            .split_whitespace()
            .map(str::as_bytes)
            .map(<[u8]>::to_vec)
            .collect::<Vec<_>>(),
    );
    let other =
        prop::collection::vec(any::<u8>().prop_filter("a name", |b| *b != 0 && *b != b'/'), 1..6);
    prop_oneof![4 => meant, 1 => other]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// A walk goes from the top and stops at the first part; a mark is told by the whole path.
    #[test]
    fn what_is_said_of_a_path_is_said_of_all_below_it(path in prop::collection::vec(any_name(), 1..8)) {
        let path: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
        for name in Layout::all().chain(["generic:1", "generic:3"]) {
            let rules = name.parse::<Layout>().unwrap().rules();
            let all = rules.place(&path);
            for length in 1..=path.len() {
                let place = rules.place(&path[..length]);
                if matches!(place, Place::Part(_) | Place::Loose) {
                    // Whatever it is called, nothing of this may panic.
                    let _ = (rules.stem(&path[..length]), rules.title(&path[..length]));
                    let _ = (rules.reads(&path[..length]), rules.links_inside(&path[..length]));
                }
                match place {
                    Place::Folder | Place::Loose => continue,
                    Place::Kept => prop_assert_eq!(all, Place::Kept, "{} {}", name, length),
                    Place::Part(parts) => {
                        prop_assert_eq!(parts, length, "{}", name);
                        prop_assert_eq!(all, place, "{} {}", name, length);
                    }
                }
                break;
            }
        }
    }
}
