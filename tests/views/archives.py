"""Four install from a cache as uv does, over and over, and one removes all of it: each time in a process of its own.

An install reads a pointer, and goes through the archive that it names; where there is none, it builds one aside, moves
it into place, and writes the pointer.

usage: archives.py ROOT SECONDS

Says what went wrong, if anything did, and ends with 1 then.
"""

import os
import shutil
import subprocess
import sys
import time

from processes import clear, in_a_process

INSTALLERS = 4
NAMES = ["numpy", "rich"]
DIRECTORIES = ["a", "a/lib", "a/lib/config", "b", "b/core"]
FILES = 6


def text(name, directory, number):
    return f"{name} {directory} {number}"


def build(cache, name):
    aside = f"{cache}/.tmp{os.getpid()}-{name}"
    os.makedirs(aside)
    for directory in DIRECTORIES:
        os.makedirs(f"{aside}/{directory}", exist_ok=True)
        for number in range(FILES):
            with open(f"{aside}/{directory}/{number}", "w") as file:
                file.write(text(name, directory, number))
    # Long, as uv's: what is named by shorter ones is not known to be named.
    archive = f"{name}-{os.getpid():016}"
    os.makedirs(f"{cache}/archives", exist_ok=True)
    os.rename(aside, f"{cache}/archives/{archive}")
    os.makedirs(f"{cache}/wheels/{name}", exist_ok=True)
    pointer = f"{cache}/wheels/{name}/.tmp{os.getpid()}"
    with open(pointer, "w") as file:
        file.write(archive)
    os.rename(pointer, f"{cache}/wheels/{name}/pointer")
    return archive


def find(cache, name):
    try:
        with open(f"{cache}/wheels/{name}/pointer") as file:
            archive = file.read()
        os.stat(f"{cache}/archives/{archive}")
        return archive
    except FileNotFoundError:
        return build(cache, name)


def fail(error):
    raise error


def install(cache):
    # As uv does: it makes its cache first, and has begun by that.
    os.makedirs(cache, exist_ok=True)
    for name, archive in [(name, find(cache, name)) for name in NAMES]:
        top, count = f"{cache}/archives/{archive}", 0
        for place, _, files in os.walk(top, onerror=fail):
            directory = os.path.relpath(place, top)
            for number in files:
                with open(f"{place}/{number}") as file:
                    assert file.read() == text(name, directory, number), f"{place}/{number}"
                count += 1
        assert count == len(DIRECTORIES) * FILES, f"{top} has {count} files"


def lists(directory):
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def prune(cache):
    """As `uv cache prune`: what no pointer names goes."""
    named = set()
    for name in lists(f"{cache}/wheels"):
        try:
            with open(f"{cache}/wheels/{name}/pointer") as file:
                named.add(file.read())
        except FileNotFoundError:
            pass
    for archive in lists(f"{cache}/archives"):
        if archive not in named:
            clear(f"{cache}/archives/{archive}")


def drop(cache, name):
    """As `uv cache clean NAME`: the pointer goes, and then what no pointer names."""
    if os.path.exists(f"{cache}/wheels/{name}"):
        clear(f"{cache}/wheels/{name}")
    prune(cache)


def remove(cache, turn):
    if not os.path.exists(cache):
        return
    match turn % 6:
        case 0:
            clear(cache)
        case 1:
            shutil.rmtree(cache)
        case 2:
            subprocess.run(["rm", "-rf", cache], check=True)
        case 3:
            prune(cache)
        case 4:
            drop(cache, NAMES[turn // 6 % len(NAMES)])
        case 5:
            subprocess.run(["rm", "-rf"] + [f"{cache}/{name}" for name in lists(cache)], check=True)


def main():
    cache, until = f"{sys.argv[1]}/cache", time.time() + float(sys.argv[2])
    installers = []
    for _ in range(INSTALLERS):
        pid = os.fork()
        if pid == 0:
            count = failed = 0
            while time.time() < until:
                failed += in_a_process(install, cache)
                count += 1
            print(f"{failed} of {count} installs failed", flush=True)
            os._exit(bool(failed))
        installers.append(pid)
    count = failed = 0
    while time.time() < until:
        failed += in_a_process(remove, cache, count)
        count += 1
        # So that there is something to install from, too.
        time.sleep(0.02)
    print(f"{failed} of {count} removals failed", flush=True)
    for pid in installers:
        failed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sys.exit(bool(failed))


main()
