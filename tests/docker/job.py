"""What a container does with a cache that others fill at the same time: `job.py OPTIONS STEP...`.

Each step is done cold, then warm, and each time all parties begin together. Says how each ended, a JSON
document a line, and goes on whatever happened: whether all went well is for the reader to say.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
PATIENCE = 240

PROJECT = {
    "pyproject.toml": """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "example"
version = "1.2.3"
requires-python = ">=3.11"
""",
    "src/example/__init__.py": "VALUE = 42\n",
    "tests/test_example.py": "import example\n\ndef test_value():\n    assert example.VALUE == 42\n",
    "tox.ini": """[tox]
env_list = check
[testenv]
deps = pytest
commands = pytest -q -p no:cacheprovider
""",
}


def settings(cache, home):
    index = "http://127.0.0.1:8123/simple"
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": home,
        "PYTHONDONTWRITEBYTECODE": "1",
        "UV_CACHE_DIR": f"{cache}/uv",
        "UV_DEFAULT_INDEX": index,
        "UV_INDEX_URL": index,
        "UV_LINK_MODE": "copy",
        "UV_NO_CONFIG": "1",
        "UV_PYTHON": "/usr/bin/python3",
        "PIP_CACHE_DIR": f"{cache}/pip",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_INDEX_URL": index,
        # pip keeps nothing that came over plain http from a host that wasn't said to be trusted.
        "PIP_TRUSTED_HOST": "127.0.0.1",
        "RUFF_CACHE_DIR": f"{cache}/ruff",
        "npm_config_cache": f"{cache}/npm",
        "npm_config_registry": "http://127.0.0.1:8123/npm/",
        "npm_config_audit": "false",
        "npm_config_fund": "false",
        "npm_config_update_notifier": "false",
    }


class Job:
    def __init__(self, options):
        self.options = options
        self.work = pathlib.Path(options.work)
        self.home = self.work / "home"
        self.home.mkdir(parents=True)
        self.environment = settings(options.cache, str(self.home))
        if options.offline:
            # All comes from the cache; there is nothing else.
            self.environment |= {"UV_OFFLINE": "1", "npm_config_offline": "true"}

    def run(self, *words, **how):
        """Runs a tool, or a program by its path, to its end; raises what went wrong."""
        words = [str(word) for word in words]
        if "/" not in words[0]:
            words[0] = f"{self.options.tools}/bin/{words[0]}"
        how.setdefault("cwd", self.home)
        ended = subprocess.run(
            words, env=self.environment, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how,
        )  # fmt: skip
        if ended.returncode:
            raise RuntimeError(f"$ {' '.join(words)}\nexit code {ended.returncode}\n{ended.stdout}")
        # Told by tools that go on without a cache that they can't use.
        for complaint in ("cache has been disabled", "Permission denied", "Failed to write"):
            if complaint in ended.stdout:
                raise RuntimeError(f"$ {' '.join(words)}\nsays {complaint!r}\n{ended.stdout}")
        return ended.stdout

    def fresh(self, name):
        """A directory that is empty."""
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def uv(self):
        packages = ["rich", "toolz", "markupsafe", "requests"]
        environment = self.fresh("uv") / "environment"
        self.run("uv", "venv", environment)
        self.run("uv", "pip", "install", "--python", environment, *packages)
        self.run("/usr/bin/python3", HERE.parent / "views/records.py", environment, *packages)

    def build(self):
        project = self.project("build")
        self.run(f"{self.options.tools}/venv/bin/python", "-m", "build", "--wheel", "--installer=uv", project)
        if not (project / "dist/example-1.2.3-py3-none-any.whl").is_file():
            raise RuntimeError("build made no wheel")

    def tox(self):
        said = self.run("tox", "run", "--recreate", cwd=self.project("tox"))
        if "1 passed" not in said:
            raise RuntimeError(f"tox ran no tests\n{said}")

    def pip(self):
        target = self.fresh("pip")
        self.run("pip", "install", "--no-compile", "--target", target, "toolz", "rich")
        self.run("/usr/bin/python3", "-c", f"import sys; sys.path = ['{target}', *sys.path]; import toolz, rich.table")

    def ruff(self):
        project = self.fresh("ruff")
        for number in range(100):
            (project / f"m{number}.py").write_text(f"X = {number:09}.0\n")
        self.run("ruff", "check", "--isolated", project)

    def npm(self):
        project = self.fresh("npm")
        (project / "package.json").write_text('{"name": "example", "version": "1.0.0"}')
        self.run("npm", "install", "first-package", cwd=project)
        self.run(f"{self.options.tools}/containers/bin/node", "-e", "require('first-package')", cwd=project)

    def project(self, name):
        project = self.fresh(name)
        for file, text in PROJECT.items():
            (project / file).parent.mkdir(parents=True, exist_ok=True)
            (project / file).write_text(text)
        return project

    def meet(self, what):
        """Waits until all parties are here."""
        meeting = pathlib.Path(self.options.meeting)
        (meeting / f"{what}.{self.options.name}").touch()
        deadline = time.monotonic() + PATIENCE
        while len(list(meeting.glob(f"{what}.*"))) < self.options.parties:
            if time.monotonic() > deadline:
                sys.exit(f"{what}: not everyone came")
            time.sleep(0.01)

    def all(self):
        for step in self.options.steps:
            for phase in ("cold", "warm"):
                self.meet(f"{step}-{phase}")
                began = time.monotonic()
                try:
                    getattr(self, step)()
                    failed = None
                except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                    failed = str(error)
                seconds = round(time.monotonic() - began, 2)
                print(json.dumps({"step": step, "phase": phase, "seconds": seconds, "failed": failed}))


def main():
    words = argparse.ArgumentParser()
    for name in ("cache", "meeting", "name", "tools", "work"):
        words.add_argument(f"--{name}", required=True)
    words.add_argument("--parties", type=int, default=1)
    words.add_argument("--umask", type=lambda text: int(text, 8), default=0o022)
    words.add_argument("--offline", action="store_true")
    words.add_argument("steps", nargs="+")
    options = words.parse_args()
    os.umask(options.umask)
    if options.offline:
        Job(options).all()
        return
    registry = [sys.executable, HERE / "registry.py", f"{options.tools}/wheelhouse"]
    with subprocess.Popen(registry, stdout=subprocess.PIPE, text=True) as index:
        index.stdout.readline()
        try:
            Job(options).all()
        finally:
            index.kill()


main()
