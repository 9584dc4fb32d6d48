"""The learners by name, imported only when asked for."""

from __future__ import annotations

from importlib import import_module

from surefoot.errors import UnknownNameError
from surefoot.methods.base import Method

OFFLINE = {
    "bc": "surefoot.methods.offline.bc:BC",
    "td3_bc": "surefoot.methods.offline.td3_bc:TD3BC",
    "a2pr": "surefoot.methods.offline.a2pr:A2PR",
    "prdc": "surefoot.methods.offline.prdc:PRDC",
    "iql": "surefoot.methods.offline.iql:IQL",
    "cql": "surefoot.methods.offline.cql:CQL",
}
"""Learners that train from a log alone."""

ONLINE = {
    "dqn": "surefoot.methods.online.dqn:DQN",
    "sa_dqn": "surefoot.methods.online.sa_dqn:SADQN",
    "sac": "surefoot.methods.online.sac:SAC",
}
"""Learners that step an environment and learn from all that they have seen."""

ON_POLICY = {
    "ppo": "surefoot.methods.online.ppo:PPO",
    "sa_ppo": "surefoot.methods.online.sa_ppo:SAPPO",
}
"""Learners that step an environment and learn from the newest steps alone."""

LEARNERS = OFFLINE | ONLINE | ON_POLICY


def learner(name: str) -> type[Method]:
    """The class of a learner; raises UnknownNameError with the nearest names."""
    if name not in LEARNERS:
        raise UnknownNameError("method", name, LEARNERS)
    module, attribute = LEARNERS[name].split(":")
    return getattr(import_module(module), attribute)
