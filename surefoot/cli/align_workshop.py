"""What a run of `surefoot align` is put together with: model, reference, texts, rewards, as its settings name them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from surefoot.claims.base import derived
from surefoot.cli.align_settings import Asked, Judge, Reward
from surefoot.data.completions import Completions, Ids
from surefoot.data.preferences import Preferences, Prompts, ScoredTexts, Texts
from surefoot.data.tokenising import (
    Tokenising,
    check_same_vocabulary,
    tokenised,
    tokenised_prompts,
)
from surefoot.envs.text_preferences import BradleyTerry, PairOptions, Preference, load_preference
from surefoot.envs.text_rewards import Checked, ClassifierOptions, Scale, load_reward
from surefoot.errors import ConfigError, DataError
from surefoot.methods.language.aligner import Aligner
from surefoot.methods.language.reference import reference_logprobs
from surefoot.policies.language import LanguagePolicy, Reference
from surefoot.recipes.registry import cache_folder

Say = Callable[[str], None]


@dataclass(frozen=True)
class Parts:
    """Everything that learns, ready to go."""

    learner: Aligner
    source: Iterable[Any]
    steps: int
    texts: Texts
    notes: list[str]  # what a reader of the result should know


@dataclass(frozen=True)
class Workshop:
    """What the parts of a run are made with."""

    asked: Asked
    policy: LanguagePolicy
    texts: Texts
    accelerator: Any
    say: Say

    # --- seeds and sizes ----------------------------------------------------------------------------------------------

    def seed(self, what: str) -> int:
        return derived(self.asked.options.seed, what)

    @property
    def max_tokens(self) -> int:
        """Tokens of a forward pass without a gradient: there is room for twice as many."""
        return 2 * self.asked.tuning.micro_tokens

    @property
    def tokenising(self) -> Tokenising:
        options, context = self.asked.options, self.policy.context
        longest = min((length for length in (options.max_length, context) if length is not None), default=None)
        return Tokenising(max_length=longest, truncate=options.truncate, ends=tuple(self.policy.ends))

    @property
    def drawing(self) -> Any:
        """The processes that share the drawing of completions. Where weights are spread over them (FSDP) none do: every forward pass
        needs all of them, so all draw the same, token by token.
        """
        return None if spread(self.accelerator) else self.accelerator

    # --- parts --------------------------------------------------------------------------------------------------------

    def learner(self, steps: int, **further: Any) -> Any:
        asked = self.asked
        further |= {"accelerator": self.accelerator, "seed": self.seed("learner")}
        return asked.method.learner(self.policy, asked.config, asked.tuning, steps, **further)

    def parts(self, learner: Any, source: Any, steps: int, notes: Sequence[str] = ()) -> Parts:
        return Parts(learner, source, steps, self.texts, [*self.texts.notes, *notes, *self._gaps()])

    def _gaps(self) -> Sequence[str]:
        """What this machine does not keep from programs that the model wrote, where they are run."""
        if self.asked.reward.reward != "tests":
            return []
        from surefoot.envs.execution import confinement

        return confinement().gaps

    def reference(self) -> Reference:
        """What the policy is held to, kept for as long as it trains."""
        other = self.asked.options.reference
        return Reference(self.policy if other is None else self._loaded(other))

    def reference_logprobs(self, completions: Completions) -> Tensor:
        """Of completions that never change `[N]`: computed once, by the policy itself while it has not begun, and kept on disk."""
        other, kept = self.asked.options.reference, cache_folder() / "reference"
        policy = self.policy if other is None else self._loaded(other)
        with policy.reference() if policy.adapted else nullcontext():
            return reference_logprobs(
                policy, completions, max_tokens=self.max_tokens, cache=kept, accelerator=self.accelerator, say=self.say
            )

    def _loaded(self, source: str) -> LanguagePolicy:
        options = self.asked.options
        found = LanguagePolicy.load(source, precision=options.computed, device=str(self.policy.device), trust=options.trust)
        check_same_vocabulary(self.policy, found)
        return found

    def prompts(self, room: int) -> tuple[list[Ids], list[str], Texts]:
        """The prompts that differ from each other: as tokens, as a reward sees them, and the rows they stand in."""
        texts = each_once(self.texts)
        ids = tokenised_prompts(self.policy.tokenizer, texts.prompts, self.tokenising, room=room, source=texts.source)
        return ids, [prompt if isinstance(prompt, str) else json.dumps(prompt) for prompt in texts.prompts], texts

    def reward(self) -> Checked:
        """The reward that was asked for. Raises ConfigError if there is none."""
        asked = self.asked.reward
        if asked.reward is None:
            raise ConfigError(f"{self.asked.name} learns from rewards: name one (--reward python:FILE.py:NAME, or a classifier's folder).")
        return reward_of(asked, cast(Prompts, each_once(self.texts)), device=str(self.policy.device), trust=self.asked.options.trust)

    def preference(self) -> Preference:
        """What labels pairs of completions."""
        judge: Judge = self.asked.groups["Judge"]
        if judge.preference is not None and self.asked.reward.reward is not None:
            raise ConfigError("--preference and --reward were both given: one of them labels the pairs.")
        if judge.preference is None:
            if self.asked.reward.reward is None:
                raise ConfigError(f"{self.asked.name} has its pairs labelled: name a --preference, or a --reward.")
            return BradleyTerry(self.reward(), judge.reward_scale)
        options = PairOptions(label=judge.preference_label) if judge.preference_label else None
        return load_preference(named(judge.preference), options, device=str(self.policy.device), trust=self.asked.options.trust)


def spread(accelerator: Any) -> bool:
    """Whether weights are spread over the processes."""
    return accelerator is not None and accelerator.distributed_type == "FSDP"


def reward_of(asked: Reward, texts: Prompts, *, device: str, trust: bool) -> Checked:
    """The reward that `--reward` names; unit tests are those of `texts`."""
    assert asked.reward is not None
    if asked.reward == "tests":
        from surefoot.envs.unit_tests import unit_test_reward

        return unit_test_reward(texts, asked.allow_code_execution)
    scale: Scale = "probability" if asked.reward_probability else "logit"
    own = ClassifierOptions(label=asked.reward_label, scale=scale, form=asked.reward_form, truncate=asked.reward_truncate)
    return load_reward(named(asked.reward), own, device=device, trust=trust)


def as_conversations(texts: Texts) -> Texts:
    """Plain texts as what a user says and what is answered. Raises ConfigError where they are conversations already."""
    if texts.chat:
        raise ConfigError(f"{texts.source} holds conversations, which the chat template is used for anyway: leave --chat out.")
    said: dict[str, Any] = {"prompts": [[{"role": "user", "content": prompt}] for prompt in texts.prompts]}
    for name in ("chosen", "rejected", "completions"):
        if hasattr(texts, name):
            said[name] = [[{"role": "assistant", "content": text}] for text in getattr(texts, name)]
    return replace(texts, **said)


def each_once(texts: Texts) -> Texts:
    """The first row of each prompt."""
    first: dict[str, int] = {}
    for row, prompt in enumerate(texts.prompts):
        first.setdefault(json.dumps(prompt), row)
    return texts if len(first) == len(texts) else texts.select(list(first.values()))


def imitable(tokenizer: Any, texts: Texts, options: Tokenising) -> Completions:
    """The completions of data that are worth imitating: the chosen ones of pairs, or all that have a score."""
    if isinstance(texts, Preferences):
        return tokenised(tokenizer, texts.prompts, texts.chosen, options, source=texts.source)
    if isinstance(texts, ScoredTexts):
        return tokenised(tokenizer, texts.prompts, texts.completions, options, source=texts.source)
    raise DataError(
        f"{texts.source} holds prompts alone: give completions to imitate (prompt, completion, score or prompt, chosen, rejected)."
    )


def named(ref: str) -> str:
    """FILE.py:NAME as `python:FILE.py:NAME`."""
    is_function = ".py:" in ref and not ref.startswith("python:")
    return f"python:{ref}" if is_function else ref
