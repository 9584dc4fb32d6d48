"""The other side of `execution`: what runs in the limited process, handed to `python -I -S -c` as text and never imported there.

The order matters: it reads the request, gives up what it can do (mounts of its own, another user, Landlock, resource limits), says so,
and only then runs the program and evaluates its tests one by one. It is never told what a value should be.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import sys
from typing import Any

PLAIN = (bool, int, float, str, type(None))

READ = 1 << 0 | 1 << 2 | 1 << 3
"""Landlock: execute, read files, read folders."""


def encoded(value: Any) -> Any:
    """A value of Python's own types as JSON that keeps them apart; TypeError for any other (a subclass may lie about being equal)."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is list:
        return [encoded(item) for item in value]
    if kind in (tuple, set, frozenset):
        return {kind.__name__: [encoded(item) for item in value]}
    if kind is dict:
        return {"dict": [[encoded(key), encoded(item)] for key, item in value.items()]}
    if kind is bytes:
        return {"bytes": value.hex()}
    raise TypeError(f"a value of type {kind.__name__} cannot be compared from outside")


# --- giving up what it can do -----------------------------------------------------------------------------------------


def own_mounts(libc: Any, size: int, user: int | None) -> bool:
    """Cover the working folder with a small file system in memory, which ends with the process; False where that is not allowed.

    Another user may have no way to the Python installation (it may lie in root's home), so it is mounted in there too, read-only.
    """
    folder = os.getcwd()
    options = f"size={size},nr_inodes=256,mode=700" + ("" if user is None else f",uid={user},gid={user}")
    if libc.mount(b"none", folder.encode(), b"tmpfs", 2 | 4, options.encode()):  # MS_NOSUID, MS_NODEV
        return False
    os.chdir(folder)  # what is mounted there now
    if user is not None:
        place = os.path.join(folder, ".python")
        os.mkdir(place)
        if libc.mount(sys.base_prefix.encode(), place.encode(), None, 4096 | 16384, None):  # MS_BIND, MS_REC
            return False
        libc.mount(None, place.encode(), None, 4096 | 32 | 1, None)  # MS_BIND, MS_REMOUNT, MS_RDONLY
        packages = [paths for module in sys.modules.values() if isinstance(paths := getattr(module, "__path__", None), list)]
        for paths in (sys.path, *packages):
            paths[:] = [place + entry.removeprefix(sys.base_prefix) if entry.startswith(sys.base_prefix) else entry for entry in paths]
        sys.path_importer_cache.clear()
    return True


def become(user: int) -> bool:
    """Stop being root, for good, unless the standard library could not be read then; says whether."""
    os.setegid(user)
    os.seteuid(user)
    readable = all(os.access(entry, os.R_OK | os.X_OK, effective_ids=True) for entry in sys.path if not entry.endswith(".zip"))
    os.seteuid(0)
    os.setegid(0)
    if readable:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    else:
        os.chown(".", 0, 0)  # without capabilities root, too, needs to own what it writes to
    return readable


def drop_capabilities(libc: Any) -> None:
    """None are left, and none can be had by executing something."""
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())


def landlock(libc: Any) -> int:
    """Nothing but the Python installation and the system's libraries can be read, nothing but the working folder be written, no TCP.

    Returns the version of Landlock that the kernel has; 0 where it has none. From 6 on, nobody outside can be sent a signal.
    """
    version = libc.syscall(444, None, 0, 1)  # landlock_create_ruleset, LANDLOCK_CREATE_RULESET_VERSION
    if version < 1:
        return 0
    everything = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    handled = (ctypes.c_uint64 * 3)(everything, 3, 3)  # of files; TCP bind and connect; abstract sockets and signals
    ruleset = libc.syscall(444, handled, 24 if version >= 6 else 16 if version >= 4 else 8, 0)
    if ruleset < 0:
        return 0
    allowed = dict.fromkeys((*sys.path, "/usr", "/lib", "/lib64", "/dev/urandom"), READ)
    for path, rights in (allowed | {"/dev/null": READ | 1 << 1, os.getcwd(): everything}).items():
        if os.path.exists(path):
            handle = os.open(path, os.O_PATH)
            own = rights if os.path.isdir(path) else rights & (1 << 1 | 1 << 2)  # a file has no folder's rights
            rule = own.to_bytes(8, sys.byteorder) + handle.to_bytes(4, sys.byteorder)
            libc.syscall(445, ruleset, 1, rule, 0)  # landlock_add_rule, LANDLOCK_RULE_PATH_BENEATH
            os.close(handle)
    failed = libc.syscall(446, ruleset, 0)  # landlock_restrict_self
    os.close(ruleset)
    return 0 if failed else version


def give_up(request: dict[str, Any]) -> dict[str, Any]:
    """Whatever the system lets this process give up; says what that was."""
    user = request["user"]
    found: dict[str, Any] = {"mounts": False, "user": user is None, "landlock": 0}
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if request["namespaces"]:
            found["mounts"] = own_mounts(libc, request["disk"], user)
        if user is not None:
            found["user"] = become(user)
        drop_capabilities(libc)
        found["landlock"] = landlock(libc)
    found["unlimited"] = []
    for name, number in request["resources"].items():
        try:
            resource.setrlimit(getattr(resource, name), (number, number))
        except (AttributeError, ValueError, OSError):
            found["unlimited"].append(name)
    return found


# --- running ----------------------------------------------------------------------------------------------------------


def main() -> None:
    """Read, give up, run, tell; and leave at once, whatever threads or exit handlers a program has set up."""
    leave = os._exit
    told(json.load(sys.stdin))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    leave(0)


def told(request: dict[str, Any]) -> None:
    """Run the program and its tests, and tell a fact a line."""
    out, token = os.dup(1), request["token"]
    os.dup2(2, 1)  # what the program prints is no result
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    write, dumps, evaluate, execute = os.write, json.JSONEncoder().encode, eval, exec  # as they are before a program may change them

    def tell(fact: dict[str, Any]) -> None:
        line = f"{token} {dumps(fact)}\n".encode()
        while line:
            line = line[write(out, line) :]

    tell({"ready": give_up(request)})
    namespace: dict[str, Any] = {"__name__": "program"}
    try:
        execute(compile(request["code"], "program", "exec"), namespace)
    except BaseException as error:
        tell({"raised": described(error)})
        return
    for test in request["tests"]:
        try:
            if test["kind"] == "expression":
                tell({"value": encoded(evaluate(test["text"], namespace))})
            else:
                execute(test["text"], namespace)
                tell({"passed": True})
        except BaseException as error:
            tell({"error": described(error)})


def described(error: BaseException) -> str:
    """The kind of an error and the beginning of what it says, which a program may have written."""
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except BaseException:
        return type(error).__name__


if __name__ == "__main__":
    main()
