//! A Docker engine of the test's own, and containers in it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};

use crate::common::{
    FORGET_OTHERS, Finished, Run, ends_with_its_starter, needs_root, tools_directory,
};

/// How long the engine may take to answer, or to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// Debian's, whatever else of that name may be on the path.
const DOCKER: &str = "/usr/bin/docker";

/// The one image: directories and links into `/usr`, which containers get from the host.
const IMAGE: &str = "cachefs-test";

/// Starts the engine where it sees nothing of another one (`/run` is empty) and no network.
const START: &str = r#"
mount -t tmpfs tmpfs /run
# What a container mounts there the others see too, and the host doesn't.
mount --make-rshared "$SHARED"
if [ -n "$REMAP" ]; then
    for file in passwd group subuid subgid; do
        mount --bind "$REMAP/$file" /etc/$file
    done
fi
exec /usr/sbin/dockerd "$@"
"#;

/// An engine with process, mount and network namespaces of its own, so that its end is the end of all
/// containers, of whatever else it started and of all that they had mounted. Only the cgroups are the host's.
pub(crate) struct Engine {
    place: tempfile::TempDir,
    /// `unshare`, with which its first process ends.
    starter: Option<Child>,
    /// The engine itself, which is the first process in its namespace.
    first: u32,
}

impl Engine {
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// An engine whose containers run in a user namespace: their uid 0 is this one outside.
    #[track_caller]
    pub(crate) fn remapped(to: u32) -> Self {
        Self::start_with(Some(to))
    }

    #[track_caller]
    fn start_with(remap: Option<u32>) -> Self {
        needs_root();
        assert!(Path::new(DOCKER).exists(), "this test needs {DOCKER}: run tests/setup");
        let place = tempfile::Builder::new().prefix("cachefs-engine-").tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // What is mounted here later is mounted in the engine's namespace too, as on any host with systemd.
        let shared = place.path().join("shared");
        fs::create_dir(&shared).unwrap();
        Run::new("mount").arg("--bind").args([&shared, &shared]).succeeds();
        let mut engine = Self { place, starter: None, first: 0 };
        Run::new("mount").arg("--make-rshared").arg(&shared).succeeds();

        let at = |name: &str| engine.at(name);
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "--net", "--ipc", "sh", "-ec"])
            .args([&[FORGET_OTHERS, START].concat(), "sh"])
            .args(["--data-root".into(), at("data"), "--exec-root".into(), at("exec")])
            .args(["--pidfile".into(), at("pid"), "--host".into(), engine.address()])
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"])
            .args(["--log-level=warn", "--exec-opt=native.cgroupdriver=cgroupfs"])
            .arg(format!("--cgroup-parent=/{}", engine.cgroup()))
            .arg(format!("--storage-driver={}", storage_driver(engine.place.path())))
            .env("SHARED", &shared);
        if let Some(uid) = remap {
            users(&at("users"), uid);
            command.arg("--userns-remap=remapped").env("REMAP", at("users"));
        }
        let log = fs::File::create(at("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        ends_with_its_starter(&mut command, libc::SIGKILL);
        engine.starter = Some(command.spawn().expect("unshare can't be started"));
        engine.wait_until_it_answers();
        engine.import();
        engine
    }

    #[track_caller]
    fn wait_until_it_answers(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let starter = self.starter.as_mut().expect("the engine was started");
        let children = format!("/proc/{0}/task/{0}/children", starter.id());
        loop {
            let first = fs::read_to_string(&children).unwrap_or_default();
            self.first = first.split_whitespace().next().map_or(0, |pid| pid.parse().unwrap());
            let gone = starter.try_wait().unwrap();
            let late = Instant::now() > deadline;
            assert!(gone.is_none() && !late, "no engine ({gone:?})\n{}", log(self.place.path()));
            if self.first != 0 && UnixStream::connect(self.place.path().join("socket")).is_ok() {
                return;
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Makes the image.
    #[track_caller]
    fn import(&self) {
        let root = self.at("root");
        for directory in ["cache", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "work"]
        {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for directory in ["tmp", "work"] {
            let everyone = fs::Permissions::from_mode(0o1777);
            fs::set_permissions(root.join(directory), everyone).unwrap();
        }
        for directory in ["bin", "lib", "lib64", "sbin"] {
            let to = Path::new("usr").join(directory);
            std::os::unix::fs::symlink(to, root.join(directory)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        let archive = self.at("root.tar");
        Run::new("tar").arg("-C").arg(&root).arg("-cf").args([&archive, Path::new(".")]).succeeds();
        self.docker(["import"]).args([archive.as_os_str(), OsStr::new(IMAGE)]).succeeds();
    }

    /// A name below the directory in which the host's mounts are also the engine's.
    pub(crate) fn shared(&self, name: &str) -> PathBuf {
        self.at("shared").join(name)
    }

    /// A new, empty directory of the host that everyone may write to.
    #[track_caller]
    pub(crate) fn directory(&self) -> PathBuf {
        let path = tempfile::tempdir_in(self.place.path()).unwrap().keep();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o1777)).unwrap();
        path
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn address(&self) -> PathBuf {
        format!("unix://{}", self.at("socket").display()).into()
    }

    /// Below this name all cgroups of the engine are.
    fn cgroup(&self) -> String {
        self.place.path().file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// `docker WORDS...`
    pub(crate) fn docker<Word: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = Word>) -> Run {
        Run::new(DOCKER).envs(&self.variables()).args(words)
    }

    /// The image of all containers.
    pub(crate) fn image(&self) -> &'static str {
        IMAGE
    }

    /// What leads `docker` and `docker-compose` to this engine, and to nobody's settings.
    pub(crate) fn variables(&self) -> [(&'static str, PathBuf); 2] {
        [("DOCKER_HOST", self.address()), ("DOCKER_CONFIG", self.at("config"))]
    }

    /// A container that is yet to be run: without a network, with the host's programs, the test's tools and
    /// scripts where the host has them.
    pub(crate) fn container(&self) -> Container<'_> {
        let container = Container { engine: self, options: Vec::new() };
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let tools = fs::canonicalize(tools_directory()).expect("run tests/setup");
        [Path::new("/usr"), &tests, &tools]
            .into_iter()
            .fold(container, |container, path| container.bind(path, path, "ro"))
            .option("--network=none")
    }
}

/// A container to be.
#[derive(Clone)]
pub(crate) struct Container<'a> {
    engine: &'a Engine,
    options: Vec<OsString>,
}

/// A container that runs.
pub(crate) struct Started<'a> {
    engine: &'a Engine,
    id: String,
}

impl<'a> Container<'a> {
    /// A word more for `docker run`.
    pub(crate) fn option(mut self, option: impl Into<OsString>) -> Self {
        self.options.push(option.into());
        self
    }

    /// The user that it runs as, with that user's group.
    pub(crate) fn user(self, uid: u32) -> Self {
        self.option(format!("--user={uid}:{uid}"))
    }

    /// A path of the host in the container, with docker's options for it, such as `rslave`.
    pub(crate) fn bind(self, from: &Path, to: impl AsRef<Path>, how: &str) -> Self {
        let to = to.as_ref().display();
        self.option(format!("--volume={}:{to}:{how}", from.display()))
    }

    /// Runs a program in it and removes it then.
    pub(crate) fn run<Word: AsRef<OsStr>>(self, words: impl IntoIterator<Item = Word>) -> Run {
        self.engine.docker(["run", "--rm"]).args(self.options).arg(IMAGE).args(words)
    }

    /// Starts a program in it that goes on until the engine ends.
    #[track_caller]
    pub(crate) fn start<Word: AsRef<OsStr>>(
        self,
        words: impl IntoIterator<Item = Word>,
    ) -> Started<'a> {
        let engine = self.engine;
        let run = engine.docker(["run", "--detach"]).args(self.options).arg(IMAGE).args(words);
        Started { engine, id: run.succeeds().stdout.trim().to_owned() }
    }
}

impl Started<'_> {
    /// Its full id, which is in the names of its cgroups too.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Runs a shell script in it.
    pub(crate) fn shell(&self, script: impl AsRef<OsStr>) -> Run {
        self.engine.docker(["exec", &self.id, "sh", "-ec"]).arg(script)
    }

    /// Waits until it has ended with this exit code. What it said.
    #[track_caller]
    pub(crate) fn ends_with(&self, code: i32) -> Finished {
        let waited = self.engine.docker(["wait", &self.id]).succeeds();
        let said = self.engine.docker(["logs", &self.id]).succeeds();
        assert_eq!(waited.stdout.trim(), code.to_string(), "{said}");
        said
    }

    /// Ends and removes it.
    #[track_caller]
    pub(crate) fn remove(self) {
        self.engine.docker(["rm", "--force", &self.id]).succeeds();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the engine's log\n{}---", log(self.place.path()));
        }
        if let Some(starter) = &mut self.starter {
            // Fails only for one that was waited for, which has ended then.
            let _ = starter.kill();
            let _ = starter.wait();
        }
        // The kernel ends all others in the namespace before it lets the first one go.
        let deadline = Instant::now() + PATIENCE;
        while self.first != 0 && Path::new(&format!("/proc/{}", self.first)).exists() {
            if Instant::now() > deadline {
                eprintln!("the engine (pid {}) still runs", self.first);
                return;
            }
            sleep(Duration::from_millis(10));
        }
        if let Err(error) = unmount(self.at("shared"), UnmountFlags::DETACH) {
            eprintln!("{} can't be unmounted: {error}", self.at("shared").display());
        }
        remove_cgroups(&self.cgroup());
    }
}

/// Removes what containers that were killed have left of theirs, in each hierarchy that there is.
fn remove_cgroups(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.to_path_buf()]) {
        let ours = hierarchy.join(name);
        let containers = fs::read_dir(&ours).into_iter().flatten().flatten();
        for container in containers.filter(|entry| entry.path().is_dir()) {
            // One that isn't empty yet stays: it holds nothing but its name.
            let _ = fs::remove_dir(container.path());
        }
        let _ = fs::remove_dir(ours);
    }
}

/// How the engine keeps files: in layers, unless the place is one itself. The image has next to nothing in
/// it, so that copies cost nothing either.
fn storage_driver(place: &Path) -> &'static str {
    let kind = Run::new("stat").args(["--file-system", "--format=%T"]).arg(place).succeeds();
    match kind.stdout.trim() {
        "ext2/ext3" | "xfs" | "btrfs" => "overlay2",
        _ => "vfs",
    }
}

/// The users that an engine with user namespaces wants to find: its own one, and whose ids it may use.
fn users(at: &Path, uid: u32) {
    fs::create_dir(at).unwrap();
    let files = [
        ("passwd", format!("root:x:0:0::/root:/bin/sh\nremapped:x:{uid}:{uid}::/:/bin/sh\n")),
        ("group", format!("root:x:0:\ndocker:x:1:\nremapped:x:{uid}:\n")),
        ("subuid", format!("remapped:{uid}:65536\n")),
        ("subgid", format!("remapped:{uid}:65536\n")),
    ];
    for (name, text) in files {
        fs::write(at.join(name), text).unwrap();
        // These are mounted over the system's own, which may not all be there.
        assert!(Path::new("/etc").join(name).exists(), "there is no /etc/{name}: run tests/setup");
    }
}

fn log(place: &Path) -> String {
    fs::read_to_string(place.join("log")).unwrap_or_default()
}
