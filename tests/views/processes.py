"""Jobs of their own, for scripts that do not use the mount themselves."""

import os
import traceback


def in_a_process(act, *arguments):
    """What became of it: 0 if all is well. Who calls this never touches the mount, so each is a job of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            act(*arguments)
            os._exit(0)
        except BaseException:
            # In one piece, since others say what happened to them, too.
            os.write(1, f"{act.__name__}: {traceback.format_exc()}".encode())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def clear(path, remove_empty=os.rmdir):
    """Removes what it finds by listing, one after the other, as uv does."""
    seen = set()
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name in seen:
                raise OSError(f"{entry.path} is listed twice")
            seen.add(entry.name)
            if entry.is_dir(follow_symlinks=False):
                clear(entry.path, remove_empty)
            else:
                os.unlink(entry.path)
    remove_empty(path)
