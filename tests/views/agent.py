"""A job that does as it is told: `agent.py ROOT` reads commands and answers them, a line of JSON each.

A command is `[NAME, ARGUMENT...]`. The answer is `{"ok": ...}`, `{"errno": ...}` for what the system
refuses, or `{"failed": ...}` for what should not have happened.

Nothing below ROOT is touched before a command says so: a job begins with its first open, and tests want to
say when that is. Paths that begin with `/` are meant from ROOT, those that begin with `@NAME` from the
directory that is held open under that name, and all others from the working directory.
"""

import errno
import fcntl
import importlib
import json
import mmap
import os
import stat
import subprocess
import sys
import time
import traceback

ROOT = sys.argv[1]

READ, WRITE, BOTH = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
FLAGS = {
    "r": READ,
    "r+": BOTH,
    "w": WRITE | os.O_CREAT | os.O_TRUNC,
    "w+": BOTH | os.O_CREAT | os.O_TRUNC,
    "x": WRITE | os.O_CREAT | os.O_EXCL,
    "a": WRITE | os.O_CREAT | os.O_APPEND,
    "a+": BOTH | os.O_CREAT | os.O_APPEND,
    # As databases and build caches do it: made if it isn't there, and never emptied.
    "create": BOTH | os.O_CREAT,
    "directory": READ | os.O_DIRECTORY,
}

held = {}
maps = {}
children = {}
commands = {}


def command(function):
    commands[function.__name__.strip("_")] = function
    return function


def place(path):
    """As the calls of `os` want it: a path, and the descriptor that it starts from."""
    if path.startswith("@"):
        name, _, rest = path[1:].partition("/")
        return rest or ".", held[name]
    return (ROOT + path if path.startswith("/") else path), None


def opened(path, flags):
    path, start = place(path)
    return os.open(path, flags, 0o644, dir_fd=start)


def whole(fd):
    parts = []
    while part := os.pread(fd, 1 << 16, sum(map(len, parts))):
        parts.append(part)
    return b"".join(parts)


def kind(mode):
    return {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}[stat.S_IFMT(mode)]


def told(status):
    return {
        "kind": kind(status.st_mode),
        "ino": status.st_ino,
        "size": status.st_size,
        "nlink": status.st_nlink,
    }


@command
def _open(name, path, mode):
    held[name] = opened(path, FLAGS[mode])


@command
def close(name):
    os.close(held.pop(name))


@command
def dup(name, other):
    held[other] = os.dup(held[name])


@command
def write(name, text):
    data = text.encode()
    while data:
        data = data[os.write(held[name], data) :]


@command
def pwrite(name, offset, text):
    return os.pwrite(held[name], text.encode(), offset)


@command
def ftruncate(name, size):
    os.ftruncate(held[name], size)


@command
def truncate(path, size):
    # By path: the one call of these that knows no directory descriptors.
    os.truncate(place(path)[0], size)


@command
def held_text(name):
    """What an open file holds, from its start."""
    return whole(held[name]).decode()


@command
def held_status(name):
    return told(os.fstat(held[name]))


@command
def read(path):
    fd = opened(path, READ)
    try:
        return whole(fd).decode()
    finally:
        os.close(fd)


@command
def timed_read(path):
    """How many seconds it took."""
    began = time.monotonic()
    read(path)
    return time.monotonic() - began


@command
def put(path, text, mode="w"):
    fd = opened(path, FLAGS[mode])
    try:
        data = text.encode()
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


@command
def status(path):
    path, start = place(path)
    return told(os.stat(path, dir_fd=start, follow_symlinks=False))


@command
def exists(path):
    try:
        status(path)
    except FileNotFoundError:
        return False
    return True


@command
def _list(path):
    if path.startswith("@") and "/" not in path:
        return sorted(os.listdir(held[path[1:]]))
    fd = opened(path, FLAGS["directory"])
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


@command
def list_when(there, path):
    """As soon as something is there. Who has asked gives up some time."""
    while not exists(there):
        pass
    return _list(path)


@command
def view(path):
    """All that is to be seen below a directory, by name: `/`, `= contents` or `-> target`."""
    seen = {}

    def walk(directory, above):
        for name in _list(directory):
            inner = f"{directory.rstrip('/')}/{name}"
            what = status(inner)["kind"]
            if what == "directory":
                seen[above + name] = "/"
                walk(inner, f"{above}{name}/")
            elif what == "symlink":
                seen[above + name] = f"-> {readlink(inner)}"
            else:
                seen[above + name] = f"= {read(inner)}"

    walk(path, "")
    return seen


@command
def readlink(path):
    path, start = place(path)
    return os.readlink(path, dir_fd=start)


@command
def symlink(target, path):
    path, start = place(path)
    os.symlink(target, path, dir_fd=start)


@command
def link(old, new):
    (old, from_), (new, to) = place(old), place(new)
    os.link(old, new, src_dir_fd=from_, dst_dir_fd=to)


@command
def rename(old, new):
    (old, from_), (new, to) = place(old), place(new)
    os.rename(old, new, src_dir_fd=from_, dst_dir_fd=to)


@command
def unlink(path):
    path, start = place(path)
    os.unlink(path, dir_fd=start)


@command
def mkdir(path):
    path, start = place(path)
    os.mkdir(path, 0o755, dir_fd=start)


@command
def rmdir(path):
    path, start = place(path)
    os.rmdir(path, dir_fd=start)


@command
def remove(path):
    """Removes it with all that is in it."""
    if status(path)["kind"] != "directory":
        return unlink(path)
    for name in _list(path):
        remove(f"{path}/{name}")
    return rmdir(path)


@command
def chdir(path):
    path, start = place(path)
    if start is not None:
        os.fchdir(start)
    if path != ".":
        os.chdir(path)


@command
def getcwd():
    """From ROOT."""
    return os.getcwd().removeprefix(ROOT) or "/"


@command
def _map(name, length):
    maps[name] = mmap.mmap(held[name], length, prot=mmap.PROT_READ | mmap.PROT_WRITE)


@command
def map_to_read(name, length):
    maps[name] = mmap.mmap(held[name], length, prot=mmap.PROT_READ)


@command
def peek(name, offset, length):
    return maps[name][offset : offset + length].decode()


@command
def poke(name, offset, text):
    data = text.encode()
    maps[name][offset : offset + len(data)] = data


@command
def unmap(name):
    maps.pop(name).close()


@command
def flock(name, how):
    """Never waits."""
    fcntl.flock(held[name], getattr(fcntl, f"LOCK_{how}") | fcntl.LOCK_NB)


@command
def lockf(name, how):
    """Never waits."""
    how = getattr(fcntl, f"LOCK_{how}")
    fcntl.lockf(held[name], how if how == fcntl.LOCK_UN else how | fcntl.LOCK_NB)


@command
def spawn(name, script, stdout):
    """A shell as a child, that writes to an open file; a line of its input is a `read` in its script."""
    children[name] = subprocess.Popen(
        ["sh", "-ec", script], stdin=subprocess.PIPE, stdout=held[stdout], close_fds=True
    )


@command
def say(name, line):
    children[name].stdin.write(f"{line}\n".encode())
    children[name].stdin.flush()


@command
def wait(name):
    child = children.pop(name)
    child.stdin.close()
    return child.wait()


@command
def pid():
    return os.getpid()


@command
def call(function, arguments):
    """A function of a module beside this one, with ROOT and what else it wants."""
    module, _, function = function.partition(".")
    return getattr(importlib.import_module(module), function)(ROOT, **arguments)


def main():
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = {"ok": commands[name](*arguments)}
        except OSError as error:
            if error.errno is None:
                answer = {"failed": traceback.format_exc()}
            else:
                answer = {"errno": error.errno, "error": f"{errno.errorcode[error.errno]}: {error}"}
        except Exception:
            answer = {"failed": traceback.format_exc()}
        print(json.dumps(answer), flush=True)
    # Whatever is still open is closed by the kernel, as when any program ends.
    os._exit(0)


main()
