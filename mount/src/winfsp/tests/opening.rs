//! `CreateFile` with each disposition, and what follows until `CloseHandle`.

use std::ffi::OsStr;

use super::volume::NOBODY;
use super::*;
use crate::{Name, NodeId, OpenFlags, Volume};

#[test]
fn each_disposition_does_what_it_says() {
    let machine = Machine::new();
    let open = |path, disposition| machine.create_file(path, READ | WRITE, disposition, 0);
    assert_eq!(open("\\a", OPEN_EXISTING).err(), Some(Status::OBJECT_NAME_NOT_FOUND));
    assert_eq!(open("\\a", TRUNCATE_EXISTING).err(), Some(Status::OBJECT_NAME_NOT_FOUND));
    assert_eq!(open("\\no\\a", OPEN_ALWAYS).err(), Some(Status::OBJECT_PATH_NOT_FOUND));
    open("\\a", CREATE_NEW).unwrap().end();
    assert_eq!(open("\\a", CREATE_NEW).err(), Some(Status::OBJECT_NAME_COLLISION));

    for (disposition, old, expected) in [
        (OPEN_EXISTING, "old", "new"),
        (OPEN_ALWAYS, "older", "newer"),
        (TRUNCATE_EXISTING, "longer than what follows", "new"),
        (CREATE_ALWAYS, "longer than what follows", "new"),
        (SUPERSEDE, "longer than what follows", "new"),
    ] {
        machine.write_file("\\a", old);
        let file = open("\\a", disposition).unwrap();
        file.write(0, b"new").unwrap();
        file.end();
        assert_eq!(machine.read_file("\\a").unwrap(), expected, "{disposition}");
    }
    for (number, disposition) in [OPEN_ALWAYS, CREATE_ALWAYS, SUPERSEDE].into_iter().enumerate() {
        let path = format!("\\new{number}");
        machine.create_file(&path, READ | WRITE, disposition, 0).unwrap().end();
    }
    assert_eq!(machine.volume.names(NodeId::ROOT), ["a", "new0", "new1", "new2"]);
    machine.end();
}

#[test]
fn the_volume_hears_whether_a_file_is_new_shared_or_replaced() {
    let machine = Machine::new();
    let both = OpenFlags::READ | OpenFlags::WRITE;
    for (path, disposition, expected) in [
        ("\\new", CREATE_NEW, both | OpenFlags::EXCLUSIVE),
        ("\\lock", OPEN_ALWAYS, both),
        ("\\lock", OPEN_ALWAYS, both),
        ("\\lock", OPEN_EXISTING, both),
        ("\\entry", CREATE_ALWAYS, both | OpenFlags::TRUNCATE),
        // Once, and never as it is.
        ("\\entry", CREATE_ALWAYS, both | OpenFlags::TRUNCATE),
        ("\\entry", TRUNCATE_EXISTING, both | OpenFlags::TRUNCATE),
    ] {
        machine.create_file(path, WRITE, disposition, 0).unwrap().end();
        assert_eq!(machine.volume.opened(), [expected], "{path} {disposition}");
    }
    machine.create_file("\\new", LOOK | DELETE, OPEN_EXISTING, 0).unwrap().end();
    assert_eq!(machine.volume.opened(), []);
    machine.end();
}

#[test]
fn files_and_directories_are_told_apart() {
    let machine = Machine::new();
    machine.create_directory("\\d").unwrap();
    machine.write_file("\\d\\f", "x");
    let open = |path, options| machine.create_file(path, LOOK, OPEN_EXISTING, options).err();
    assert_eq!(open("\\d", NON_DIRECTORY_FILE), Some(Status::FILE_IS_A_DIRECTORY));
    assert_eq!(open("\\d\\f", DIRECTORY_FILE), Some(Status::NOT_A_DIRECTORY));
    assert_eq!(open("\\d\\f\\g", 0), Some(Status::OBJECT_PATH_NOT_FOUND));
    assert_eq!(open("\\D:stream", 0), Some(Status::OBJECT_NAME_INVALID));
    let file = machine.create_file("\\d\\f\\g", WRITE, CREATE_NEW, 0).err();
    assert_eq!(file, Some(Status::NOT_A_DIRECTORY));
    assert_eq!(
        machine.create_file("\\d", WRITE, CREATE_NEW, 0).err(),
        Some(Status::FILE_IS_A_DIRECTORY)
    );
    assert_eq!(machine.create_directory("\\d\\f"), Err(Status::OBJECT_NAME_COLLISION));
    let root = machine.create_file("\\", LOOK, OPEN_EXISTING, DIRECTORY_FILE).unwrap();
    assert_eq!(root.set_delete(), Err(Status::CANNOT_DELETE));
    assert_eq!(root.read(0, 1), Err(Status::INVALID_DEVICE_REQUEST));
    root.end();
    machine.end();
}

#[test]
fn who_asks_is_the_process() {
    let machine = Machine::new();
    machine.write_file("\\a", "x");
    // Later reads do not say who reads: it is who opened the file.
    let file = machine.create_file("\\a", READ, OPEN_EXISTING, 0).unwrap();
    assert_eq!(file.content(), "x");
    file.end();
    assert_eq!(machine.volume.askers(), [(PROCESS, 0)]);
    machine.end();
}

#[test]
fn who_wrote_is_heard_of_when_he_closes() {
    let machine = Machine::new();
    let file = machine.create_file("\\a", WRITE, CREATE_NEW, 0).unwrap();
    file.write(0, b"x").unwrap();
    assert_eq!(machine.volume.flushed(), 0);
    file.cleanup();
    assert_eq!(machine.volume.flushed(), 1);
    file.close();
    assert_eq!(machine.read_file("\\a").unwrap(), "x");
    machine.create_file("\\a", LOOK, OPEN_EXISTING, 0).unwrap().end();
    assert_eq!(machine.volume.flushed(), 1);
    machine.end();
}

#[test]
fn who_has_a_file_open_keeps_it_when_it_is_replaced() {
    let machine = Machine::new();
    machine.write_file("\\a", "old");
    let reader = machine.create_file("\\a", READ, OPEN_EXISTING, 0).unwrap();
    machine.volume.make_stale();
    machine.write_file("\\a", "new");
    assert_eq!(reader.content(), "old");
    assert_eq!(machine.read_file("\\a").unwrap(), "new");
    reader.end();
    machine.end();
}

#[test]
fn what_programs_could_not_open_again_is_not_created() {
    let machine = Machine::new();
    for name in ["\\nul", "\\COM1", "\\a.", "\\a "] {
        let created = machine.create_file(name, WRITE, CREATE_NEW, 0);
        assert_eq!(created.err(), Some(Status::OBJECT_NAME_INVALID), "{name}");
        assert_eq!(machine.create_directory(name), Err(Status::OBJECT_NAME_INVALID), "{name}");
    }
    let long = format!("\\{}", "ü".repeat(256));
    assert_eq!(machine.create_directory(&long), Err(Status::OBJECT_NAME_INVALID));
    machine.create_directory(&long[..long.len() - 2]).unwrap();
    machine.end();
}

#[test]
fn read_only_files_are_neither_written_nor_deleted() {
    let machine = Machine::new();
    machine.write_file("\\a", "x");
    let set = |bits| {
        let file = machine.create_file("\\a", LOOK, OPEN_EXISTING, 0).unwrap();
        file.set_basic(bits, 0, 0).unwrap();
        file.end();
    };
    set(READ_ONLY);
    let write = machine.create_file("\\a", WRITE, OPEN_EXISTING, 0);
    assert_eq!(write.err(), Some(Status::ACCESS_DENIED));
    assert_eq!(machine.delete("\\a"), Err(Status::CANNOT_DELETE));
    assert_eq!(machine.read_file("\\a").unwrap(), "x");
    set(0x80);
    machine.delete("\\a").unwrap();
    assert!(!machine.is_there("\\a"));
    machine.end();
}

#[test]
fn links_can_be_seen_and_deleted_but_not_read() {
    let machine = Machine::new();
    let name = Name::new(OsStr::new("l")).unwrap();
    let made = machine.volume.make_symlink(&NOBODY, NodeId::ROOT, name, OsStr::new("t")).unwrap();
    machine.volume.forget(made.attributes.node, 1);
    let read = machine.create_file("\\l", READ, OPEN_EXISTING, 0);
    assert_eq!(read.err(), Some(Status::NOT_SUPPORTED));
    // What can't be replaced after it was opened is closed at once.
    assert!(machine.create_file("\\l", WRITE, CREATE_ALWAYS, 0).is_err());
    machine.move_file("\\l", "\\m", false).unwrap();
    machine.delete("\\m").unwrap();
    assert!(machine.volume.names(NodeId::ROOT).is_empty());
    machine.end();
}
