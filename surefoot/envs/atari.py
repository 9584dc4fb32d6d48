"""Atari 2600 games with the usual preprocessing, through `ale-py`, whose package holds the ROMs.

Mnih et al. (Nature 2015) as Machado et al. revise it (arXiv 1709.06009v2): every fourth frame, the maximum of the last two of those,
grey, 84 x 84, the last four of them; up to 30 steps of doing nothing at the start, and the fire button where a game needs it. Actions are
repeated with probability 0.25 (sticky actions). An episode is a whole game, and rewards are the game's own: `surefoot train dqn
--clip-rewards` learns from their signs, while scores stay what they are.

`ale-py`'s own vector environment does the work, one game of it: it needs no package of image processing.
"""

from __future__ import annotations

import re
from typing import Any, cast

import gymnasium as gym
import numpy as np

from surefoot.errors import MissingExtraError

GAMES = tuple(
    """
    Alien Amidar Assault Asterix Asteroids Atlantis BankHeist BattleZone BeamRider Berzerk Bowling Boxing Breakout Centipede
    ChopperCommand CrazyClimber Defender DemonAttack DoubleDunk Enduro FishingDerby Freeway Frostbite Gopher Gravitar Hero IceHockey
    Jamesbond Kangaroo Krull KungFuMaster MontezumaRevenge MsPacman NameThisGame Phoenix Pitfall Pong PrivateEye Qbert Riverraid
    RoadRunner Robotank Seaquest Skiing Solaris SpaceInvaders StarGunner Surround Tennis TimePilot Tutankham UpNDown Venture
    VideoPinball WizardOfWor YarsRevenge Zaxxon
    """.split()  # noqa: SIM905  57 quoted names are no clearer
)
"""The 57 games of the usual benchmark; `surefoot/AtariPong-v0` and so on are registered for them."""

STEPS = 27_000
"""108,000 frames, half an hour of play."""


class Atari(gym.Env):
    """Observation `[4, 84, 84]` in [0, 1], the newest frame last; the game's own minimal set of actions.

    `frames`: how many are shown; `sticky`: probability that the last action is repeated. Raises MissingExtraError without ale-py.
    """

    def __init__(self, game: str, frames: int = 4, sticky: float = 0.25) -> None:
        try:
            from ale_py import ALEInterface, LoggerMode
            from ale_py.vector_env import AtariVectorEnv
        except ImportError:
            raise MissingExtraError("ale-py", "atari") from None
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.games = AtariVectorEnv(
            rom_name(game),
            1,
            num_threads=1,
            max_num_frames_per_episode=8 * STEPS,  # the registered limit of steps comes first
            repeat_action_probability=sticky,
            stack_num=frames,
            reward_clipping=False,
        )
        self.observation_space = gym.spaces.Box(0.0, 1.0, self.games.single_observation_space.shape, np.float32)
        self.action_space = gym.spaces.Discrete(cast(gym.spaces.Discrete, self.games.single_action_space).n)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        obs, _ = self.games.reset(seed=int(self.np_random.integers(2**31)))  # a game of its own, a seed given or not
        return _scaled(obs), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, _ = self.games.step(np.array([action]))
        return _scaled(obs), float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def close(self) -> None:
        self.games.close()


def rom_name(game: str) -> str:
    """`RoadRunner` as ale-py has it: `road_runner`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", game).lower()


def _scaled(obs: np.ndarray) -> np.ndarray:
    return obs[0].astype(np.float32) / 255.0
