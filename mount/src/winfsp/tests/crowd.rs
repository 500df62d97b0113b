//! Several programs at once, as WinFsp's threads serve them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::NodeId;

const PROGRAMS: usize = 6;
const ROUNDS: usize = 150;

/// WinFsp calls back from many threads.
struct Everywhere<'a>(&'a Machine);

// SAFETY: what is behind the pointer is only read; the callbacks are for any thread.
unsafe impl Sync for Everywhere<'_> {}

impl Everywhere<'_> {
    fn machine(&self) -> &Machine {
        self.0
    }
}

/// Each program writes a temporary of its own and moves it over one name, which the others read, open or delete
/// meanwhile. What is read is always whole.
#[test]
fn programs_replace_read_list_and_delete_one_name() {
    let machine = Machine::new();
    machine.create_directory("\\cache").unwrap();
    let (everywhere, whole) = (Everywhere(&machine), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for program in 0..PROGRAMS {
            let (everywhere, whole) = (&everywhere, &whole);
            scope.spawn(move || {
                let machine = everywhere.machine();
                for round in 0..ROUNDS {
                    let temporary = format!("\\cache\\.tmp{program}-{round}");
                    machine.write_file(&temporary, &format!("{program} {round} ").repeat(100));
                    machine.move_file(&temporary, "\\Cache\\entry", true).unwrap();
                    match machine.read_file("\\CACHE\\ENTRY") {
                        Ok(content) => {
                            let one = &content[..content.len() / 100];
                            assert_eq!(content, one.repeat(100));
                            whole.fetch_add(1, Ordering::Relaxed);
                        }
                        // Somebody has deleted it just now.
                        Err(status) => assert_eq!(status, Status::OBJECT_NAME_NOT_FOUND),
                    }
                    if round % 10 == program {
                        match machine.delete("\\cache\\Entry") {
                            Ok(()) | Err(Status::OBJECT_NAME_NOT_FOUND) => {}
                            other => panic!("{other:?}"),
                        }
                    }
                    let directory = machine.create_file("\\cache", READ, OPEN_EXISTING, 0).unwrap();
                    let names = directory.list(None, 1000);
                    assert!(names.iter().filter(|(name, _)| !name.starts_with('.')).count() <= 1);
                    directory.end();
                }
            });
        }
    });
    // Each deletion, of which a program does 15, can take the name from one reading of each other program.
    assert!(whole.into_inner() >= PROGRAMS * ROUNDS / 2);
    assert!(machine.volume.names(NodeId::ROOT).len() == 1);
    machine.end();
}
