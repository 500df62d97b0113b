"""Counters that are right only if the lock around them is one."""

import contextlib
import fcntl
import os
import random
import sqlite3
import time

PATIENCE = 50


class Deadline:
    """So that a lock that nobody ever gets fails its test, instead of hanging it."""

    def __init__(self, what):
        self.what, self.until = what, time.monotonic() + PATIENCE

    def pause(self):
        if time.monotonic() > self.until:
            raise AssertionError(f"no {self.what} in {PATIENCE} seconds")
        time.sleep(random.uniform(0, 0.002))


def take_flock(fd, call):
    deadline = Deadline(call.__name__)
    while True:
        try:
            return call(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            deadline.pause()


def opened_and_locked(mode, call=fcntl.flock, with_pid=False):
    """As most programs do it: open the lock file in some mode, and lock it until it is closed."""

    @contextlib.contextmanager
    def lock(path):
        with open(path, mode, encoding="ascii") as file:
            take_flock(file.fileno(), call)
            if with_pid:
                file.write(f"{os.getpid()}\n")
                file.flush()
            yield

    return lock


def waiting(mode):
    """The same, asleep in the kernel while it waits."""

    @contextlib.contextmanager
    def lock(path):
        with open(path, mode, encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    return lock


@contextlib.contextmanager
def flock_and_unlink(path):
    """The lock file goes with the lock; whoever got the lock of one that is gone tries again."""
    deadline = Deadline("lock file of that name")
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        take_flock(fd, fcntl.flock)
        try:
            if os.stat(path).st_ino == os.fstat(fd).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(fd)
        deadline.pause()
    yield
    os.unlink(path)
    os.close(fd)


def made_and_removed(make, remove):
    """The lock is that something of that name is there."""

    @contextlib.contextmanager
    def lock(path):
        deadline = Deadline("free name")
        while True:
            try:
                held = make(path)
                break
            except FileExistsError:
                deadline.pause()
        yield
        remove(path)
        if held is not None:
            os.close(held)

    return lock


def exclusive(path):
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)


def exclusive_with_pid(path):
    fd = exclusive(path)
    os.write(fd, str(os.getpid()).encode())
    os.close(fd)


def linked(path):
    own = f"{path}.{os.getpid()}"
    with open(own, "w", encoding="ascii"):
        pass
    try:
        os.link(own, path)
    finally:
        os.unlink(own)


def file_lock(name):
    @contextlib.contextmanager
    def lock(path):
        import filelock

        with getattr(filelock, name)(path, timeout=PATIENCE, poll_interval=0.002):
            yield

    return lock


LOCKS = {
    "flock-w": opened_and_locked("w"),
    "flock-w-pid": opened_and_locked("w", with_pid=True),
    "flock-a+": opened_and_locked("a+"),
    "flock-a+-pid": opened_and_locked("a+", with_pid=True),
    "flock-waiting": waiting("w"),
    "flock-unlink": flock_and_unlink,
    "lockf-w": opened_and_locked("w", fcntl.lockf),
    "lockf-a+-pid": opened_and_locked("a+", fcntl.lockf, with_pid=True),
    "exclusive": made_and_removed(exclusive, os.unlink),
    "exclusive-pid": made_and_removed(exclusive_with_pid, os.unlink),
    "mkdir": made_and_removed(os.mkdir, os.rmdir),
    "link": made_and_removed(linked, os.unlink),
    "symlink": made_and_removed(lambda path: os.symlink(str(os.getpid()), path), os.unlink),
    "FileLock": file_lock("FileLock"),
    "SoftFileLock": file_lock("SoftFileLock"),
}


def written(path, number):
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{number}\n")


def replaced(path, number):
    temporary = f"{path}.{os.getpid()}"
    written(temporary, number)
    os.replace(temporary, path)


WRITES = {"written": written, "replaced": replaced}


def count(root, kind, lock, counter, write, times):
    """Adds one so many times."""
    lock, counter, held = root + lock, root + counter, LOCKS[kind]
    for _ in range(times):
        with held(lock):
            try:
                with open(counter, encoding="ascii") as file:
                    number = int(file.read())
            except FileNotFoundError:
                number = 0
            WRITES[write](counter, number + 1)


def database(root, path, journal):
    base = sqlite3.connect(root + path, timeout=PATIENCE, isolation_level=None)
    # Two at once may not both set it; then the other one's word holds.
    deadline = Deadline("journal")
    while True:
        try:
            (mode,) = base.execute(f"pragma journal_mode={journal}").fetchone()
            break
        except sqlite3.OperationalError:
            deadline.pause()
    if mode != journal:
        raise AssertionError(f"the journal is {mode}")
    base.execute("pragma synchronous=off")
    return base


def prepare_database(root, path, journal):
    base = database(root, path, journal)
    base.execute("create table counter (number integer)")
    base.execute("create table entry (job integer, number integer, text text)")
    base.execute("insert into counter values (0)")
    base.close()


def count_in_database(root, path, journal, job, times, reopen):
    """Adds one so many times, and a row each time, in transactions."""
    base = database(root, path, journal)
    for number in range(times):
        base.execute("begin immediate")
        (before,) = base.execute("select number from counter").fetchone()
        base.execute("insert into entry values (?, ?, ?)", (job, number, "x" * 500))
        base.execute("update counter set number = ?", (before + 1,))
        base.execute("commit")
        if reopen:
            base.close()
            base = database(root, path, journal)
    base.close()


def half_a_transaction(root, path, journal):
    """Begins, writes so much that some of it is in the database already, and stops there."""
    global held_database
    held_database = database(root, path, journal)
    held_database.execute("pragma cache_size=1")
    held_database.execute("begin immediate")
    held_database.execute("update counter set number = 999")
    for number in range(200):
        held_database.execute("insert into entry values (-1, ?, ?)", (number, "y" * 500))


def look_into_database(root, path):
    base = sqlite3.connect(root + path, timeout=PATIENCE)
    (number,) = base.execute("select number from counter").fetchone()
    (entries,) = base.execute("select count(*) from entry").fetchone()
    (sound,) = base.execute("pragma integrity_check").fetchone()
    base.close()
    return [number, entries, sound]
