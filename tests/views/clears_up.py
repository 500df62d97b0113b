"""Three make directories, use them and remove them again, over and over, as uv does to ask an interpreter about
itself; a fourth removes what it finds of them, by listing it. Each time a process of its own does it.

usage: clears_up.py ROOT ROUNDS

Says what went wrong, if anything did, and ends with 1 then.
"""

import os
import select
import shutil
import sys

from processes import clear, in_a_process

MAKERS = 3
NAMES = [f"{name}.py" for name in "elffile manylinux musllinux parser structures tokenizer markers utils".split()]


def make(root):
    top = f"{root}/.tmp{os.getpid()}"
    os.makedirs(f"{top}/python/packaging")
    for name in NAMES:
        with open(f"{top}/python/packaging/{name}", "w") as file:
            file.write(name)
    for name in NAMES:
        with open(f"{top}/python/packaging/{name}") as file:
            assert file.read() == name
    shutil.rmtree(top)


def clear_all(root):
    with os.scandir(root) as entries:
        for entry in entries:
            clear(entry.path, shutil.rmtree)


def main():
    root, rounds = sys.argv[1], int(sys.argv[2])
    end, going = os.pipe()
    makers = []
    for _ in range(MAKERS):
        pid = os.fork()
        if pid == 0:
            os.close(going)
            failed = 0
            while not select.select([end], [], [], 0)[0]:
                failed |= in_a_process(make, root)
            os._exit(failed)
        makers.append(pid)
    failed = 0
    for _ in range(rounds):
        failed |= in_a_process(clear_all, root)
    os.close(going)
    for pid in makers:
        failed |= os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sys.exit(failed)


main()
