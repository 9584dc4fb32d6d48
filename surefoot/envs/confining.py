"""Start a program in a limited process, listen to it, and end it with all that it started. `execution` says what that is worth.

What runs on the other side is `confined.py`: its text is handed to the interpreter, since another user may not be able to read the file.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surefoot.errors import ConfigError, EnvError

HARNESS = Path(__file__).with_name("confined.py").read_text(encoding="utf-8")

STARTING = 30.0
"""Seconds in which a process must have given up what it can; a program's own time counts from then."""

_users = itertools.count()


@dataclass(frozen=True)
class Limits:
    """What one program may use, its tests included."""

    wall_s: float = 5.0
    """Seconds on the clock."""
    cpu_s: int = 3
    """Seconds of computation of each process."""
    memory_mb: int = 256
    """Address space of each process in MiB (Python itself takes about 30)."""
    processes: int = 1
    """Processes and threads; 1: the program can start none."""
    files: int = 32
    """Open files."""
    disk_mb: int = 4
    """Largest file in MiB, and all files together where the folder is a file system of its own."""
    output_kb: int = 64
    """What it may print, and what its tests may give, in KiB; more ends it."""

    def __post_init__(self) -> None:
        least = {"wall_s": 0.01, "cpu_s": 1, "memory_mb": 64, "processes": 1, "files": 8, "disk_mb": 1, "output_kb": 1}
        for name, number in least.items():
            if not number <= getattr(self, name) < 1 << 31:
                raise ConfigError(f"{name} of a program's limits is {getattr(self, name)}: it must be at least {number} and finite.")


@dataclass(frozen=True)
class Ran:
    """What a program left: the facts that its process told in order, and why it ended before it had told all (None: it had)."""

    ready: dict[str, Any]
    facts: list[dict[str, Any]]
    output: str
    ended: str | None


@dataclass(frozen=True)
class Confinement:
    """What a program's process gives up on this machine beside its limits."""

    namespaces: bool  # no network, no sight of other processes, none of its own survives
    mounts: bool  # its folder is a small file system in memory
    user: bool  # it is not root
    landlock: int  # the kernel's version of it; 0: files are not fenced off
    unlimited: tuple[str, ...] = ()  # limits that the system does not keep

    @property
    def gaps(self) -> list[str]:
        """What is missing here, a sentence each."""
        sentences = {
            "no namespaces can be had here: programs may use the network, send signals to your processes, and outlive their time in a "
            "session of their own (where they may start processes at all)": self.namespaces,
            "the kernel has no Landlock: programs may read what you can read, and write where you can write": bool(self.landlock),
            "a program's folder is on disk: each of its files has a limit, all together have none": self.mounts,
            "programs run as root, whose processes the kernel does not count: run Surefoot as another user": self.user,
            f"this system does not keep the limits {', '.join(self.unlimited)}": not self.unlimited,
        }
        return [sentence for sentence, is_so in sentences.items() if not is_so]


@functools.cache
def confinement() -> Confinement:
    """What can be had here, found by trying. Raises EnvError if no limited process can be had at all."""
    if os.name != "posix":
        raise EnvError("programs can be run on Linux and macOS only, which have limits on a process.")
    if shutil.which("unshare") is not None:
        with suppress(EnvError):
            return tried(namespaces=True)
    return tried(namespaces=False)


def tried(namespaces: bool) -> Confinement:
    """What a process with or without namespaces gives up. Raises EnvError if it cannot be had."""
    ready = run_confined("", [], Limits(), namespaces).ready
    return Confinement(namespaces, bool(ready["mounts"]), bool(ready["user"]), int(ready["landlock"]), tuple(ready["unlimited"]))


def run_confined(code: str, tests: Sequence[dict[str, str]], limits: Limits, namespaces: bool) -> Ran:
    """Run a program and evaluate `tests`, each {"kind": "expression" or "statement", "text": its source}.

    Raises EnvError if the process cannot be had, which is not the program's fault.
    """
    token = secrets.token_hex(16)
    user = 61184 + next(_users) % 4000 if os.geteuid() == 0 else None  # no account's: systemd lends these to passing services
    request = {
        "token": token,
        "code": code,
        "tests": list(tests),
        "user": user,
        "namespaces": namespaces,
        "disk": limits.disk_mb << 20,
        "resources": {
            "RLIMIT_AS": limits.memory_mb << 20,
            "RLIMIT_CPU": limits.cpu_s,
            "RLIMIT_NPROC": limits.processes + (0 if user is not None else 1 if namespaces else threads_of_ours()),
            "RLIMIT_NOFILE": limits.files,
            "RLIMIT_FSIZE": limits.disk_mb << 20,
            "RLIMIT_CORE": 0,
        },
    }
    try:
        with _folder(user) as folder, _process(request, folder, words(limits, namespaces, user)) as process:
            results, output, ended = _listen(process, limits)
    except OSError as error:
        raise EnvError(f"no process can be had for a program ({error}): free some memory, processes or room for temporary files.") from None
    said = output.decode(errors="replace")
    facts = _told(results, token)
    if not facts or not isinstance(facts[0].get("ready"), dict):
        raise EnvError(f"the limited process for a program did not start ({said.strip()[-300:] or ended or process.returncode}).")
    if len(facts) < results.count(b"\n"):
        return Ran(facts[0]["ready"], [], said, "it wrote to where its results are told")
    return Ran(facts[0]["ready"], facts[1:], said, ended or (left_with(process.returncode) if process.returncode else None))


def left_with(code: int) -> str:
    """A sentence on an exit code other than 0: of a limit that the kernel keeps (CPU time), or of the program's own."""
    return f"it was killed, or ended itself (exit code {code})"


def words(limits: Limits, namespaces: bool, user: int | None) -> list[str]:
    """The command: Python without site-packages, in namespaces where they are to be had, ended by `timeout` even if we are killed."""
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", HARNESS]
    if namespaces:
        mapped = [] if user is not None else ["--user", "--map-root-user"]
        command = [str(shutil.which("unshare")), *mapped, "--net", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", *command]
    timeout = shutil.which("timeout")
    return command if timeout is None else [timeout, "-s", "KILL", f"{STARTING + limits.wall_s + 1.0:g}", *command]


def threads_of_ours() -> int:
    """Processes and threads that our user has now, as the kernel counts them against a limit (0 where /proc does not say)."""
    count = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError, ValueError, KeyError):
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            if int(fields["Uid"].split()[0]) == os.getuid():
                count += int(fields["Threads"])
    return count


# --- the process ------------------------------------------------------------------------------------------------------


@contextmanager
def _folder(user: int | None) -> Iterator[str]:
    """An empty temporary folder of `user`'s, which is gone afterwards whatever a program has made of it."""
    folder = tempfile.mkdtemp(prefix="surefoot-program-")
    try:
        if user is not None:
            os.chown(folder, user, user)
        yield folder
    finally:
        try:
            shutil.rmtree(folder)
        except (OSError, RecursionError):  # folders without rights, or nested without end
            for tool in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
                subprocess.run([*tool, "--", folder], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def _process(request: dict[str, Any], folder: str, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, with the request as its standard input and none of our descriptors; ended with its group in the end."""
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(request).encode())
        file.seek(0)
        pipes: dict[str, Any] = {"stdin": file, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=folder, env={}, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def _listen(process: subprocess.Popen[bytes], limits: Limits) -> tuple[bytes, bytes, str | None]:
    """Results, output, and which limit ended it, if one did that is kept from here."""
    assert process.stdout is not None and process.stderr is not None
    told, said = bytearray(), bytearray()
    read = {process.stdout: told, process.stderr: said}
    most, deadline, begun, ended = limits.output_kb << 10, time.monotonic() + STARTING, False, None
    with selectors.DefaultSelector() as selector:
        for pipe, data in read.items():
            selector.register(pipe, selectors.EVENT_READ, data)
        while ended is None:
            alive, left = process.poll() is None, deadline - time.monotonic()
            if not selector.get_map():  # it has closed its pipes, which does not end it
                time.sleep(0.002)
            ready = selector.select(min(max(left, 0.0), 0.05) if alive else 0.0) if selector.get_map() else []
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                key.data.extend(chunk)
                if not chunk:
                    selector.unregister(key.fileobj)
            if not begun and b"\n" in told:
                begun, deadline = True, time.monotonic() + limits.wall_s
            if max(map(len, read.values())) > most:
                ended = f"it printed or gave more than {limits.output_kb} KiB"
            elif left <= 0.0:
                ended = f"it took longer than {limits.wall_s:g} s"
            elif not alive and not ready:  # the pipes may be open still, in what it has started
                break
    results, output = (bytes(data[:most]) for data in read.values())
    return results, output, ended


def _told(results: bytes, token: str) -> list[dict[str, Any]]:
    """The harness's whole lines, up to the first that is somebody else's."""
    facts: list[dict[str, Any]] = []
    for line in results.split(b"\n")[:-1]:
        mark, _, rest = line.partition(b" ")
        try:
            fact = json.loads(rest)
        except (ValueError, RecursionError):
            return facts
        if mark != token.encode() or not isinstance(fact, dict):
            return facts
        facts.append(fact)
    return facts
