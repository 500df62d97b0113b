"""Runs a command as a user of a new user namespace, whose map root writes, as container engines do.

`enter.py INNER:OUTER:COUNT,... USER COMMAND...`: of COUNT users each, INNER is the first number in the
namespace, and OUTER the one in the namespace of the one who runs this; groups have the same numbers.
USER is a number in the new namespace. Ends as the command does.
"""

import ctypes
import os
import sys

CLONE_NEWUSER = 0x10000000


def main():
    mapped, user, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    map = "".join(line.replace(":", " ") + "\n" for line in mapped.split(","))
    is_apart, apart = os.pipe()
    is_mapped, told = os.pipe()
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWUSER) < 0:
            raise OSError(ctypes.get_errno(), "unshare")
        os.write(apart, b"x")
        os.close(told)
        if os.read(is_mapped, 1) != b"x":
            sys.exit("no map")
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        os.execvp(command[0], command)
    os.close(apart)
    if os.read(is_apart, 1) == b"x":
        for name in "uid_map", "gid_map":
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write(map)
        os.write(told, b"x")
    os.close(told)
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


main()
