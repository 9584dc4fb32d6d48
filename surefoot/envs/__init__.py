"""Gymnasium environments that the field's packages lack, registered as `surefoot/NAME-v0` on import."""

import gymnasium as gym

if "surefoot/Line-v0" not in gym.registry:
    gym.register("surefoot/Line-v0", entry_point="surefoot.envs.line:Line", max_episode_steps=30)

if "surefoot/AmericanPut-v0" not in gym.registry:
    gym.register("surefoot/AmericanPut-v0", entry_point="surefoot.envs.robust:AmericanPut", max_episode_steps=20)
