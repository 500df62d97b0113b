//! What the program says of itself: the examples in each command's `--help` work, and completions and manual
//! pages know every command.

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{Run, binary, needs, needs_root};

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

/// Runs scripts as root of a machine of their own, as far as its mounts and processes go: with an empty `/mnt`,
/// `/etc`, `/var` and `/usr/local`, and no cachefs mount of anybody else's. Nothing of it outlives it.
fn on_a_machine_of_its_own(home: &Path, script: &str) -> Run {
    let prepare = r#"
        sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .* - fuse\.cachefs .*/\1/p' /proc/self/mountinfo |
            while read -r other; do umount --lazy "$other"; done
        mkdir "$1/bin"; cp "$0" "$1/bin/cachefs"
        for place in mnt etc var usr/local; do
            mkdir -p "$1/$place"
            [ $place != etc ] || cp /etc/manpath.config "$1/etc"
            mount --bind "$1/$place" "/$place"
        done
        mkdir -p /var/lib /var/log /etc/bash_completion.d
        PATH=$1/bin:/usr/bin:/bin HOME=$1
        eval "$2"
    "#;
    Run::new("unshare")
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "bash", "-eo", "pipefail", "-c", prepare])
        .arg(binary())
        .arg(home)
        .arg(script)
        .timeout(Duration::from_secs(120))
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
