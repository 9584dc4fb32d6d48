"""The report's part where one sees the policies act: an episode of each, as a moving picture, or as a chart where none can be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surefoot.envs.seeding import derive_seed
from surefoot.errors import SurefootError
from surefoot.evaluation.reporting import figures
from surefoot.evaluation.reporting.animation import Episode, film, play_episode
from surefoot.evaluation.reporting.arms import Arm
from surefoot.evaluation.reporting.drawing import number
from surefoot.evaluation.reporting.figures import swatch
from surefoot.evaluation.reporting.findings import plural
from surefoot.policies.base import Policy
from surefoot.policies.saving import read_policy
from surefoot.steering.smoothed import Smoothed

CANDIDATES = 5  # episodes of which the one with the median return is shown
MOST_BYTES = 700_000  # of all moving pictures of a page together
OBS, ACTIONS = 5, 3  # numbers of an observation and of an action that a chart shows


def episodes(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """An episode of the last policy of each arm that has one and an environment."""
    acting = [arm for arm in arms if arm.env and (arm.folder / "policy").is_dir()]
    return [_episode(arm, MOST_BYTES // len(acting)) for arm in acting]


def _episode(arm: Arm, most_bytes: int) -> dict[str, Any]:
    shown: dict[str, Any] = {"mark": swatch(arm.place), "label": arm.label, "moving": "", "drawing": ""}
    try:
        who, episode = typical_episode(arm)
    except SurefootError as error:
        return shown | {"caption": f"No episode could be played: {error}"}
    said = f"{arm.env}: {who}return {number(episode.reward.sum())} in {plural(len(episode.reward), 'step')}"
    try:
        clip = film(episode, most_bytes=most_bytes)
    except SurefootError as error:
        alt = f"Chart of what {arm.label} saw and did in one episode of {arm.env}."
        drawing = figures.trace(columns(episode), arm=arm.place, x="step", alt=alt)
        return shown | {"drawing": drawing, "caption": f"{said}. What it saw and did is drawn, because {error}"}
    part = "" if clip.whole else f"; the first {clip.seconds:.0f} s are shown"
    picture = {name: getattr(clip, name) for name in ("moving", "still", "width", "height")}
    return shown | picture | {"alt": f"{arm.label} acting in {arm.env}: one episode.", "caption": f"{said}{part}."}


def typical_episode(arm: Arm) -> tuple[str, Episode]:
    """Of the seed with the median final return (in words), the episode with the median return of a few. Raises a SurefootError."""
    policy: Policy = read_policy(arm.folder / "policy")
    who = ""
    if policy.copies:
        members = policy.copies[0]
        scored = arm.last.members if arm.last is not None and len(arm.last.returns) == members else np.zeros(members)
        middle = int(np.argsort(scored, kind="stable")[(members - 1) // 2])
        policy, who = policy.member(middle), f"seed {middle + 1} of {members}, "
    if arm.noise:
        policy = Smoothed(policy, arm.noise)
    seed = arm.config.get("seed")
    assert arm.env is not None
    seeds = [derive_seed(seed if isinstance(seed, int) else 0, 9, i) for i in range(CANDIDATES)]
    played = [play_episode(policy, arm.env, seed=s, max_steps=arm.max_steps) for s in seeds]
    return who, sorted(played, key=lambda episode: float(episode.reward.sum()))[CANDIDATES // 2]


def columns(episode: Episode) -> list[tuple[str, np.ndarray]]:
    """The first few numbers of what was seen and done, and the reward, `[T]` each."""
    steps = len(episode.reward)
    obs, action = episode.obs[:-1].reshape(steps, -1), episode.action.reshape(steps, -1)
    found = [(f"obs {i}", obs[:, i]) for i in range(min(OBS, obs.shape[1]))]
    found += [(f"action {i}" if action.shape[1] > 1 else "action", action[:, i]) for i in range(min(ACTIONS, action.shape[1]))]
    return [*found, ("reward", episode.reward)]
