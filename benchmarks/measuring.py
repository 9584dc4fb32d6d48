"""What every benchmark does: time work on one thread, say on what machine, and write rows that the documentation renders."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images"


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time of one call: for work on one thread its wall time on an idle machine, whatever else this one is doing."""
    start = time.process_time()
    work()
    return time.process_time() - start


def exponent(sizes: Sequence[float], cost: Sequence[float], largest: int | None = None) -> float:
    """Slope of log cost on log size over the larger half of the sizes (or so many): below, fixed costs of a call count."""
    first = len(sizes) // 2 if largest is None else len(sizes) - largest
    return float(np.polyfit(np.log(sizes[first:]), np.log(cost[first:]), 1)[0])


def save_figure(figure: Any, path: Path) -> None:
    """A figure as a picture of the pages, and closed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    print(f"wrote {path}", file=sys.stderr)


def machine() -> str:
    """The processor and the versions that matter, without the machine's name."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = named[0] if named else cpu
    return f"one thread of {cpu}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"


def write(name: str, rows: Sequence[Mapping[str, Any]], out: Path = RESULTS, *, command: str = "make bench", note: str = "") -> Path:
    """`out/NAME.json`, in the form that `surefoot.claims.tables` renders; numbers are kept to six digits."""
    short = [{key: float(f"{x:.6g}") if isinstance(x, float) else x for key, x in row.items()} for row in rows]
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    path.write_text(json.dumps({"command": command, "machine": machine() + note, "rows": short}, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)
    return path
