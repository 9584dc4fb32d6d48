"""What `surefoot align` is told: its options in groups, which method takes which group, and all of them to and from `config.json`."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
import tyro

from surefoot.envs.text_rewards import Form
from surefoot.errors import CheckpointError, ConfigError
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.registry import METHODS, Feed, Method, method
from surefoot.methods.language.self_play import SelfPlaySettings
from surefoot.policies.language import LoraOptions, Precision

FLAGS = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


@dataclass(frozen=True)
class Options:
    """What to align, on what, and where the results go."""

    model: str | None = None
    """What to begin with: a folder that save_pretrained made (RUN/policy of another run is one), or a Hugging Face id."""
    data: str | None = None
    """JSON lines, Parquet, a folder of them, a saved data set, or OWNER/NAME on the Hugging Face Hub (surefoot data inspect checks it)."""
    reference: str | None = None
    """Model that the policy is held to (default: what it is when it begins)."""
    split: str | None = None
    """Split of a data set that has several."""
    skip_bad: bool = False
    """Leave rows out that cannot be learned from, instead of refusing the data."""
    chat: bool = False
    """Plain prompts are what a user says: put them through the tokenizer's chat template."""
    max_length: int | None = None
    """Most tokens of a prompt with its completion (default: the model's context)."""
    truncate: bool = False
    """Cut what is longer, instead of refusing it."""
    eos_token: str | None = None
    """The token that ends a completion, where the tokenizer does not say."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 computes in bfloat16, and keeps the weights that are trained in float32; auto does so on GPUs that have it."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, more time."""
    trust: bool = False
    """Let a model bring Python code of its own."""
    seed: int = 0
    """Everything random derives from it."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model lives (accelerate launch decides for several processes)."""
    out: Path | None = None
    """Run folder to create (default: runs/METHOD-DATE-TIME)."""
    merge: bool = False
    """Save the whole model with the adapter worked into its weights, instead of the adapter."""
    checkpoint_every: int = 100
    """Updates between checkpoints."""
    log_every: int = 10
    """Updates between rows of metrics."""
    no_progress: bool = False
    """Do not show how far training is (on standard error)."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("checkpoint_every", 1), ("log_every", 1), ("max_length", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}: it must be at least {least}.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("--device is cuda, but this machine or this build of PyTorch has no CUDA device: use --device cpu.")

    @property
    def computed(self) -> Precision:
        """What forward passes are computed in."""
        if self.precision == "auto":
            return "bf16" if self.device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
        return self.precision


@dataclass(frozen=True)
class Adapter:
    """Train a low-rank adapter in place of the weights (LoRA). It takes a learning rate a hundred times that of the whole model."""

    lora: bool = False
    """Train an adapter."""
    lora_rank: int = 16
    """Rank of its two factors."""
    lora_alpha: float = 32.0
    """Their product is scaled by alpha / rank."""
    lora_targets: str = "all-linear"
    """Layers that get one: all-linear, or names separated by commas (q_proj,v_proj)."""

    @property
    def options(self) -> LoraOptions | None:
        return LoraOptions(rank=self.lora_rank, alpha=self.lora_alpha, targets=self.lora_targets) if self.lora else None


@dataclass(frozen=True)
class Passes:
    """How long to train."""

    batch: int = 32
    """Rows of an update: pairs, completions, or prompts with all their completions."""
    epochs: float = 1.0
    """Passes over the data."""
    steps: int | None = None
    """Updates (default: what the passes come to)."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"--batch is {self.batch}: it must be at least 1.")
        if not 0.0 < self.epochs < float("inf"):
            raise ConfigError(f"--epochs is {self.epochs}: it must be positive.")
        _check_steps(self.steps)

    def updates(self, rows: int, each: float = 1.0) -> int:
        """Updates over a source with so many rows, of which `each` are made with the rows of a batch."""
        return self.steps or max(1, round(self.epochs * max(1, rows // self.batch) * each))


@dataclass(frozen=True)
class Updates:
    """How long to train."""

    steps: int | None = None
    """Steps of the optimiser, in whole updates of epochs times minibatches (default: one pass over the prompts)."""

    def __post_init__(self) -> None:
        _check_steps(self.steps)


def _check_steps(steps: int | None) -> None:
    if steps is not None and steps < 1:
        raise ConfigError(f"--steps is {steps}: it must be at least 1.")


@dataclass(frozen=True)
class Reward:
    """What completions are worth."""

    reward: str | None = None
    """python:MODULE:NAME, FILE.py:NAME, the folder or id of a sequence classifier (surefoot align reward-model makes one), or tests."""
    reward_label: str | None = None
    """Class whose score it is, of a classifier of several."""
    reward_probability: bool = False
    """Take a classifier's probability instead of its logit."""
    reward_form: Form = "auto"
    """What a classifier reads: prompt and completion as one text, as a pair, as a conversation (chat), or as tokens."""
    reward_truncate: bool = False
    """Cut off the beginning of a text that is longer than the classifier's context."""
    allow_code_execution: bool = False
    """Run what the model writes (--reward tests): in a limited process, which is no security sandbox."""


@dataclass(frozen=True)
class Judge:
    """Which of two completions is better, where no reward says so."""

    preference: str | None = None
    """python:MODULE:NAME or FILE.py:NAME of prompts, first and second completions, or a classifier that reads both."""
    preference_label: str | None = None
    """Class of it that prefers the first, where there are two."""
    reward_scale: float = 1.0
    """Lead of a reward that is preferred with 73 %, where --reward labels the pairs."""


@dataclass(frozen=True)
class Drawing:
    """How completions are drawn, where the policy draws its own (with --reward)."""

    max_new_tokens: int = 64
    """Tokens after which a completion is cut off."""
    draw_temperature: float = 1.0
    """Temperature of the draws."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that have this much probability together."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"--max-new-tokens is {self.max_new_tokens}: it must be at least 1.")
        if not self.draw_temperature > 0.0 or not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"--draw-temperature is {self.draw_temperature} and --top-p {self.top_p}: positive, and in (0, 1].")


@dataclass(frozen=True)
class Replay:
    """Learning again from what was drawn before."""

    replay: float = 0.0
    """Share of a batch that was drawn in earlier updates (with --reward)."""
    replay_capacity: int = 8192
    """Prompts whose completions are kept for that; scored completions of --data come first."""


@dataclass(frozen=True)
class Critic:
    """Where PPO's values start from."""

    critic: str | None = None
    """Folder of a reward model whose body and head the critic begins with (default: a copy of the policy under a new head)."""


@dataclass(frozen=True)
class Baseline:
    """What is imitated beside the pairs."""

    given: str | None = None
    """Data whose completions (the chosen ones of pairs) are imitated in place of the winners."""


GROUPS: dict[Feed, tuple[type, ...]] = {
    "pairs": (Adapter, Tuning, Passes),
    "based": (Adapter, Tuning, Passes, Baseline),
    "texts": (Adapter, Tuning, Passes),
    "judged": (Tuning, Passes),
    "scored": (Adapter, Tuning, Passes, Reward, Drawing, Replay),
    "groups": (Adapter, Tuning, Passes, Reward, Drawing),
    "play": (Adapter, Tuning, Reward, Judge, SelfPlaySettings),
    "rollouts": (Adapter, Tuning, Updates, Reward, Critic),
}
"""Which groups of options a method takes beside its own settings and `Options`."""

SETTINGS = "settings"


@dataclass(frozen=True)
class Asked:
    """All that one run of `surefoot align` is told."""

    name: str
    options: Options
    config: Any  # of the method's own class
    groups: dict[str, Any] = field(default_factory=dict)  # by the name of their class

    @property
    def method(self) -> Method:
        return METHODS[self.name]

    @property
    def adapter(self) -> Adapter:
        return self.groups.get("Adapter", Adapter())

    @property
    def tuning(self) -> Tuning:
        return self.groups["Tuning"]

    @property
    def passes(self) -> Passes:
        return self.groups["Passes"]

    @property
    def reward(self) -> Reward:
        return self.groups.get("Reward", Reward())

    def to_json(self) -> dict[str, Any]:
        """As in `config.json`, under "options" and "settings"."""
        return {
            "options": _plain(asdict(self.options)),
            SETTINGS: {name: _plain(asdict(group)) for name, group in {**self.groups, "config": self.config}.items()},
        }

    @staticmethod
    def from_json(config: Mapping[str, Any], where: str) -> Asked:
        """What `to_json` gave. Raises CheckpointError if `where` does not hold it."""
        try:
            name, saved = config["method"], config[SETTINGS]
            groups = {kind.__name__: rebuilt(kind, saved[kind.__name__]) for kind in GROUPS[method(name).feed]}
            own = rebuilt(method(name).learner.config_class, saved["config"])
            return Asked(name, rebuilt(Options, config["options"]), own, groups)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{where} does not hold the settings of `surefoot align` ({error}): it cannot be resumed.") from None


def parse(name: str, argv: Sequence[str]) -> Asked:
    """The command line of a method; flags have no prefix (no name is in two groups: see the tests)."""
    found = method(name)
    kinds = GROUPS[found.feed]
    start = [found.tuned() if kind is Tuning else kind() for kind in kinds]
    own = name.replace("-", "_")  # the words that stand over each group in --help
    parts: list[tuple[str, type, Any]] = [("task", Options, Options())]
    parts += [(kind.__name__.lower(), kind, value) for kind, value in zip(kinds, start, strict=True)]
    parts += [(own, found.learner.config_class, found.config())]
    arguments = dataclasses.make_dataclass("Arguments", [(each, kind) for each, kind, _ in parts])
    described = f"{found.about}.\n\n{(sys.modules[found.learner.__module__].__doc__ or '').strip().split(chr(10) * 2)[0]}"
    default = arguments(*(value for _, _, value in parts))
    told: Any = tyro.cli(arguments, args=list(argv), prog=f"surefoot align {name}", description=described, default=default, config=FLAGS)
    return Asked(name, told.task, getattr(told, own), {kind.__name__: getattr(told, kind.__name__.lower()) for kind in kinds})


def rebuilt(kind: type, values: Mapping[str, Any]) -> Any:
    """A dataclass of what `asdict` gave and JSON kept: nested ones are built, lists that were tuples are made tuples again."""
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - {each.name for each in fields(kind)})
    if unknown:
        raise TypeError(f"{kind.__name__} has no {unknown[0]!r}")
    return kind(**{name: _typed(hints[name], value) for name, value in values.items()})


def _typed(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(each for each in get_args(hint) if each is not type(None))
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return rebuilt(hint if isinstance(hint, type) else type(hint), value)
    if hint is Path:
        return Path(value)
    return tuple(value) if get_origin(hint) is tuple else value


def _plain(value: Any) -> Any:
    """Of JSON's kinds."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return str(value) if isinstance(value, Path) else value
