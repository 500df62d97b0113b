//! SEMANTICS 5.6: what clients of the control socket may, whoever they are and whatever they say.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Mount, Run, Tree, needs_root};

/// Nobody in particular.
const USER: u32 = 1000;

/// Runs `work` as another user, with nothing of root's rights.
fn as_user<T: Send>(uid: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: the bare system calls take numbers only and change this thread alone, which ends
            // with the work.
            let changed = unsafe {
                libc::syscall(libc::SYS_setgroups, 0, 0) == 0
                    && libc::syscall(libc::SYS_setresgid, uid, uid, uid) == 0
                    && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
            };
            assert!(changed, "{}", std::io::Error::last_os_error());
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The socket for everyone.
fn public(mount: &Mount) -> PathBuf {
    Path::new("/run/cachefs").join(format!("{}.sock", mount.connection()))
}

fn connect(mount: &Mount) -> UnixStream {
    let socket = UnixStream::connect(public(mount)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    socket
}

/// What the daemon says first; nothing if it hangs up.
fn first_line(socket: &UnixStream) -> String {
    let mut line = String::new();
    // A reset is a way of hanging up.
    let _ = BufReader::new(socket).read_line(&mut line);
    line
}

fn ask(mount: &Mount, bytes: &[u8]) -> String {
    let mut socket = connect(mount);
    let _ = socket.write_all(bytes);
    first_line(&socket)
}

const STATUS: &[u8] = b"{\"version\":1,\"command\":\"status\"}\n";

/// Root is answered, and the mount is what it was.
#[track_caller]
fn assert_untouched(mount: &Mount, before: &Tree) {
    assert_eq!(mount.status()["pid"], mount.pid());
    mount.cachefs(["readers"]).arg(mount.path()).succeeds();
    Tree::of(mount.path()).assert_same(before);
    Tree::of(mount.store()).assert_same(before);
}

fn filled() -> (Mount, Tree) {
    needs_root();
    let mount = Mount::new();
    fs::create_dir(mount.path().join("kept")).unwrap();
    fs::write(mount.path().join("kept/file"), "text").unwrap();
    let before = Tree::of(mount.path());
    (mount, before)
}

#[test]
fn everyone_may_ask() {
    let (mount, _) = filled();
    let program = mount.beside("bin").join("cachefs");
    common::copy_program(&common::binary(), &program);
    // Other users don't get to the store.
    let shut = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(mount.store(), shut).unwrap();
    for named in [mount.path(), mount.store()] {
        let by_user = |word: &str| Run::new(&program).arg(word).arg(named).user(USER);
        by_user("status").succeeds().says(&format!("pid {}", mount.pid()));
        by_user("readers").succeeds();
        by_user("umount").exits_with(1).says("not permitted for user 1000");
        by_user("clean").exits_with(1).says("not permitted for user 1000");
    }
    // All mounts, of which there may be others.
    let all = Run::new(&program).args(["status", "--json"]).user(USER).succeeds();
    let all: serde_json::Value = serde_json::from_str(&all.stdout).unwrap();
    let found = all["mounts"].as_array().unwrap().iter().any(|told| told["pid"] == mount.pid());
    assert!(found, "{all}");
}

#[test]
fn what_others_ask_for_changes_nothing() {
    let (mount, before) = filled();
    as_user(USER, || {
        assert!(ask(&mount, STATUS).contains("\"ok\""));
        for (command, why) in [
            (r#"{"version":1,"command":"clean","paths":[]}"#, "not permitted for user 1000"),
            (r#"{"version":1,"command":"clean","paths":["kept"]}"#, "not permitted"),
            (
                r#"{"version":1,"command":"clean","paths":["kept/file","kept/none"]}"#,
                "not permitted",
            ),
            (r#"{"version":1,"command":"clean","paths":["../store"]}"#, "`..`"),
            (r#"{"version":1,"command":"clean","paths":["/etc"]}"#, "not relative"),
            (r#"{"version":1,"command":"clean","paths":["a\u0000"]}"#, "NUL"),
            (r#"{"version":1,"command":"unmount"}"#, "not permitted"),
            (r#"{"version":1,"command":"unmount","lazy":true}"#, "not permitted"),
            (r#"{"version":1,"command":"unmount","uid":0}"#, "not permitted"),
            (r#"{"version":2,"command":"unmount"}"#, "version 2"),
            (r#"{"version":-1,"command":"unmount"}"#, "no version"),
            (r#"{"command":"unmount"}"#, "no version"),
            ("\0\0\0", "not a JSON"),
            ("GET / HTTP/1.1", "not a JSON"),
        ] {
            let said = ask(&mount, format!("{command}\n").as_bytes());
            assert!(said.contains("\"error\"") && said.contains(why), "{command}: {said}");
        }
    });
    assert_untouched(&mount, &before);
}

#[test]
fn one_user_s_clients_leave_room_for_others() {
    let (mount, before) = filled();
    let hold = |uid: u32| {
        as_user(uid, || {
            let all: Vec<(UnixStream, String)> = (0..40)
                .map(|_| {
                    let mut socket = connect(&mount);
                    let _ = socket.write_all(STATUS);
                    let said = first_line(&socket);
                    (socket, said)
                })
                .collect();
            let served = all.iter().filter(|(_, said)| said.contains("\"ok\"")).count();
            let refused = all.iter().filter(|(_, said)| said.contains("too many clients")).count();
            assert_eq!((served, refused), (16, 24));
            all
        })
    };
    let first = hold(USER);
    assert_untouched(&mount, &before);
    let second = hold(USER + 1);
    // Many users are not more than two.
    let third = as_user(USER + 2, || ask(&mount, STATUS));
    assert!(third.contains("too many clients"), "{third}");
    assert_untouched(&mount, &before);
    drop((first, second));
}

#[test]
fn thousands_of_clients_that_say_too_much_or_too_little() {
    let (mount, before) = filled();
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", mount.pid())).unwrap().count();
    let at_first = descriptors();
    as_user(USER, || {
        let mut open = std::collections::VecDeque::new();
        for number in 0..3000 {
            let mut socket = connect(&mount);
            let half: &[u8] = match number % 4 {
                0 => b"",
                1 => b"{\"version\":1,\"comm",
                2 => &[b'['; 4096],
                _ => STATUS,
            };
            // Without reading any answer.
            let _ = socket.write_all(half);
            open.push_back(socket);
            if open.len() > 200 {
                open.pop_front();
            }
        }
    });
    assert!(descriptors() < at_first + 100, "{} descriptors, {at_first} at first", descriptors());
    as_user(USER, || {
        // 32 MB in a line, by as many as get in; the daemon hangs up before it has it all.
        let mut long: Vec<_> = (0..16).map(|_| connect(&mount)).collect();
        for socket in &mut long {
            let _ = socket.write_all(&vec![b'x'; 2 << 20]);
        }
    });
    assert_untouched(&mount, &before);
}

#[test]
fn clients_that_do_not_read_keep_nobody_waiting() {
    let (mount, before) = filled();
    let slow: Vec<UnixStream> = as_user(USER, || {
        let slow = (0..16).map(|_| {
            let mut socket = connect(&mount);
            socket.set_nonblocking(true).unwrap();
            // Until neither side takes any more.
            while socket.write(STATUS).is_ok_and(|length| length == STATUS.len()) {}
            socket
        });
        slow.collect()
    });
    assert_untouched(&mount, &before);
    // They are cut off, after some seconds.
    for mut socket in slow {
        socket.set_nonblocking(false).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    }
    assert_untouched(&mount, &before);
}

#[test]
fn a_mount_that_names_another_one_s_store_is_not_believed() {
    let (mount, before) = filled();
    let fake = mount.beside("fake");
    let device = fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let options =
        format!("fd={},rootmode=40000,user_id={USER},group_id={USER}", device.as_raw_fd());
    // As a user may make one by `fusermount3 -o fsname=STORE,subtype=cachefs`.
    rustix::mount::mount(
        mount.store(),
        &fake,
        "fuse.cachefs",
        rustix::mount::MountFlags::NOSUID,
        std::ffi::CString::new(options).unwrap().as_c_str(),
    )
    .unwrap();
    let said = mount.cachefs(["umount"]).arg(&fake).finish();
    rustix::mount::unmount(&fake, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(said.status.code(), Some(1), "{said}");
    said.says("runs as user 0, and user 1000 made that mount");
    assert_untouched(&mount, &before);
}
