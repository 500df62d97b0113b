//! What the README says is so: its links lead somewhere, its tables have all that there is, and what it says the
//! program says is what the program says.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Run, binary, needs_root, on_a_machine_of_its_own};

/// All that is written for people.
const DOCUMENTS: &[&str] =
    &["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "packaging/recipes/README.md"];

/// Messages that this test does not bring about, and the test that does.
const SHOWN_ELSEWHERE: &[(&str, &str)] = &[
    ("detected dubious ownership", "tests/git_in_caches.rs"),
    ("Failed to hardlink files; falling back to full copy", "tests/run_command.rs"),
    ("warnings of one kind were left out", "src/telemetry/limit.rs"),
];

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(source(path)).unwrap()
}

/// A part of a document, from its heading to the next.
fn section(document: &str, heading: &str) -> String {
    let text = text(document);
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let lines: Vec<&str> = lines.take_while(|line| !line.starts_with('#')).collect();
    assert!(!lines.is_empty(), "{document} has no {heading}");
    lines.join("\n")
}

/// The cells of a table's rows, without its head.
fn rows(section: &str) -> Vec<Vec<String>> {
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells = row.trim_matches('|').split(" | ");
        cells.map(|cell| cell.trim().to_owned()).collect()
    })
    .collect()
}

/// What stands between backticks.
fn words(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// A heading as a link names it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    text.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect()
}

/// Where Markdown and HTML of a document lead to.
fn links(document: &str) -> Vec<String> {
    let text = text(document);
    let ends = [("](", ')'), ("src=\"", '"'), ("srcset=\"", '"')];
    let all = ends.into_iter().flat_map(|(begin, end)| {
        let after = text.split(begin).skip(1);
        after.filter_map(move |after| Some(after.split_once(end)?.0.to_owned()))
    });
    all.collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut checked = 0;
    for document in DOCUMENTS {
        for link in links(document) {
            if link.starts_with("https://") {
                continue;
            }
            let (path, anchor_of) = link.split_once('#').unwrap_or((&link, ""));
            let at = match path {
                "" => source(document),
                path => source(document).parent().unwrap().join(path),
            };
            assert!(at.exists(), "{document} has a link to {link}, which isn't there");
            if !anchor_of.is_empty() {
                let text = fs::read_to_string(&at).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|heading| anchor(heading) == anchor_of);
                assert!(found, "{document} has a link to {link}, and there is no such heading");
            }
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked} links");
}

/// Each promise names files with tests that run.
#[test]
fn every_promise_is_shown_by_a_test() {
    let promises = rows(&section("README.md", "## What is promised, and where it is shown"));
    assert!(promises.len() >= 15, "{promises:?}");
    for promise in promises {
        let shown =
            promise[1].split("](").skip(1).filter_map(|after| Some(after.split_once(')')?.0));
        let shown: Vec<&str> = shown.collect();
        assert!(!shown.is_empty(), "{promise:?} is shown by nothing");
        for file in shown {
            let parts = source(file).parent().unwrap().read_dir().unwrap();
            let beside = parts.map(|entry| entry.unwrap().path());
            // What has a folder of its own has its tests in the other files there, too.
            let all: String = match file.ends_with("/main.rs") {
                true => beside.filter_map(|path| fs::read_to_string(path).ok()).collect(),
                false => text(file),
            };
            let count = |what: &str| all.matches(what).count();
            let run = count("#[test]") - count("#[ignore");
            assert!(file.starts_with("tests/") && run > 0, "no test of {file} runs");
        }
    }
}

/// The options that `--help` lists.
fn options(words: &[&str]) -> BTreeSet<String> {
    let said = Run::new(binary()).args(words).arg("--help").succeeds().stdout;
    let (_, listed) = said.split_once("\nOptions:\n").unwrap();
    let lines = listed.lines().take_while(|line| line.starts_with(' ') || line.is_empty());
    let of = |line: &str| {
        let (short, line) = (line.starts_with("  -"), line.trim_start());
        let at = line.find("--").filter(|at| *at == 0 || short)?;
        Some(line[at..].split([' ', '=', ',']).next().unwrap().to_owned())
    };
    let mut all: BTreeSet<String> = lines.filter_map(of).collect();
    all.retain(|option| option != "--help" && option != "--version");
    all
}

#[test]
fn every_option_and_command_is_told() {
    let readme = text("README.md");
    let all = options(&["mount"]);
    let table = section("README.md", "### Options of `mount`");
    let told = rows(&table).into_iter().flat_map(|row| {
        let words: Vec<String> = words(&row[0]).into_iter().map(str::to_owned).collect();
        words.into_iter().filter_map(|word| Some(word.split(' ').next()?.to_owned()))
    });
    let told: BTreeSet<String> = told.filter(|word| word.starts_with("--")).collect();
    assert_eq!(all, told, "the options of `mount`, and those of the README");

    let said = Run::new(binary()).arg("--help").succeeds().stdout;
    let (_, listed) = said.split_once("\nCommands:\n").unwrap();
    let lines = listed.lines().take_while(|line| line.starts_with("  "));
    let names = lines.filter(|line| !line.starts_with("   ")).filter_map(|line| {
        let name = line.split_whitespace().next()?;
        (name != "help").then_some(name)
    });
    for command in names {
        assert!(
            readme.contains(&format!("`cachefs {command} "))
                || readme.contains(&format!("`cachefs {command}`")),
            "{command} is not among the commands of the README"
        );
        for option in options(&[command]) {
            assert!(readme.contains(&option), "`{command} {option}` is not told by the README");
        }
    }
}

/// Brings about what the README has an explanation for.
const MISHAPS: &str = r#"
    mkdir /srv/full; touch /srv/full/file
    cachefs mount /var/lib/cachefs /mnt/cache
    fails() { ! "$@"; }
    fails cachefs mount /var/lib/cachefs /mnt/other
    fails cachefs mount /var/lib/another /mnt/cache
    fails cachefs mount /var/lib/another /srv/full
    fails setpriv --reuid 4242 --regid 4242 --clear-groups cachefs clean /mnt/cache
    (cd /mnt/cache; exec sleep 1000) & busy=$!
    until [ "$(readlink /proc/$busy/cwd)" = /mnt/cache ]; do kill -0 $busy; done
    fails cachefs umount
    kill $busy; wait $busy || true
    unshare --mount --propagation private sh -c 'cd /mnt/cache; echo > /srv/apart; exec sleep 1000' & apart=$!
    until [ -e /srv/apart ]; do kill -0 $apart; done
    fails cachefs umount
    kill $apart; wait $apart || true
    mkdir /mnt/read-only /srv/store
    mount --bind /srv/store /mnt/read-only; mount -o remount,ro,bind /mnt/read-only
    cachefs mount /mnt/read-only /mnt/degraded
    echo written > /mnt/degraded/file
    cachefs status /mnt/degraded
    kill -9 "$(cachefs status --json /mnt/degraded | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')"
    # Requests that meet the end of the daemon fail in other ways.
    until fails ls /mnt/degraded 2>/srv/said && grep -q 'not connected' /srv/said; do :; done
    cat /srv/said; umount --lazy /mnt/degraded
    unshare --mount sh -c 'mount -t tmpfs none /dev; cachefs check' || true
"#;

#[test]
fn every_message_is_said() {
    needs_root();
    let home = tempfile::tempdir().unwrap();
    let script = format!("exec 2>&1\n{MISHAPS}");
    let said = on_a_machine_of_its_own(home.path(), &script).succeeds().all_output();
    let said: Vec<String> =
        said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let rows = rows(&section("README.md", "## When something is wrong"));
    assert!(rows.len() >= 12, "{rows:?}");
    for row in rows {
        let message = words(&row[0])[0];
        if let Some((_, file)) = SHOWN_ELSEWHERE.iter().find(|(known, _)| *known == message) {
            assert!(text(file).contains(message), "{message:?} is not in {file}");
            continue;
        }
        let parts: Vec<&str> = message.split("...").map(str::trim).collect();
        let is_said = |line: &String| {
            let mut rest = line.as_str();
            parts.iter().all(|part| match rest.split_once(part) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
        };
        assert!(said.iter().any(is_said), "nobody said {message:?}:\n{}", said.join("\n"));
    }
}
