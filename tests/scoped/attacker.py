"""A user who is not trusted tries every way to change what others see.

`attacker.py prepare DIR` makes a directory for each attempt, as a trusted user does.
`attacker.py attack DIR` makes the attempts, and fails where the attacker does not see what came of it.
`attacker.py view DIR` prints, as JSON, all that the one who runs it sees there.
The others take up what a daemon has only so much of: locks, space, names, open files.
"""

import ctypes
import fcntl
import json
import mmap
import os
import stat
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
AT_EMPTY_PATH, AT_SYMLINK_FOLLOW = 0x1000, 0x400
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
O_TMPFILE = 0o20000000 | os.O_DIRECTORY

ATTEMPTS = {}


def attempt(function):
    ATTEMPTS[function.__name__] = function
    return function


def call(name, *arguments):
    """A function of the C library; `OSError` if it fails."""
    result = getattr(LIBC, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, data, mode="wb"):
    with open(path, mode) as file:
        file.write(data)


def refused(action, *errors):
    """The attempt fails, and in no other way."""
    try:
        action()
    except OSError as error:
        assert not errors or error.errno in errors, error
    else:
        raise AssertionError("not refused")


def prepare(directory):
    os.makedirs(directory)
    os.chmod(directory, 0o777)
    for name in ATTEMPTS:
        place = os.path.join(directory, name)
        os.makedirs(f"{place}/d/e")
        for path, data in [("f", b"shared f"), ("g", b"shared g"), ("d/h", b"shared h"), ("a.lock", b""), (".state", b"")]:
            write(f"{place}/{path}", data)
        os.link(f"{place}/g", f"{place}/g2")
        os.symlink("f", f"{place}/l")
        os.setxattr(f"{place}/f", "user.of", b"everyone")
        write(f"{place}/big", bytes(3 << 20))
        for top, directories, files in os.walk(place):
            for path in directories + files:
                os.chmod(os.path.join(top, path), 0o777, follow_symlinks=True)
                os.utime(os.path.join(top, path), (1_000_000_000, 1_000_000_000), follow_symlinks=True)


def look(path):
    status = os.lstat(path)
    seen = {
        "kind": stat.S_IFMT(status.st_mode),
        "mode": stat.S_IMODE(status.st_mode),
        "owner": [status.st_uid, status.st_gid],
    }
    if stat.S_ISLNK(status.st_mode):
        return seen | {"to": os.readlink(path)}
    if stat.S_ISREG(status.st_mode):
        attributes = {name: os.getxattr(path, name).hex() for name in os.listxattr(path)}
        data = read(path)
        text = data.hex() if len(data) < 100 else f"{len(data)} bytes, {len(data.strip(bytes(1)))} of them not 0"
        return seen | {"data": text, "time": status.st_mtime_ns, "links": status.st_nlink, "attributes": attributes}
    return seen


def view(directory):
    found = {}
    for top, directories, files in os.walk(directory):
        directories.sort()
        found[os.path.relpath(top, directory)] = look(top) | {"names": sorted(directories + files)}
        for name in directories + files:
            path = os.path.join(top, name)
            found[os.path.relpath(path, directory)] = look(path) | found.get(os.path.relpath(path, directory), {})
    return found


@attempt
def open_to_write(p):
    for flags in (os.O_WRONLY, os.O_RDWR):
        descriptor = os.open(f"{p}/f", flags)
        os.pwrite(descriptor, b"ATTACK", 0)
        os.close(descriptor)
    assert read(f"{p}/f") == b"ATTACK f"


@attempt
def append(p):
    write(f"{p}/f", b" ATTACK", "ab")
    assert read(f"{p}/f") == b"shared f ATTACK"


@attempt
def truncate_on_open(p):
    write(f"{p}/f", b"ATTACK")
    os.close(os.open(f"{p}/g", os.O_WRONLY | os.O_TRUNC))
    os.close(os.open(f"{p}/d/h", os.O_RDONLY | os.O_TRUNC))
    assert (read(f"{p}/f"), read(f"{p}/g"), read(f"{p}/d/h")) == (b"ATTACK", b"", b"")


@attempt
def create_flags(p):
    for name, flags in [("f", os.O_CREAT), ("g", os.O_CREAT | os.O_TRUNC)]:
        descriptor = os.open(f"{p}/{name}", flags | os.O_RDWR, 0o666)
        os.write(descriptor, b"ATTACK")
        os.close(descriptor)
    refused(lambda: os.open(f"{p}/d/h", os.O_CREAT | os.O_EXCL | os.O_RDWR), 17)
    assert (read(f"{p}/f"), read(f"{p}/g")) == (b"ATTACK f", b"ATTACK")


@attempt
def create_new(p):
    write(f"{p}/new", b"ATTACK")
    write(f"{p}/d/e/new", b"ATTACK")
    write(f"{p}/new.lock", b"ATTACK")
    os.close(os.open(f"{p}/exclusive", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    assert read(f"{p}/new") == read(f"{p}/d/e/new") == read(f"{p}/new.lock") == b"ATTACK"


@attempt
def unlink(p):
    for name in ["f", "g", "l", "d/h", "a.lock", "big"]:
        os.unlink(f"{p}/{name}")
        assert not os.path.lexists(f"{p}/{name}")
    assert sorted(os.listdir(p)) == [".state", "d", "g2"]
    refused(lambda: os.unlink(f"{p}/f"), 2)


@attempt
def unlink_and_create(p):
    os.unlink(f"{p}/f")
    write(f"{p}/f", b"ATTACK")
    os.unlink(f"{p}/f")
    assert not os.path.exists(f"{p}/f")
    os.mkdir(f"{p}/f")
    write(f"{p}/f/inside", b"ATTACK")


@attempt
def remove_tree(p):
    import shutil

    for name in os.listdir(p):
        path = f"{p}/{name}"
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    assert os.listdir(p) == []
    os.mkdir(f"{p}/d")
    assert os.listdir(f"{p}/d") == []
    write(f"{p}/d/h", b"ATTACK")


@attempt
def rename_over(p):
    write(f"{p}/mine", b"ATTACK")
    os.rename(f"{p}/mine", f"{p}/f")
    os.mkdir(f"{p}/own")
    write(f"{p}/own/mine", b"ATTACK 2")
    os.rename(f"{p}/own/mine", f"{p}/g")
    write(f"{p}/own/mine", b"ATTACK 3")
    os.rename(f"{p}/own/mine", f"{p}/brand-new")
    assert (read(f"{p}/f"), read(f"{p}/g"), read(f"{p}/brand-new")) == (b"ATTACK", b"ATTACK 2", b"ATTACK 3")


@attempt
def rename_away(p):
    os.rename(f"{p}/f", f"{p}/away")
    assert read(f"{p}/away") == b"shared f" and not os.path.exists(f"{p}/f")
    os.rename(f"{p}/g", f"{p}/f")
    os.mkdir(f"{p}/own")
    os.rename(f"{p}/d/h", f"{p}/own/h")
    assert (read(f"{p}/f"), read(f"{p}/own/h")) == (b"shared g", b"shared h")
    os.rename(f"{p}/l", f"{p}/l2")
    assert os.readlink(f"{p}/l2") == "f"
    refused(lambda: os.rename(f"{p}/big", f"{p}/bigger"), 18)


@attempt
def rename_directories(p):
    refused(lambda: os.rename(f"{p}/d", f"{p}/d2"), 18)
    refused(lambda: os.rename(f"{p}/d/e", f"{p}/e"), 18)
    os.mkdir(f"{p}/own")
    write(f"{p}/own/in", b"ATTACK")
    refused(lambda: os.rename(f"{p}/own", f"{p}/d"), 39)
    os.rename(f"{p}/own", f"{p}/d/e")
    assert os.listdir(f"{p}/d/e") == ["in"]
    os.mkdir(f"{p}/own")
    os.rename(f"{p}/own", f"{p}/named")
    assert os.path.isdir(f"{p}/named")


@attempt
def rename_flags(p):
    def rename(old, new, flags):
        call("renameat2", AT_FDCWD, f"{p}/{old}".encode(), AT_FDCWD, f"{p}/{new}".encode(), flags)

    rename("f", "g", RENAME_EXCHANGE)
    assert (read(f"{p}/f"), read(f"{p}/g")) == (b"shared g", b"shared f")
    write(f"{p}/mine", b"ATTACK")
    rename("mine", "d/h", RENAME_EXCHANGE)
    assert (read(f"{p}/mine"), read(f"{p}/d/h")) == (b"shared h", b"ATTACK")
    refused(lambda: rename("mine", "f", RENAME_NOREPLACE), 17)
    refused(lambda: rename("mine", "d", RENAME_EXCHANGE), 18)
    refused(lambda: rename("f", "white", RENAME_WHITEOUT))


@attempt
def link(p):
    os.link(f"{p}/f", f"{p}/f2")
    write(f"{p}/f2", b"ATTACK", "r+b")
    write(f"{p}/mine", b"ATTACK")
    os.link(f"{p}/mine", f"{p}/mine2")
    refused(lambda: os.link(f"{p}/mine", f"{p}/g"), 17)
    os.unlink(f"{p}/g")
    os.link(f"{p}/mine", f"{p}/g")
    assert read(f"{p}/g") == b"ATTACK"
    # Of two names of one file, the other stays as it is.
    write(f"{p}/g2", b"ATTACK 2")


@attempt
def symlink(p):
    refused(lambda: os.symlink("/etc/passwd", f"{p}/f"), 17)
    os.unlink(f"{p}/f")
    os.symlink("/etc/passwd", f"{p}/f")
    os.symlink("../../../../../../../../etc", f"{p}/out")
    os.unlink(f"{p}/l")
    os.symlink("g", f"{p}/l")
    write(f"{p}/l", b"ATTACK")
    assert read(f"{p}/g") == b"ATTACK"


@attempt
def attributes(p):
    os.chmod(f"{p}/f", 0o600)
    assert stat.S_IMODE(os.stat(f"{p}/f").st_mode) == 0o600
    os.chown(f"{p}/g", os.getuid(), os.getgid())
    os.utime(f"{p}/d/h", (5, 5))
    assert os.stat(f"{p}/d/h").st_mtime == 5
    for path in ["d", "d/e"]:
        os.chmod(f"{p}/{path}", 0o700)
        os.utime(f"{p}/{path}", (5, 5))
    os.chown(f"{p}/l", os.getuid(), os.getgid(), follow_symlinks=False)
    os.chmod(f"{p}/big", 0o6777)
    assert stat.S_IMODE(os.stat(f"{p}/big").st_mode) == 0o777


@attempt
def attributes_by_descriptor(p):
    descriptor = os.open(f"{p}/f", os.O_RDONLY)
    for change in (
        lambda: os.fchmod(descriptor, 0o600),
        lambda: os.utime(descriptor, (5, 5)),
        lambda: os.setxattr(descriptor, "user.of", b"ATTACK"),
    ):
        refused(change, 116)
    os.close(descriptor)


@attempt
def extended_attributes(p):
    os.setxattr(f"{p}/f", "user.of", b"ATTACK")
    assert os.getxattr(f"{p}/f", "user.of") == b"ATTACK"
    os.removexattr(f"{p}/f", "user.of")
    os.setxattr(f"{p}/g", "user.new", b"ATTACK")
    refused(lambda: os.setxattr(f"{p}/d", "user.of", b"ATTACK"))
    refused(lambda: os.setxattr(f"{p}/g", "security.capability", b"ATTACK"))


@attempt
def truncate(p):
    os.truncate(f"{p}/f", 3)
    os.truncate(f"{p}/g", 0)
    os.truncate(f"{p}/d/h", 100)
    assert (read(f"{p}/f"), read(f"{p}/g"), os.stat(f"{p}/d/h").st_size) == (b"sha", b"", 100)


@attempt
def truncate_by_descriptor(p):
    descriptor = os.open(f"{p}/f", os.O_RDWR)
    os.ftruncate(descriptor, 2)
    os.close(descriptor)
    assert read(f"{p}/f") == b"sh"
    descriptor = os.open(f"{p}/g", os.O_RDONLY)
    refused(lambda: os.ftruncate(descriptor, 0), 22)
    os.close(descriptor)


@attempt
def fallocate(p):
    descriptor = os.open(f"{p}/f", os.O_RDWR)
    os.posix_fallocate(descriptor, 0, 4096)
    # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    call("fallocate", descriptor, 3, ctypes.c_long(0), ctypes.c_long(4))
    os.close(descriptor)
    assert read(f"{p}/f")[:8] == bytes(4) + b"ed f"
    descriptor = os.open(f"{p}/g", os.O_RDONLY)
    refused(lambda: os.posix_fallocate(descriptor, 0, 4096), 9)
    os.close(descriptor)


@attempt
def mapping(p):
    with open(f"{p}/f", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0:6] = b"ATTACK"
        mapped.flush()
    assert read(f"{p}/f") == b"ATTACK f"
    with open(f"{p}/g", "rb") as file:
        refused(lambda: mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_WRITE), 13)


@attempt
def copy_range(p):
    write(f"{p}/mine", b"ATTACK")
    source, target = os.open(f"{p}/mine", os.O_RDONLY), os.open(f"{p}/f", os.O_WRONLY)
    assert os.copy_file_range(source, target, 6) == 6
    os.close(target)
    assert read(f"{p}/f") == b"ATTACK f"
    target = os.open(f"{p}/g", os.O_RDONLY)
    refused(lambda: os.copy_file_range(source, target, 6, 0, 0), 9)


@attempt
def temporary_files(p):
    try:
        descriptor = os.open(p, O_TMPFILE | os.O_RDWR)
    except OSError:
        # There are none in this version.
        return
    call("linkat", descriptor, b"", AT_FDCWD, f"{p}/f".encode(), AT_EMPTY_PATH)


@attempt
def descriptors(p):
    reading = os.open(f"{p}/f", os.O_RDONLY)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
        refused(lambda: os.open(f"/proc/self/fd/{reading}", flags), 13, 116)
    path = os.open(f"{p}/g", os.O_PATH)
    refused(lambda: os.open(f"/proc/self/fd/{path}", os.O_WRONLY), 13, 116)
    refused(lambda: os.truncate(f"/proc/self/fd/{path}", 0), 13, 116)
    refused(lambda: os.chmod(f"/proc/self/fd/{path}", 0o600), 13, 116)
    folder = os.open(f"{p}/d", os.O_RDONLY)
    inside = os.open("h", os.O_WRONLY, dir_fd=folder)
    os.write(inside, b"ATTACK")
    os.close(inside)
    os.unlink("h", dir_fd=folder)
    write(f"/proc/self/fd/{folder}/new", b"ATTACK")
    # A name that leads back up.
    write(f"{p}/d/../d/e/../../f", b"ATTACK")
    refused(lambda: os.link(f"/proc/self/fd/{path}", f"{p}/linked"), 1, 13, 18, 116)
    assert read(f"/proc/self/fd/{reading}") == b"shared f"


@attempt
def by_handle(p):
    class Handle(ctypes.Structure):
        _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]

    handle, mount = Handle(bytes=128), ctypes.c_int()
    arguments = AT_FDCWD, f"{p}/f".encode(), ctypes.byref(handle), ctypes.byref(mount), 0
    try:
        call("name_to_handle_at", *arguments)
    except OSError:
        return
    folder = os.open(p, os.O_RDONLY)
    refused(lambda: call("open_by_handle_at", folder, ctypes.byref(handle), os.O_WRONLY), 1, 116)


@attempt
def special_files(p):
    refused(lambda: os.mknod(f"{p}/device", stat.S_IFCHR | 0o666, os.makedev(1, 3)), 1)
    refused(lambda: os.mknod(f"{p}/block", stat.S_IFBLK | 0o666, os.makedev(7, 0)), 1)
    os.mkfifo(f"{p}/pipe")
    os.close(os.open(f"{p}/setuid", os.O_CREAT | os.O_WRONLY, 0o6777))
    os.chmod(f"{p}/setuid", 0o6777)
    assert stat.S_IMODE(os.stat(f"{p}/setuid").st_mode) & 0o6000 == 0
    os.mkdir(f"{p}/setgid", 0o2777)
    os.chmod(f"{p}/setgid", 0o2777)
    assert stat.S_IMODE(os.stat(f"{p}/setgid").st_mode) & 0o6000 == 0


@attempt
def working_directory(p):
    os.chdir(f"{p}/d/e")
    write("new", b"ATTACK")
    write("../h", b"ATTACK")
    os.unlink("../h")
    os.unlink("new")
    os.rmdir(f"{p}/d/e")
    write("another", b"ATTACK")
    assert not os.path.exists(f"{p}/d/e")
    os.chdir("/")


@attempt
def own_directories(p):
    os.makedirs(f"{p}/own/a/b")
    write(f"{p}/own/a/b/c", b"ATTACK")
    os.rename(f"{p}/own/a", f"{p}/own/z")
    os.rename(f"{p}/own/z/b", f"{p}/b")
    os.rename(f"{p}/b/c", f"{p}/c")
    os.rename(f"{p}/c", f"{p}/own/c")
    write(f"{p}/own/f", b"ATTACK")
    os.rename(f"{p}/own/f", f"{p}/f")
    os.unlink(f"{p}/own/c")
    os.rmdir(f"{p}/own/z")
    os.rmdir(f"{p}/own")
    os.rmdir(f"{p}/b")
    assert read(f"{p}/f") == b"ATTACK"


def attack(directory):
    for name, act in ATTEMPTS.items():
        try:
            act(os.path.join(directory, name))
        except (OSError, AssertionError) as error:
            import traceback

            traceback.print_exc()
            sys.exit(f"{name}: {error}")


LOCKS = ["a.lock", "lock", ".package-cache", "database"]


def locks(directory):
    """Makes files by which tools lock."""
    os.makedirs(directory)
    os.chmod(directory, 0o777)
    for name in LOCKS:
        write(f"{directory}/{name}", b"SQLite format 3\0 and more" if name == "database" else b"")


def hold(directory):
    """Locks all of these in every way, says so, and holds on until its input ends."""
    held = []
    for name in LOCKS:
        held.append(os.open(f"{directory}/{name}", os.O_RDONLY))
        fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.append(os.open(f"{directory}/{name}", os.O_RDWR))
        fcntl.lockf(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("held", flush=True)
    sys.stdin.read()


def lock(directory):
    """Locks all of these; fails where somebody else keeps one."""
    for name in LOCKS:
        descriptor = os.open(f"{directory}/{name}", os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def fill(directory):
    """Writes until there is no more, in each way that there is; prints how much there was each time."""
    os.mkdir(f"{directory}/full")
    counts = {}

    def until_full(name, step):
        done = 0
        try:
            while done < 10_000:
                step(done)
                done += 1
        except OSError as error:
            counts[name] = [done, error.errno]

    with open(f"{directory}/full/a", "wb", buffering=0) as file:
        until_full("writing", lambda _: file.write(bytes(64 << 10)))
        file.truncate(0)
        until_full("writing again", lambda _: file.write(bytes(64 << 10)))
        os.unlink(f"{directory}/full/a")
        with open(f"{directory}/full/b", "wb", buffering=0) as other:
            until_full("beside what is open without a name", lambda _: other.write(bytes(64 << 10)))
    os.unlink(f"{directory}/full/b")
    until_full("names", lambda number: write(f"{directory}/full/{number}", b""))
    for name in os.listdir(f"{directory}/full"):
        os.unlink(f"{directory}/full/{name}")
    until_full("names among those of all", lambda number: os.symlink("x", f"{directory}/{number}"))
    json.dump(counts, sys.stdout)


def descriptors_of(directory):
    """Opens as many files as it may; prints how many those were, and the error."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    write(f"{directory}/mine", b"x")
    held = []
    try:
        while len(held) < 10_000:
            held.append(os.open(f"{directory}/mine", os.O_RDWR))
    except OSError as error:
        json.dump([len(held), error.errno], sys.stdout)


if __name__ == "__main__":
    os.umask(0)
    act, directory = sys.argv[1:]
    if act == "view":
        json.dump(view(directory), sys.stdout, indent=1, sort_keys=True)
    else:
        acts = [prepare, attack, locks, hold, lock, fill, descriptors_of]
        {function.__name__: function for function in acts}[act](directory)
