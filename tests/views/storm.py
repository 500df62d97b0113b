"""What the jobs of the storms do. A file says of itself which version it is, in every block of it."""

import os
import random
import struct
import time
import zlib

# Writer, sequence, number of this block, number of blocks; then a filling, then its checksum.
HEADER = struct.Struct("<4sIIII")
MAGIC = b"ver\n"


def append(root, path, own, lines, held):
    """Appends numbered lines, each by one call."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    fd = os.open(root + path, flags, 0o644) if held else None
    for line in range(lines):
        text = f"{own} {line} {'x' * ((line * 37 + own) % 200)}\n".encode()
        to = fd if held else os.open(root + path, flags, 0o644)
        if os.write(to, text) != len(text):
            raise AssertionError("a line was torn")
        if not held:
            os.close(to)


def version(writer, sequence, blocks, size):
    parts = []
    for number in range(blocks):
        head = HEADER.pack(MAGIC, writer, sequence, number, blocks)
        block = head + bytes((writer + sequence + number + at) & 255 for at in range(size))
        parts.append(struct.pack("<I", len(block)) + block + struct.pack("<I", zlib.crc32(block)))
    return b"".join(parts)


def check(data):
    """Which version it is: writer and sequence; an AssertionError if it isn't a whole one."""
    at, seen = 0, None
    expected = 0
    while at < len(data):
        if at + 4 > len(data):
            raise AssertionError(f"torn at {at} of {len(data)} bytes")
        (length,) = struct.unpack_from("<I", data, at)
        block = data[at + 4 : at + 4 + length]
        rest = data[at + 4 + length : at + 8 + length]
        if len(block) != length or len(rest) != 4 or length < HEADER.size:
            raise AssertionError(f"block {expected} at {at} of {len(data)} bytes is torn")
        if struct.unpack("<I", rest)[0] != zlib.crc32(block):
            raise AssertionError(f"block {expected} at {at} of {len(data)} bytes has a wrong checksum")
        magic, *which, number, blocks = HEADER.unpack_from(block)
        if magic != MAGIC or number != expected:
            raise AssertionError(f"block {expected} says that it is {number}")
        if seen not in (None, (which, blocks)):
            raise AssertionError(f"block {number} is of {which}, those before are of {seen[0]}")
        seen = (which, blocks)
        expected += 1
        at += 8 + length
    if seen is None:
        raise AssertionError("empty")
    if expected != seen[1]:
        raise AssertionError(f"{expected} blocks of {seen[1]}")
    return tuple(seen[0])


def in_small_writes(fd, data, rng):
    at = 0
    while at < len(data):
        step = rng.choice((1, 7, 100, 512, 4096, 5000))
        at += os.write(fd, data[at : at + step])


def write(root, names, removable, writer, seed, until, log, by_rename):
    """Writes versions until the time is up. What it begins and what it has completed goes to a log outside.

    Names are told apart by number; those from `removable` on are removed now and then, and made anew.
    With `by_rename`, nothing is written where it is read.
    """
    rng = random.Random(seed)
    flags = os.O_WRONLY | os.O_CREAT
    done = 0
    # A later life of a writer that was killed goes on counting where the earlier one stopped.
    sequence = 1 + max((entry[2] for entry in read_log(log)), default=0)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    while time.time() < until:
        number = rng.randrange(names)
        path = f"{root}/v{number}"
        data = version(writer, sequence, rng.randrange(1, 12), rng.choice((10, 500, 3000)))
        how = rng.uniform(0.6 if by_rename else 0, 1)
        if number >= removable and how < 0.2:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            continue
        os.write(out, f"begun {number} {sequence}\n".encode())
        if how < 0.5:
            fd = os.open(path, flags | os.O_TRUNC, 0o644)
        elif how < 0.6:
            try:
                fd = os.open(path, flags | os.O_EXCL, 0o644)
            except FileExistsError:
                continue
        else:
            temporary = f"{root}/.tmp-{writer}-{sequence}"
            fd = os.open(temporary, flags | os.O_EXCL, 0o644)
        in_small_writes(fd, data, rng)
        if how >= 0.8:
            # Some rename what is still open, as tempfile's users do by mistake.
            os.rename(temporary, path)
        os.close(fd)
        if 0.6 <= how < 0.8:
            os.rename(temporary, path)
        os.write(out, f"done {number} {sequence}\n".encode())
        sequence += 1
        done += 1
    return done


def read_log(log):
    try:
        with open(log, encoding="ascii") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    entries = (line.split(" ") for line in lines)
    return [(what, int(number), int(sequence)) for what, number, sequence in entries]


def read(root, names, removable, seed, until):
    """Reads versions until the time is up. How many it read, and the first things that were wrong."""
    rng = random.Random(seed)
    newest = {}
    present = set()
    count, wrong = 0, []
    while time.time() < until and len(wrong) < 10:
        number = rng.randrange(names)
        try:
            fd = os.open(f"{root}/v{number}", os.O_RDONLY)
        except FileNotFoundError:
            if number in present and number < removable:
                wrong.append(f"v{number} is gone, though nobody removes it")
            continue
        parts = []
        # In pieces, so that others can get in between.
        while part := os.read(fd, rng.choice((100, 4096, 100000))):
            parts.append(part)
        size = os.fstat(fd).st_size
        os.close(fd)
        data = b"".join(parts)
        present.add(number)
        count += 1
        try:
            writer, sequence = check(data)
            if size != len(data):
                raise AssertionError(f"{len(data)} bytes were read of {size}")
            if sequence < newest.get((number, writer), 0):
                raise AssertionError(
                    f"version {sequence} of writer {writer} after its version {newest[number, writer]}"
                )
            newest[number, writer] = sequence
        except AssertionError as error:
            wrong.append(f"v{number}: {error}")
    return {"count": count, "wrong": wrong}


def settle(root, names, removable, logs):
    """When all is over: what is wrong with what is left."""
    done, begun = {}, {}
    for writer, log in enumerate(logs):
        for what, number, sequence in read_log(log):
            (done if what == "done" else begun).setdefault((number, writer), []).append(sequence)
    wrong = []
    for number in range(names):
        try:
            with open(f"{root}/v{number}", "rb") as file:
                writer, sequence = check(file.read())
        except FileNotFoundError:
            if number < removable:
                wrong.append(f"v{number} is not there")
            continue
        except AssertionError as error:
            wrong.append(f"v{number}: {error}")
            continue
        last = max(done.get((number, writer), [0]))
        # One that was killed between closing and saying so has completed it all the same.
        if sequence not in begun.get((number, writer), []):
            wrong.append(f"v{number} is version {sequence} of {writer}, which never was")
        elif sequence < last:
            wrong.append(f"v{number} is version {sequence} of {writer}, which has completed {last}")
    left = [name for name in os.listdir(root) if name.startswith(".tmp-")]
    return {"wrong": wrong, "temporaries": left}


def read_on(root, directories, files, first, stop):
    """Opens and reads one file after another until `stop` is there: how many, the slowest, and what was wrong."""
    count, slowest, wrong = 0, 0.0, []
    at = first
    while not (count % 50 == 0 and os.path.exists(stop)) and len(wrong) < 10:
        directory, file = at % directories, (at // directories + at) % files
        at += 1
        began = time.monotonic()
        try:
            with open(f"{root}/d{directory}/{file}", "rb") as opened:
                text = opened.read().strip()
            if text != f"{directory} {file}".encode():
                wrong.append(f"d{directory}/{file} holds {text!r}")
        except OSError as error:
            wrong.append(str(error))
        slowest = max(slowest, time.monotonic() - began)
        count += 1
    return {"count": count, "slowest": slowest, "wrong": wrong}
