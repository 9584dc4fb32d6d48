"""Gymnasium environments that the field's packages lack, registered as `surefoot/NAME-v0` on import."""

import gymnasium as gym

from surefoot.envs import atari

if "surefoot/Line-v0" not in gym.registry:
    gym.register("surefoot/Line-v0", entry_point="surefoot.envs.line:Line", max_episode_steps=30)

if "surefoot/AmericanPut-v0" not in gym.registry:
    gym.register("surefoot/AmericanPut-v0", entry_point="surefoot.envs.robust:AmericanPut", max_episode_steps=20)

if "surefoot/Catch-v0" not in gym.registry:
    gym.register("surefoot/Catch-v0", entry_point="surefoot.envs.catch:Catch", max_episode_steps=9)

for game in atari.GAMES:
    if f"surefoot/Atari{game}-v0" not in gym.registry:
        gym.register(
            f"surefoot/Atari{game}-v0", entry_point="surefoot.envs.atari:Atari", kwargs={"game": game}, max_episode_steps=atari.STEPS
        )
