"""Certify a Stable-Baselines3 agent: how low can its return fall if its observations are tampered with?"""

from __future__ import annotations

import sys

from stable_baselines3 import DQN

from surefoot.evaluation.certificates import certified_return
from surefoot.evaluation.rollouts import rollout
from surefoot.policies.loading import load_policy
from surefoot.steering.smoothed import Smoothed

episodes, steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500, 500
agent = DQN("MlpPolicy", "CartPole-v1", seed=0, learning_starts=100)
agent.learn(steps)  # yours will have learned longer
agent.save("agent.zip")

budgets = [0.0, 0.05, 0.1, 0.2]
policy = Smoothed(load_policy("sb3:agent.zip", trust=True), sigma=0.1)  # trust: an SB3 zip holds a pickle
returns = rollout(policy, "CartPole-v1", episodes, seed=1, max_steps=200).returns
bounds = certified_return(returns, budgets, sigma=0.1, r_min=0, r_max=200)
print(f"noisy, unattacked: {returns.mean():.1f} of 200")
for budget, bound in zip(budgets, bounds, strict=True):
    print(f"whatever an attacker with total budget {budget:.2f} does: at least {bound:.1f}")
