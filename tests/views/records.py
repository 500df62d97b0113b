"""Whether what is installed in an environment is what was to be installed: `records.py ENVIRONMENT NAME...`.

Each distribution lists its files with their hashes (RECORD). Says what is wrong, a line each.
"""

import base64
import csv
import hashlib
import pathlib
import sys


def normal(name):
    return name.lower().replace("_", "-").replace(".", "-")


def wrong(packages, expected):
    found = set()
    for info in packages.glob("*.dist-info"):
        found.add(normal(info.name.split("-")[0]))
        record = info / "RECORD"
        if not record.is_file():
            yield f"{info.name} has no RECORD"
            continue
        with open(record, newline="", encoding="utf-8") as lines:
            entries = list(csv.reader(lines))
        if len(entries) < 3:
            yield f"{info.name} records {len(entries)} files"
        for name, digest, size in entries:
            try:
                data = (packages / name).read_bytes()
            except OSError as error:
                yield f"{name}: {error}"
                continue
            if size and len(data) != int(size):
                yield f"{name}: {len(data)} bytes, not {size}"
            if digest:
                algorithm, _, value = digest.partition("=")
                actual = base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest())
                if actual.rstrip(b"=").decode() != value:
                    yield f"{name}: not the contents that were recorded"
    for name in expected:
        if normal(name) not in found:
            yield f"{name} is not installed"


def main():
    environment, *expected = sys.argv[1:]
    (packages,) = pathlib.Path(environment).glob("lib/python*/site-packages")
    lines = list(wrong(packages, expected))
    print("\n".join(lines[:20]))
    sys.exit(1 if lines else 0)


main()
