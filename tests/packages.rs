//! What `packaging/build` makes is what a stranger gets: it is installed in a Debian that has next to nothing,
//! where it mounts from `/etc/fstab`, serves, is upgraded and removed.

mod common;
mod docker;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Run, binary, needs, needs_root, tool, tools_directory, wheelhouse};
use docker::Engine;

/// `packaging/build` from a copy of what it reads, so that each test has a place of its own.
fn build(place: &Path, what: &str, variables: &[(&str, &Path)]) -> PathBuf {
    let work = place.join("source");
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::create_dir_all(&work).unwrap();
    for name in
        ["packaging", "Cargo.toml", "README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"]
    {
        Run::new("cp")
            .args(["-r".as_ref(), source.join(name).as_os_str(), work.as_os_str()])
            .succeeds();
    }
    let build = Run::new(work.join("packaging/build")).arg(what).envs(variables);
    build.timeout(Duration::from_secs(600)).succeeds();
    work.join("target/package")
}

#[test]
fn the_deb_installs_serves_is_upgraded_and_goes() {
    needs_root();
    let root = tools_directory().join("root.tar");
    assert!(root.exists(), "this test needs {}: run tests/setup", root.display());
    let place = tempfile::Builder::new().prefix("cachefs-package-").tempdir().unwrap();
    let program = binary();
    let out = build(place.path(), "deb", &[("CACHEFS_BINARY", &program)]);
    let version = Path::new("99.0");
    build(place.path(), "deb", &[("CACHEFS_BINARY", &program), ("CACHEFS_VERSION", version)]);
    let at = place.path().join("root");
    fs::create_dir(&at).unwrap();
    Run::new("tar").arg("-xf").args([&root, Path::new("-C"), &at]).succeeds();
    for (from, to) in
        [(out.as_path(), "debs"), (&wheelhouse(), "wheels"), (&tool("uv"), "usr/bin/uv")]
    {
        let from = fs::canonicalize(from).unwrap();
        Run::new("cp").args(["-r".as_ref(), from.as_os_str(), at.join(to).as_os_str()]).succeeds();
    }
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packages/stranger.sh"),
        at.join("stranger.sh"),
    )
    .unwrap();
    // As on a machine of its own: its processes end with the first of them, and its mounts with those.
    let enter = r#"
        mount --bind "$1" "$1"; cd "$1"
        mount -t proc proc proc; mount --rbind /dev dev; mount -t tmpfs tmpfs run; mount -t tmpfs tmpfs tmp
        mount --make-rshared .
        exec chroot . bash -eu /stranger.sh
    "#;
    let said = Run::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .args(["--net", "sh", "-ec", enter, "sh"])
        .arg(&at)
        .clean_environment("/root")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .timeout(Duration::from_secs(180))
        .succeeds();
    said.says("nothing is left but the store");
}

#[test]
fn the_rpm_has_the_same_files() {
    needs("rpmbuild");
    let place = tempfile::tempdir().unwrap();
    let program = binary();
    let out = build(place.path(), "rpm", &[("CACHEFS_BINARY", &program)]);
    let package = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
    let package =
        package.filter(|path| path.extension().is_some_and(|it| it == "rpm")).last().unwrap();
    let said = Run::new("rpm").args(["-qlvp"]).arg(&package).succeeds();
    for file in [
        "/usr/bin/cachefs\n",
        "/usr/sbin/mount.cachefs -> ../bin/cachefs",
        "/usr/lib/systemd/system/cachefs@.service",
        "/usr/share/man/man1/cachefs-mount.1.gz",
        "/usr/share/man/man8/mount.cachefs.8.gz",
        "/usr/share/zsh/site-functions/_cachefs",
        "/usr/share/doc/cachefs/LICENSE-MIT",
    ] {
        said.says(file);
    }
    // It works where it is unpacked.
    let script = r#"rpm2cpio "$0" | cpio --quiet -id -D "$1" 2>/dev/null || rpm2archive -n - < "$0" | tar -x -C "$1"
        "$1/usr/sbin/mount.cachefs" --version"#;
    Run::shell(script).arg(&package).arg(place.path()).succeeds().says("mount.cachefs 0.");
    Run::new("rpm").args(["-qp", "--scripts"]).arg(&package).succeeds().says("cachefs umount");
}

#[test]
fn systemd_takes_the_units() {
    let place = tempfile::tempdir().unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
    let service = fs::read_to_string(units.join("cachefs@.service")).unwrap();
    let service = service.replace("/usr/bin/cachefs", binary().to_str().unwrap());
    let verify = |name: &str, text: &str| {
        let file = place.path().join(name);
        fs::write(&file, text).unwrap();
        Run::new(needs("systemd-analyze")).args(["verify", "--man=no"]).arg(file).finish()
    };
    let passed = verify("cachefs@cache.service", &service);
    assert!(passed.status.success() && passed.all_output().trim().is_empty(), "{passed}");
    // It does look.
    verify("cachefs@cache.service", &service.replace("KillMode", "KilMode")).says("KilMode");
    // What would keep the mount from everybody else.
    for word in ["PrivateMounts", "PrivateTmp", "ProtectSystem", "ProtectHome", "ReadOnlyPaths"] {
        let set = format!("\n{word}=");
        assert!(!service.contains(&set), "{word} gives the service mounts of its own");
    }
    let mount = fs::read_to_string(units.join("srv-cachefs-cache.mount")).unwrap();
    let passed = verify("srv-cachefs-cache.mount", &mount);
    assert!(passed.status.success() && passed.all_output().trim().is_empty(), "{passed}");
}

#[test]
fn the_service_does_what_its_unit_says() {
    needs_root();
    // There is no systemd to start it in a test; this is what it would start, with what it would set.
    let place = tempfile::tempdir().unwrap();
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
    let unit = fs::read_to_string(packaging.join("cachefs@.service")).unwrap();
    let start =
        unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/cachefs ")).unwrap();
    let start = start.replace("${", "\"${").replace('}', "}\"");
    let kept: Vec<_> =
        unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet=CAP_")).collect();
    let kept = kept.join(" CAP_").to_lowercase().replace("cap_", "+");
    let kept = format!(
        "-all,+{}",
        kept.split_whitespace().collect::<Vec<_>>().join(",").trim_start_matches('+')
    );
    let script = format!(
        r#"
        set -a; . "$1/cache.conf"; STORE=$2/store; MOUNTPOINT=$2/mount; set +a
        setpriv --bounding-set {kept} --no-new-privs "$0" {start} 2> "$2/log" & daemon=$!
        until grep -q ' mounted mountpoint' "$2/log"; do kill -0 $daemon; sleep 0.02; done
        echo served > "$MOUNTPOINT/file"; cat "$STORE/file"
        "$0" status --json "$MOUNTPOINT" | grep '"retain_for": 86400'
        kill -TERM $daemon; wait $daemon
        [ ! -e "$MOUNTPOINT/file" ]; cat "$2/log"
        "#
    );
    let said = Run::shell_with_own_mounts(script).arg(binary()).args([&packaging, place.path()]);
    said.succeeds().says("served").says("unmounted").does_not_say("WARN");
}

#[test]
fn the_image_serves_other_containers() {
    let engine = Engine::start();
    let place = tempfile::tempdir().unwrap();
    let out = match std::env::var_os("CACHEFS_STATIC") {
        Some(program) => build(place.path(), "image", &[("CACHEFS_STATIC", Path::new(&program))]),
        None => {
            let source = Path::new(env!("CARGO_MANIFEST_DIR"));
            let run = Run::new(source.join("packaging/build")).arg("image");
            run.timeout(Duration::from_secs(600)).succeeds();
            source.join("target/package")
        }
    };
    let program = out.join("image/root/usr/bin/cachefs");
    Run::new("sh").args(["-ec", "! ldd \"$0\" 2>&1 | grep '=>'"]).arg(&program).succeeds();
    let (image, file) = (out.join("image"), out.join("image/Containerfile"));
    let words = [
        "build".as_ref(),
        "--tag=cachefs".as_ref(),
        "--file".as_ref(),
        file.as_os_str(),
        image.as_os_str(),
    ];
    engine.docker(words).succeeds();
    let shared = engine.shared("");
    let store = engine.directory();
    let bind = |from: &Path, to: &str| format!("--volume={}:{to}", from.display());
    let mut words: Vec<String> = [
        "run",
        "--detach",
        "--pid=host",
        "--network=none",
        "--cap-add=SYS_ADMIN",
        "--device=/dev/fuse",
    ]
    .map(String::from)
    .into();
    words.push("--security-opt=apparmor:unconfined".into());
    words.extend([bind(&store, "/store"), bind(&shared, "/shared:rshared"), "cachefs".into()]);
    words.extend(["cachefs", "mount", "--foreground", "/store", "/shared/cache"].map(String::from));
    let id = engine.docker(&words).succeeds().stdout.trim().to_owned();
    let job = engine.container().user(1000).bind(&shared, "/shared", "rslave");
    let job = job.start(["sleep", "1000"]);
    job.shell("until [ \"$(stat -fc %T /shared/cache)\" = fuseblk ] || stat -fc %T /shared/cache | grep -q fuse; do \
               sleep 0.05; done; echo kept > /shared/cache/file")
        .succeeds();
    assert_eq!(fs::read_to_string(store.join("file")).unwrap(), "kept\n");
    job.remove();
    engine.docker(["stop", "--time=30", &id]).succeeds();
    let code = engine.docker(["wait", &id]).succeeds();
    assert_eq!(code.stdout, "0\n");
}
