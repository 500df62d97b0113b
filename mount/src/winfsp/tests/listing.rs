//! `FindFirstFile` and `FindNextFile`.

use super::*;

fn names(entries: Vec<(String, FSP_FSCTL_FILE_INFO)>) -> Vec<String> {
    entries.into_iter().map(|(name, _)| name).collect()
}

fn directory<'a>(machine: &'a Machine, path: &str) -> File<'a> {
    machine.create_file(path, READ, OPEN_EXISTING, DIRECTORY_FILE).unwrap()
}

#[test]
fn a_large_directory_is_listed_once_in_pieces_of_any_size() {
    let machine = Machine::new();
    machine.create_directory("\\d").unwrap();
    let mut expected: Vec<_> = (0..300).map(|number| format!("File{number:03}")).collect();
    for name in expected.iter().rev() {
        machine.write_file(&format!("\\d\\{name}"), name);
    }
    expected.splice(0..0, [".".to_owned(), "..".to_owned()]);
    let opened = directory(&machine, "\\D");
    // The smallest has room for one name, but not for saying that it is the last.
    for length in [120, 128, 1000, 1 << 16] {
        assert_eq!(names(opened.list(None, length)), expected, "{length}");
    }
    opened.end();
    machine.end();
}

#[test]
fn a_search_goes_on_from_any_name() {
    let machine = Machine::new();
    for name in ["b", "D", "a", "!", "c"] {
        machine.write_file(&format!("\\{name}"), "");
    }
    let root = directory(&machine, "\\");
    // The root is in no directory.
    assert_eq!(names(root.list(None, 4096)), ["!", "a", "b", "c", "D"]);
    let after = |marker| names(root.list_piece(None, Some(marker), 4096).unwrap().0);
    assert_eq!(after("b"), ["c", "D"]);
    assert_eq!(after("bb"), ["c", "D"]);
    assert!(after("D").is_empty());
    // What comes or goes meanwhile does not disturb it; a new search sees it.
    machine.delete("\\c").unwrap();
    machine.write_file("\\bb", "");
    assert_eq!(after("b"), ["c", "D"]);
    assert_eq!(names(root.list(None, 4096)), ["!", "a", "b", "bb", "D"]);
    root.end();
    machine.end();
}

#[test]
fn a_search_finds_what_matches() {
    let machine = Machine::new();
    for name in ["a.py", "B.PY", "c.pyc", "d"] {
        machine.write_file(&format!("\\{name}"), "");
    }
    let root = directory(&machine, "\\");
    assert_eq!(names(root.list(Some("*.py"), 120)), ["a.py", "B.PY"]);
    assert_eq!(names(root.list(Some("D"), 120)), ["d"]);
    assert!(root.list(Some("x*"), 120).is_empty());
    root.end();
    machine.end();
}

#[test]
fn entries_say_what_they_are() {
    let machine = Machine::new();
    machine.create_directory("\\d").unwrap();
    machine.create_directory("\\d\\sub").unwrap();
    machine.write_file("\\d\\File", "five!");
    let opened = directory(&machine, "\\d");
    let entries = opened.list(None, 4096);
    let of = |wanted| entries.iter().find(|(name, _)| name == wanted).unwrap().1;
    assert_eq!(of("File").FileSize, 5);
    assert_eq!(of("File").AllocationSize, 4096);
    assert_eq!(of("File").FileAttributes, 0x80);
    assert_eq!(of("sub").FileAttributes, 0x10);
    assert_eq!(of(".").IndexNumber, opened.info().unwrap().IndexNumber);

    let (name, found) = opened.find("FILE").unwrap();
    assert_eq!((name.as_str(), found.FileSize), ("File", 5));
    assert_eq!(opened.find("no").err(), Some(Status::OBJECT_NAME_NOT_FOUND));
    // What can't be a name is not asked of the volume.
    for wrong in ["sub\\x", "..", "File:stream", "File/", "\n"] {
        assert_eq!(opened.find(wrong).err(), Some(Status::OBJECT_NAME_INVALID), "{wrong:?}");
    }
    let file = machine.create_file("\\d\\file", READ, OPEN_EXISTING, 0).unwrap();
    assert_eq!(file.info().unwrap().IndexNumber, found.IndexNumber);
    assert_eq!(file.list_piece(None, None, 4096).err(), Some(Status::NOT_A_DIRECTORY));
    file.end();
    opened.end();
    machine.end();
}
