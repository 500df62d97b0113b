"""Jobs that create one file together end, killed, while one of them gives it its name."""

import os
import signal
import sys

ROUNDS, OTHERS = 150, 4


def start(path):
    """A job of its own that has the file open and has not written it: its pid, and a pipe to end it by."""
    ready, to_say = os.pipe()
    to_hear, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(to_say, b".")
        os.read(to_hear, 1)
        os.close(fd)
        os._exit(0)
    os.read(ready, 1)
    for end in (ready, to_say, to_hear):
        os.close(end)
    return pid, go


# This process never touches the mount, or all of these would be one job.
for number in range(ROUNDS):
    path = f"{sys.argv[1]}/{number}"
    jobs = [start(path) for _ in range(OTHERS + 1)]
    os.write(jobs[0][1], b".")
    for pid, _ in jobs[1:]:
        os.kill(pid, signal.SIGKILL)
    for pid, go in jobs:
        os.waitpid(pid, 0)
        os.close(go)
