"""A filesystem that shows a directory as it is, until a file beside says what fails.

    faulty.py DIRECTORY MOUNTPOINT FAULTS

FAULTS holds words: `write` makes everything fail that changes anything (EIO), `read` all reading of files.
Nothing is kept in memory from one call to the next, so that a fault shows at once.
"""

import errno
import os
import sys

from fusepy import FUSE, FuseOSError, Operations


class Faulty(Operations):
    def __init__(self, root, faults):
        self.root = root
        self.faults = faults

    def __call__(self, operation, path, *args):
        try:
            # What has lost its name has none here either.
            return super().__call__(operation, path and self.root + path, *args)
        except FuseOSError:
            raise
        except OSError as error:
            raise FuseOSError(error.errno) from error

    def check(self, what):
        with open(self.faults, encoding="ascii") as faults:
            if what in faults.read().split():
                raise FuseOSError(errno.EIO)

    def getattr(self, path, fh=None):
        status = os.lstat(path) if path else os.fstat(fh)
        names = "atime ctime gid mode mtime nlink size uid blocks".split()
        return {f"st_{name}": getattr(status, f"st_{name}") for name in names}

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(path)]

    def readlink(self, path):
        return os.readlink(path)

    def statfs(self, path):
        found = os.statvfs(path)
        names = "bavail bfree blocks bsize favail ffree files flag frsize namemax".split()
        return {f"f_{name}": getattr(found, f"f_{name}") for name in names}

    def open(self, path, flags):
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self.check("write")
        return os.open(path, flags)

    def create(self, path, mode, fi=None):
        self.check("write")
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path, size, offset, fh):
        self.check("read")
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        self.check("write")
        return os.pwrite(fh, data, offset)

    def truncate(self, path, length, fh=None):
        self.check("write")
        os.truncate(path or fh, length)

    def release(self, path, fh):
        os.close(fh)

    def fsync(self, path, datasync, fh):
        self.check("write")
        os.fsync(fh)

    def chmod(self, path, mode):
        self.check("write")
        os.chmod(path, mode)

    def chown(self, path, uid, gid):
        self.check("write")
        os.lchown(path, uid, gid)

    def utimens(self, path, times=None):
        self.check("write")
        os.utime(path, times, follow_symlinks=False)

    def mknod(self, path, mode, dev):
        self.check("write")
        os.mknod(path, mode, dev)

    def mkdir(self, path, mode):
        self.check("write")
        os.mkdir(path, mode)

    def rmdir(self, path):
        self.check("write")
        os.rmdir(path)

    def unlink(self, path):
        self.check("write")
        os.unlink(path)

    def symlink(self, target, source):
        self.check("write")
        os.symlink(source, target)

    def link(self, target, source):
        self.check("write")
        os.link(self.root + source, target)

    def rename(self, old, new):
        self.check("write")
        os.rename(old, self.root + new)


if __name__ == "__main__":
    directory, mountpoint, faults = sys.argv[1:]
    FUSE(
        Faulty(directory, faults),
        mountpoint,
        foreground=True,
        fsname="faulty",
        use_ino=False,
        hard_remove=True,
        direct_io=True,
        attr_timeout=0,
        entry_timeout=0,
        big_writes=True,
        default_permissions=True,
        allow_other=True,
    )
