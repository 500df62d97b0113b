//! The reference says what the contract says, sentence by sentence; so does the engine.

use crate::model::Model;
use crate::program::Act::{
    Begin, Close, End, Kill, Link, List, Mkdir, Open, Read, Rename, Rmdir, Symlink, Unlink, Write,
};
use crate::program::How::{self, Append, Create, New, Shared, Truncate};
use crate::program::{Act, Step, Tricky, World};

/// A program told step by step, with what must come of it.
#[derive(Default)]
struct Story {
    model: Option<Model>,
    steps: Vec<Step>,
}

impl Story {
    /// All three jobs have begun, in that order.
    fn new() -> Story {
        let mut story = Story { model: Some(Model::new()), steps: Vec::new() };
        (0..3).for_each(|job| story.act(job, Begin));
        story
    }

    fn model(&mut self) -> &mut Model {
        self.model.as_mut().unwrap()
    }

    fn attempt(&mut self, job: usize, act: Act) -> Result<String, i32> {
        let text = format!("{};", self.steps.len());
        self.steps.push(Step::Job(job, act));
        self.model().act(job, act, &text)
    }

    #[track_caller]
    fn act(&mut self, job: usize, act: Act) {
        if let Err(errno) = self.attempt(job, act) {
            panic!("{act:?}: {}", std::io::Error::from_raw_os_error(errno));
        }
    }

    #[track_caller]
    fn fails(&mut self, job: usize, act: Act, errno: i32) {
        assert_eq!(self.attempt(job, act), Err(errno), "{act:?}");
    }

    /// The job writes a whole file, and what it wrote.
    #[track_caller]
    fn write(&mut self, job: usize, path: &'static str, how: How) -> String {
        self.act(job, Open(path, how));
        let text = format!("{};", self.steps.len());
        self.act(job, Write(0));
        self.act(job, Close(0));
        text
    }

    fn clean(&mut self, path: &'static str) {
        self.steps.push(Step::Clean(path));
        self.model().clean(path).unwrap();
    }

    /// What each job sees at the path.
    #[track_caller]
    fn sees(&mut self, path: &str, expected: [&str; 3]) {
        let seen = [0, 1, 2].map(|job| show(self.model().view(job).get(path)));
        assert_eq!(seen.each_ref().map(String::as_str), expected, "{path}");
    }

    #[track_caller]
    fn is_live(&mut self, path: &str, expected: &str) {
        assert_eq!(show(self.model().live().get(path)), expected, "{path}");
    }
}

fn show(seen: Option<&crate::program::Seen>) -> String {
    use crate::program::Seen::{Directory, File, Symlink};
    match seen {
        None => "-".into(),
        Some(File(text)) => text.clone(),
        Some(Symlink(to)) => format!("->{to}"),
        Some(Directory) => "/".into(),
    }
}

/// The engine does the same.
impl Drop for Story {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            crate::in_the_engine(&self.steps, Tricky::Done).unwrap();
        }
    }
}

#[test]
fn s2_1_what_is_staged_is_seen_by_its_job_alone_until_it_is_closed() {
    for how in [New, Create] {
        let mut story = Story::new();
        story.act(0, Open("a", how));
        story.act(0, Write(0));
        story.sees("a", ["4;", "-", "-"]);
        story.is_live("a", "-");
        story.act(0, Close(0));
        story.sees("a", ["4;", "4;", "4;"]);
        story.is_live("a", "4;");
    }
}

#[test]
fn s2_1_others_see_the_old_content_until_the_new_one_is_whole() {
    for how in [Truncate, Create] {
        let mut story = Story::new();
        let old = story.write(0, "a", New);
        story.act(1, Open("a", how));
        story.act(1, Write(0));
        story.sees("a", [&old, "7;", &old]);
        story.act(1, Close(0));
        story.sees("a", ["7;"; 3]);
    }
}

#[test]
fn s2_1_renaming_and_linking_make_it_live_too() {
    for act in [Rename("a", "b"), Link("a", "b")] {
        let mut story = Story::new();
        story.act(0, Open("a", New));
        story.act(0, Write(0));
        story.act(0, act);
        story.sees("b", ["4;"; 3]);
    }
}

#[test]
fn s2_2_two_writers_of_one_name_never_mix_and_the_last_to_close_wins() {
    let mut story = Story::new();
    story.act(0, Open("a", Create));
    story.act(1, Open("a", Create));
    story.act(0, Write(0));
    story.act(1, Write(0));
    story.act(1, Write(0));
    story.sees("a", ["5;", "6;7;", "-"]);
    story.act(1, Close(0));
    story.sees("a", ["5;", "6;7;", "6;7;"]);
    story.act(0, Close(0));
    story.sees("a", ["5;"; 3]);
}

#[test]
fn s2_4_what_is_shared_is_one_file() {
    let mut story = Story::new();
    story.act(0, Open("a", Shared));
    story.sees("a", [""; 3]);
    story.act(1, Open("a", Append));
    story.act(0, Write(0));
    story.act(1, Write(0));
    story.sees("a", ["5;6;"; 3]);
}

#[test]
fn s2_4_lock_files_are_never_staged() {
    let mut story = Story::new();
    story.act(0, Open("c.lock", New));
    story.sees("c.lock", [""; 3]);
    story.fails(1, Open("c.lock", New), libc::EEXIST);
    story.act(0, Unlink("c.lock"));
    story.sees("c.lock", ["-"; 3]);
}

#[test]
fn s2_4_exclusive_creation_excludes_while_it_is_staged() {
    let mut story = Story::new();
    story.act(0, Open("a", New));
    story.fails(1, Open("a", New), libc::EEXIST);
    story.act(0, Unlink("a"));
    story.act(1, Open("a", New));
}

#[test]
fn s2_4_one_who_opens_what_another_has_just_created_gets_the_same_file() {
    let mut story = Story::new();
    story.act(0, Open("a", Create));
    story.act(1, Open("a", Shared));
    story.act(1, Write(0));
    story.sees("a", ["5;"; 3]);
}

#[test]
fn s2_4_an_empty_file_is_truncated_where_it_is() {
    let mut story = Story::new();
    story.act(0, Open("a", Shared));
    story.act(1, Open("a", Create));
    story.act(1, Write(0));
    story.sees("a", ["5;"; 3]);
}

#[test]
fn s2_6_a_writer_that_dies_leaves_nothing() {
    let mut story = Story::new();
    let old = story.write(1, "b", New);
    story.act(0, Open("a", New));
    story.act(0, Write(0));
    story.act(0, Open("b", Truncate));
    story.act(0, Write(1));
    story.act(0, Kill);
    story.act(0, Begin);
    story.sees("a", ["-"; 3]);
    story.sees("b", [&old; 3]);
}

#[test]
fn s3_1_s3_2_a_removed_file_is_seen_by_whoever_ran_but_its_remover_and_those_who_come_later() {
    let mut story = Story::new();
    let text = story.write(0, "a", New);
    story.act(2, End);
    story.act(1, Unlink("a"));
    story.act(2, Begin);
    story.sees("a", [&text, "-", "-"]);
    story.is_live("a", "-");
    story.act(0, End);
    story.act(0, Begin);
    story.sees("a", ["-"; 3]);
}

#[test]
fn s3_1_one_who_still_saw_it_and_removes_it_sees_it_no_more() {
    let mut story = Story::new();
    let text = story.write(2, "a", New);
    story.act(1, Unlink("a"));
    story.act(0, Unlink("a"));
    story.fails(0, Unlink("a"), libc::ENOENT);
    story.sees("a", ["-", "-", &text]);
}

#[test]
fn s3_1_one_who_removed_a_name_twice_does_not_see_the_older_again() {
    let mut story = Story::new();
    story.write(2, "a", New);
    story.act(1, Unlink("a"));
    let text = story.write(1, "a", Create);
    story.act(0, Unlink("a"));
    story.sees("a", ["-", &text, &text]);
}

#[test]
fn s3_1_cleaning_takes_it_from_those_who_come_later() {
    let mut story = Story::new();
    story.act(2, End);
    story.act(0, Mkdir("a"));
    let text = story.write(0, "a/b", New);
    story.clean("a");
    story.act(2, Begin);
    story.sees("a/b", [&text, &text, "-"]);
}

#[test]
fn s3_1_a_name_renamed_away_is_seen_by_others_under_both() {
    let mut story = Story::new();
    let text = story.write(0, "a", New);
    story.act(1, Rename("a", "b"));
    story.sees("a", [&text, "-", &text]);
    story.sees("b", [&text; 3]);
}

#[test]
fn s3_1_what_a_job_made_and_renames_leaves_nothing_behind() {
    let mut story = Story::new();
    let text = story.write(0, "a", Create);
    story.act(0, Rename("a", "b"));
    story.sees("a", ["-"; 3]);
    story.act(0, Rename("b", "a"));
    story.sees("b", ["-", &text, &text]);
}

#[test]
fn s3_4_a_new_version_is_seen_by_all() {
    let mut story = Story::new();
    story.write(0, "a", New);
    story.act(1, Unlink("a"));
    let new = story.write(1, "a", New);
    story.sees("a", [&new; 3]);
}

#[test]
fn s3_4_mkdir_brings_a_directory_back_with_what_was_seen_in_it() {
    let mut story = Story::new();
    story.act(0, Mkdir("a"));
    let one = story.write(0, "a/a", New);
    story.act(1, Unlink("a/a"));
    story.act(1, Rmdir("a"));
    story.sees("a/a", [&one, "-", &one]);
    let two = story.write(0, "a/b", New);
    story.act(1, Mkdir("a"));
    story.sees("a/a", [&one, "-", &one]);
    story.sees("a/b", [&two, "-", &two]);
    story.is_live("a", "/");
    story.is_live("a/b", "-");
}

#[test]
fn s3_5_work_goes_on_in_a_removed_directory() {
    let mut story = Story::new();
    story.act(0, Mkdir("a"));
    let old = story.write(0, "a/a", New);
    story.act(1, Unlink("a/a"));
    story.act(1, Rmdir("a"));
    let text = story.write(0, "a/b", New);
    story.sees("a/b", [&text, "-", &text]);
    story.act(0, Rename("a/b", "b"));
    story.is_live("b", &text);
    story.act(0, Rename("b", "a/b"));
    story.sees("a/b", [&text, "-", &text]);
    story.sees("a/a", [&old, "-", &old]);
}

#[test]
fn s3_6_rm_rf_does_not_stumble_over_what_another_adds() {
    let mut story = Story::new();
    story.act(0, Mkdir("a"));
    story.act(1, List("a"));
    let text = story.write(0, "a/b", New);
    story.act(1, Rmdir("a"));
    story.sees("a/b", [&text, "-", &text]);
    story.is_live("a", "-");
}

#[test]
fn s3_6_but_what_it_could_have_listed_counts() {
    let mut story = Story::new();
    story.act(0, Mkdir("a"));
    story.write(0, "a/b", New);
    story.act(1, List("a"));
    story.fails(1, Rmdir("a"), libc::ENOTEMPTY);
    story.fails(0, Rmdir("a"), libc::ENOTEMPTY);
}

#[test]
fn s3_7_locks_and_temporary_files_are_not_kept() {
    for make in [Symlink("a"), Link("b", "a"), Mkdir("a"), Open("a", New)] {
        let mut story = Story::new();
        story.write(1, "b", New);
        story.act(0, make);
        if let Open(..) = make {
            story.act(0, Write(0));
            story.act(0, Close(0));
        }
        story.act(0, if make == Mkdir("a") { Rmdir("a") } else { Unlink("a") });
        story.sees("a", ["-"; 3]);
    }
}

#[test]
fn s3_7_but_they_are_once_they_were_renamed() {
    let mut story = Story::new();
    story.act(0, Mkdir("a"));
    let text = story.write(0, "a/a", New);
    story.act(0, Rename("a", "b"));
    story.act(0, Unlink("b/a"));
    story.sees("b/a", ["-", &text, &text]);
}

#[test]
fn s3_7_an_empty_directory_of_others_is_kept() {
    let mut story = Story::new();
    story.act(0, Mkdir("a"));
    story.act(1, Rmdir("a"));
    story.sees("a", ["/", "-", "/"]);
}

#[test]
fn open_files_go_on_being_what_they_were() {
    let mut story = Story::new();
    let text = story.write(0, "a", New);
    story.act(1, Open("a", How::Read));
    story.act(0, Unlink("a"));
    story.write(0, "a", New);
    assert_eq!(story.attempt(1, Read(0)), Ok(text));
}
