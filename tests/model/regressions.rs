//! Programs that once failed, shrunk.

use crate::program::Act::{
    Begin, Close, End, Link, List, Mkdir, Open, Rename, Rmdir, Symlink, Unlink, Write,
};
use crate::program::How::{Create, New, Shared};
use crate::program::Step::{self, Clean, Job};
use crate::program::Tricky;

#[track_caller]
fn agrees(program: &[Step]) {
    if let Err(why) = crate::in_the_engine(program, Tricky::Done) {
        panic!("{why}");
    }
}

/// Each time the daemon is at another point of reclaiming what nobody sees any more.
#[test]
fn regression_what_is_put_into_a_directory_while_it_is_reclaimed_goes_with_it() {
    let program = [
        Job(2, Mkdir("b")),
        Job(2, Mkdir("a")),
        Job(1, Begin),
        Job(0, Rmdir("a")),
        Job(0, Open("b/a", New)),
        Job(2, Rmdir("b")),
        Job(2, Symlink("b")),
        Job(0, Rename("b", "a")),
        Job(1, Unlink("b")),
        Job(0, Close(0)),
    ];
    for _ in 0..200 {
        agrees(&program);
    }
}

/// Runs them in a mount, where they failed for what the kernel does.
#[track_caller]
fn agrees_in_a_mount(program: &[Step]) {
    agrees(program);
    let mut ground = crate::Ground::new();
    let mut mounted = crate::Mounted::new(&mut ground);
    if let Err(why) = crate::agree(program, &mut crate::Model::new(), &mut mounted, Tricky::Done) {
        panic!("(in a mount) {why}");
    }
}

macro_rules! regressions {
    ($($with:ident $name:ident [$($step:expr),+ $(,)?])+) => {
        $(#[test] fn $name() { $with(&[$($step),+]); })+
    };
}

regressions! {
    // 3.1: the remover's own job no longer sees it.
    agrees regression_an_older_version_comes_back_to_its_remover [
        Job(1, Begin), Job(1, Symlink("a")), Job(2, Unlink("a")), Job(0, Symlink("a")),
        Job(1, Unlink("a")),
    ]
    agrees regression_two_versions_that_are_kept_are_removed_at_once [
        Job(2, Symlink("a")), Job(1, Begin), Job(0, Unlink("a")), Job(0, Symlink("a")),
        Job(1, Unlink("a")), Job(2, Unlink("a")),
    ]
    agrees regression_an_older_directory_comes_back_to_the_remover_of_a_file [
        Job(2, Mkdir("b")), Job(1, Begin), Job(0, Rmdir("b")), Job(0, Symlink("b")),
        Job(1, Rename("b", "a")), Job(2, Unlink("b")),
    ]
    // 3.2: what is kept is kept until those it is kept for have ended.
    agrees regression_a_file_kept_twice_under_one_name_is_kept_until_the_last_has_ended [
        Job(0, Begin), Job(1, Open("b", Create)), Job(1, End), Job(2, Begin), Job(0, Rename("b", "a")),
        Job(1, Begin), Job(1, Rename("a", "b")), Job(1, Unlink("b")), Job(2, End),
    ]
    // 3.6: what it has seen there, and has not taken away, keeps a directory, whatever has come in its place.
    agrees_in_a_mount regression_a_directory_is_not_empty_for_who_saw_what_was_replaced_in_it [
        Job(0, Mkdir("a")), Job(0, Open("a/b", Shared)), Job(1, List("a")), Job(2, Unlink("a/b")),
        Job(2, Mkdir("a/b")), Clean("a/b"), Job(1, Rmdir("a")),
    ]
    // 3.7: who made a lock takes it away, also in what was put in place.
    agrees_in_a_mount regression_a_lock_in_a_directory_that_was_moved_goes_with_who_made_it [
        Job(0, Mkdir("a")), Job(0, Rename("a", "b")), Job(2, Open("b/c.lock", Create)),
        Job(2, Unlink("b/c.lock")),
    ]
    // 3.9: what nobody sees any more is reclaimed.
    agrees regression_what_has_two_names_is_reclaimed_under_both [
        Job(0, Mkdir("b")), Job(1, Begin), Job(0, Open("a", Create)), Job(0, Link("a", "b/b")),
        Job(1, Unlink("b/b")), Job(0, Unlink("a")),
    ]
    agrees regression_one_name_of_two_is_reclaimed [
        Job(0, Mkdir("a")), Job(0, Symlink("a/b")), Job(0, Link("a/b", "b")), Job(1, Unlink("b")),
    ]
    // 3.4: those who did not see what was in it do not see it now.
    agrees regression_what_was_removed_in_a_removed_directory_is_not_seen_by_who_brings_it_back [
        Job(2, Mkdir("a")), Job(1, Begin), Job(0, Rmdir("a")), Job(2, Symlink("a/a")),
        Job(1, Unlink("a/a")), Job(0, Mkdir("a")),
    ]
    // 3.7, 2.4: nobody waits for a lock that is gone.
    agrees regression_link_locks_are_not_kept [
        Job(0, Begin), Job(2, Open("a", New)), Job(2, Link("a", "b")), Job(2, Unlink("b")),
    ]
    agrees regression_what_a_link_is_of_has_its_own_maker [
        Job(0, Open("a", Shared)), Job(2, Link("a", "b")), Job(2, Unlink("b")),
    ]
    agrees regression_a_link_does_not_make_the_other_name [
        Job(1, Symlink("a")), Job(0, Link("a", "b")), Job(1, Unlink("a")),
    ]
    agrees regression_a_lock_that_is_written_again_stays_a_lock [
        Job(1, Begin), Job(0, Open("a", New)), Job(0, Write(0)), Job(0, Close(0)),
        Job(0, Open("a", Create)), Job(0, Write(0)), Job(0, Close(0)), Job(0, Unlink("a")),
    ]
    agrees_in_a_mount regression_a_lock_that_others_looked_for_is_not_kept [
        Job(1, Begin), Job(0, Open("a", New)), Job(0, Write(0)), Job(0, Close(0)),
        Job(0, Unlink("a")),
    ]
    // 2.4: what is shared stays what it is, for those who still see it.
    agrees_in_a_mount regression_a_lock_in_a_directory_that_came_back_is_emptied_where_it_is [
        Job(0, Mkdir("b")), Job(2, Begin), Clean("b"), Job(2, Open("b/c.lock", Create)), Job(1, Mkdir("b")),
        Job(2, Open("b/c.lock", Create)), Job(2, Write(0)),
    ]
    agrees regression_an_empty_directory_of_which_nobody_sees_more_is_not_kept [
        Job(1, Mkdir("b")), Job(1, Open("b/a", Shared)), Job(2, Unlink("b/a")),
        Job(1, Unlink("b/a")), Job(1, Rmdir("b")),
    ]
    // 3.2: who has only written to a name has not made it.
    agrees regression_a_writer_over_a_name_has_not_made_it [
        Job(1, Open("a", New)), Job(1, Write(0)), Job(1, Close(0)), Job(0, Open("a", Create)),
        Job(0, Write(0)), Job(0, Close(0)), Job(0, Rename("a", "b")),
    ]
    agrees regression_one_who_shares_a_name_has_not_made_it [
        Job(0, Open("b", Create)), Job(1, Open("b", Shared)), Job(0, Mkdir("a")),
        Job(0, Rename("b", "a/a")),
    ]
    // 3.6: nor does what has come and gone since.
    agrees regression_what_another_adds_and_a_third_removes_does_not_count [
        Job(0, Mkdir("a")), Job(0, List("a")), Job(2, Mkdir("a/b")), Job(1, Rmdir("a/b")), Job(0, Rmdir("a")),
    ]
    // 3.6: what the caller made itself counts.
    agrees regression_what_another_opened_is_not_added_by_him [
        Job(0, Mkdir("a")), Job(1, List("a")), Job(1, Open("a/a", Create)),
        Job(2, Open("a/a", Shared)), Job(1, Rmdir("a")),
    ]
    agrees regression_what_was_replaced_since_was_there_before [
        Job(0, Open("b", New)), Job(0, Write(0)), Job(0, Mkdir("a")), Job(0, Rename("b", "a/a")),
        Job(1, List("a")), Job(0, Open("a/a", Create)), Job(0, Write(1)), Job(0, Close(1)),
        Job(1, Rmdir("a")),
    ]
    agrees regression_what_was_renamed_over_since_was_there_before [
        Job(0, Symlink("b")), Job(1, Begin), Job(0, Mkdir("a")), Job(0, Symlink("a/b")),
        Job(0, List("a")), Job(1, Rename("b", "a/b")), Job(0, Rmdir("a")),
    ]
    // 3.7, when the kernel has forgotten what lies below a draft.
    agrees regression_what_is_below_a_draft_has_its_maker [
        Job(2, Open("a", Shared)), Job(0, Open("a", Create)), Job(0, Write(0)), Job(0, Close(0)),
        Job(2, Close(0)), Job(2, Open("a", Create)), Job(2, Unlink("a")),
    ]
    agrees regression_an_empty_directory_of_another_is_kept [Job(1, Mkdir("b")), Job(0, Begin), Job(0, Rmdir("b"))]
    // 3.6, of what was moved away and back since.
    agrees regression_what_was_listed_and_came_back_is_no_news [
        Job(0, Mkdir("a")), Job(0, Mkdir("b")), Job(0, Begin), Job(1, Open("a/b", Shared)), Job(2, List("a")),
        Job(0, Rename("a/b", "b/a")), Job(0, Rename("b/a", "a/b")), Job(2, Rmdir("a")),
    ]
    agrees regression_what_is_being_written_is_no_news_yet [
        Job(0, Mkdir("a")), Job(1, List("a")), Job(2, Open("a/b", Create)), Job(0, Rmdir("a")), Job(2, End),
        Job(0, Mkdir("a")), Job(2, Open("a/b", Create)), Job(1, Rmdir("a")),
    ]
    // 2.5: rename follows POSIX.
    agrees regression_a_directory_with_something_new_in_it_is_not_replaced [
        Job(0, Mkdir("a")), Job(1, List("a")), Job(0, Mkdir("a/a")), Job(1, Mkdir("b")),
        Job(1, Rename("b", "a")),
    ]
    agrees regression_a_file_does_not_replace_a_directory [
        Job(2, Open("b", Create)), Job(0, Open("a", Shared)), Job(0, Mkdir("b")),
        Job(0, Open("b/a", Create)), Job(2, Rename("a", "b")),
    ]
    agrees regression_a_rename_that_fails_leaves_what_is_staged [
        Job(0, Open("a", Shared)), Job(2, Open("b", Create)), Job(0, Mkdir("b")),
        Job(2, Rename("a", "b")),
    ]
    agrees regression_unlinking_what_is_staged_over_a_directory_works [
        Job(1, Open("a", Create)), Job(2, Mkdir("a")), Job(1, Unlink("a")),
    ]
    // 2.2: two writers of one name never mix.
    agrees regression_a_shared_draft_is_not_renamed_away_from_its_other_author [
        Job(1, Open("b", Create)), Job(2, Open("b", Create)), Job(1, Rename("b", "a")),
        Job(2, Write(0)), Job(2, Close(0)),
    ]
    agrees regression_a_second_handle_goes_with_its_own_job [
        Job(0, Open("a", Create)), Job(0, Open("a", Create)), Job(1, Open("a", Create)),
        Job(0, Write(0)), Job(0, Write(1)), Job(1, Write(0)), Job(0, Close(0)), Job(1, Close(0)),
    ]
    // 2.1: a replacement becomes live, whatever became of the name of what it replaces.
    agrees regression_what_is_written_over_an_old_name_becomes_live [
        Job(2, Open("a", Create)), Job(2, Write(0)), Job(2, End), Job(0, Begin), Job(1, Begin),
        Job(2, Rename("a", "b")), Job(1, Open("b", Create)), Job(1, Write(0)), Job(1, Close(0)),
        Job(0, Open("a", Create)), Job(0, Write(0)), Job(0, Close(0)),
    ]
    agrees regression_what_is_written_over_one_of_two_removed_names_becomes_live [
        Job(0, Begin), Job(1, Open("b", Shared)), Job(0, Link("b", "a")), Job(1, Unlink("b")), Clean("a"),
        Job(0, Open("a", Create)), Job(0, Close(0)),
    ]
    // 1.4: only names whose answer is the same for all are remembered by the kernel.
    agrees_in_a_mount regression_what_another_makes_does_not_hide_what_is_staged [
        Job(0, Open("a", Create)), Job(1, Mkdir("a")),
    ]
    agrees_in_a_mount regression_what_another_moves_there_does_not_hide_what_is_staged [
        Job(1, Open("a", Create)), Job(0, Symlink("b")), Job(0, Rename("b", "a")),
    ]
    // What is kept gives way to a directory only where nothing is in it, whoever has put it there.
    agrees regression_a_kept_directory_to_which_another_has_added_is_not_replaced [
        Job(0, Mkdir("b")), Job(1, List("b")), Job(0, Open("b/a", Create)), Job(1, Mkdir("a")),
        Clean("b"), Job(0, Close(0)), Job(1, Rename("a", "b")),
    ]
    // 3.2: what is open or staged in a directory does not make it die with its removal.
    agrees_in_a_mount regression_a_removed_directory_in_which_somebody_writes_lives_on [
        Job(0, Mkdir("b")), Job(2, Open("b/a", Create)), Job(0, Rmdir("b")),
    ]
}
