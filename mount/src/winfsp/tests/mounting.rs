//! Mounting, unmounting and what Windows is told without asking.

use super::*;
use crate::NodeId;
use crate::winfsp::MountError;

#[test]
fn without_winfsp_it_is_said_where_to_get_it() {
    let error = Mount::new(Path::new("X:"), Arc::new(Memory::default()), &options(false));
    let error = error.unwrap_err();
    assert!(matches!(error, MountError::NotInstalled), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("is not installed") && said.contains("winfsp.dev"), "{said}");
}

#[test]
fn mounting_and_unmounting_are_done_in_order() {
    let volume = Arc::new(Memory::default());
    library::told();
    let mount = Mount::with(library::library(), Path::new("X:\\"), volume.clone(), &options(false));
    let mount = mount.unwrap();
    assert_eq!(library::told(), ["create", "mount on X:", "start"]);
    let notify = volume.notify().unwrap();
    assert_ne!(notify.device(), (0, 0));
    mount.unmount();
    assert_eq!(library::told(), ["stop", "unmount", "delete"]);
    // At once, and also when it was somebody else who ended it.
    mount.wait();
    mount.unmount();
    notify.expire(NodeId::ROOT, "x".as_ref()).unwrap();
    drop(mount);
    notify.changed(NodeId::ROOT).unwrap();
    assert_eq!(library::told(), Vec::<String>::new());
    // Nothing keeps what was served.
    drop(notify);
    let volume = Arc::into_inner(volume);
    assert!(volume.is_some());
}

/// WinFsp closes nothing then.
#[test]
fn what_is_open_when_it_is_unmounted_does_not_keep_the_volume() {
    let machine = Machine::new();
    machine.write_file("\\a", "x");
    let file = machine.create_file("\\a", READ | WRITE, OPEN_EXISTING, 0).unwrap();
    let _never_closed = std::mem::ManuallyDrop::new(file);
    let Machine { volume, mount, .. } = machine;
    mount.unmount();
    drop(mount);
    assert_eq!(volume.held().0, 0, "lookups that were not given back");
    assert!(Arc::into_inner(volume).is_some());
}

#[test]
fn a_mount_that_is_not_made_leaves_nothing() {
    library::told();
    let volume = Arc::new(Memory::default());
    let error = Mount::with(library::library(), Path::new("C:\\"), volume.clone(), &options(false));
    let said = error.unwrap_err().to_string();
    assert!(said.contains("can't mount on C:\\") && said.contains("COLLISION"), "{said}");
    assert!(said.contains("a drive letter that is free"), "{said}");
    assert_eq!(library::told(), ["create", "mount on C:", "stop", "unmount", "delete"]);
    assert!(volume.notify().is_none());
}

#[test]
fn windows_is_told_of_what_it_knows() {
    let machine = Machine::new();
    machine.create_directory("\\Dir").unwrap();
    machine.write_file("\\Dir\\file", "x");
    let notify = machine.volume.notify().unwrap();
    let opened = machine.create_file("\\dir", READ, OPEN_EXISTING, DIRECTORY_FILE).unwrap();
    let node = NodeId(opened.info().unwrap().IndexNumber);
    library::told();
    notify.expire(node, "file".as_ref()).unwrap();
    notify.expire(NodeId::ROOT, "Dir".as_ref()).unwrap();
    notify.changed(node).unwrap();
    assert_eq!(
        library::told(),
        ["begin", "\\Dir\\file", "end", "begin", "\\Dir", "end", "begin", "\\Dir", "end"]
    );
    // Of what nobody has open it keeps nothing.
    opened.end();
    notify.expire(node, "file".as_ref()).unwrap();
    notify.changed(node).unwrap();
    assert_eq!(library::told(), Vec::<String>::new());
    machine.end();
}

#[test]
fn a_panic_is_answered_with_an_error() {
    let machine = Machine::new();
    let file = machine.create_file("\\a", WRITE, CREATE_NEW, 0).unwrap();
    // One lookup too few is left, which the volume does not forgive.
    let node = NodeId(file.info().unwrap().IndexNumber);
    crate::Volume::forget(&*machine.volume, node, 1);
    file.cleanup();
    file.close();
    assert!(machine.is_there("\\"));
    machine.end();
}
