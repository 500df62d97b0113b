//! What `packaging/recipes` tells to do is done: jobs at once on one cache, as users and in containers, with the
//! scripts, variables and mounts that the files there have, and an empty cache before.

mod common;
mod docker;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use common::{Run, needs, needs_root, on_a_machine_of_its_own, tool, tools_directory, wheelhouse};
use docker::{Engine, mount_for};

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/recipes")
}

/// The jobs of a recipe, and how its containers are to be made.
#[derive(serde::Deserialize)]
struct Recipe {
    jobs: BTreeMap<String, Job>,
    #[serde(default)]
    volumes: Vec<String>,
    #[serde(default)]
    args: String,
}

#[derive(serde::Deserialize)]
struct Job {
    variables: BTreeMap<String, String>,
    /// Each for a shell of its own.
    scripts: Vec<String>,
}

/// What the files of a recipe say.
fn recipe(name: &str) -> Recipe {
    let python = tools_directory().join("containers/bin/python");
    assert!(python.exists(), "this test needs {}: run tests/setup", python.display());
    let read = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recipes/read.py");
    let said = Run::new(python).arg(read).arg(recipes()).succeeds();
    let mut all: BTreeMap<String, Recipe> = serde_json::from_str(&said.stdout).unwrap();
    all.remove(name).unwrap()
}

impl Job {
    /// The variables that it is run with: its own, and those by which tools find what they would fetch.
    fn environment(&self, home: &str) -> Vec<(String, String)> {
        let tools = fs::canonicalize(tools_directory()).unwrap();
        let tools = tools.display();
        let given = [
            // Where a job is told no other.
            ("HOME", home.to_owned()),
            ("PATH", format!("{tools}/venv/bin:{tools}/bin:/usr/bin:/bin")),
            ("UV_CONFIG_FILE", format!("{home}/uv.toml")),
        ];
        let given = given.map(|(name, value)| (name.to_owned(), value)).into_iter();
        given.chain(self.variables.clone()).collect()
    }
}

/// Sources such as each job has checked out; and there is no index to ask.
fn check_out(at: &Path) {
    fs::create_dir_all(at).unwrap();
    let offline = format!("no-index = true\nfind-links = [{:?}]\n", wheelhouse());
    fs::write(at.join("uv.toml"), offline).unwrap();
    let project = "[build-system]\nrequires = [\"flit_core\"]\nbuild-backend = \"flit_core.buildapi\"\n\
        [project]\nname = \"sample\"\nversion = \"1.0\"\ndescription = \"A sample\"\n";
    fs::write(at.join("pyproject.toml"), project).unwrap();
    fs::write(at.join("sample.py"), "\"\"\"A sample.\"\"\"\n").unwrap();
    Run::new("chmod").args(["-R", "a+rwX"]).arg(at).succeeds();
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Runs all jobs at once on a machine, each as a user of its own.
fn users_share(name: &str) {
    needs_root();
    let recipe = recipe(name);
    let home = tempfile::tempdir().unwrap();
    let mut script = "cachefs mount --max-size 50G /var/lib/cachefs /mnt/cache\njobs=\n".to_owned();
    for (number, (job, told)) in recipe.jobs.iter().enumerate() {
        let work = home.path().join(job);
        check_out(&work);
        let user = 1000 + number;
        Run::new("chown").args(["-R", &format!("{user}:{user}")]).arg(&work).succeeds();
        let words = told.environment(work.to_str().unwrap());
        let words: Vec<String> =
            words.iter().map(|(name, value)| quoted(&format!("{name}={value}"))).collect();
        let shells: Vec<String> =
            told.scripts.iter().map(|it| format!("bash -eo pipefail -c {}", quoted(it))).collect();
        script += &format!(
            "(cd {}; exec setpriv --reuid {user} --regid {user} --clear-groups env -i {} bash -exc {}) & \
             jobs=\"$jobs $!\"\n",
            quoted(work.to_str().unwrap()),
            words.join(" "),
            quoted(&shells.join("\n"))
        );
    }
    script += "for job in $jobs; do wait $job; done\nstat -c 'made by %u' /var/lib/cachefs/uv/*\n\
        cachefs status; cachefs prune --dry-run --max-size 1B; cachefs umount\n";
    let said = on_a_machine_of_its_own(home.path(), &script).succeeds();
    // What both need was unpacked by one of them, or by both at once, and is there once.
    said.says("requests 2").says("health    good").does_not_say("Permission denied");
}

#[test]
fn gitlab_jobs_of_users_share_a_cache() {
    users_share("shell");
}

#[test]
fn github_jobs_of_users_share_a_cache() {
    users_share("github");
}

/// Runs all jobs at once in containers.
fn containers_share(engine: &Engine, recipe: &Recipe, user: impl Fn(usize) -> u32 + Sync) {
    let mount = mount_for(engine, &[]);
    let above = engine.shared("");
    let here = |word: &str| word.replace("/srv/cachefs:", &format!("{}:", above.display()));
    let mut words: Vec<String> =
        recipe.volumes.iter().map(|volume| format!("--volume={}", here(volume))).collect();
    words.extend(recipe.args.split_whitespace().map(here));
    assert!(words.iter().any(|word| word.contains("rslave")), "{words:?}");
    let run = |number: usize, job: &Job| {
        let work = engine.directory();
        check_out(&work);
        let mut container = engine.container().user(user(number)).bind(&work, "/work", "rw");
        for (name, value) in job.environment("/work") {
            container = container.option(format!("--env={name}={value}"));
        }
        for word in &words {
            container = container.option(word);
        }
        let container = container.option("--workdir=/work").start(["sleep", "1000"]);
        for script in &job.scripts {
            container.shell(script).timeout(std::time::Duration::from_secs(120)).succeeds();
        }
    };
    thread::scope(|scope| {
        for (number, job) in recipe.jobs.values().enumerate() {
            scope.spawn(move || run(number, job));
        }
    });
    let pruned = mount.cachefs(["prune", "--dry-run", "--max-size", "1B"]).arg(mount.path());
    pruned.succeeds().says("requests 2");
    assert!(mount.status()["degraded"].is_null());
    assert!(mount.store().join("uv").is_dir());
}

#[test]
fn containers_of_gitlab_and_jenkins_share_a_cache() {
    let engine = Engine::start();
    containers_share(&engine, &recipe("docker"), |number| 1000 * number as u32);
    let jenkins = recipe("jenkins");
    assert_eq!(jenkins.jobs.len(), 4);
    containers_share(&engine, &jenkins, |_| 1000);
}

/// The options of each `docker run` of the README.
fn docker_runs() -> Vec<Vec<String>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("    docker run --rm "));
    let options = |line: &str| {
        let words = line.split_whitespace().take_while(|word| *word != "IMAGE");
        words.map(str::to_owned).collect()
    };
    lines.map(options).collect()
}

#[test]
fn containers_of_the_readme_share_a_cache() {
    let engine = Engine::start();
    let mount = mount_for(&engine, &[]);
    let runs = docker_runs();
    assert_eq!(runs.len(), 2, "{runs:?}");
    let above = engine.shared("");
    let above = above.to_str().unwrap().trim_end_matches('/');
    for (number, words) in runs.into_iter().enumerate() {
        let work = engine.directory();
        check_out(&work);
        let container = engine.container().user(1000 + number as u32).bind(&work, "/work", "rw");
        let mut container = container.option("--env=HOME=/work").option("--workdir=/work");
        for word in &words {
            let mount = mount.path().to_str().unwrap();
            let here = word.replace("/mnt/cache:", &format!("{mount}:"));
            container = container.option(here.replace("/srv/cachefs:", &format!("{above}:")));
        }
        let uv = fs::canonicalize(tool("uv")).unwrap();
        let install =
            ["pip", "install", "--python=/usr/bin/python3", "--target=packages", "requests"];
        let words = [uv.to_str().unwrap(), "--config-file=uv.toml"].into_iter().chain(install);
        let said = container.run(words).succeeds();
        said.says("Installed").does_not_say("Failed to hardlink");
        // Whoever comes second finds what is there.
        assert_eq!(said.all_output().contains("Prepared"), number == 0, "{said}");
    }
}

#[test]
fn users_of_a_build_host_share_a_cache() {
    needs_root();
    let home = tempfile::tempdir().unwrap();
    let script = r#"
        cp "$1/bin/cachefs" "$UV" /usr/local/bin
        cat "$RECIPES/fstab" > /etc/fstab
        cp "$RECIPES/cachefs.sh" /etc/profile.d/
        for user in anna ben; do useradd --create-home --shell /bin/bash $user; done
        # Without the mount, one who logs in is told nothing and has no such variables.
        su -l anna -c 'echo "before: $UV_CACHE_DIR"'
        mkdir /mnt/cache; mount -a
        findmnt -no FSTYPE /mnt/cache
        for user in anna ben; do
            su -l $user -c "uv venv --quiet work && uv pip install --quiet --python work --no-index \
                --find-links $WHEELS requests && echo \$USER has \$UV_CACHE_DIR" &
            jobs="$jobs $!"
        done
        for job in $jobs; do wait $job; done
        cachefs status --json | grep '"max_size": "200G"'
        umount /mnt/cache
    "#;
    let run = on_a_machine_of_its_own(home.path(), script)
        .env("UV", fs::canonicalize(tool("uv")).unwrap())
        .env("WHEELS", wheelhouse())
        .env("RECIPES", recipes().join("build-host"));
    let said = run.succeeds();
    said.says("before: \n").says("fuse.cachefs").does_not_say("Permission denied");
    said.says("anna has /mnt/cache/uv").says("ben has /mnt/cache/uv");
}

#[test]
fn a_laptop_has_a_mount_of_its_user() {
    needs_root();
    needs("fusermount3");
    let unit = recipes().join("laptop/cachefs.service");
    let place = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(&unit).unwrap();
    let program = common::binary();
    let whole = text.replace("ExecStart=cachefs", &format!("ExecStart={}", program.display()));
    let copy = place.path().join("cachefs.service");
    fs::write(&copy, &whole).unwrap();
    let verified = Run::new(needs("systemd-analyze")).args(["verify", "--man=no"]).arg(copy);
    assert_eq!(verified.succeeds().all_output().trim(), "");
    let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=cachefs ")).unwrap();

    let home = tempfile::tempdir().unwrap();
    let script = format!(
        r#"
        mkdir -p /home/me/.cache; chown -R 1000:1000 /home/me; chmod 755 /home/me
        cat > "$1/script" <<'SCRIPT'
        cachefs {} 2> /home/me/log & daemon=$!
        until grep -q ' mounted mountpoint' /home/me/log; do kill -0 $daemon; sleep 0.02; done
        install="uv pip install --no-index --find-links $WHEELS --python work requests"
        cd /home/me; uv venv --quiet work
        # A command uses the mount that is there.
        cachefs run -- sh -ec "test \$UV_CACHE_DIR = /home/me/.cache/cachefs.mount/uv; $install"
        eval "$(cachefs env)"
        rm -r work; uv venv --quiet work; $install > again 2>&1; cat again
        ! grep Prepared again
        cachefs umount; wait $daemon
        # And makes one of its own where there is none.
        rm -r work; env -u UV_CACHE_DIR uv venv --quiet work
        cachefs run -- sh -ec "$install"
        test -d /home/me/.cache/cachefs/uv
SCRIPT
        exec setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=/home/me bash -exo pipefail "$1/script"
        "#,
        start.replace("%h", "/home/me")
    );
    let tools = fs::canonicalize(tools_directory()).unwrap();
    let script = format!("PATH=$PATH:{}/bin\n{script}", tools.display());
    let run = on_a_machine_of_its_own(home.path(), &script).env("WHEELS", wheelhouse());
    run.succeeds().says("Installed").does_not_say("Permission denied");
}
