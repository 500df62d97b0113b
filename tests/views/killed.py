"""Writers who are killed as fast as they can be started, in the midst of whatever they do: what others read is whole.

Run as `killed.py ROOT SECONDS`. Each writer is a job of its own: this process, which starts them, does not use the
mount. Says in JSON how many were killed, how much was read, and what was wrong.
"""

import json
import os
import random
import signal
import sys
import time

NAMES = 2
WRITERS = 8
READERS = 4
PIECE = b"x" * 100
PIECES = 4


def write(root, seed, until):
    rng = random.Random(seed)
    while time.time() < until:
        path = f"{root}/v{rng.randrange(NAMES)}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for _ in range(PIECES):
            os.write(fd, PIECE)
        os.close(fd)


def read(root, seed, until, tell):
    rng = random.Random(seed)
    count, wrong = 0, []
    while time.time() < until and len(wrong) < 5:
        path = f"{root}/v{rng.randrange(NAMES)}"
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        length, size = len(os.read(fd, 1000)), os.fstat(fd).st_size
        os.close(fd)
        count += 1
        if (length, size) != (len(PIECE) * PIECES,) * 2:
            wrong.append(f"{path}: read {length} bytes of {size}")
    os.write(tell, (json.dumps([count, wrong]) + "\n").encode())


def start(job, *arguments):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        job(*arguments)
        status = 0
    except OSError as error:
        print(error, file=sys.stderr)
    finally:
        os._exit(status)


def main(root, seconds):
    until = time.time() + seconds
    heard, tell = os.pipe()
    readers = [start(read, root, seed, until, tell) for seed in range(READERS)]
    os.close(tell)
    writers = [start(write, root, seed, until) for seed in range(WRITERS)]
    begun, killed, wrong = WRITERS, 0, []
    while time.time() < until - 1:
        # As long as it takes to start one more, and some of what those do who run.
        time.sleep(0.004)
        oldest = writers.pop(0)
        os.kill(oldest, signal.SIGKILL)
        _, status = os.waitpid(oldest, 0)
        if not os.WIFSIGNALED(status):
            wrong.append("a writer has failed")
        killed += 1
        writers.append(start(write, root, begun, until))
        begun += 1
    for pid in writers + readers:
        _, status = os.waitpid(pid, 0)
        if status:
            wrong.append("a job has failed")
    count = 0
    with os.fdopen(heard) as told:
        for line in told:
            read_by_one, seen = json.loads(line)
            count += read_by_one
            wrong += seen
    print(json.dumps({"read": count, "killed": killed, "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
