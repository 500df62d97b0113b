//! SEMANTICS 3: whoever was running when something was removed goes on seeing it, by name and by whatever
//! it holds open; whoever comes later does not; the store never holds anything but the live view; and when
//! the last who sees it has ended, it is gone.

mod common;
mod views;

use std::fs;

use common::Run;
use views::{Agent, Ground, View, everywhere};

/// Something that is removed, and how a job that was running uses it.
struct Case {
    /// Makes `victim`, and what belongs to it.
    made: &'static str,
    /// What the older job does before the removal.
    holds: fn(&mut Agent),
    /// What it goes on doing afterwards, as often as it likes.
    uses: fn(&mut Agent),
}

#[derive(Clone, Copy)]
enum Removal {
    /// By the calls of a job that goes on running.
    ByCalls,
    /// By `rm -rf`.
    ByCommand,
    /// By the daemon itself: the path, or everything.
    CleanPath,
    CleanAll,
    /// By another name, that stays.
    RenamedAway,
    /// As careful programs remove a directory: moved out of the way first.
    RenamedAndRemoved,
}

fn nothing(_: &mut Agent) {}

/// A working directory that was renamed may be told by either name.
fn is_in(agent: &mut Agent, below: &str) {
    // The kernel knows the way to it from the next look-up on.
    for name in ["/victim", "/moved"] {
        agent.exists(&format!("{name}{below}"));
    }
    let told = agent.does("getcwd", ());
    assert!(
        [format!("/victim{below}"), format!("/moved{below}")].iter().any(|path| told == **path),
        "the working directory is {told}"
    );
}

const FILE: Case = Case {
    made: "printf old >victim",
    holds: nothing,
    uses: |older| {
        assert_eq!(older.does("status", ["/victim"])["size"], 3);
        assert_eq!(older.read("/victim"), "old");
        assert!(older.list("/").contains(&"victim".to_owned()));
    },
};

const SYMLINK: Case = Case {
    made: "printf text >target; ln -s target victim",
    holds: nothing,
    uses: |older| {
        assert_eq!(older.does("readlink", ["/victim"]), "target");
        assert_eq!(older.read("/victim"), "text");
    },
};

const DIRECTORY: Case = Case {
    made: "mkdir victim; printf 1 >victim/a; printf 2 >victim/b; ln -s a victim/l",
    holds: nothing,
    uses: |older| {
        assert_eq!(older.list("/victim"), ["a", "b", "l"]);
        assert_eq!(older.read("/victim/b"), "2");
        assert_eq!(older.read("/victim/l"), "1");
        older.refused(libc::ENOENT, "status", ["/victim/never"]);
    },
};

const TREE: Case = Case {
    made: "mkdir -p victim/x/y/z victim/w; for f in victim victim/x victim/x/y victim/x/y/z; do
           for i in 1 2 3; do printf $i >$f/$i; done; done; ln victim/1 victim/w/other",
    holds: nothing,
    uses: |older| {
        assert_eq!(older.read("/victim/x/y/z/3"), "3");
        assert_eq!(older.list("/victim/x/y"), ["1", "2", "3", "z"]);
        assert_eq!(older.inode("/victim/1"), older.inode("/victim/w/other"));
    },
};

const WORKING_DIRECTORY: Case = Case {
    made: DIRECTORY.made,
    holds: |older| drop(older.does("chdir", ["/victim"])),
    uses: |older| {
        assert_eq!(older.read("b"), "2");
        assert_eq!(older.list("."), ["a", "b", "l"]);
        assert_eq!(older.does("readlink", ["l"]), "a");
        assert_eq!(older.read("../victim/a"), "1");
        assert_eq!(older.read("../anchor"), "anchor");
        // After a look-up there (SEMANTICS 3.8).
        is_in(older, "");
    },
};

const DEEP_WORKING_DIRECTORY: Case = Case {
    made: TREE.made,
    holds: |older| drop(older.does("chdir", ["/victim/x/y"])),
    uses: |older| {
        assert_eq!(older.read("z/2"), "2");
        assert_eq!(older.read("../../w/other"), "1");
        assert_eq!(older.list(".."), ["1", "2", "3", "y"]);
        is_in(older, "/x/y");
    },
};

const OPEN_DIRECTORY: Case = Case {
    made: DIRECTORY.made,
    holds: |older| drop(older.does("open", ["d", "/victim", "directory"])),
    uses: |older| {
        assert_eq!(older.list("@d"), ["a", "b", "l"]);
        assert_eq!(older.read("@d/b"), "2");
        assert_eq!(older.does("readlink", ["@d/l"]), "a");
        assert_eq!(older.does("held_status", ["d"])["kind"], "directory");
    },
};

const OPEN_FILE: Case = Case {
    made: FILE.made,
    holds: |older| drop(older.does("open", ["f", "/victim", "r"])),
    uses: |older| {
        assert_eq!(older.held("f"), "old");
        assert_eq!(older.does("held_status", ["f"])["size"], 3);
        assert_eq!(
            older.does("held_status", ["f"])["ino"],
            older.does("status", ["/victim"])["ino"]
        );
    },
};

const MAPPED_FILE: Case = Case {
    made: FILE.made,
    holds: |older| {
        older.does("open", ["f", "/victim", "r"]);
        older.does("map_to_read", ("f", 3));
        older.does("close", ["f"]);
    },
    uses: |older| {
        assert_eq!(older.does("peek", ("f", 0, 3)), "old");
        older.does("open", ["again", "/victim", "r"]);
        older.does("map_to_read", ("again", 3));
        assert_eq!(older.does("peek", ("again", 0, 3)), "old");
        older.does("close", ["again"]);
    },
};

/// Takes `victim` away; the job that did it, if that still runs.
fn remove(ground: &Ground, how: Removal) -> Option<Agent> {
    let by = |calls: &[(&str, &[&str])]| {
        let mut remover = ground.older();
        for (call, paths) in calls {
            remover.does(call, paths);
        }
        Some(remover)
    };
    match how {
        Removal::ByCalls => by(&[("remove", &["/victim"])]),
        Removal::RenamedAway => by(&[("rename", &["/victim", "/moved"])]),
        Removal::RenamedAndRemoved => {
            by(&[("rename", &["/victim", "/moved"]), ("remove", &["/moved"])])
        }
        Removal::ByCommand => {
            ground.shell("rm -rf victim");
            None
        }
        Removal::CleanPath => {
            ground.clean(&["victim"]);
            None
        }
        Removal::CleanAll => {
            ground.clean(&[]);
            None
        }
    }
}

/// What is live after that.
fn without_victim(before: &View, how: Removal) -> View {
    let mut after = View::new();
    for (name, what) in before {
        let below = name
            .strip_prefix("victim")
            .filter(|rest| matches!(rest.chars().next(), None | Some('/')));
        match (how, below) {
            (Removal::CleanAll, _) => {}
            (Removal::RenamedAway, Some(rest)) => {
                drop(after.insert(format!("moved{rest}"), what.clone()))
            }
            (_, Some(_)) => {}
            (_, None) => drop(after.insert(name.clone(), what.clone())),
        }
    }
    after
}

fn matrix(case: &Case, how: Removal) {
    // Once by one who knows it all already, so that the kernel has it cached, and once by one who looks at
    // names for the first time when they have been removed.
    for warm in [true, false] {
        let ground = Ground::new();
        ground.shell(case.made);
        let before = ground.live();
        let mut older = ground.older();
        if warm {
            assert_eq!(older.view("/"), before);
        }
        (case.holds)(&mut older);
        if warm {
            (case.uses)(&mut older);
        }
        // It runs already, but begins only when it opens something.
        let mut newer = ground.agent();

        let mut remover = remove(&ground, how);
        let after = without_victim(&before, how);
        assert_eq!(ground.live(), after, "the store is the live view");
        if let Some(remover) = &mut remover {
            assert_eq!(remover.view("/"), after, "the remover sees what is live");
            remover.refused(libc::ENOENT, "status", ["/victim"]);
        }
        (case.uses)(&mut older);
        newer.refused(libc::ENOENT, "status", ["/victim"]);
        newer.refused(libc::ENOENT, "read", ["/victim/a"]);
        assert_eq!(newer.view("/"), after, "a job that begins later sees what is live");
        // Both in turn, so that each is asked for again after the other's answer.
        for _ in 0..3 {
            (case.uses)(&mut older);
            newer.refused(libc::ENOENT, "status", ["/victim"]);
        }
        let mut kept = before.clone();
        kept.extend(after.clone());
        if matches!(how, Removal::RenamedAndRemoved) {
            // It ran when that name was taken away, too.
            kept.extend(without_victim(&before, Removal::RenamedAway));
        }
        assert_eq!(older.view("/"), kept, "the older job sees what it saw, and what is new");
        if !matches!(how, Removal::RenamedAway) {
            let (bytes, files) = ground.retired();
            let takes_space = before
                .iter()
                .any(|(name, what)| what.starts_with('=') && !after.contains_key(name));
            assert!(files > 0, "nothing is retired");
            assert!(bytes > 0 || !takes_space, "{files} files are retired, and take no space");
        }
        assert_eq!(ground.live(), after);

        older.end();
        ground.reclaimed();
        assert_eq!(ground.live(), after);
        assert_eq!(newer.view("/"), after);
    }
}

macro_rules! removed {
    ($($case:ident: $what:ident;)*) => {$(
        mod $case {
            use super::*;

            #[test]
            fn removed_by_calls() {
                matrix(&$what, Removal::ByCalls);
            }

            #[test]
            fn removed_by_a_command() {
                matrix(&$what, Removal::ByCommand);
            }

            #[test]
            fn cleaned_by_its_path() {
                matrix(&$what, Removal::CleanPath);
            }

            #[test]
            fn cleaned_with_everything() {
                matrix(&$what, Removal::CleanAll);
            }

            #[test]
            fn renamed_away() {
                matrix(&$what, Removal::RenamedAway);
            }

            #[test]
            fn renamed_away_and_removed() {
                matrix(&$what, Removal::RenamedAndRemoved);
            }
        }
    )*};
}

removed! {
    a_file: FILE;
    a_symlink: SYMLINK;
    a_directory: DIRECTORY;
    a_tree: TREE;
    a_working_directory: WORKING_DIRECTORY;
    a_working_directory_far_below: DEEP_WORKING_DIRECTORY;
    an_open_directory: OPEN_DIRECTORY;
    an_open_file: OPEN_FILE;
    a_mapped_file: MAPPED_FILE;
}

#[test]
fn a_file_that_comes_again_is_seen_by_all() {
    everywhere(|ground| {
        ground.shell("printf old >f");
        let (mut older, mut remover) = (ground.older(), ground.older());
        older.does("open", ["f", "/f", "r"]);
        remover.does("unlink", ["/f"]);
        assert_eq!(older.read("/f"), "old");
        let mut maker = ground.older();
        maker.refused(libc::ENOENT, "read", ["/f"]);
        // What is being written is seen by nobody else, so the older one still sees what was there before.
        maker.does("open", ["f", "/f", "w"]);
        maker.does("write", ["f", "new"]);
        assert_eq!(older.read("/f"), "old");
        remover.refused(libc::ENOENT, "read", ["/f"]);
        maker.does("close", ["f"]);
        for agent in [&mut older, &mut remover, &mut maker, &mut ground.agent()] {
            assert_eq!(agent.read("/f"), "new");
        }
        assert_eq!(older.held("f"), "old", "the file that is open is the one that was opened");
        ground.live_is([("f", "= new")]);
        older.end();
        ground.reclaimed();
        ground.live_is([("f", "= new")]);
    });
}

#[test]
fn a_directory_that_comes_again_has_in_it_what_older_jobs_see_there() {
    let ground = Ground::new();
    ground.shell("mkdir -p d/inner; printf 1 >d/a; printf 2 >d/b; printf 3 >d/inner/c");
    let mut older = ground.older();
    older.does("chdir", ["/d"]);
    older.does("open", ["d", "/d/inner", "directory"]);
    ground.shell("rm -rf d");
    let mut maker = ground.older();
    maker.does("mkdir", ["/d"]);
    assert_eq!(maker.list("/d"), [""; 0]);
    maker.does("put", ["/d/b", "new"]);
    maker.does("put", ["/d/e", "more"]);

    let mut newer = ground.older();
    for agent in [&mut maker, &mut newer] {
        assert_eq!(agent.list("/d"), ["b", "e"]);
        agent.refused(libc::ENOENT, "read", ["/d/a"]);
        agent.refused(libc::ENOENT, "list", ["/d/inner"]);
    }
    ground.live_is([("d", "/"), ("d/b", "= new"), ("d/e", "= more")]);
    for path in ["/d", "."] {
        assert_eq!(older.list(path), ["a", "b", "e", "inner"], "{path}");
        assert_eq!(older.read(&format!("{path}/a")), "1");
        assert_eq!(older.read(&format!("{path}/b")), "new");
        assert_eq!(older.read(&format!("{path}/inner/c")), "3");
    }
    assert_eq!(older.read("@d/c"), "3");
    // The directories below come back in the same way.
    maker.does("mkdir", ["/d/inner"]);
    assert_eq!(older.list("inner"), ["c"]);
    assert_eq!(older.list("@d"), ["c"]);
    assert_eq!(newer.list("/d/inner"), [""; 0]);
    older.end();
    ground.reclaimed();
    ground.live_is([("d", "/"), ("d/b", "= new"), ("d/e", "= more"), ("d/inner", "/")]);
    assert_eq!(newer.list("/d"), ["b", "e", "inner"]);
}

#[test]
fn a_name_that_comes_again_as_something_else_is_seen_by_all() {
    let ground = Ground::new();
    ground.shell("mkdir d; printf 1 >d/a; printf 2 >f; ln -s f l");
    let mut older = ground.older();
    older.does("open", ["d", "/d", "directory"]);
    ground.shell("rm -rf d f l; printf file >d; mkdir f; ln -s nowhere l");
    assert_eq!(older.read("/d"), "file");
    assert_eq!(older.list("/f"), [""; 0]);
    assert_eq!(older.does("readlink", ["/l"]), "nowhere");
    assert_eq!(older.read("@d/a"), "1", "what it holds is still the directory");
    ground.live_is([("d", "= file"), ("f", "/"), ("l", "-> nowhere")]);
    older.end();
    ground.reclaimed();
}

#[test]
fn of_two_removals_in_a_row_each_job_sees_what_was_removed_last_of_what_it_may_see() {
    everywhere(|ground| {
        ground.shell("printf 1 >f; mkdir d; printf 1 >d/one");
        let mut first = ground.older();
        first.does("open", ["f", "/f", "r"]);
        ground.shell("rm -rf f d");
        ground.shell("printf 2 >f; mkdir d; printf 2 >d/two");
        let mut second = ground.older();
        assert_eq!(first.list("/d"), ["one", "two"]);
        ground.shell("rm -rf f d");
        let mut third = ground.older();
        ground.live_is([]);

        assert_eq!(first.read("/f"), "2");
        assert_eq!(first.held("f"), "1");
        assert_eq!(second.read("/f"), "2");
        third.refused(libc::ENOENT, "read", ["/f"]);
        assert_eq!(first.read("/d/one"), "1");
        assert_eq!(second.read("/d/two"), "2");
        second.refused(libc::ENOENT, "read", ["/d/one"]);
        third.refused(libc::ENOENT, "list", ["/d"]);
        // What only the first saw goes with it, the rest with the second.
        first.end();
        assert_eq!(second.read("/f"), "2");
        assert_eq!(second.list("/d"), ["two"]);
        assert!(ground.retired().1 > 0);
        second.end();
        ground.reclaimed();
    });
}

#[test]
fn of_two_who_remove_at_once_one_does_it() {
    let ground = Ground::new();
    const NAMES: usize = 60;
    ground.shell("mkdir d; for i in $(seq 0 59); do printf $i >d/$i; done");
    let mut older = ground.older();
    let mut removers = [ground.older(), ground.older()];
    for name in 0..NAMES {
        for remover in &mut removers {
            remover.tell("unlink", [format!("/d/{name}")]);
        }
        // Who comes too late may be told so. But then it is gone for him as well: else his `rmdir` would
        // find the directory full of what he can't remove.
        let answers = removers.each_mut().map(Agent::hear);
        assert!(answers.iter().any(Result::is_ok), "{answers:?}");
        for (remover, answer) in removers.iter_mut().zip(&answers) {
            assert!(answer.as_ref().is_err_and(|errno| *errno == libc::ENOENT) || answer.is_ok());
            remover.refused(libc::ENOENT, "status", [format!("/d/{name}")]);
        }
        assert_eq!(older.read(&format!("/d/{name}")), name.to_string());
    }
    ground.live_is([("d", "/")]);
    assert_eq!(older.list("/d").len(), NAMES);

    ground.shell(
        "mkdir -p t/a/b t/c; for i in $(seq 200); do : >t/a/$i; : >t/a/b/$i; : >t/c/$i; done",
    );
    let mut other = ground.older();
    ground.shell("rm -rf t & one=$!; rm -rf t & two=$!; wait $one; wait $two");
    ground.live_is([("d", "/")]);
    assert_eq!(other.list("/t/a").len(), 201);
    assert_eq!(other.list("/t/c").len(), 200);
    other.end();
    older.end();
    for remover in removers {
        remover.end();
    }
    ground.reclaimed();
}

#[test]
fn an_older_job_may_remove_what_has_been_removed_already() {
    let ground = Ground::new();
    ground.shell(TREE.made);
    let before = ground.live();
    let (mut older, mut other) = (ground.older(), ground.older());
    ground.shell("rm -rf victim");
    older.does("remove", ["/victim"]);
    older.refused(libc::ENOENT, "status", ["/victim"]);
    assert_eq!(older.list("/"), ["anchor"]);
    assert_eq!(other.view("/"), before);
    other.end();
    ground.reclaimed();
}

#[test]
fn removals_wait_for_nobody_and_hold_up_nobody() {
    let ground = Ground::new();
    ground.shell("mkdir d; for i in $(seq 500); do printf $i >d/$i; done");
    let mut older = ground.older();
    older.does("open", ["f", "/d/1", "r"]);
    older.does("flock", ["f", "EX"]);
    older.does("open", ["d", "/d", "directory"]);
    // While the older job is stopped, it can't take part in anything.
    let stop = |signal| {
        // SAFETY: kill takes no pointers, and the agent is our child.
        assert_eq!(unsafe { libc::kill(older.pid().cast_signed(), signal) }, 0);
    };
    stop(libc::SIGSTOP);
    ground.shell("rm -rf d; mkdir d; printf 2 >d/1");
    ground.clean(&[]);
    stop(libc::SIGCONT);
    assert_eq!(older.held("f"), "1");
    assert_eq!(older.list("@d").len(), 500);
    assert_eq!(older.read("@d/1"), "2");
    older.end();
    ground.reclaimed();
}

#[test]
fn what_a_crash_leaves_of_it_is_gone_with_the_next_mount() {
    let mut mount = common::Mount::new();
    fs::write(mount.store().join("f"), "text").unwrap();
    let mut older = Agent::new(mount.path());
    assert_eq!(older.read("/f"), "text");
    older.does("open", ["staged", "/new", "w"]);
    older.does("write", ["staged", "half"]);
    Run::shell("rm f").directory(mount.path()).succeeds();
    assert_eq!(older.read("/f"), "text");
    mount.kill();
    drop(older);
    mount.mount_again();
    assert!(common::not_live(mount.store()).is_empty());
    assert_eq!(views::view_of(mount.store()), View::new());
    let mut newer = Agent::new(mount.path());
    assert_eq!(newer.list("/"), [""; 0]);
}

#[test]
fn all_jobs_of_one_tree_see_the_same() {
    let ground = Ground::new();
    ground.shell("printf 1 >f");
    let mut older = ground.older();
    let out = ground.beside("out").join("text");
    fs::write(&out, "").unwrap();
    older.does("open", ["begun", "/anchor", "r"]);
    ground.shell("rm f");
    // A child that starts after the removal belongs to its parent's job, and so do its own children.
    let script =
        format!("sh -c 'cat {0}/f; cat {0}/f' >{1}", ground.root().display(), out.display());
    older.does("spawn", ["child", &script, "begun"]);
    assert_eq!(older.does("wait", ["child"]), 0);
    assert_eq!(fs::read_to_string(&out).unwrap(), "11");
}
