//! SEMANTICS 2: what a writer replaces is seen by nobody else before it is whole; what it shares is shared.

mod common;
mod views;

use common::Run;
use views::{Agent, Ground, all, eventually, everywhere, scripts};

/// Fails the test unless these jobs see no such file.
#[track_caller]
fn hidden_from(agents: &mut [Agent], path: &str) {
    for agent in agents {
        agent.refused(libc::ENOENT, "status", [path]);
        agent.refused(libc::ENOENT, "read", [path]);
        let (above, name) = path.rsplit_once('/').unwrap();
        let above = if above.is_empty() { "/" } else { above };
        assert!(!agent.list(above).iter().any(|listed| listed == name), "{path} is listed");
    }
}

#[track_caller]
fn read_by(agents: &mut [Agent], path: &str, text: &str) {
    for agent in agents {
        assert_eq!(agent.read(path), text);
        assert_eq!(agent.does("status", [path])["size"], text.len());
    }
}

#[test]
fn a_new_file_is_seen_by_its_own_job_alone_until_it_is_closed() {
    everywhere(|ground| {
        for mode in ["w", "w+", "x"] {
            let path = format!("/{mode}");
            let others = &mut [ground.older(), ground.agent(), ground.older()];
            let mut writer = ground.older();
            // Those who asked before it was there have an answer that the kernel may have kept.
            hidden_from(others, &path);
            let before = ground.live();
            writer.does("open", ["f", &path, mode]);
            hidden_from(others, &path);
            writer.does("write", ["f", "first "]);
            writer.does("write", ["f", "second"]);
            hidden_from(others, &path);
            assert_eq!(ground.live(), before);
            // The writer's own job, by name and in its children.
            assert_eq!(writer.read(&path), "first second");
            assert_eq!(writer.does("status", [&path])["size"], 12);
            assert!(writer.list("/").contains(&mode.to_owned()));
            writer.does("open", ["out", "/from-a-child", "w"]);
            let script = format!("cat {}{path}", ground.root().display());
            writer.does("spawn", ["child", &script, "out"]);
            assert_eq!(writer.does("wait", ["child"]), 0);
            assert_eq!(writer.read("/from-a-child"), "first second");
            writer.does("close", ["out"]);

            writer.does("close", ["f"]);
            read_by(others, &path, "first second");
            assert_eq!(ground.live()[mode], "= first second");
            ground.nothing_is_staged();
            let inode = writer.inode(&path);
            assert!(others.iter_mut().all(|other| other.inode(&path) == inode));
        }
    });
}

#[test]
fn a_file_that_is_replaced_is_seen_as_it_was_until_the_new_one_is_closed() {
    everywhere(|ground| {
        ground.shell("printf 'the old text' >f");
        let mut reader = ground.older();
        reader.does("open", ["old", "/f", "r"]);
        reader.does("open", ["mapped", "/f", "r"]);
        reader.does("map_to_read", ("mapped", 12));
        let mut writer = ground.older();
        writer.does("open", ["f", "/f", "w"]);
        for part in ["new", " and longer than the old one"] {
            assert_eq!(reader.read("/f"), "the old text");
            assert_eq!(reader.held("old"), "the old text");
            assert_eq!(ground.older().read("/f"), "the old text");
            writer.does("write", ["f", part]);
        }
        let new = "new and longer than the old one";
        assert_eq!(writer.read("/f"), new);
        ground.live_is([("f", "= the old text")]);
        writer.does("close", ["f"]);
        assert_eq!(ground.live()["f"], format!("= {new}"));
        read_by(&mut [ground.older(), writer], "/f", new);
        assert_eq!(reader.read("/f"), new);
        // Whoever has the old one open keeps it: its bytes, its size, its pages.
        assert_eq!(reader.held("old"), "the old text");
        assert_eq!(reader.does("held_status", ["old"])["size"], 12);
        assert_eq!(reader.does("peek", ("mapped", 0, 12)), "the old text");
        ground.nothing_is_staged();
    });
}

#[test]
fn emptying_a_file_is_a_replacement_too() {
    everywhere(|ground| {
        ground.shell("printf old >f");
        let (mut reader, mut writer) = (ground.older(), ground.older());
        writer.does("open", ["f", "/f", "w"]);
        assert_eq!(reader.read("/f"), "old");
        writer.does("close", ["f"]);
        assert_eq!(reader.read("/f"), "");
        ground.live_is([("f", "= ")]);
    });
}

/// Two jobs write one name. Whoever closes last wins, whole.
fn last_to_close_wins(made: &str, first_writes: bool) {
    everywhere(|ground| {
        ground.shell(made);
        let [mut one, mut two] = ground.agents();
        let mut reader = ground.older();
        let before = ground.live();
        one.does("open", ["f", "/f", "w"]);
        if first_writes {
            one.does("write", ["f", "one "]);
        }
        two.does("open", ["f", "/f", "w"]);
        for _ in 0..3 {
            one.does("write", ["f", "one "]);
            two.does("write", ["f", "two two "]);
        }
        assert_eq!(ground.live(), before);
        two.does("close", ["f"]);
        assert_eq!(reader.read("/f"), "two two two two two two ");
        // It has begun to write what will replace that.
        one.does("write", ["f", "."]);
        assert_eq!(reader.read("/f"), "two two two two two two ");
        one.does("close", ["f"]);
        let expected = if first_writes { "one one one one ." } else { "one one one ." };
        read_by(&mut [reader, two, one, ground.older()], "/f", expected);
        assert_eq!(ground.live()["f"], format!("= {expected}"));
        ground.nothing_is_staged();
    });
}

#[test]
fn of_two_who_replace_a_file_the_last_to_close_wins() {
    last_to_close_wins("printf before >f", true);
    last_to_close_wins("printf before >f", false);
}

#[test]
fn of_two_who_create_a_file_one_after_the_other_the_last_to_close_wins() {
    last_to_close_wins("true", true);
}

#[test]
fn of_two_who_create_a_file_before_either_writes_the_last_to_close_wins() {
    last_to_close_wins("true", false);
}

#[test]
fn a_killed_writer_leaves_nothing() {
    everywhere(|ground| {
        ground.shell("printf old >f");
        let mut reader = ground.older();
        let writers = &mut [ground.older(), ground.older()];
        let mut taken = Vec::new();
        for (path, mode) in [("/new", "w"), ("/exclusive", "x"), ("/f", "w")] {
            let mut writer = ground.older();
            writer.does("open", ["f", path, mode]);
            writer.does("write", ["f", "half of i"]);
            taken.push(writer);
        }
        for writer in taken {
            writer.kill();
        }
        ground.nothing_is_staged();
        hidden_from(&mut [ground.agent()], "/new");
        hidden_from(writers, "/exclusive");
        assert_eq!(reader.read("/f"), "old");
        ground.live_is([("f", "= old")]);
        // Its names are free.
        reader.does("put", ["/exclusive", "whole", "x"]);
        reader.does("put", ["/f", "whole"]);
        ground.live_is([("f", "= whole"), ("exclusive", "= whole")]);
    });
}

#[test]
fn who_is_killed_while_another_one_names_what_both_create_leaves_nothing() {
    let ground = Ground::new();
    let script = scripts().join("ends_together.py");
    Run::new("python3").arg(script).arg(ground.root()).succeeds();
    ground.nothing_is_staged();
}

#[test]
fn a_child_that_is_killed_does_not_take_its_parents_file_with_it() {
    everywhere(|ground| {
        let (mut writer, mut reader) = (ground.older(), ground.older());
        writer.does("open", ["f", "/f", "w"]);
        writer.does("write", ["f", "before "]);
        writer.does("spawn", ["child", "echo inside; read line; kill -9 $$", "f"]);
        writer.does("say", ["child", "go"]);
        assert_eq!(writer.does("wait", ["child"]), -libc::SIGKILL);
        reader.refused(libc::ENOENT, "read", ["/f"]);
        writer.does("write", ["f", "after"]);
        writer.does("close", ["f"]);
        assert_eq!(reader.read("/f"), "before inside\nafter");
    });
}

#[test]
fn a_writer_that_ends_without_closing_has_closed() {
    everywhere(|ground| {
        let (mut writer, mut reader) = (ground.older(), ground.older());
        writer.does("open", ["f", "/f", "w"]);
        writer.does("write", ["f", "all of it"]);
        writer.end();
        assert_eq!(reader.read("/f"), "all of it");
        // Nor does it matter how it ends of itself.
        ground.shell("sh -c 'exec >g; echo text; exit 3' || true");
        assert_eq!(reader.read("/g"), "text\n");
    });
}

#[test]
fn what_a_child_writes_to_an_inherited_file_is_all_there() {
    everywhere(|ground| {
        let (mut writer, mut reader) = (ground.older(), ground.older());
        writer.does("open", ["f", "/f", "w"]);
        writer.does("write", ["f", "parent\n"]);
        // Children of the child as well, each of which closes its copy when it starts and when it ends.
        let script = "echo one; read line; /bin/echo two; (echo three; /bin/echo four); read line; echo five";
        writer.does("spawn", ["child", script, "f"]);
        for _ in 0..2 {
            reader.refused(libc::ENOENT, "read", ["/f"]);
            writer.does("say", ["child", "go on"]);
        }
        assert_eq!(writer.does("wait", ["child"]), 0);
        reader.refused(libc::ENOENT, "read", ["/f"]);
        writer.does("write", ["f", "end\n"]);
        writer.does("close", ["f"]);
        assert_eq!(reader.read("/f"), "parent\none\ntwo\nthree\nfour\nfive\nend\n");
        ground.nothing_is_staged();
    });
}

#[test]
fn what_a_child_writes_after_its_parent_has_closed_is_all_there() {
    everywhere(|ground| {
        let (mut writer, mut reader) = (ground.older(), ground.older());
        ground.shell("printf old >g");
        for path in ["/f", "/g"] {
            writer.does("open", ["f", path, "w"]);
            writer.does("write", ["f", "parent\n"]);
            writer.does("spawn", ["child", "read line; echo one; read line; /bin/echo two", "f"]);
            writer.does("close", ["f"]);
            writer.does("say", ["child", "go"]);
            writer.does("say", ["child", "on"]);
            assert_eq!(writer.does("wait", ["child"]), 0);
            // The last descriptor is the child's; its release comes after its end, and on its own.
            eventually("the last byte is there", || {
                reader.ask("read", [path]) == Ok("parent\none\ntwo\n".into())
            });
        }
        ground.nothing_is_staged();
    });
}

/// The kernel does not tell the close of one descriptor from that of the last (SEMANTICS 3.8): a file that was
/// written is live from the first on, and what is written by the others is added to it where it is.
#[test]
fn a_file_with_a_second_descriptor_is_live_from_the_first_close_on() {
    everywhere(|ground| {
        let (mut writer, mut reader) = (ground.older(), ground.older());
        writer.does("open", ["f", "/f", "w"]);
        writer.does("dup", ["f", "g"]);
        writer.does("write", ["f", "first "]);
        writer.does("close", ["f"]);
        assert_eq!(reader.read("/f"), "first ");
        writer.does("write", ["g", "second"]);
        writer.does("close", ["g"]);
        assert_eq!(reader.read("/f"), "first second");
    });
}

#[test]
fn shell_redirections_write_all_their_bytes() {
    everywhere(|ground| {
        let reader = &mut [ground.older()];
        let scripts = [
            ("echo a >f", "a\n"),
            ("/bin/echo a >f", "a\n"),
            ("(echo a; /bin/echo b; (echo c)) >f", "a\nb\nc\n"),
            ("{ echo a; /bin/echo b; } >f", "a\nb\n"),
            ("exec >f; echo a; /bin/echo b; echo c", "a\nb\nc\n"),
            ("for i in 1 2 3; do /bin/echo $i; done >f", "1\n2\n3\n"),
            ("(sleep 0.05; /bin/echo late) >f & wait", "late\n"),
            ("(/bin/echo a; (sleep 0.05; /bin/echo late) &) >f; sleep 0.3", "a\nlate\n"),
            ("seq 3 | tee f >/dev/null", "1\n2\n3\n"),
            ("cat >f <<end\na\nend\n", "a\n"),
            ("echo a >f; echo b >>f; (echo c; /bin/echo d) >>f", "a\nb\nc\nd\n"),
            ("printf abc >f; dd if=/dev/zero bs=1 count=0 of=f conv=notrunc 2>/dev/null", "abc"),
            (
                "dd if=/dev/zero bs=3 count=1 of=f 2>/dev/null; tr '\\0' x <f >g; cat g >f; rm g",
                "xxx",
            ),
            ("printf 'b\\na\\n' >f; sort -o f f", "a\nb\n"),
            ("printf x >f; sed -i s/x/y/ f", "y"),
            ("yes | head -c 300000 | tr -d '\\n' >f; head -c 2 f >g; mv g f", "yy"),
        ];
        for (script, text) in scripts {
            for before in ["rm -f f", "printf 'what was there before' >f"] {
                ground.shell(before);
                ground.shell(script);
                eventually("the file is there", || reader[0].ask("read", ["/f"]).is_ok());
                assert_eq!(reader[0].read("/f"), text, "{before}; {script}");
            }
        }
        ground.live_is([("f", "= yy")]);
        ground.nothing_is_staged();
    });
}

#[test]
fn opening_without_writing_leaves_the_file_that_was_there() {
    everywhere(|ground| {
        ground.shell("printf text >f; : >empty");
        let mut other = ground.older();
        other.does("open", ["f", "/f", "r"]);
        other.does("open", ["empty", "/empty", "r"]);
        let mut writer = ground.older();
        for (path, modes) in [
            ("/f", &["a", "a+", "r+", "create", "r"][..]),
            ("/empty", &["a", "r+", "create", "w", "w+"][..]),
        ] {
            let inode = other.inode(path);
            let before = other.read(path);
            for mode in modes {
                writer.does("open", ["f", path, mode]);
                assert_eq!(writer.does("held_status", ["f"])["ino"], inode, "{path} {mode}");
                assert_eq!(other.inode(path), inode, "{path} open as {mode}");
                writer.does("close", ["f"]);
                assert_eq!(other.inode(path), inode, "{path} opened and closed as {mode}");
                assert_eq!(other.read(path), before, "{path} {mode}");
            }
            assert_eq!(other.does("held_status", [&path[1..]])["ino"], inode);
        }
        ground.live_is([("f", "= text"), ("empty", "= ")]);
    });
}

#[test]
fn appended_lines_of_many_jobs_are_all_there() {
    everywhere(|ground| {
        const LINES: usize = 100;
        // Opened for each line, and held open; nobody has made the file before.
        for held in [false, true] {
            let jobs = &mut ground.agents::<6>();
            let path = format!("/log-{held}");
            all(jobs, "call", |own| {
                let arguments = serde_json::json!({
                    "path": path, "own": own, "lines": LINES, "held": held
                });
                ("storm.append".to_owned(), arguments)
            });
            let log = ground.live()[&path[1..]].clone();
            for own in 0..jobs.len() {
                let mut mine: Vec<&str> = log
                    .trim_start_matches("= ")
                    .lines()
                    .filter(|line| line.starts_with(&format!("{own} ")))
                    .collect();
                assert_eq!(mine.len(), LINES, "of {own}, held: {held}");
                mine.dedup();
                assert_eq!(mine.len(), LINES);
            }
            assert_eq!(log.lines().count(), LINES * jobs.len());
        }
    });
}

#[test]
fn what_is_written_in_place_is_seen_at_once() {
    everywhere(|ground| {
        let (mut writer, mut reader) = (ground.older(), ground.older());
        // As Go's build cache and cargo make theirs.
        writer.does("open", ["new", "/new", "create"]);
        assert_eq!(reader.read("/new"), "");
        writer.does("pwrite", ("new", 0, "one"));
        assert_eq!(reader.read("/new"), "one");
        reader.does("open", ["r", "/new", "r"]);
        writer.does("pwrite", ("new", 3, " two"));
        assert_eq!(reader.held("r"), "one two");
        writer.does("ftruncate", ("new", 3));
        assert_eq!(reader.held("r"), "one");
        // Another who opens it in the same way has the same file, although it is open.
        reader.does("open", ["w", "/new", "create"]);
        reader.does("pwrite", ("w", 0, "ONE"));
        assert_eq!(writer.held("new"), "ONE");
        // By what lies there already.
        ground.shell("printf 'some text' >old");
        for mode in ["r+", "a"] {
            writer.does("open", ["old", "/old", mode]);
            writer.does("write", ["old", "MORE"]);
            let now = reader.read("/old");
            assert!(now.contains("MORE"), "{mode}: {now}");
            writer.does("close", ["old"]);
        }
        writer.does("truncate", ("/old", 4));
        ground.live_is([("new", "= ONE"), ("old", "= MORE")]);
    });
}

#[test]
fn a_file_with_two_names_stays_one_file() {
    everywhere(|ground| {
        ground.shell("printf old >one; ln one two");
        let (mut writer, mut reader) = (ground.older(), ground.older());
        let inode = reader.inode("/one");
        reader.does("open", ["f", "/two", "r"]);
        writer.does("open", ["f", "/one", "w"]);
        writer.does("write", ["f", "new"]);
        assert_eq!(reader.read("/two"), "new", "plain POSIX: on one inode, at once");
        writer.does("close", ["f"]);
        for path in ["/one", "/two"] {
            assert_eq!(reader.read(path), "new");
            assert_eq!(reader.inode(path), inode);
            assert_eq!(reader.does("status", [path])["nlink"], 2);
        }
        assert_eq!(reader.held("f"), "new");
    });
}

#[test]
fn a_file_that_is_still_open_for_writing_gets_its_name() {
    everywhere(|ground| {
        ground.shell("printf old >replaced");
        let (mut writer, mut reader) = (ground.older(), ground.older());
        reader.does("open", ["old", "/replaced", "r"]);
        for (number, name) in ["/made", "/replaced", "/linked"].into_iter().enumerate() {
            let temporary = format!("/temporary-{number}");
            writer.does("open", ["f", &temporary, "x"]);
            writer.does("write", ["f", "whole"]);
            reader.refused(libc::ENOENT, "status", [&temporary]);
            let how = if name == "/linked" { "link" } else { "rename" };
            writer.does(how, [&temporary, name]);
            assert_eq!(reader.read(name), "whole", "{name} is live when it has its name");
            if how == "rename" {
                reader.refused(libc::ENOENT, "status", [&temporary]);
                writer.refused(libc::ENOENT, "status", [&temporary]);
            } else {
                assert_eq!(reader.inode(name), writer.inode(&temporary));
                writer.does("unlink", [&temporary]);
            }
            // From now on it is an ordinary file.
            writer.does("write", ["f", " and more"]);
            assert_eq!(reader.read(name), "whole and more");
            writer.does("close", ["f"]);
            assert_eq!(reader.read(name), "whole and more");
        }
        assert_eq!(reader.held("old"), "old");
        // Killed after that, it is as it is after a crash of a program on any filesystem.
        let mut other = ground.older();
        other.does("open", ["f", "/t", "x"]);
        other.does("write", ["f", "whole"]);
        other.does("rename", ["/t", "/of-the-dead"]);
        other.kill();
        ground.nothing_is_staged();
        ground.live_is([
            ("made", "= whole and more"),
            ("replaced", "= whole and more"),
            ("linked", "= whole and more"),
            ("of-the-dead", "= whole"),
        ]);
    });
}

#[test]
fn a_directory_is_built_aside_and_renamed_with_files_still_open_in_it() {
    everywhere(|ground| {
        let (mut writer, mut reader) = (ground.older(), ground.older());
        writer.does("mkdir", ["/tmp"]);
        writer.does("put", ["/tmp/closed", "text"]);
        writer.does("open", ["f", "/tmp/open", "w"]);
        writer.does("write", ["f", "half"]);
        writer.does("rename", ["/tmp", "/built"]);
        assert_eq!(reader.read("/built/closed"), "text");
        reader.refused(libc::ENOENT, "read", ["/built/open"]);
        writer.does("write", ["f", " whole"]);
        writer.does("close", ["f"]);
        assert_eq!(reader.read("/built/open"), "half whole");
        ground.live_is([
            ("built", "/"),
            ("built/closed", "= text"),
            ("built/open", "= half whole"),
        ]);
        ground.nothing_is_staged();
    });
}

#[test]
fn a_staged_file_may_be_removed_by_its_writer() {
    everywhere(|ground| {
        ground.shell("printf old >f");
        let (mut writer, mut reader) = (ground.older(), ground.older());
        writer.does("open", ["f", "/new", "w"]);
        writer.does("write", ["f", "text"]);
        writer.does("unlink", ["/new"]);
        writer.refused(libc::ENOENT, "status", ["/new"]);
        assert_eq!(writer.does("held_status", ["f"])["size"], 4);
        writer.does("write", ["f", " more"]);
        writer.does("close", ["f"]);
        // And the directory that it is in.
        writer.does("mkdir", ["/d"]);
        writer.does("open", ["f", "/d/new", "w"]);
        writer.does("write", ["f", "text"]);
        writer.does("remove", ["/d"]);
        writer.does("close", ["f"]);
        reader.refused(libc::ENOENT, "status", ["/d"]);
        ground.live_is([("f", "= old")]);
        ground.nothing_is_staged();
    });
}

#[test]
fn stores_through_a_mapping_arrive() {
    everywhere(|ground| {
        ground.shell("head -c 8192 /dev/zero | tr '\\0' . >shared");
        let (mut one, mut two) = (ground.older(), ground.older());
        for agent in [&mut one, &mut two] {
            agent.does("open", ["f", "/shared", "r+"]);
            agent.does("map", ("f", 8192));
        }
        one.does("poke", ("f", 4090, "across the pages"));
        assert_eq!(two.does("peek", ("f", 4090, 16)), "across the pages");
        // A new file that is written through nothing else, and still is after it was closed.
        one.does("open", ["n", "/new", "w+"]);
        one.does("ftruncate", ("n", 4096));
        one.does("map", ("n", 4096));
        one.does("poke", ("n", 0, "before "));
        one.does("close", ["n"]);
        let start = |agent: &mut Agent| agent.read("/new")[..12].to_owned();
        assert_eq!(start(&mut two), "before \0\0\0\0\0");
        one.does("poke", ("n", 7, "after"));
        one.does("unmap", ["n"]);
        eventually("what was stored last has arrived", || start(&mut two) == "before after");
        assert_eq!(&ground.live()["new"][2..14], "before after");
        ground.nothing_is_staged();
    });
}

#[test]
fn replacing_by_rename_is_atomic_for_all() {
    everywhere(|ground| {
        ground.shell("printf 0 >f");
        let (mut writer, mut reader) = (ground.older(), ground.older());
        for round in 1..50 {
            reader.does("open", ["f", "/f", "r"]);
            writer.does("put", ["/f.tmp", &round.to_string(), "x"]);
            writer.does("rename", ["/f.tmp", "/f"]);
            assert_eq!(reader.read("/f"), round.to_string());
            assert_eq!(reader.held("f"), (round - 1).to_string());
            reader.does("close", ["f"]);
        }
        ground.live_is([("f", "= 49")]);
    });
}
