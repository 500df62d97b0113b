//! Random operations, each compared with what a plain tree of names does.

use std::collections::BTreeMap;

use super::*;

const SEEDS: u64 = 30;
const STEPS: usize = 250;

/// What is at a path, whose case is folded; how its last name is spelled, and a file's content.
#[derive(Clone, Debug, PartialEq)]
struct Thing {
    spelled: String,
    content: Option<String>,
}

/// A tree by path.
#[derive(Default)]
struct Model(BTreeMap<String, Thing>);

fn folded(path: &str) -> String {
    path.to_lowercase()
}

fn last(path: &str) -> String {
    path.rsplit('\\').next().unwrap().to_owned()
}

impl Model {
    fn get(&self, path: &str) -> Option<&Thing> {
        self.0.get(&folded(path))
    }

    fn is_directory(&self, path: &str) -> bool {
        path == "\\" || self.get(path).is_some_and(|thing| thing.content.is_none())
    }

    fn below<'a>(&'a self, path: &str) -> impl Iterator<Item = (&'a String, &'a Thing)> {
        let begin = if path == "\\" { path.to_owned() } else { folded(path) + "\\" };
        self.0.iter().filter(move |(other, _)| other.starts_with(&begin))
    }

    /// The names in a directory, in the order in which they are listed.
    fn list(&self, path: &str) -> Vec<String> {
        let here = self.below(path).filter(|(other, _)| parent(other) == folded(path));
        here.map(|(_, thing)| thing.spelled.clone()).collect()
    }

    /// Writes a file, which must not be there if it is `new`; without content makes a directory.
    fn put(&mut self, path: &str, content: Option<String>, new: bool) -> bool {
        if !self.is_directory(parent(path)) {
            return false;
        }
        match self.0.get_mut(&folded(path)) {
            Some(there) if new || there.content.is_none() || content.is_none() => return false,
            Some(there) => there.content = content,
            None => {
                let spelled = last(path);
                self.0.insert(folded(path), Thing { spelled, content });
            }
        }
        true
    }

    fn delete(&mut self, path: &str) -> bool {
        self.below(path).next().is_none() && self.0.remove(&folded(path)).is_some()
    }

    fn rename(&mut self, from: &str, to: &str, replace: bool) -> bool {
        let (old, new) = (folded(from), folded(to));
        let Some(thing) = self.get(from).cloned() else { return false };
        if !self.is_directory(parent(to))
            || folded(parent(to)).starts_with(&old)
                && (parent(to).len() == old.len() || parent(to).as_bytes()[old.len()] == b'\\')
        {
            return false;
        }
        let mut spelled = last(to);
        if let Some(there) = self.get(to).filter(|_| old != new) {
            let both_files = thing.content.is_some() && there.content.is_some();
            let both_directories = thing.content.is_none() && there.content.is_none();
            if !replace || !(both_files || both_directories && self.below(to).next().is_none()) {
                return false;
            }
            spelled = there.spelled.clone();
        }
        let moved: Vec<_> = self.below(from).map(|(path, _)| path.clone()).collect();
        for path in moved {
            let thing = self.0.remove(&path).unwrap();
            self.0.insert(new.clone() + &path[old.len()..], thing);
        }
        self.0.remove(&old);
        self.0.insert(new, Thing { spelled, ..thing });
        true
    }
}

/// Numbers that are the same each time (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    /// A path of up to three names, of which there are few, in any case.
    fn path(&mut self) -> String {
        const NAMES: [&str; 6] = ["a", "A", "b.txt", "B.TXT", "Ö", "ö"];
        let depth = 1 + self.below(3);
        (0..depth).map(|_| format!("\\{}", NAMES[self.below(NAMES.len())])).collect()
    }
}

#[test]
fn random_operations_do_what_a_plain_tree_does() {
    let mut done = [0; 6];
    for seed in 1..=SEEDS {
        let (machine, mut model, mut random) =
            (Machine::new(), Model::default(), Random(seed << 20));
        for step in 0..STEPS {
            let (path, other) = (random.path(), random.path());
            let (operation, replace) = (random.below(6), random.below(2) == 0);
            let text = format!("{seed} {step}");
            let about =
                || format!("seed {seed}, step {step}: {operation} {path} {other} {replace}");
            let (did, should) = match operation {
                0 => (
                    write(&machine, &path, CREATE_ALWAYS, &text),
                    model.put(&path, Some(text), false),
                ),
                1 => {
                    (write(&machine, &path, CREATE_NEW, &text), model.put(&path, Some(text), true))
                }
                2 => (machine.create_directory(&path), model.put(&path, None, true)),
                3 => (machine.delete(&path), model.delete(&path)),
                4 => (
                    machine.move_file(&path, &other, replace),
                    model.rename(&path, &other, replace),
                ),
                _ => {
                    let expected = model.get(&path).and_then(|thing| thing.content.clone());
                    assert_eq!(machine.read_file(&path).ok(), expected, "{}", about());
                    continue;
                }
            };
            assert_eq!(did.is_ok(), should, "{}: {did:?}", about());
            done[operation] += usize::from(should);
            let directory = if random.below(2) == 0 { parent(&path) } else { "\\" };
            if model.is_directory(directory) {
                let listed = machine.create_file(directory, READ, OPEN_EXISTING, DIRECTORY_FILE);
                let listed = listed.unwrap();
                let mut names: Vec<_> =
                    listed.list(None, 4096).into_iter().map(|(name, _)| name).collect();
                listed.end();
                names.retain(|name| name != "." && name != "..");
                assert_eq!(names, model.list(directory), "{}", about());
            }
        }
        machine.end();
    }
    // Each succeeded often enough to mean something.
    assert!(done[..5].iter().all(|&times| times > 100), "{done:?}");
}

fn write(machine: &Machine, path: &str, disposition: u32, text: &str) -> Result<(), Status> {
    let file = machine.create_file(path, WRITE, disposition, NON_DIRECTORY_FILE)?;
    file.write(0, text.as_bytes())?;
    file.end();
    Ok(())
}
