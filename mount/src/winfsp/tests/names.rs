//! Case, `MoveFileEx`, `ReplaceFile`, `DeleteFile`.

use super::volume::NOBODY;
use super::*;
use crate::winfsp::spellings::{KEPT, Spellings};
use crate::winfsp::tree::Tree;
use crate::{Lookup, Name, NodeId, Volume};

/// Somebody else makes a directory.
fn make(volume: &Memory, name: &str) {
    let name = Name::new(name.as_ref()).unwrap();
    let made = volume.make_directory(&NOBODY, NodeId::ROOT, name, 0o777).unwrap();
    volume.forget(made.attributes.node, 1);
}

#[test]
fn names_are_found_whatever_their_case_and_kept_as_they_were_made() {
    let machine = Machine::new();
    machine.create_directory("\\Größe").unwrap();
    machine.write_file("\\Größe\\Readme.MD", "x");
    let file = machine.create_file("\\GRÖßE\\README.md", READ, OPEN_EXISTING, 0).unwrap();
    assert_eq!(*file.name.borrow(), "\\Größe\\Readme.MD");
    assert_eq!(file.content(), "x");
    file.end();
    let again = machine.create_file("\\größe\\readme.md", WRITE, CREATE_NEW, 0);
    assert_eq!(again.err(), Some(Status::OBJECT_NAME_COLLISION));
    assert_eq!(machine.create_directory("\\grÖßE"), Err(Status::OBJECT_NAME_COLLISION));
    machine.write_file("\\größe\\readme.md", "y");
    assert_eq!(machine.read_file("\\Größe\\Readme.MD").unwrap(), "y");

    machine.delete("\\größe\\README.MD").unwrap();
    assert!(!machine.is_there("\\Größe\\Readme.MD"));
    machine.write_file("\\größe\\README.MD", "z");
    assert!(machine.is_there("\\größe\\readme.md"));
    machine.delete("\\größe\\readme.md").unwrap();
    machine.delete("\\größe").unwrap();
    assert!(machine.volume.names(NodeId::ROOT).is_empty());
    machine.end();
}

#[test]
fn names_that_others_made_are_found_when_windows_was_told() {
    let machine = Machine::new();
    assert!(!machine.is_there("\\NEW"));
    make(&machine.volume, "new");
    assert!(machine.is_there("\\new"));
    machine.volume.notify().unwrap().expire(NodeId::ROOT, "new".as_ref()).unwrap();
    assert!(machine.is_there("\\NEW"));
    machine.end();
}

#[test]
fn what_is_made_while_a_directory_is_listed_is_found() {
    let machine = Machine::new();
    let volume = machine.volume.clone();
    machine.volume.after_listing(move || {
        make(&volume, "new");
        volume.notify().unwrap().expire(NodeId::ROOT, "new".as_ref()).unwrap();
    });
    assert!(!machine.is_there("\\NEW"));
    assert!(machine.is_there("\\NEW"));
    machine.end();
}

#[test]
fn of_names_that_differ_only_in_case_each_is_found() {
    let machine = Machine::new();
    make(&machine.volume, "name");
    make(&machine.volume, "NAME");
    let spelled = |asked: &str| {
        let file = machine.create_file(asked, LOOK, OPEN_EXISTING, 0).unwrap();
        let name = file.name.borrow().clone();
        file.end();
        name
    };
    assert_eq!(
        [spelled("\\name"), spelled("\\NAME"), spelled("\\Name")],
        ["\\name", "\\NAME", "\\NAME"]
    );
    machine.delete("\\Name").unwrap();
    assert_eq!([spelled("\\NAME"), spelled("\\Name")], ["\\name", "\\name"]);
    machine.end();
}

#[test]
fn case_alone_can_be_changed() {
    let machine = Machine::new();
    machine.write_file("\\name", "x");
    machine.move_file("\\name", "\\Name", false).unwrap();
    assert_eq!(machine.volume.names(NodeId::ROOT), ["Name"]);
    machine.write_file("\\other", "y");
    machine.move_file("\\other", "\\NAME", true).unwrap();
    assert_eq!(machine.volume.names(NodeId::ROOT), ["Name"]);
    assert_eq!(machine.read_file("\\name").unwrap(), "y");
    machine.end();
}

/// Somebody else gives a file a second name.
fn link(volume: &Memory, name: &str, second: &str) {
    let [name, second] = [name, second].map(|name| Name::new(name.as_ref()).unwrap());
    let Ok(Lookup::Found(found)) = volume.lookup(&NOBODY, NodeId::ROOT, name) else { panic!() };
    volume.make_link(&NOBODY, found.attributes.node, NodeId::ROOT, second).unwrap();
    volume.forget(found.attributes.node, 2);
}

#[test]
fn a_second_name_is_not_got_once_more_in_another_case() {
    let machine = Machine::new();
    machine.write_file("\\a", "x");
    link(&machine.volume, "a", "b");
    assert_eq!(machine.move_file("\\a", "\\B", false), Err(Status::OBJECT_NAME_COLLISION));
    assert_eq!(machine.volume.names(NodeId::ROOT), ["a", "b"]);
    machine.end();
}

/// The driver refuses to open what is told to have another name than it was asked for.
#[test]
fn of_two_names_a_file_has_the_one_that_was_asked_for() {
    let machine = Machine::new();
    machine.write_file("\\a", "x");
    link(&machine.volume, "a", "b");
    let tree = Arc::new(Tree::new(machine.volume.clone()));
    let walk = |name: &str| tree.walk(&NOBODY, &[&name.encode_utf16().collect::<Vec<_>>()]);
    let walks = [walk("A").unwrap(), walk("b").unwrap()];
    let spelled = walks.each_ref().map(|walk| String::from_utf16(walk.spelled()).unwrap());
    assert_eq!(spelled, ["\\a", "\\b"]);
    drop(walks);
    machine.end();
}

#[test]
fn what_was_listed_before_a_change_is_not_kept_though_the_directory_was_forgotten_meanwhile() {
    let machine = Machine::new();
    let volume = machine.volume.clone();
    let mut others = Vec::new();
    for number in 0..KEPT {
        let name = format!("{number}");
        machine.create_directory(&format!("\\{name}")).unwrap();
        let name = Name::new(name.as_ref()).unwrap();
        let Ok(Lookup::Found(found)) = volume.lookup(&NOBODY, NodeId::ROOT, name) else { panic!() };
        volume.forget(found.attributes.node, 1);
        others.push(found.attributes.node);
    }
    let spellings = Arc::new(Spellings::default());
    let find = move |spellings: &Spellings, volume: &Memory, directory| {
        spellings.find(volume, &NOBODY, directory, "NEW".as_ref()).unwrap()
    };
    let (meanwhile, of) = (spellings.clone(), volume.clone());
    volume.after_listing(move || {
        make(&of, "new");
        meanwhile.changed(NodeId::ROOT);
        for other in others {
            find(&meanwhile, &of, other);
        }
        assert_eq!(find(&meanwhile, &of, NodeId::ROOT).unwrap(), "new");
    });
    assert_eq!(find(&spellings, &volume, NodeId::ROOT), None);
    assert_eq!(find(&spellings, &volume, NodeId::ROOT).unwrap(), "new");
    machine.end();
}

#[test]
fn files_are_moved() {
    let machine = Machine::new();
    machine.create_directory("\\d").unwrap();
    machine.create_directory("\\e").unwrap();
    machine.write_file("\\a", "a");
    machine.write_file("\\b", "b");
    assert_eq!(machine.move_file("\\a", "\\b", false), Err(Status::OBJECT_NAME_COLLISION));
    assert_eq!(machine.move_file("\\a", "\\d", true), Err(Status::FILE_IS_A_DIRECTORY));
    assert_eq!(machine.move_file("\\a", "\\no\\a", true), Err(Status::OBJECT_PATH_NOT_FOUND));
    assert_eq!(machine.move_file("\\no", "\\x", true), Err(Status::OBJECT_NAME_NOT_FOUND));
    assert_eq!(machine.move_file("\\a", "\\nul", true), Err(Status::OBJECT_NAME_INVALID));
    assert_eq!(machine.move_file("\\d", "\\D\\x", false), Err(Status::INVALID_PARAMETER));
    machine.move_file("\\a", "\\d\\A", false).unwrap();
    machine.move_file("\\d", "\\e\\d", false).unwrap();
    assert_eq!(machine.move_file("\\e", "\\E\\D\\x", false), Err(Status::INVALID_PARAMETER));
    assert_eq!(machine.read_file("\\e\\D\\a").unwrap(), "a");
    assert_eq!(machine.volume.names(NodeId::ROOT), ["b", "e"]);
    // An open file is known by its new name.
    let file = machine.create_file("\\b", DELETE | READ, OPEN_EXISTING, 0).unwrap();
    file.rename("\\c", false).unwrap();
    let node = NodeId(file.info().unwrap().IndexNumber);
    library::told();
    machine.volume.notify().unwrap().changed(node).unwrap();
    assert_eq!(library::told(), ["begin", "\\c", "end"]);
    assert_eq!(file.content(), "b");
    file.end();
    machine.end();
}

#[test]
fn temporaries_persist_over_a_name_that_others_hold_open() {
    let machine = Machine::new();
    machine.write_file("\\cache", "0");
    let mut readers = Vec::new();
    for round in 1..50 {
        readers.push(machine.create_file("\\cache", READ, OPEN_EXISTING, 0).unwrap());
        let temporary = format!("\\.tmp{round}");
        machine.write_file(&temporary, &round.to_string());
        machine.move_file(&temporary, "\\cache", true).unwrap();
        assert_eq!(machine.read_file("\\cache").unwrap(), round.to_string());
    }
    for (round, reader) in readers.into_iter().enumerate() {
        assert_eq!(reader.content(), round.to_string());
        reader.end();
    }
    assert_eq!(machine.volume.names(NodeId::ROOT), ["cache"]);
    machine.end();
}

/// `ReplaceFile`: opens both, takes the new one over what is there, and keeps that under the name `backup`.
fn replace_file(machine: &Machine, to: &str, from: &str, backup: Option<&str>) {
    let old = machine.create_file(to, READ | DELETE, OPEN_EXISTING, OPEN_REPARSE_POINT).unwrap();
    let new = machine.create_file(from, READ | WRITE | DELETE, OPEN_EXISTING, 0).unwrap();
    new.set_basic(old.info().unwrap().FileAttributes, 0, 0).unwrap();
    new.set_security(&old.security().unwrap()).unwrap();
    if let Some(backup) = backup {
        old.rename(backup, true).unwrap();
    }
    new.rename(to, true).unwrap();
    old.end();
    new.end();
}

#[test]
fn replace_file_replaces() {
    let machine = Machine::new();
    for backup in [None, Some("\\backup"), Some("\\Backup")] {
        machine.write_file("\\to", "old");
        machine.write_file("\\from", "new");
        let reader = machine.create_file("\\to", READ, OPEN_EXISTING, 0).unwrap();
        replace_file(&machine, "\\to", "\\from", backup);
        assert_eq!(reader.content(), "old");
        reader.end();
        assert_eq!(machine.read_file("\\to").unwrap(), "new");
        assert!(!machine.is_there("\\from"));
        if let Some(backup) = backup {
            assert_eq!(machine.read_file(backup).unwrap(), "old");
        }
    }
    machine.end();
}

#[test]
fn what_is_deleted_is_gone_for_all_but_who_has_it_open() {
    let machine = Machine::new();
    machine.write_file("\\a", "old");
    let reader = machine.create_file("\\a", READ, OPEN_EXISTING, 0).unwrap();
    machine.delete("\\a").unwrap();
    assert!(!machine.is_there("\\a"));
    machine.write_file("\\a", "new");
    assert_eq!(reader.content(), "old");
    reader.end();
    assert_eq!(machine.read_file("\\a").unwrap(), "new");
    assert_eq!(machine.delete("\\b"), Err(Status::OBJECT_NAME_NOT_FOUND));
    machine.end();
}

#[test]
fn what_is_to_be_deleted_when_closed_is_deleted_then() {
    let machine = Machine::new();
    let options = DELETE_ON_CLOSE;
    let file = machine.create_file("\\a", WRITE | DELETE, CREATE_NEW, options).unwrap();
    file.write(0, b"x").unwrap();
    assert!(machine.is_there("\\a"));
    file.cleanup();
    assert!(!machine.is_there("\\a"));
    file.close();
    machine.end();
}

#[test]
fn only_what_was_opened_is_deleted() {
    let machine = Machine::new();
    machine.write_file("\\a", "old");
    let file = machine.create_file("\\a", DELETE | LOOK, OPEN_EXISTING, 0).unwrap();
    file.set_delete().unwrap();
    machine.write_file("\\b", "new");
    machine.move_file("\\b", "\\a", true).unwrap();
    file.end();
    assert_eq!(machine.read_file("\\a").unwrap(), "new");
    machine.end();
}

#[test]
fn directories_are_deleted_when_they_are_empty() {
    let machine = Machine::new();
    machine.create_directory("\\d").unwrap();
    machine.write_file("\\d\\f", "x");
    assert_eq!(machine.delete("\\d"), Err(Status::DIRECTORY_NOT_EMPTY));
    machine.delete("\\d\\f").unwrap();
    // The volume may want to be asked again, for another node.
    machine.volume.make_stale();
    machine.delete("\\d").unwrap();
    assert!(!machine.is_there("\\d"));
    machine.end();
}
