//! What several processes may rely on when they work on the same names and files at once.

mod common;
mod conformance;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use conformance::{Agent, Random, everywhere, on_one, serve};
use rustix::fs::{CWD, RawDir, RenameFlags};

const CREATE: i32 = libc::O_CREAT | libc::O_RDWR;

#[test]
fn a_process_of_this_program_answers() {
    serve(&job);
}

/// What an agent does by itself.
fn job(words: &[&str]) -> Result<String, String> {
    let number = |index: usize| words[index].parse::<usize>().unwrap();
    let path = Path::new(words[1]);
    match words[0] {
        "append" => append(path, number(2), number(3)),
        "win" => win(path, words[2], number(3), number(4)),
        "shuffle" => shuffle(path, number(2), number(3)),
        "look" => look(path, number(2), number(3)),
        "churn" => churn(path, number(2), number(3)),
        "relink" => relink(path, number(2), number(3)),
        "flip" => flip(path, number(2)),
        "descend" => descend(path, number(2), number(3)),
        other => Err(format!("no job {other}")),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string().replace('\n', " ")
}

/// Starts as many agents, gives each its command, and gathers what they say.
#[track_caller]
fn all(commands: &[String]) -> Vec<String> {
    // All are up before any begins, so that they meet.
    let mut agents: Vec<Agent> = commands.iter().map(|_| Agent::new()).collect();
    for agent in &mut agents {
        agent.does("echo ready");
    }
    for (agent, command) in agents.iter_mut().zip(commands) {
        agent.tell(command);
    }
    agents.iter_mut().map(|agent| agent.hear().unwrap()).collect()
}

fn append(path: &Path, writer: usize, records: usize) -> Result<String, String> {
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(text)?;
    for record in 0..records {
        // Lengths differ, so that records cross pages everywhere.
        let line = format!("{writer} {record} {}\n", "x".repeat((record * 37 + writer) % 300));
        let put = file.write(line.as_bytes()).map_err(text)?;
        if put != line.len() {
            return Err(format!("wrote {put} bytes of {}", line.len()));
        }
    }
    Ok(String::new())
}

#[test]
fn appended_records_of_several_processes_stay_whole_and_in_order() {
    const WRITERS: usize = 8;
    const RECORDS: usize = 500;
    everywhere(|place| {
        let path = place.at("log");
        let commands: Vec<String> = (0..WRITERS)
            .map(|writer| format!("job append {} {writer} {RECORDS}", path.display()))
            .collect();
        // One who has it open for reading all the while, so that the bytes of the others go another way.
        File::create(&path).unwrap();
        let _reader = File::open(&path).unwrap();
        all(&commands);
        let mut next = [0; WRITERS];
        for line in fs::read_to_string(&path).unwrap().lines() {
            let mut words = line.split(' ');
            let mut number = || words.next().unwrap().parse::<usize>().unwrap();
            let (writer, record) = (number(), number());
            assert_eq!(record, next[writer], "of writer {writer}");
            assert_eq!(words.next().unwrap().len(), (record * 37 + writer) % 300);
            next[writer] += 1;
        }
        assert_eq!(next, [RECORDS; WRITERS]);
    });
}

/// Takes each of the names, if it is the first to; those it got.
fn win(directory: &Path, how: &str, own: usize, names: usize) -> Result<String, String> {
    let mine = directory.join(format!("own-{own}"));
    fs::write(&mine, own.to_string()).map_err(text)?;
    let mut won = Vec::new();
    for name in 0..names {
        let path = directory.join(format!("name-{name}"));
        let result = match how {
            "create" => OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&path)
                .and_then(|mut file| file.write_all(own.to_string().as_bytes())),
            "mkdir" => fs::create_dir(&path),
            "symlink" => symlink(own.to_string(), &path),
            "link" => fs::hard_link(&mine, &path),
            "rename" => {
                let fresh = directory.join(format!("fresh-{own}"));
                fs::write(&fresh, own.to_string()).map_err(text)?;
                rustix::fs::renameat_with(CWD, &fresh, CWD, &path, RenameFlags::NOREPLACE)
                    .map_err(Into::into)
            }
            other => return Err(format!("no way {other}")),
        };
        match result {
            Ok(()) => won.push(name.to_string()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(format!("{how} {name}: {error}")),
        }
    }
    Ok(won.join(" "))
}

#[test]
fn of_many_who_take_a_name_exactly_one_gets_it() {
    const NAMES: usize = 100;
    on_one(|place| {
        for how in ["create", "mkdir", "symlink", "link", "rename"] {
            let directory = place.at(how);
            fs::create_dir(&directory).unwrap();
            let commands: Vec<String> = (0..16)
                .map(|own| format!("job win {} {how} {own} {NAMES}", directory.display()))
                .collect();
            let mut winners = BTreeMap::new();
            for (own, names) in all(&commands).iter().enumerate() {
                for name in names.split(' ').filter(|name| !name.is_empty()) {
                    let before = winners.insert(name.parse::<usize>().unwrap(), own);
                    assert_eq!(before, None, "{how}: {name} was won twice");
                }
            }
            assert_eq!(winners.len(), NAMES, "{how}");
            for (name, own) in winners {
                let path = directory.join(format!("name-{name}"));
                let holds = match how {
                    "mkdir" => continue,
                    "symlink" => fs::read_link(path).unwrap().display().to_string(),
                    _ => fs::read_to_string(path).unwrap(),
                };
                assert_eq!(holds, own.to_string(), "{how} {name}");
            }
        }
    });
}

#[test]
fn locks_hold_between_processes() {
    everywhere(|place| {
        let path = place.at("lock");
        let (mut one, mut two) = (Agent::new(), Agent::new());
        let busy = Err(libc::EAGAIN);
        for agent in [&mut one, &mut two] {
            agent.does(format!("open f {CREATE} {}", path.display()));
        }
        // flock
        let (shared, exclusive, unlock) = (libc::LOCK_SH, libc::LOCK_EX, libc::LOCK_UN);
        one.does(format!("flock f {exclusive}"));
        assert_eq!(two.ask(format!("flock f {exclusive}")), busy);
        assert_eq!(two.ask(format!("flock f {shared}")), busy);
        one.does(format!("flock f {shared}"));
        two.does(format!("flock f {shared}"));
        assert_eq!(one.ask(format!("flock f {exclusive}")), busy);
        two.does(format!("flock f {unlock}"));
        one.does(format!("flock f {exclusive}"));
        one.does("close f");
        two.does(format!("flock f {exclusive}"));
        two.does(format!("flock f {unlock}"));
        // fcntl, by ranges; independent of the others
        one.does(format!("open f {} {}", libc::O_RDWR, path.display()));
        let (read, write, none) = (libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK);
        one.does(format!("lock f {write} 0 100"));
        one.does(format!("lock f {read} 200 100"));
        assert_eq!(two.ask(format!("lock f {read} 99 1")), busy);
        two.does(format!("lock f {write} 100 100"));
        two.does(format!("lock f {read} 200 100"));
        assert_eq!(two.ask(format!("lock f {write} 299 1")), busy);
        one.does(format!("lock f {none} 0 0"));
        two.does(format!("lock f {write} 0 100"));
        assert_eq!(one.ask(format!("lock f {read} 0 1")), busy);
        // POSIX: they go with any descriptor of the file that their process closes.
        two.does(format!("open g {} {}", libc::O_RDONLY, path.display()));
        two.does("close g");
        one.does(format!("lock f {write} 0 100"));
        one.does(format!("flock f {exclusive}"));
        // And with the process that held them.
        assert_eq!(two.ask(format!("lock f {read} 0 1")), busy);
        one.kill();
        two.does(format!("lock f {write} 0 100"));
        two.does(format!("flock f {exclusive}"));
        // By another name of the file it is the same lock.
        fs::hard_link(&path, place.at("alias")).unwrap();
        let mut three = Agent::new();
        three.does(format!("open f {CREATE} {}", place.at("alias").display()));
        assert_eq!(three.ask(format!("lock f {read} 0 1")), busy);
        assert_eq!(three.ask(format!("flock f {shared}")), busy);
    });
}

#[test]
fn what_one_stores_in_a_shared_mapping_the_others_see() {
    everywhere(|place| {
        let path = place.at("shared");
        fs::write(&path, [b'.'; 8192]).unwrap();
        let mut agents = [Agent::new(), Agent::new(), Agent::new()];
        for agent in &mut agents {
            agent.does(format!("open f {} {}", libc::O_RDWR, path.display()));
            agent.does("map f 8192");
        }
        // One who reads by calls only.
        let mut reader = Agent::new();
        reader.does(format!("open f {} {}", libc::O_RDONLY, path.display()));
        for round in 0..60 {
            let (offset, word) = (round * 131, format!("round{round:02}"));
            if round % 2 == 0 {
                agents[round % 3].does(format!("poke f {offset} {word}"));
            } else {
                agents[round % 3].does(format!("write f {offset} {word}"));
            }
            for agent in &mut agents {
                assert_eq!(agent.does(format!("peek f {offset} 7")), word);
            }
            assert_eq!(reader.does(format!("read f {offset} 7")), word);
            assert_eq!(&fs::read(&path).unwrap()[offset..][..7], word.as_bytes());
        }
    });
}

#[test]
fn what_one_writes_the_others_see_at_once() {
    everywhere(|place| {
        for (name, flags) in [("plain", libc::O_RDWR), ("only", libc::O_WRONLY)] {
            let path = place.at(name);
            let (mut writer, mut reader) = (Agent::new(), Agent::new());
            writer.does(format!("open f {} {}", flags | libc::O_CREAT, path.display()));
            reader.does(format!("open f {} {}", libc::O_RDONLY, path.display()));
            for round in 0..100 {
                let (offset, word) = (round * 1000, format!("word{round:03}"));
                writer.does(format!("write f {offset} {word}"));
                let size = offset + word.len();
                for what in ["f".to_owned(), path.display().to_string()] {
                    let stat = reader.does(format!("stat {what}"));
                    assert_eq!(stat.split(' ').nth(1), Some(size.to_string().as_str()), "{what}");
                }
                assert_eq!(reader.does(format!("read f {offset} 100")), word);
            }
        }
    });
}

const FILES: usize = 40;

/// Moves files about, losing none.
fn shuffle(root: &Path, seed: usize, rounds: usize) -> Result<String, String> {
    let mut random = Random::new(seed as u64);
    let mut moved = 0;
    for _ in 0..rounds {
        let mut name = || root.join(format!("d{}/n{}", random.below(4), random.below(FILES)));
        let (from, to) = (name(), name());
        let flags =
            if random.below(3) == 0 { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
        match rustix::fs::renameat_with(CWD, &from, CWD, &to, flags) {
            Ok(()) => moved += 1,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(format!("renaming: {error}")),
        }
    }
    Ok(moved.to_string())
}

/// Opens and looks at files by names that move: each has to be some file, whole.
fn look(root: &Path, seed: usize, rounds: usize) -> Result<String, String> {
    let mut random = Random::new(seed as u64);
    let mut found = 0;
    for _ in 0..rounds {
        let path = root.join(format!("d{}/n{}", random.below(4), random.below(FILES)));
        let opened = OpenOptions::new().read(true).write(random.below(4) == 0).open(&path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("opening: {error}")),
        };
        found += 1;
        let mut contents = String::new();
        file.read_to_string(&mut contents).map_err(text)?;
        let metadata = file.metadata().map_err(text)?;
        // What it says of itself was written when nothing moved yet.
        let says = format!("{} {}", metadata.ino(), "x".repeat(metadata.ino() as usize % 5000));
        if contents != says || metadata.nlink() != 1 {
            let start: String = contents.chars().take(20).collect();
            return Err(format!(
                "inode {} with {} names holds {start:?}, {} bytes",
                metadata.ino(),
                metadata.nlink(),
                contents.len()
            ));
        }
    }
    Ok(found.to_string())
}

#[test]
fn files_that_move_are_never_mistaken_for_each_other() {
    everywhere(|place| {
        let root = place.root().display().to_string();
        let mut numbers = BTreeSet::new();
        for directory in 0..4 {
            fs::create_dir(place.at(format!("d{directory}"))).unwrap();
        }
        for file in 0..FILES {
            let path = place.at(format!("d{}/n{file}", file % 4));
            let mut file = File::create(&path).unwrap();
            let number = file.metadata().unwrap().ino();
            file.write_all(format!("{number} {}", "x".repeat(number as usize % 5000)).as_bytes())
                .unwrap();
            assert!(numbers.insert(number));
        }
        let mut commands = Vec::new();
        for seed in 0..4 {
            commands.push(format!("job shuffle {root} {seed} 6000"));
            commands.push(format!("job look {root} {} 6000", seed + 10));
        }
        let counts: Vec<usize> =
            all(&commands).iter().map(|count| count.parse().unwrap()).collect();
        // Else nothing was tried.
        assert!(counts.iter().all(|&count| count > 300), "{counts:?}");
        let mut left = BTreeSet::new();
        for directory in 0..4 {
            for entry in fs::read_dir(place.at(format!("d{directory}"))).unwrap() {
                assert!(
                    left.insert(entry.unwrap().metadata().unwrap().ino()),
                    "a file with two names"
                );
            }
        }
        assert_eq!(left, numbers, "every file is still there, once");
    });
}

/// Makes links to one file and removes names of it, never the last.
fn relink(root: &Path, own: usize, rounds: usize) -> Result<String, String> {
    let anchor = root.join("anchor");
    for round in 0..rounds {
        let path = root.join(format!("d{}/{own}-{}", (own + round) % 3, round % 7));
        match fs::hard_link(&anchor, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(format!("linking: {error}")),
        }
        let contents = fs::read_to_string(&path).map_err(text)?;
        if contents != "one file" {
            return Err(format!("a link reads {contents:?}"));
        }
        if round % 3 != 0 {
            fs::remove_file(&path).map_err(text)?;
        }
    }
    Ok(String::new())
}

#[test]
fn names_of_one_file_come_and_go_in_several_directories() {
    on_one(|place| {
        fs::write(place.at("anchor"), "one file").unwrap();
        for directory in 0..3 {
            fs::create_dir(place.at(format!("d{directory}"))).unwrap();
        }
        let root = place.root().display();
        let commands: Vec<String> =
            (0..6).map(|own| format!("job relink {root} {own} 1000")).collect();
        all(&commands);
        let number = fs::metadata(place.at("anchor")).unwrap().ino();
        let mut names = 1;
        for directory in 0..3 {
            for entry in fs::read_dir(place.at(format!("d{directory}"))).unwrap() {
                assert_eq!(entry.unwrap().metadata().unwrap().ino(), number);
                names += 1;
            }
        }
        assert_eq!(fs::metadata(place.at("anchor")).unwrap().nlink(), names);
        // The name it was first known by may go.
        fs::remove_file(place.at("anchor")).unwrap();
        for directory in 0..3 {
            for entry in fs::read_dir(place.at(format!("d{directory}"))).unwrap() {
                assert_eq!(fs::read_to_string(entry.unwrap().path()).unwrap(), "one file");
            }
        }
    });
}

/// Renames a directory high up to and fro.
fn flip(root: &Path, rounds: usize) -> Result<String, String> {
    for round in 0..rounds {
        let (from, to) = if round % 2 == 0 { ("here", "there/it") } else { ("there/it", "here") };
        fs::rename(root.join(from), root.join(to)).map_err(text)?;
    }
    Ok(String::new())
}

/// Uses what is below a directory that moves: by either path, and by a descriptor.
fn descend(root: &Path, seed: usize, rounds: usize) -> Result<String, String> {
    let mut random = Random::new(seed as u64);
    let below = |number: usize| format!("a/b/c/d/e{number}");
    // It may be moving already.
    let held = loop {
        match File::open(root.join("here/a/b")).or_else(|_| File::open(root.join("there/it/a/b"))) {
            Ok(held) => break held,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("the directory: {error}")),
        }
    };
    let mut found = 0;
    for round in 0..rounds {
        let number = random.below(5);
        let top = ["here", "there/it"][random.below(2)];
        match fs::read_to_string(root.join(top).join(below(number)).join("file")) {
            Ok(contents) if contents == format!("I am {number}") => found += 1,
            Ok(contents) => return Err(format!("{number} reads {contents:?}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("by path: {error}")),
        }
        let flags = rustix::fs::OFlags::RDONLY;
        let relative = format!("c/d/e{number}/file");
        let opened = rustix::fs::openat(&held, relative, flags, rustix::fs::Mode::empty());
        let mut contents = String::new();
        File::from(opened.map_err(|error| format!("by descriptor: {error}"))?)
            .read_to_string(&mut contents)
            .map_err(text)?;
        if contents != format!("I am {number}") {
            return Err(format!("by descriptor, {number} reads {contents:?}"));
        }
        // Names that were never looked up before.
        let fresh = format!("c/d/e{number}/fresh-{seed}-{round}");
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::EXCL | flags;
        let opened = rustix::fs::openat(&held, &fresh, flags, rustix::fs::Mode::from(0o644));
        drop(opened.map_err(|error| format!("creating: {error}"))?);
        rustix::fs::unlinkat(&held, &fresh, rustix::fs::AtFlags::empty())
            .map_err(|error| format!("removing: {error}"))?;
    }
    Ok(found.to_string())
}

#[test]
fn a_directory_above_moves_to_and_fro_while_others_work_below_it() {
    everywhere(|place| {
        for number in 0..5 {
            let directory = place.at(format!("here/a/b/c/d/e{number}"));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("file"), format!("I am {number}")).unwrap();
        }
        fs::create_dir(place.at("there")).unwrap();
        let root = place.root().display().to_string();
        let mut commands = vec![format!("job flip {root} 4000")];
        commands.extend((0..3).map(|seed| format!("job descend {root} {seed} 2500")));
        let answers = all(&commands);
        let found: usize = answers[1..].iter().map(|count| count.parse::<usize>().unwrap()).sum();
        assert!(found > 500, "found only {found} by path");
        for number in 0..5 {
            let directory = place.at(format!("here/a/b/c/d/e{number}"));
            assert_eq!(fs::read_dir(directory).unwrap().count(), 1);
        }
    });
}

/// Creates and removes names beside those that stay, until it is stopped.
fn churn(directory: &Path, own: usize, rounds: usize) -> Result<String, String> {
    let stop = directory.parent().unwrap().join("stop");
    let mut done = 0;
    while !stop.exists() {
        for number in 0..rounds {
            File::create(directory.join(format!("x{own}-{number}"))).map_err(text)?;
        }
        for number in 0..rounds {
            let path = directory.join(format!("x{own}-{number}"));
            fs::remove_file(path).map_err(text)?;
        }
        done += 1;
    }
    Ok(done.to_string())
}

/// All names, by calls with room for so many bytes.
fn list(directory: &Path, room: usize) -> Vec<String> {
    let directory = File::open(directory).unwrap();
    let mut buffer = vec![MaybeUninit::uninit(); room];
    let mut listing = RawDir::new(directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = listing.next() {
        names.push(entry.unwrap().file_name().to_str().unwrap().to_owned());
    }
    names
}

#[test]
fn a_large_directory_lists_correctly_while_it_changes() {
    const NAMES: usize = 100_000;
    on_one(|place| {
        let directory = place.at("large");
        fs::create_dir(&directory).unwrap();
        // What is there before is made in the store, which takes half the time.
        let made = place.mount().map_or(directory.clone(), |mount| mount.store().join("large"));
        for number in 0..NAMES {
            File::create(made.join(format!("stays-{number}"))).unwrap();
        }
        let mut agents = [Agent::new(), Agent::new()];
        for (own, agent) in agents.iter_mut().enumerate() {
            agent.tell(format!("job churn {} {own} 500", directory.display()));
        }
        for (round, room) in [32_768, 1024, 262_144, 32_768].into_iter().enumerate() {
            let names = list(&directory, room);
            let mut stays = vec![false; NAMES];
            let mut others = BTreeSet::new();
            for name in &names {
                if let Some(number) = name.strip_prefix("stays-") {
                    let seen = &mut stays[number.parse::<usize>().unwrap()];
                    assert!(!*seen, "{name} is listed twice in round {round}");
                    *seen = true;
                } else {
                    // A name that goes and comes again is another one; it may be seen at each time.
                    others.insert(name);
                }
            }
            let missing = stays.iter().filter(|seen| !**seen).count();
            assert_eq!(missing, 0, "not listed in round {round} of {} names", names.len());
            assert!(others.len() <= 1002, "{} names that nobody made", others.len());
        }
        File::create(place.at("stop")).unwrap();
        for agent in &mut agents {
            agent.hear().unwrap();
        }
        assert_eq!(list(&directory, 32_768).len(), NAMES + 2);
    });
}

#[test]
fn a_directory_can_be_emptied_while_it_is_listed() {
    on_one(|place| {
        let directory = place.at("d");
        fs::create_dir(&directory).unwrap();
        for number in 0..5000 {
            File::create(directory.join(number.to_string())).unwrap();
        }
        // As `rm -r` and shutil.rmtree do it.
        let mut removed = 0;
        for entry in fs::read_dir(&directory).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
            removed += 1;
        }
        assert_eq!(removed, 5000);
        fs::remove_dir(&directory).unwrap();

        common::Run::shell(
            "mkdir -p t/a/b/c; for i in $(seq 300); do mkdir t/a/$i; : > t/a/$i/f; done; rm -r t",
        )
        .directory(place.root())
        .succeeds();
        assert_eq!(fs::read_dir(place.root()).unwrap().count(), 0);
    });
}
