//! SEMANTICS 5 in user namespaces: who somebody is goes by his number in the daemon's own namespace, whatever
//! a container calls him. Root writes the maps, of several users each, as container engines have it done.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{Finished, Mount, Run, needs_root, tool, wheelhouse};
use serde_json::Value;

/// Named by `--trust`.
const TRUSTED: u32 = 64_131;

/// Not named.
const UNTRUSTED: [u32; 2] = [64_132, 64_133];

/// The first user of a container, as with Docker's `userns-remap`.
const FIRST: u32 = 100_000;

/// Who a command runs as.
#[derive(Clone, Copy)]
enum User<'a> {
    /// A user of this machine.
    Of(u32),
    /// That user of a new namespace with that map.
    In(&'a str, u32),
}

use User::{In, Of};

/// A container has a copy of all mounts that there are, and keeps them as long as it runs: so there is one
/// mount at a time.
static ONE: Mutex<()> = Mutex::new(());

/// A mount, and a place that all users can enter.
struct Ground {
    mount: Mount,
    place: tempfile::TempDir,
    // Last, so that the next one comes when this one has gone.
    _one: MutexGuard<'static, ()>,
}

impl Ground {
    fn new(options: &[&str]) -> Ground {
        needs_root();
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        for script in ["scoped/attacker.py", "user_namespaces/enter.py"] {
            let copy = place.path().join(Path::new(script).file_name().unwrap());
            fs::copy(tests.join(script), &copy).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
        }
        let mount = Mount::builder().options(options.iter().copied()).mount();
        Ground { mount, place, _one: one }
    }

    fn scoped() -> Ground {
        Ground::new(&["--access", "scoped", "--trust", &TRUSTED.to_string()])
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn run(&self, user: User<'_>, words: &[&str]) -> Run {
        let run = match user {
            Of(uid) => Run::new(words[0]).args(&words[1..]).user(uid),
            In(map, uid) => Run::new("/usr/bin/python3")
                .arg(self.at("enter.py"))
                .args([map, &uid.to_string()])
                .args(words),
        };
        run.clean_environment(self.place.path()).directory(self.mount.path())
    }

    fn sh(&self, user: User<'_>, script: &str) -> Finished {
        self.run(user, &["sh", "-ec", script]).finish()
    }

    #[track_caller]
    fn says(&self, user: User<'_>, script: &str) -> String {
        let finished = self.sh(user, script);
        assert!(finished.status.success(), "{finished}\n{}", self.mount.log());
        finished.stdout
    }

    fn attacker(&self, user: User<'_>, word: &str) -> Finished {
        let (script, all) = (self.at("attacker.py"), self.mount.path().join("all"));
        let words = ["/usr/bin/python3", script.to_str().unwrap(), word, all.to_str().unwrap()];
        self.run(user, &words).succeeds()
    }

    /// Who has something to himself.
    fn users(&self) -> Vec<u64> {
        let status = self.mount.status();
        let users = status["users"].as_array().unwrap();
        let users = users.iter().filter(|user| user["used"]["files"] != 0);
        users.filter_map(|user| user["uid"].as_u64()).collect()
    }
}

/// Root in there is the first who is not trusted; who has the trusted user's number in there is the second; and
/// who has the first one's is the trusted user.
fn crossed() -> String {
    let [first, second] = UNTRUSTED;
    format!("0:{first}:1,{TRUSTED}:{second}:1,{first}:{TRUSTED}:1")
}

#[test]
fn a_user_is_who_he_is_outside() {
    let ground = Ground::scoped();
    let ([first, second], map) = (UNTRUSTED, crossed());
    assert_eq!(ground.says(In(&map, 0), "id -u; echo first > file; cat file"), "0\nfirst\n");
    let script = "id -u; test ! -e file; echo second > file; cat file";
    assert_eq!(ground.says(In(&map, TRUSTED), script), format!("{TRUSTED}\nsecond\n"));
    for user in [Of(0), Of(TRUSTED), In(&map, first)] {
        assert_eq!(ground.says(user, "ls"), "");
    }
    assert_eq!(ground.says(In(&map, first), "id -u; echo all > file"), format!("{first}\n"));
    // Outside, each is the same; and inside, each finds what he has outside.
    for (user, seen) in [(first, "first"), (second, "second"), (TRUSTED, "all"), (0, "all")] {
        assert_eq!(ground.says(Of(user), "cat file"), format!("{seen}\n"));
    }
    ground.says(Of(first), "echo changed > file; mkdir made");
    assert_eq!(ground.says(In(&map, 0), "cat file; stat -c %u file made"), "changed\n0\n0\n");
    assert_eq!(ground.users(), UNTRUSTED.map(u64::from));
    assert_eq!(fs::read_to_string(ground.mount.store().join("file")).unwrap(), "all\n");
    // Who has no number at all in there is the same one, too.
    let script = "unshare --user sh -ec 'id -u; cat file; echo again > file'; cat file";
    assert_eq!(ground.says(Of(first), script), "65534\nchanged\nagain\n");
    assert_eq!(ground.says(Of(second), "cat file"), "second\n");
}

/// A job that is root in its namespace may become whoever is mapped there, and nobody else.
#[test]
fn becoming_somebody_in_there_is_becoming_him_outside() {
    let ground = Ground::scoped();
    let ([first, second], map) = (UNTRUSTED, crossed());
    let script = format!(
        "become() {{ setpriv --reuid $1 --regid $1 --clear-groups sh -ec \"$2\"; }}
         echo first > file
         become {TRUSTED} 'echo second > file; cat file'
         become {first} 'echo all > file; cat file'
         if become {second} true; then echo someone else; fi
         cat file"
    );
    let said = ground.sh(In(&map, 0), &script);
    assert_eq!(said.stdout, "second\nall\nfirst\n", "{said}");
    for (user, seen) in [(first, "first"), (second, "second"), (TRUSTED, "all"), (0, "all")] {
        assert_eq!(ground.says(Of(user), "cat file"), format!("{seen}\n"));
    }
}

/// As in `scoped`, but the attackers are root, and the trusted user by number, in namespaces of their own.
#[test]
fn nobody_sees_what_root_of_a_namespace_does() {
    let ground = Ground::scoped();
    let ([first, second], map) = (UNTRUSTED, crossed());
    ground.attacker(Of(TRUSTED), "prepare");
    let view = |user| ground.attacker(user, "view").stdout;
    // Who reads a lock has one of his own from then on.
    view(Of(second));
    let others = [Of(0), Of(TRUSTED), Of(second)];
    let before = others.map(view);
    ground.attacker(In(&map, 0), "attack");
    assert!(before == others.map(view), "root of a namespace has changed what others see");
    view(Of(first));
    let own = view(Of(first));
    assert_ne!(own, before[0]);
    ground.attacker(In(&map, TRUSTED), "attack");
    assert!(before[..2] == [Of(0), Of(TRUSTED)].map(view), "who is called as the trusted user has");
    assert!(own == view(Of(first)), "one has changed what the other one has");
}

/// A container with a map of many users, a mount of the cache where it wants it, and processes of its own.
fn container(ground: &Ground, uid: u32, script: &str) -> Finished {
    let map = format!("0:{FIRST}:65536");
    let inside = ground.at("inside");
    if !inside.exists() {
        fs::create_dir(&inside).unwrap();
    }
    let enter = format!(
        "mount --bind {} {inside}; cd {inside}; exec setpriv --reuid {uid} --regid {uid} \
         --clear-groups --inh-caps=-all sh -ec \"$1\"",
        ground.mount.path().display(),
        inside = inside.display(),
    );
    let unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--net", "--ipc"];
    let words = [&unshare[..], &["sh", "-ec", &enter, "sh", script]].concat();
    ground.run(In(&map, 0), &words).finish()
}

#[test]
fn containers_with_many_users_share_what_they_are_to_share() {
    let limited = FIRST + 1000;
    let ground = Ground::new(&["--quota", &format!("{limited}=1MiB")]);
    let says = |user: u32, script: &str| {
        let said = container(&ground, user, script);
        assert!(said.status.success(), "{said}\n{}", ground.mount.log());
        said.stdout
    };
    // Files belong to root outside, who has no number in there; and that keeps nobody from anything.
    let change = "chown 7:7 file; chmod 600 file; touch -d @86400 file; stat -c '%u %a %Y' file";
    assert_eq!(says(0, &format!("umask 077; echo x > file; {change}")), "65534 600 86400\n");
    assert_eq!(
        says(1000, &format!("echo more >> file; cat file; {change}")),
        "x\nmore\n65534 600 86400\n"
    );
    ground.says(Of(UNTRUSTED[0]), "echo out >> file; mkdir -m 700 folder");
    assert_eq!(says(5, "echo in > folder/file; mv folder moved; cat file"), "x\nmore\nout\n");
    assert_eq!(ground.says(Of(1000), "cat moved/file"), "in\n");
    // A quota is that of the one user who has the number outside.
    let write = |name: &str| format!("head -c 3M /dev/zero > {name}; stat -c %s {name}");
    for (user, name) in [(0, "root"), (1000, "limited"), (1001, "next")] {
        assert_eq!(says(user, &write(name)), "3145728\n");
    }
    ground.says(Of(1000), &write("thousand"));
    let stored = |name: &str| ground.mount.store().join(name).exists();
    assert_eq!(["root", "limited", "next", "thousand"].map(stored), [true, false, true, true]);
    let over: Vec<Value> = ground.mount.status()["users"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|user| user["over"] == true)
        .map(|user| user["uid"].clone())
        .collect();
    assert_eq!(over, [limited]);
    assert_eq!(ground.says(Of(0), "stat -c %s limited"), "3145728\n");
}

#[test]
fn containers_with_many_users_are_kept_apart_where_that_is_wanted() {
    let trusted = FIRST + 1000;
    let ground = Ground::new(&["--access", "scoped", "--trust", &trusted.to_string()]);
    let says = |user: u32, script: &str| {
        let said = container(&ground, user, script);
        assert!(said.status.success(), "{said}\n{}", ground.mount.log());
        said.stdout
    };
    says(1000, "echo all > file; mkdir folder; echo all > folder/file");
    for user in [0, 1001] {
        let script = "cat file; echo own > file; rm -r folder; chmod 600 file; ls; cat file; stat -c %u file";
        assert_eq!(says(user, script), format!("all\nfile\nown\n{user}\n"));
    }
    // The same numbers outside are others.
    ground.says(Of(1000), "echo mine > file");
    ground.says(Of(1001), "cat file > /dev/null");
    for (user, seen) in [(0, "own\n"), (1000, "all\n"), (1001, "own\n"), (1002, "all\n")] {
        assert_eq!(says(user, "cat file"), seen);
    }
    let stored = |name: &str| fs::read_to_string(ground.mount.store().join(name)).unwrap();
    assert_eq!(["file", "folder/file"].map(stored), ["all\n", "all\n"]);
    assert_eq!(ground.users(), [1000, u64::from(FIRST), u64::from(FIRST) + 1001]);
}

/// uv of a container's root is served by what a trusted user of it has left, and changes nothing for him.
#[test]
fn uv_in_a_container_is_served_and_changes_nothing() {
    let trusted = FIRST + 1000;
    let ground = Ground::new(&["--access", "scoped", "--trust", &trusted.to_string()]);
    for (from, name) in [(tool("uv"), "uv"), (wheelhouse(), "wheels")] {
        Run::new("cp").arg("-rL").args([&from, &ground.at(name)]).succeeds();
        Run::new("chmod").args(["-R", "a+rX"]).arg(ground.at(name)).succeeds();
    }
    let install = |user: u32| {
        let home = ground.at(&format!("home-{user}"));
        if !home.exists() {
            fs::create_dir(&home).unwrap();
            std::os::unix::fs::chown(&home, Some(FIRST + user), Some(FIRST + user)).unwrap();
        }
        let script = format!(
            "export HOME={home} UV_CACHE_DIR=$PWD/uv UV_NO_CONFIG=1 UV_LINK_MODE=copy; cd {home}
             uv() {{ {place}/uv \"$@\"; }}
             uv venv --clear --python /usr/bin/python3 environment
             uv pip install --offline --no-index --python environment --find-links {place}/wheels rich toolz",
            home = home.display(),
            place = ground.place.path().display(),
        );
        let said = container(&ground, user, &script);
        assert!(said.status.success(), "{said}");
        said
    };
    install(1000).says("Prepared 5 packages");
    for user in [0, 7] {
        install(user).says("Installed 5 packages").does_not_say("Prepared");
        let clean = format!("{}/uv cache clean --force", ground.place.path().display());
        let cleaned = container(&ground, user, &format!("UV_CACHE_DIR=$PWD/uv {clean}; ! ls uv/*"));
        assert!(cleaned.status.success(), "{cleaned}");
        install(user).says("Prepared 5 packages");
    }
    install(1000).says("Installed 5 packages").does_not_say("Prepared");
}
