"""Train without `fit`: the loop is yours, one line a step; three seeds at once, and the best of them saved."""

from __future__ import annotations

import sys

from surefoot.data.sources import Logged
from surefoot.evaluation.rollouts import rollout
from surefoot.methods.offline.td3_bc import TD3BC, TD3BCConfig
from surefoot.policies.saving import read_policy, save_policy
from surefoot.recipes.pendulum import ENV_ID, mixed_log

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
log = mixed_log(seed=0, good=25, random=25)
method = TD3BC(log.spec(), TD3BCConfig(hidden=(64, 64)), copies=(3,), seed=0)
source = Logged(log, batch_size=256, copies=(3,), seed=0)

for step in range(steps):
    metrics = method.update(next(source))
    if step % 500 == 0:
        print(step, {name: value.tolist() for name, value in metrics.items()})

returns = rollout(method.policy, ENV_ID, episodes=10, seed=1).returns.mean(axis=1)
print(f"mean return of each seed: {returns.round(1)}")
save_policy(method.policy.member(int(returns.argmax())), "policies/best")
print(f"saved, and read back: {type(read_policy('policies/best')).__name__}")
