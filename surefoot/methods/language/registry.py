"""The methods that align a language model, by name: where each is, what it learns from, and what it starts with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Literal

from surefoot.errors import UnknownNameError
from surefoot.methods.language.aligner import Aligner, Tuning
from surefoot.methods.language.sampling import Sampling

Feed = Literal["pairs", "based", "texts", "scored", "groups", "play", "rollouts", "judged"]
"""What a method's batches are made of.

- pairs: preferred pairs with the reference's log-probabilities; based: the same, and completions of a baseline; judged: pairs alone
- texts: completions to imitate
- scored: groups of scored completions, of a file or drawn now and scored by a reward
- groups: groups that the policy draws, in the order of the on-policy study
- play: pairs of the policy's own, labelled by a preference
- rollouts: responses that PPO has just drawn
"""


@dataclass(frozen=True)
class Method:
    """A method of `surefoot align`."""

    where: str  # module:class
    about: str
    feed: Feed
    settings: Mapping[str, Any] = field(default_factory=dict)  # of its config, where they are not the class's defaults
    tuning: Mapping[str, Any] = field(default_factory=dict)

    @property
    def learner(self) -> type[Aligner]:
        """The class, imported."""
        module, name = self.where.split(":")
        return getattr(import_module(f"surefoot.methods.language.{module}"), name)

    def config(self) -> Any:
        """What its settings start from."""
        return replace(self.learner.config_class(), **self.settings)

    def tuned(self) -> Tuning:
        """What the settings of the optimiser start from."""
        return replace(Tuning(), **self.tuning)


METHODS: dict[str, Method] = {
    "dpo": Method("pairwise:Pairwise", "DPO: logistic loss of the log-ratio of a pair", "pairs", {"loss": "dpo"}),
    "cdpo": Method("pairwise:Pairwise", "conservative DPO: labels are smoothed", "pairs", {"loss": "dpo", "label_smoothing": 0.1}),
    "ipo": Method("pairwise:Pairwise", "IPO: a target for the log-ratio instead of ever more", "pairs", {"loss": "ipo"}),
    "slic": Method("pairwise:Pairwise", "SLiC: hinge loss of the log-ratio", "pairs", {"loss": "hinge"}),
    "rdpo": Method("rdpo:RDPO", "rDPO: unbiased under a known rate of swapped labels", "pairs", tuning={"lr": 5e-6}),
    "rpo": Method("rpo:RPO", "RPO: DPO and imitation together, against over-optimisation", "based", tuning={"lr": 5e-7}),
    "sft": Method("sft:SFT", "imitate completions (the chosen ones of pairs)", "texts", tuning={"lr": 1e-5}),
    "copg": Method("copg:CoPG", "CoPG: policy gradient by contrast, on completions that anything drew", "scored"),
    "rwr": Method("weighted:RewardWeighted", "reward-weighted regression", "scored"),
    "best-of-n": Method("weighted:BestOfN", "imitate the best of each prompt's completions", "scored"),
    "inpo": Method(
        "inpo:INPO", "INPO: self-play under any preference, also one that runs in circles", "play", tuning={"lr": 5e-7, "warmup": 0.03}
    ),
    "ppo": Method("token_ppo:TokenPPO", "PPO with a value head and KL control", "rollouts", tuning={"lr": 3e-6}),
    "pf-ppo": Method("pf_ppo:PFPPO", "PF-PPO: PPO on the responses whose reward can be relied on", "rollouts", tuning={"lr": 5e-7}),
    "dr-po": Method("dr_po:DRPO", "DR-PO: PPO that begins inside responses of the data", "rollouts", tuning={"lr": 3e-6}),
    "on-policy-preferences": Method(
        "on_policy_preferences:GroupAligner",
        "any group loss, on- or off-policy, with samples used once or often",
        "groups",
        {"sampling": Sampling(samples=4, reuse=2), "temperature": 1.0},  # the class's defaults are the bandit's
        {"lr": 1e-5},
    ),
    "reward-model": Method("reward_model:RewardModel", "a Bradley-Terry reward model, for --reward", "judged", tuning={"lr": 1e-5}),
}


def method(name: str) -> Method:
    """A method by its name; raises UnknownNameError with the nearest names."""
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    return METHODS[name]
