//! SEMANTICS 5.3 as a program: one trusted user and two who are not, each with what he alone sees; and that
//! the engine does the same.
//!
//! Everybody does one thing at a time, in a job of its own: what jobs see of each other is the affair of the
//! other reference.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::engine::Engine;
use crate::program::{Act, How, JOBS, Outcome, Seen, View, World};

/// Who acts in which place.
const USERS: [u32; JOBS] = [0, 2000, 3000];

/// Whoever is trusted.
const TRUSTED: usize = 0;

const NAMES: [&str; 2] = ["a", "b"];

const PATHS: [&str; 10] =
    ["a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a/b/a", "b/a/b", "b/b/a"];

type Id = usize;

const ROOT: Id = 0;

/// A file, symbolic link or directory, and whose own it is.
#[derive(Clone, Debug)]
struct Node {
    what: What,
    of: Option<usize>,
}

#[derive(Clone, Debug)]
enum What {
    File(String),
    Symlink(String),
    Directory(BTreeMap<&'static str, Name>),
}

/// What a name stands for.
#[derive(Clone, Debug, Default)]
struct Name {
    /// For everyone who sees the directory.
    all: Option<Id>,
    /// For one user alone: something else, or nothing.
    own: BTreeMap<usize, Option<Id>>,
}

#[derive(Debug)]
struct Users {
    nodes: Vec<Node>,
}

type At = (Id, &'static str);

/// What a user does.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// Writes a whole file.
    Write(&'static str, How),
    Other(Act),
}

impl Users {
    fn new() -> Users {
        Users { nodes: vec![Node { what: What::Directory(BTreeMap::new()), of: None }] }
    }

    fn add(&mut self, what: What, of: Option<usize>) -> Id {
        self.nodes.push(Node { what, of });
        self.nodes.len() - 1
    }

    fn names(&self, directory: Id) -> Result<&BTreeMap<&'static str, Name>, i32> {
        match &self.nodes[directory].what {
            What::Directory(names) => Ok(names),
            What::Symlink(_) => Err(libc::ENOENT),
            What::File(_) => Err(libc::ENOTDIR),
        }
    }

    fn name(&mut self, (directory, name): At) -> &mut Name {
        let What::Directory(names) = &mut self.nodes[directory].what else {
            panic!("no directory")
        };
        names.entry(name).or_default()
    }

    /// 5.3: what this user has for himself; else what is everyone's, unless it is gone for him.
    fn seen(&self, user: usize, (directory, name): At) -> Option<Id> {
        let name = self.names(directory).ok()?.get(name)?;
        name.own.get(&user).copied().unwrap_or(name.all)
    }

    fn walk(&self, user: usize, path: &'static str) -> Result<At, i32> {
        let mut names = path.split('/').peekable();
        let mut directory = ROOT;
        loop {
            let name = names.next().unwrap();
            if names.peek().is_none() {
                self.names(directory)?;
                return Ok((directory, name));
            }
            self.names(directory)?;
            directory = self.seen(user, (directory, name)).ok_or(libc::ENOENT)?;
        }
    }

    /// Whether what this user does there is for himself alone.
    fn is_beside(&self, user: usize, (directory, _): At) -> bool {
        user != TRUSTED && self.nodes[directory].of.is_none()
    }

    fn is_foreign(&self, user: usize, node: Id) -> bool {
        user != TRUSTED && self.nodes[node].of.is_none()
    }

    fn whose(&self, user: usize) -> Option<usize> {
        (user != TRUSTED).then_some(user)
    }

    fn put(&mut self, user: usize, at: At, node: Id) {
        match self.is_beside(user, at) {
            true => {
                self.name(at).own.insert(user, Some(node));
            }
            false => self.name(at).all = Some(node),
        }
    }

    fn take(&mut self, user: usize, at: At) {
        if !self.is_beside(user, at) {
            self.name(at).all = None;
            return;
        }
        let name = self.name(at);
        match name.all {
            // It must not come up again.
            Some(_) => {
                name.own.insert(user, None);
            }
            None => {
                name.own.remove(&user);
            }
        }
    }

    /// His own copy of what is everyone's.
    fn own(&mut self, user: usize, at: At, node: Id) -> Id {
        if !self.is_foreign(user, node) {
            return node;
        }
        let copy = self.add(self.nodes[node].what.clone(), Some(user));
        self.put(user, at, copy);
        copy
    }

    fn is_directory(&self, node: Id) -> bool {
        matches!(self.nodes[node].what, What::Directory(_))
    }

    fn is_empty(&self, user: usize, directory: Id) -> bool {
        NAMES.iter().all(|name| self.seen(user, (directory, name)).is_none())
    }

    fn act(&mut self, user: usize, deed: Deed, text: &str) -> Result<(), i32> {
        match deed {
            Deed::Write(path, how) => self.write(user, self.walk(user, path)?, how, text),
            Deed::Other(Act::Mkdir(path)) => {
                let what = What::Directory(BTreeMap::new());
                self.make(user, self.walk(user, path)?, what)
            }
            Deed::Other(Act::Symlink(path)) => {
                self.make(user, self.walk(user, path)?, What::Symlink(text.into()))
            }
            Deed::Other(Act::Unlink(path)) => {
                let at = self.walk(user, path)?;
                let node = self.seen(user, at).ok_or(libc::ENOENT)?;
                if self.is_directory(node) {
                    return Err(libc::EISDIR);
                }
                self.take(user, at);
                Ok(())
            }
            Deed::Other(Act::Rmdir(path)) => {
                let at = self.walk(user, path)?;
                let node = self.seen(user, at).ok_or(libc::ENOENT)?;
                if !self.is_directory(node) {
                    return Err(libc::ENOTDIR);
                }
                self.remove_directory(user, at, node)
            }
            Deed::Other(Act::Rename(from, to)) => self.rename(user, from, to),
            Deed::Other(Act::Link(from, to)) => {
                let from = self.walk(user, from)?;
                let node = self.seen(user, from).ok_or(libc::ENOENT)?;
                let to = self.walk(user, to)?;
                if self.seen(user, to).is_some() {
                    return Err(libc::EEXIST);
                }
                if self.is_directory(node) {
                    return Err(libc::EPERM);
                }
                let node = self.own(user, from, node);
                self.put(user, to, node);
                Ok(())
            }
            Deed::Other(act) => panic!("{act:?}"),
        }
    }

    fn make(&mut self, user: usize, at: At, what: What) -> Result<(), i32> {
        if self.seen(user, at).is_some() {
            return Err(libc::EEXIST);
        }
        let node = self.add(what, self.whose(user));
        self.put(user, at, node);
        Ok(())
    }

    fn write(&mut self, user: usize, at: At, how: How, text: &str) -> Result<(), i32> {
        let Some(node) = self.seen(user, at) else {
            return match how.creates() {
                true => self.make(user, at, What::File(text.into())),
                false => Err(libc::ENOENT),
            };
        };
        match (&self.nodes[node].what, how) {
            (_, How::New) => return Err(libc::EEXIST),
            (What::Symlink(_), _) => return Err(libc::ELOOP),
            (What::Directory(_), _) => return Err(libc::EISDIR),
            (What::File(_), _) => {}
        }
        let node = self.own(user, at, node);
        let What::File(old) = &mut self.nodes[node].what else { panic!("it was a file") };
        if how.truncates() {
            old.clear();
        }
        let start = if how == How::Append { old.len() } else { 0 };
        let end = (start + text.len()).min(old.len());
        old.replace_range(start..end, text);
        Ok(())
    }

    fn remove_directory(&mut self, user: usize, at: At, node: Id) -> Result<(), i32> {
        if !self.is_empty(user, node) {
            return Err(libc::ENOTEMPTY);
        }
        self.take(user, at);
        if self.is_foreign(user, node) {
            let What::Directory(names) = &mut self.nodes[node].what else { panic!("not one") };
            for name in names.values_mut() {
                name.own.remove(&user);
            }
        }
        Ok(())
    }

    fn rename(&mut self, user: usize, from: &'static str, to: &'static str) -> Result<(), i32> {
        let (old, new) = (self.walk(user, from)?, self.walk(user, to)?);
        let node = self.seen(user, old).ok_or(libc::ENOENT)?;
        if to.starts_with(&format!("{from}/")) {
            return Err(libc::EINVAL);
        }
        let target = self.seen(user, new);
        if let Some(target) = target {
            if from.starts_with(&format!("{to}/")) {
                return Err(libc::ENOTEMPTY);
            }
            if target == node {
                return Ok(());
            }
            match (self.is_directory(node), self.is_directory(target)) {
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.is_empty(user, target) => return Err(libc::ENOTEMPTY),
                _ => {}
            }
        }
        if self.is_foreign(user, node) && self.is_directory(node) {
            return Err(libc::EXDEV);
        }
        let node = self.own(user, old, node);
        self.take(user, old);
        self.put(user, new, node);
        Ok(())
    }

    fn view(&self, user: usize) -> View {
        let mut view = View::new();
        self.look(user, ROOT, "", &mut view);
        view
    }

    fn look(&self, user: usize, directory: Id, above: &str, view: &mut View) {
        for name in NAMES {
            let Some(node) = self.seen(user, (directory, name)) else { continue };
            let path = format!("{above}{name}");
            let seen = match &self.nodes[node].what {
                What::File(text) => Seen::File(text.clone()),
                What::Symlink(text) => Seen::Symlink(text.clone()),
                What::Directory(_) => {
                    self.look(user, node, &format!("{path}/"), view);
                    Seen::Directory
                }
            };
            view.insert(path, seen);
        }
    }
}

fn deed() -> impl Strategy<Value = Deed> {
    use How::{Append, Create, New, Shared, Truncate, Write};
    let path = || {
        prop_oneof![
            3 => prop::sample::select(&PATHS[..2]),
            3 => prop::sample::select(&PATHS[2..6]),
            1 => prop::sample::select(&PATHS[..]),
        ]
    };
    let how = prop::sample::select(&[Create, New, Shared, Truncate, Write, Append][..]);
    prop_oneof![
        6 => (path(), how).prop_map(|(path, how)| Deed::Write(path, how)),
        3 => path().prop_map(|path| Deed::Other(Act::Mkdir(path))),
        3 => path().prop_map(|path| Deed::Other(Act::Unlink(path))),
        2 => path().prop_map(|path| Deed::Other(Act::Rmdir(path))),
        4 => (path(), path()).prop_map(|(from, to)| Deed::Other(Act::Rename(from, to))),
        1 => (path(), path()).prop_map(|(from, to)| Deed::Other(Act::Link(from, to))),
        1 => path().prop_map(|path| Deed::Other(Act::Symlink(path))),
    ]
}

fn in_the_engine(engine: &mut Engine, user: usize, deed: Deed, text: &str) -> Outcome {
    let act = match deed {
        Deed::Write(path, how) => Act::Open(path, how),
        Deed::Other(act) => act,
    };
    let mut done = engine.act(user, act, text);
    if let (Deed::Write(..), Ok(_)) = (deed, &done) {
        done = engine.act(user, Act::Write(0), text);
        engine.act(user, Act::Close(0), text).unwrap();
    }
    engine.act(user, Act::End, "").unwrap();
    done
}

fn agree(deeds: &[(usize, Deed)]) -> Result<(), TestCaseError> {
    let (mut model, mut engine) = (Users::new(), Engine::for_users(USERS));
    for (number, (user, deed)) in deeds.iter().enumerate() {
        let text = format!("{number};");
        let before = [0, 1, 2].map(|user| model.view(user));
        let told = model.act(*user, *deed, &text);
        let done = in_the_engine(&mut engine, *user, *deed, &text).map(drop);
        prop_assert_eq!(done, told, "{}: {} does {:?}", number, user, deed);
        for (other, before) in before.iter().enumerate() {
            engine.act(other, Act::Begin, "").unwrap();
            let seen = engine.view(other);
            engine.act(other, Act::End, "").unwrap();
            let should = model.view(other);
            prop_assert_eq!(
                &seen,
                &should,
                "{}: {} sees after {:?} of {}",
                number,
                other,
                deed,
                user
            );
            if *user != TRUSTED && other != *user {
                prop_assert_eq!(&should, before);
            }
        }
        prop_assert_eq!(engine.live(), model.view(TRUSTED), "{}: the store", number);
    }
    Ok(())
}

#[test]
fn each_user_sees_what_the_contract_says() {
    let cases = (crate::steps(8_000) / 40) as u32;
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(deeds in prop::collection::vec((0..JOBS, deed()), 1..80))| {
        agree(&deeds)?;
    });
}
