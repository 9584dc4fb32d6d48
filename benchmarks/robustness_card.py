"""The picture of a robustness card in the documentation: of a small run that is trained, attacked, stressed and diagnosed here.

Every number on it is from one of `COMMANDS`, which the card names too. The page becomes a picture in a browser without a window: where
there is none, the page is written and that is said.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks.measuring import IMAGES, RESULTS
from surefoot.cli import main as surefoot

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BARE = "header, footer { display: none; } .fit { margin: 1.25rem 0 0; }"
WIDTH, TALLEST, SCALE = 1060, 2600, 1.5  # of the window, in CSS pixels; device pixels each
BUDGETS = "--norm linf --budgets 0 0.01 0.02 0.05 0.1 --episodes 50"
COMMANDS = (
    "train ppo --env CartPole-v1 --steps 50000 --eval-every 25000 --out runs/ppo",
    *(f"attack runs/ppo --kind {kind} {BUDGETS}" for kind in ("pgd", "mad", "score", "random")),
    "stress runs/ppo --grid 6 --episodes 20",
    "certify runs/ppo --actions --sigma 0.05 --states 200",
    "diagnose runs/ppo",
    "report runs/ppo --card",
)


def main(out: Path = RESULTS) -> None:
    """Make the run and its card, and `robustness-card.png` of the documentation (or in `out`). Raises SystemExit if a command fails."""
    images = IMAGES if out == RESULTS else out
    with TemporaryDirectory() as place, working_in(Path(place)):
        for command in COMMANDS:
            print(f"surefoot {command}", file=sys.stderr)
            if surefoot(shlex.split(command)):
                raise SystemExit(f"surefoot {command} failed.")
        page = Path("runs/ppo/card.html").resolve()
        browser = next(filter(None, map(shutil.which, BROWSERS)), None)
        if browser is None:
            images.mkdir(parents=True, exist_ok=True)
            shutil.copy(page, images / "robustness-card.html")
            print(f"no browser was found, so that the card stays a page: {images / 'robustness-card.html'}", file=sys.stderr)
        else:
            photograph(browser, page, images / "robustness-card.png")


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def photograph(browser: str, page: Path, path: Path) -> None:
    """The card as a picture, without the page's head and foot."""
    shot, bare = page.with_suffix(".png"), page.with_name("bare.html")
    bare.write_text(page.read_text(encoding="utf-8").replace("</head>", f"<style>{BARE}</style></head>"), encoding="utf-8")
    options = [f"--window-size={WIDTH},{TALLEST}", f"--force-device-scale-factor={SCALE}", f"--screenshot={shot}"]
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={page.parent / 'browser'}"]
    subprocess.run([browser, *quiet, *options, bare.as_uri()], check=True, capture_output=True, timeout=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(shot) as found:
        cropped(found.convert("RGB")).quantize(128).save(path, optimize=True)
    print(f"wrote {path}", file=sys.stderr)


def cropped(picture: Image.Image) -> Image.Image:
    """Up to the last row that is not all of one colour, with as much below it as there is above."""
    pixels = np.asarray(picture)
    rows = np.flatnonzero((pixels != pixels[-1, -1]).any((1, 2)))
    return picture.crop((0, 0, picture.width, int(rows[-1] + 1 + rows[0])))


if __name__ == "__main__":
    main()
