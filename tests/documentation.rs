//! What the program says of itself: the examples in each command's `--help` work, and completions and manual
//! pages know every command.

mod common;

use std::fs;
use std::path::Path;

use common::{Run, binary, needs, needs_root, on_a_machine_of_its_own, tools_directory};

/// In the order in which their examples are run: one after the other, on one machine. The examples of `mount`
/// come first, and those of `umount` last.
const COMMANDS: &[&str] = &[
    "mount",
    "check",
    "status",
    "env",
    "readers",
    "top",
    "report",
    "prune",
    "clean",
    "umount",
    "run",
    "try",
    "completions",
    "man",
    "",
];

/// The lines of `--help` that are for a shell.
fn examples(command: &str) -> Vec<String> {
    let words: Vec<_> = [command, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
    let said = Run::new(binary()).args(words).succeeds();
    let examples = said.stdout.split_once("\nExample").map(|(_, after)| after.to_owned());
    let examples = examples.unwrap_or_else(|| panic!("`{command}` has no example\n{said}"));
    let lines = examples.lines().filter_map(|line| line.strip_prefix("    "));
    let found: Vec<String> = lines.map(str::to_owned).collect();
    assert!(!found.is_empty() && found.iter().all(|line| line.contains("cachefs")), "{said}");
    found
}

/// The commands that `cachefs --help` lists.
fn listed() -> Vec<String> {
    let said = Run::new(binary()).arg("--help").succeeds();
    let (_, after) = said.stdout.split_once("\nCommands:\n").expect("a list of commands");
    let lines = after.lines().take_while(|line| line.starts_with("  "));
    // What a long description is wrapped to begins further to the right.
    let first = lines.filter(|line| !line.starts_with("   "));
    first.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn every_example_works() {
    needs_root();
    let mut commands = listed();
    commands.retain(|command| command != "help");
    commands.push(String::new());
    commands.sort();
    let mut known: Vec<_> = COMMANDS.to_vec();
    known.sort();
    assert_eq!(commands, known, "each command is to be in this test");

    let home = tempfile::tempdir().unwrap();
    let mut script = String::new();
    for command in COMMANDS {
        for (number, example) in examples(command).iter().enumerate() {
            // There is one mount at a time; those before it leave it for what follows.
            script += match *command {
                "mount" if number > 0 => "cachefs umount\n",
                "umount" if number > 0 => "cachefs mount /var/lib/cachefs /mnt/cache\n",
                "clean" => "mkdir -p /mnt/cache/{uv,pip,ruff}\n",
                _ => "",
            };
            script += &format!("echo '+ '{}\n{example}\n", shell_word(example));
        }
    }
    script += "test ! -e /mnt/cache/uv; man /usr/local/share/man/man1/cachefs-mount.1 | cat";
    let said = on_a_machine_of_its_own(home.path(), &script).succeeds();
    said.says("Everything worked").says("cachefs-mount(1)");
}

fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Blocks of a document that are laid out as they are, with the numbers of their first lines.
fn blocks(document: &str) -> Vec<(usize, Vec<String>)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
    let mut blocks: Vec<(usize, Vec<String>)> = Vec::new();
    let mut in_block = false;
    for (number, line) in text.lines().enumerate() {
        match line.strip_prefix("    ") {
            Some(line) if in_block => blocks.last_mut().unwrap().1.push(line.to_owned()),
            Some(line) => blocks.push((number + 1, vec![line.to_owned()])),
            None => {}
        }
        in_block = line.starts_with("    ");
    }
    blocks
}

/// How blocks begin that are not for a shell, or are shown elsewhere.
const NOT_RUN: &[(&str, &str)] = &[
    ("error: ", "what uv says"),
    ("ruff failed", "what ruff says"),
    ("/var/lib/cachefs  /mnt/cache", "a line of /etc/fstab, which tests/packages mounts"),
    ("cargo install", "builds this program"),
    ("git config", "tests/git_in_caches.rs"),
    ("tests/run", "runs this test"),
];

#[test]
fn every_block_of_the_readme_works() {
    needs_root();
    let home = tempfile::tempdir().unwrap();
    let project = "[project]\nname = \"sample\"\nversion = \"1.0\"\nrequires-python = \">=3.11\"\n";
    fs::write(home.path().join("pyproject.toml"), project).unwrap();
    let mut script =
        "useradd ci\numount_all() { while cachefs umount 2>/dev/null; do :; done; }\n".to_owned();
    let (mut run, mut not_run) = (0, 0);
    for document in ["README.md", "packaging/recipes/README.md"] {
        for (number, lines) in blocks(document) {
            if NOT_RUN.iter().any(|(begin, _)| lines[0].starts_with(begin)) {
                not_run += 1;
                continue;
            }
            run += 1;
            let mounts = lines.iter().any(|line| line.starts_with("cachefs mount "));
            let own = mounts || lines[0].starts_with("cachefs run");
            script += "umount_all\n";
            if !own {
                script += "cachefs mount /var/lib/cachefs /mnt/cache\n";
            }
            script += &format!("echo '+ {document}, line {number}'\n");
            // With the next line, where one goes on there.
            let whole = lines.join("\n").replace("\\\n", " ");
            for line in whole.lines() {
                script += &match line {
                    "cachefs top" => {
                        format!("printf q | script -qec {} /dev/null\n", shell_word(line))
                    }
                    // tests/recipes.rs does that.
                    docker if docker.starts_with("docker run ") => {
                        "mkdir -p \"$(findmnt -nt fuse.cachefs -o TARGET)/uv\"\n".into()
                    }
                    _ => format!("{line}\n"),
                };
            }
        }
    }
    script += "umount_all; grep '</html>' report.html; test -d .venv; ls -A .cache/cachefs";
    let tools = fs::canonicalize(tools_directory()).unwrap();
    let script =
        format!("PATH=$PATH:{}/bin UV_OFFLINE=1; export UV_OFFLINE\n{script}", tools.display());
    on_a_machine_of_its_own(home.path(), &script).succeeds().says("openat2").says("</html>");
    assert!(run >= 9 && not_run >= NOT_RUN.len(), "{run} blocks run, {not_run} not");
}

#[test]
fn manual_pages_are_complete() {
    let home = tempfile::tempdir().unwrap();
    let pages = home.path().join("deep/man1");
    Run::new(binary()).arg("man").arg(&pages).succeeds();
    for command in listed().iter().filter(|command| *command != "help") {
        let page = fs::read_to_string(pages.join(format!("cachefs-{command}.1"))).unwrap();
        assert!(page.contains("EXAMPLES") && page.contains(".SH SYNOPSIS"), "{page}");
    }
    let names: Vec<_> =
        fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    // One for each, that of the program for `help`, and that of the helper.
    assert_eq!(names.len(), listed().len() + 1, "{names:?}");
    let helper = fs::read_to_string(pages.join("mount.cachefs.8")).unwrap();
    assert!(helper.contains("/etc/fstab") && helper.contains(".SH OPTIONS"), "{helper}");
    // What is hidden in `--help` is nobody's to type.
    assert!(!fs::read_to_string(pages.join("cachefs.1")).unwrap().contains("outside"));
    Run::new(binary()).arg("man").arg(pages.join("cachefs.1/x")).exits_with(1).says("can't write");
}

#[test]
fn completions_are_what_shells_read() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "fish", "powershell", "zsh"] {
        let said = Run::new(binary()).args(["completions", shell]).succeeds();
        said.says("readers").says("passthrough").does_not_say("outside");
        fs::write(home.path().join(shell), &said.stdout).unwrap();
    }
    let script = r#"
        . "$0"
        COMP_WORDS=(cachefs sta) COMP_CWORD=1
        _cachefs cachefs sta cachefs
        echo "completed to ${COMPREPLY[*]}"
    "#;
    let completed = Run::new(needs("bash")).args(["-ec", script]).arg(home.path().join("bash"));
    completed.succeeds().says("completed to status\n");
    for (shell, words) in [("zsh", ["-n"]), ("fish", ["--no-execute"])] {
        let file = home.path().join(shell);
        Run::new(needs(shell)).args(words).arg(&file).succeeds();
        let spoiled = Path::new(&file).with_extension("spoiled");
        fs::write(&spoiled, format!("{}\nif (", fs::read_to_string(&file).unwrap())).unwrap();
        let refused = Run::new(needs(shell)).args(words).arg(&spoiled).finish();
        assert!(!refused.status.success(), "{refused}");
    }
    Run::new(binary()).args(["completions", "cobol"]).exits_with(2).says("zsh");
}
