//! SEMANTICS 5.3: with `--access scoped`, nobody who is not trusted changes what another one reads.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Finished, Mount, Run, needs_root, tool, wheelhouse};
use serde_json::{Value, json};

/// Named by `--trust`.
const TRUSTED: u32 = 64_111;

/// Not named.
const UNTRUSTED: [u32; 2] = [64_112, 64_113];

/// A mount, and a place that all users can enter.
struct Ground {
    mount: Mount,
    place: tempfile::TempDir,
}

impl Ground {
    fn new(options: &[&str]) -> Ground {
        needs_root();
        let place = tempfile::tempdir().unwrap();
        open_to_all(place.path(), 0o755);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scoped/attacker.py");
        fs::copy(script, place.path().join("attacker.py")).unwrap();
        open_to_all(&place.path().join("attacker.py"), 0o644);
        let trust = format!("0,{TRUSTED}");
        let mount = Mount::builder().options(["--access", "scoped", "--trust", &trust]);
        Ground { mount: mount.options(options.iter().copied()).mount(), place }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.mount.path().join(name)
    }

    fn python(&self, user: u32, words: [&str; 2]) -> Run {
        let path = self.at(words[1]);
        let run = Run::new("/usr/bin/python3").arg(self.place.path().join("attacker.py"));
        run.arg(words[0]).arg(path).clean_environment(self.place.path()).user(user)
    }

    fn sh(&self, user: u32, script: &str) -> Finished {
        let path = self.mount.path();
        Run::shell(script).clean_environment(self.place.path()).directory(path).user(user).finish()
    }

    #[track_caller]
    fn says(&self, user: u32, script: &str) -> String {
        let finished = self.sh(user, script);
        assert!(finished.status.success(), "{finished}");
        finished.stdout
    }

    fn view(&self, user: u32, name: &str) -> String {
        self.python(user, ["view", name]).succeeds().stdout
    }

    /// All that lies in the store, as the mount shows it to root.
    fn stored(&self, name: &str) -> String {
        let script = self.place.path().join("attacker.py");
        let run = Run::new("/usr/bin/python3").arg(script).arg("view");
        run.arg(self.mount.store().join(name)).succeeds().stdout
    }
}

fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Every attempt is made by one user, then by another one; each sees what came of his own.
#[test]
fn nobody_sees_what_an_attacker_does() {
    let ground = Ground::new(&[]);
    let [first, second] = UNTRUSTED;
    ground.python(TRUSTED, ["prepare", "all"]).succeeds();
    let stored = ground.stored("all");
    // Who reads a lock has one of his own from then on, which belongs to him.
    ground.view(second, "all");
    let before = [0, TRUSTED, second].map(|user| ground.view(user, "all"));
    ground.python(first, ["attack", "all"]).succeeds();
    let after = [0, TRUSTED, second].map(|user| ground.view(user, "all"));
    assert!(before == after, "{}", difference(&before.concat(), &after.concat()));
    ground.view(first, "all");
    let own = ground.view(first, "all");
    assert_ne!(own, before[0]);

    ground.python(second, ["attack", "all"]).succeeds();
    let others = [0, TRUSTED].map(|user| ground.view(user, "all"));
    assert!(before[..2] == others, "{}", difference(&before[..2].concat(), &others.concat()));
    let still = ground.view(first, "all");
    assert!(own == still, "{}", difference(&own, &still));
    let now = ground.stored("all");
    assert!(stored == now, "{}", difference(&stored, &now));
    assert!(!ground.mount.log().contains("degraded"), "{}", ground.mount.log());
}

fn difference(before: &str, after: &str) -> String {
    let pairs = before.lines().zip(after.lines());
    let lines = pairs.filter(|(before, after)| before != after).take(20);
    lines.map(|(before, after)| format!("{before} -> {after}\n")).collect()
}

/// What a trusted user does, all see: also under names that others have for themselves, once they have
/// not.
#[test]
fn what_a_trusted_user_writes_is_everyones() {
    let ground = Ground::new(&[]);
    let [first, second] = UNTRUSTED;
    let read = |user, path: &str| ground.sh(user, &format!("cat {path}")).stdout;
    ground.says(first, "echo mine > file; mkdir folder; echo mine > folder/inside");
    for user in [0, TRUSTED, second] {
        assert_eq!(ground.says(user, "ls"), "", "{user}");
    }
    // Names that somebody has for himself are free for others.
    ground.says(TRUSTED, "echo all > file; mkdir folder; echo all > folder/all");
    assert_eq!(["file", "folder/all"].map(|path| read(second, path)), ["all\n", "all\n"]);
    assert_eq!(["file", "folder/all"].map(|path| read(first, path)), ["mine\n", ""]);
    assert_eq!(ground.says(first, "ls folder"), "inside\n");
    assert_eq!(ground.says(first, "rm file folder/inside; rmdir folder; ls"), "");
    assert_eq!(ground.says(second, "ls"), "file\nfolder\n");
    // Into a pipe that is everyone's, anyone could write.
    let pipe = ground.sh(TRUSTED, "mkfifo pipe");
    assert!(!pipe.status.success(), "{pipe}");
    ground.says(first, "mkfifo own; rm own");
    // What has no trusted version below shows the next one that there is.
    ground.says(first, "echo mine > other; rm other");
    ground.says(0, "echo all > other");
    assert_eq!(read(first, "other"), "all\n");
    assert_eq!(fs::read_to_string(ground.mount.store().join("file")).unwrap(), "all\n");
}

/// A job may act as several users: what it is writing as one of them, it is not writing as another.
#[test]
fn who_becomes_another_user_has_what_that_one_has() {
    let ground = Ground::new(&[]);
    let other = UNTRUSTED[0];
    let script = format!(
        "become() {{ setpriv --reuid {other} --regid {other} --clear-groups sh -ec \"$1\"; }}
         echo all > old
         exec 3> new; printf unfinished >&3
         become 'printf own > new; printf own > old; cat new old; mkdir made; printf own > made/file'
         printf ' and done' >&3; exec 3>&-
         echo; cat new old; ls
         become 'cat new old made/file; ls'
         cd \"$PWD\"; become 'printf relative > old'; cat old"
    );
    let said = ground.says(0, &script);
    assert_eq!(said, "ownown\nunfinished and doneall\nnew\nold\nownownownmade\nnew\nold\nall\n");
    let stored = |name: &str| fs::read_to_string(ground.mount.store().join(name)).unwrap();
    assert_eq!([stored("new"), stored("old")], ["unfinished and done", "all\n"]);
}

/// Locks that an attacker holds for ever keep nobody waiting but himself.
#[test]
fn locks_of_an_attacker_bind_nobody_else() {
    let ground = Ground::new(&[]);
    let [first, second] = UNTRUSTED;
    ground.python(TRUSTED, ["locks", "locks"]).succeeds();
    let mut holder = Holder::start(&ground, first);
    for user in [0, TRUSTED, second] {
        ground.python(user, ["lock", "locks"]).succeeds();
    }
    // But himself.
    let himself = ground.python(first, ["lock", "locks"]).finish();
    assert!(!himself.status.success(), "{himself}");
    holder.end();
    ground.python(first, ["lock", "locks"]).succeeds();
}

/// A process that holds locks until it is ended.
struct Holder(Child);

impl Holder {
    fn start(ground: &Ground, user: u32) -> Holder {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(ground.place.path().join("attacker.py")).arg("hold").arg(ground.at("locks"));
        command.uid(user).gid(user).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let holder = Holder(child);
        assert_eq!(said, "held\n");
        holder
    }

    fn end(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whoever fills what he may have gets an error, and nobody else notices.
#[test]
fn an_attacker_fills_no_more_than_he_may() {
    let [first, second] = UNTRUSTED;
    let quota = format!("{first}=4MiB:200");
    let ground = Ground::new(&["--quota", &quota, "--quota-default", "1G"]);
    ground.says(0, "mkdir -m 777 all");
    let counts = ground.python(first, ["fill", "all"]).succeeds().stdout;
    let counts: Value = serde_json::from_str(&counts).unwrap();
    let count = |name: &str| {
        assert_eq!(counts[name][1], libc::EDQUOT, "{name}: {counts}");
        counts[name][0].as_u64().unwrap()
    };
    // The folder of his takes some room, too.
    assert!((62..=64).contains(&count("writing")), "{counts}");
    assert!((62..=64).contains(&count("writing again")), "{counts}");
    assert_eq!(count("beside what is open without a name"), 0);
    // A little is kept back for what is being written at the moment.
    assert!((150..200).contains(&count("names")), "{counts}");
    assert!((150..200).contains(&count("names among those of all")), "{counts}");
    ground.says(second, "head -c 20000000 /dev/zero > all/much; stat -c %s all/much");
    ground.says(TRUSTED, "head -c 20000000 /dev/zero > all/much; stat -c %s all/much");
    assert_eq!(ground.says(0, "ls all"), "much\n");
    let status = ground.mount.status();
    assert_eq!(status["degraded"], Value::Null);
    let users = status["users"].as_array().unwrap();
    let his = users.iter().find(|user| user["uid"] == first).unwrap();
    assert_eq!(his["limit"], json!({"bytes": 4 << 20, "files": 200}), "{status}");
    assert!(his["used"]["files"].as_u64().unwrap() > 100, "{status}");
    let told = ground.mount.cachefs(["status"]).arg(ground.mount.path()).succeeds();
    told.says(&format!("user {first}: "));
}

#[test]
fn an_attacker_opens_no_more_than_he_may() {
    let ground = Ground::new(&[]);
    let [first, second] = UNTRUSTED;
    ground.says(0, "mkdir -m 777 all; echo all > all/file");
    let opened = ground.python(first, ["descriptors_of", "all"]).succeeds().stdout;
    let opened: Vec<i64> = serde_json::from_str(&opened).unwrap();
    assert!(opened[0] <= 4096 && opened[1] == i64::from(libc::EMFILE), "{opened:?}");
    for user in [0, TRUSTED, second] {
        assert_eq!(ground.says(user, "cat all/file"), "all\n");
    }
}

/// uv of one who is not trusted is served by what a trusted user has left, and cleans for himself alone.
#[test]
fn uv_of_others_is_served_and_changes_nothing() {
    let ground = Ground::new(&[]);
    let [first, second] = UNTRUSTED;
    let copy = |from: &Path, name: &str| {
        Run::new("cp").arg("-rL").args([from, &ground.place.path().join(name)]).succeeds();
        Run::new("chmod").args(["-R", "a+rX"]).arg(ground.place.path().join(name)).succeeds();
    };
    copy(&tool("uv"), "uv");
    copy(&wheelhouse(), "wheels");
    let uv = |user: u32, words: &[&str]| {
        let home = ground.place.path().join(format!("home-{user}"));
        if !home.exists() {
            fs::create_dir(&home).unwrap();
            std::os::unix::fs::chown(&home, Some(user), Some(user)).unwrap();
        }
        Run::new(ground.place.path().join("uv"))
            .clean_environment(&home)
            .directory(&home)
            .user(user)
            .env("UV_CACHE_DIR", ground.at("uv"))
            .env("UV_NO_CONFIG", "1")
            .env("UV_LINK_MODE", "copy")
            .args(words)
            .succeeds()
    };
    let install = |user: u32| {
        uv(user, &["venv", "--clear", "--python", "/usr/bin/python3", "environment"]);
        let wheels = ground.place.path().join("wheels");
        let words = ["pip", "install", "--offline", "--no-index", "--python", "environment"];
        let links = ["--find-links", wheels.to_str().unwrap()];
        uv(user, &[&words[..], &links, &["rich", "toolz", "markupsafe"]].concat())
    };
    install(TRUSTED).says("Prepared 6 packages");
    let stored = ground.stored("uv");
    install(first).says("Installed 6 packages").does_not_say("Prepared");
    uv(first, &["cache", "clean", "--force"]);
    install(second).says("Installed 6 packages").does_not_say("Prepared");
    install(first).says("Prepared 6 packages");
    install(first).says("Installed 6 packages").does_not_say("Prepared");
    let now = ground.stored("uv");
    assert!(stored == now, "{}", difference(&stored, &now));
    install(TRUSTED).says("Installed 6 packages").does_not_say("Prepared");
}

/// What somebody has for himself goes with the mount.
#[test]
fn nothing_of_it_is_left() {
    let mut ground = Ground::new(&[]);
    ground.says(UNTRUSTED[0], "echo mine > file; mkdir folder");
    let spill = fs::read_dir(ground.mount.store()).unwrap().count();
    assert_eq!(spill, 1, "the daemon's own folder");
    ground.mount.unmount();
    assert_eq!(fs::read_dir(ground.mount.store()).unwrap().count(), 1);
    ground.mount.mount_again();
    assert_eq!(ground.says(UNTRUSTED[0], "ls"), "");
}

/// What somebody has for himself is in no unit: it is told as his, to root and the daemon's user, and no prune
/// takes it. His jobs use what is everyone's as all others do.
#[test]
fn units_are_everyones_and_no_users() {
    let ground = Ground::new(&[]);
    let [first, second] = UNTRUSTED;
    let unit = |name: &str| format!("pip/http-v2/a/b/c/d/e/{name}");
    let (all, changed, own) = (unit("all"), unit("changed"), unit("own"));
    ground.says(
        TRUSTED,
        &format!(
            "mkdir -p pip/http-v2/a/b/c/d/e; for f in {all} {changed}; do echo all > $f; done"
        ),
    );
    let prune = |words: &[&str]| {
        let run = ground.mount.cachefs(["prune"]).arg(ground.mount.path()).args(words);
        serde_json::from_str::<Value>(&run.arg("--json").succeeds().stdout).unwrap()
    };
    let listed = || {
        let told = prune(&["--tool", "pip", "--dry-run"]);
        let units = told["units"].as_array().unwrap().iter();
        let paths = units.map(|unit| unit["path"].as_str().unwrap().to_owned());
        paths.collect::<std::collections::BTreeSet<_>>()
    };
    let both = [all.clone(), changed.clone()].into();
    assert_eq!(listed(), both);

    // By now it is known whose cache it is: opening what is his counts for it, too.
    let pip = |of: &str| {
        let status = ground.mount.status();
        let mut tools = status["tools"].as_array().unwrap().iter();
        tools.find(|tool| tool["tool"] == "pip").unwrap()[of].as_u64().unwrap()
    };
    let before = [pip("hits"), pip("misses")];
    let script = format!(
        "printf own > {own}; printf own > {changed}; mkdir pip/http-v2/mine; printf x > pip/http-v2/mine/own
         rm {all}; cat {own} {own} {changed} pip/http-v2/mine/own; ! cat pip/http-v2/mine/absent 2>&1"
    );
    assert!(ground.says(first, &script).starts_with("ownownownx"), "{script}");
    let [hits, misses] = [pip("hits") - before[0], pip("misses") - before[1]];
    assert!(hits >= 4 && misses >= 1, "{hits} hits, {misses} misses");
    // He sees other names; all that there is to prune is as it was.
    assert_eq!(ground.says(first, "cd pip/http-v2/a/b/c/d/e; ls"), "changed\nown\n");
    assert_eq!(listed(), both);

    let page = ground.place.path().join("report.html");
    let report = || ground.mount.cachefs(["report"]).arg(&page).arg(ground.mount.path());
    report().succeeds().says("2 units");
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.contains(&all) && !text.contains(&own) && !text.contains("mine"), "{text}");
    let (_, users) = text.split_once("What users have to themselves").unwrap();
    let (users, _) = users.split_once("</section>").unwrap();
    assert!(users.contains(&format!("<td>{first}</td>")), "{users}");
    assert!(
        !users.contains(&second.to_string()) && !users.contains(&TRUSTED.to_string()),
        "{users}"
    );
    // Names are for root and the daemon's user, whoever is trusted with writing.
    let program = ground.place.path().join("cachefs");
    fs::copy(common::binary(), &program).unwrap();
    for user in [TRUSTED, first] {
        let at = ground.mount.path().to_str().unwrap();
        for words in
            [["report", "page.html", at], ["prune", at, "--tool=pip"], ["clean", at, "pip"]]
        {
            let run = Run::new(&program).args(words).user(user);
            run.directory(ground.mount.path()).exits_with(1).says("not permitted for user");
        }
        Run::new(&program).arg("status").arg(ground.mount.path()).user(user).succeeds();
    }

    // His job has used one of them since it began: that one goes last, and he goes on seeing it.
    let script = format!("exec 3< {all}; echo begun; read go_on; cat {all}; cat {own} 2>&1");
    let mut job = Talking::start(&ground, second, &script);
    assert_eq!(job.hears(), "begun");
    let told = prune(&["--tool", "pip"]);
    let order: Vec<_> =
        told["units"].as_array().unwrap().iter().map(|unit| &unit["path"]).collect();
    assert_eq!(order, [changed.as_str(), all.as_str()], "{told:#}");
    assert_eq!(ground.says(first, &format!("cat {own} {changed}")), "ownown");
    assert_eq!(ground.says(TRUSTED, "find pip -type f"), "");
    job.go_on();
    assert_eq!(job.hears(), "all");
    assert!(job.hears().contains("No such file"));
}

/// A job that says something, and waits until it may go on.
struct Talking(Child, BufReader<std::process::ChildStdout>);

impl Talking {
    fn start(ground: &Ground, user: u32, script: &str) -> Talking {
        let mut command = Command::new("sh");
        command.args(["-ec", script]).current_dir(ground.mount.path()).uid(user).gid(user);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Talking(child, said)
    }

    fn hears(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn go_on(&mut self) {
        use std::io::Write as _;
        self.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for Talking {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}
