"""A peer in its own interpreter, for libraries that cannot share our environment; it answers each line with the seconds it took."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path


class Peer:
    """`script`, a file beside this one, run by `python`: it first says its version, then answers lines until its input ends."""

    def __init__(self, python: str | Path, script: str, *arguments: str):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # open as long as the process is
        command = [str(python), str(Path(__file__).with_name(script)), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.version = self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"the peer stopped: {self.errors.read()[-2000:]}")
        return line

    def run(self, *words: object) -> float:
        """Seconds that the work of one line took."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.errors.close()
