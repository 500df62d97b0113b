"""A package index for uv and pip, and a registry for npm, on the loopback of one container:
`registry.py WHEELHOUSE`.

Every container has a loopback of its own, so all of them use the same port: what they cache has the same
addresses.
"""

import base64
import hashlib
import http.server
import io
import json
import pathlib
import random
import sys
import tarfile

PORT = 8123


def npm_package(name, size, needs):
    """An npm package with `size` bytes that do not compress: its archive and its entry in the registry."""
    about = {"name": name, "version": "1.0.0", "main": "index.js", "dependencies": needs}
    calls = "".join(f"require('{other}');" for other in needs)
    files = {
        "package.json": json.dumps(about).encode(),
        "index.js": f"{calls} module.exports = '{name}';\n".encode(),
        "data.bin": random.Random(name).randbytes(size),
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for file, content in files.items():
            entry = tarfile.TarInfo("package/" + file)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    archive = archive.getvalue()
    digest = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    about["dist"] = {
        "tarball": f"http://127.0.0.1:{PORT}/npm/files/{name}.tgz",
        "integrity": f"sha512-{digest}",
    }
    listing = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": about}}
    return archive, json.dumps(listing).encode()


NPM = {
    name: npm_package(name, size, needs)
    for name, size, needs in [
        ("first-package", 2_000_000, {"second-package": "1.0.0", "third-package": "^1.0.0"}),
        ("second-package", 300_000, {"third-package": "1"}),
        ("third-package", 5_000, {}),
    ]
}


def normal(name):
    return name.replace("_", "-").replace(".", "-").lower()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wheelhouse = None

    def do_GET(self):
        found = self.find(self.path.strip("/").split("/"))
        kind, body = found or ("text/plain", b"not here\n")
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=600")
        self.send_header("ETag", f'"{self.path}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def find(self, parts):
        match parts:
            case ["simple", project]:
                names = sorted(file.name for file in self.wheelhouse.iterdir())
                names = [name for name in names if normal(name.split("-")[0]) == project]
                links = "".join(f'<a href="/files/{name}">{name}</a>\n' for name in names)
                return ("text/html", links.encode()) if links else None
            case ["files", name] if (self.wheelhouse / name).is_file():
                return "application/octet-stream", (self.wheelhouse / name).read_bytes()
            case ["npm", name] if name in NPM:
                return "application/json", NPM[name][1]
            case ["npm", "files", name] if name.removesuffix(".tgz") in NPM:
                return "application/octet-stream", NPM[name.removesuffix(".tgz")][0]
        return None

    def log_message(self, *_):
        pass


def serve(wheelhouse):
    Handler.wheelhouse = pathlib.Path(wheelhouse)
    http.server.ThreadingHTTPServer.daemon_threads = True
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1])
