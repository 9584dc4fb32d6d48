"""What numbers depend on beside code and seed: the machine, and the versions of the packages."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "surefoot",
    "torch",
    "numpy",
    "scipy",
    "gymnasium",
    "mujoco",
    "minari",
    "stable-baselines3",
    "scikit-learn",
    "transformers",
    "peft",
)
"""Distributions whose versions are recorded, where they are installed."""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What something was measured on: system, processor, cores; no names of hosts or users."""
    return {"system": f"{platform.system()} {platform.machine()}", "processor": _processor(), "cores": os.cpu_count()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
