"""PPO with five responses a prompt, and with filtration, beside TRL's online trainers: seconds of generation and update.

Every side has the same small GPT, the same prompts, 16 of them with 5 responses each of at most 32 tokens, one pass over the responses in
one optimiser step, a KL to the same reference, the same reward function. A step of PPO and of TRL's trainers is on all 80 responses; a
filter that keeps two a prompt leaves 32 of them; where 80 are drawn with replacement, each is computed once, however often it counts.
What TRL lacks since it gave up its PPO trainer is the critic: ours trains one beside the policy, theirs (GRPO, RLOO) centre rewards within
a group. Ours goes forward in parts of like length (2,048 tokens), theirs in one batch. The sides take turns, on one thread; the
median of the updates after the first counts.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback

from benchmarks.measuring import RESULTS, write
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.pf_ppo import PFPPO, PFPPOConfig
from surefoot.policies.language import LanguagePolicy

WORDS, LAYERS, WIDTH, HEADS = 1000, 4, 256, 4
PROMPTS, RESPONSES, LONGEST, LR, KL = 16, 5, 32, 1e-5, 0.01
UPDATES, ROUNDS = 4, 3  # of each side a round; the first of a round is left out


@dataclass(frozen=True)
class World:
    """Prompts of 8 to 24 words, and a folder with a model of random weights."""

    folder: str
    tokenizer: PreTrainedTokenizerFast
    prompts: list[str]

    @staticmethod
    def made(folder: str, n: int = 256) -> World:
        vocabulary = {f"w{i}": i for i in range(WORDS)} | {"<eos>": WORDS, "<pad>": WORDS + 1}
        words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>")
        rng = np.random.default_rng(0)
        texts = [" ".join(f"w{i}" for i in rng.integers(WORDS, size=rng.integers(8, 25))) for _ in range(n)]
        torch.manual_seed(0)
        ids = {"eos_token_id": WORDS, "bos_token_id": WORDS, "pad_token_id": WORDS + 1}
        sizes = {"vocab_size": WORDS + 2, "n_layer": LAYERS, "n_embd": WIDTH, "n_head": HEADS, "n_positions": 64}
        model = GPT2LMHeadModel(GPT2Config(**sizes, **ids))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return World(folder, tokenizer, texts)


def reward(prompts: list[str], completions: list[str], **others: Any) -> list[float]:
    """Share of words with an even number."""
    words = [text.split() for text in completions]
    return [sum(int(word[1:]) % 2 == 0 for word in own if word.startswith("w")) / max(1, len(own)) for own in words]


@dataclass
class Clock:
    """CPU seconds of each update, and tokens of its responses."""

    seconds: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)


# --- sides ------------------------------------------------------------------------------------------------------------


def ours(world: World, **changes: Any) -> Clock:
    """Updates of PF-PPO; `strategy="all"` is PPO."""
    settings: dict[str, Any] = {"prompts": PROMPTS, "responses": RESPONSES, "max_new_tokens": LONGEST, "top_p": 1.0, "minibatches": 1}
    config = PFPPOConfig(**settings | {"kl_coef": KL} | changes)
    method = PFPPO(LanguagePolicy.load(world.folder), config, Tuning(lr=LR, schedule="constant", warmup=0.0, micro_tokens=2048), UPDATES)
    source = method.source(world.tokenizer(world.prompts).input_ids, lambda p, c: torch.tensor(reward(p, c)), texts=world.prompts)
    clock = Clock()
    for _ in range(UPDATES):
        start = time.process_time()
        metrics = method.update(next(source))
        clock.seconds.append(time.process_time() - start)
        clock.tokens.append(float(metrics["completion_tokens"]) * PROMPTS * RESPONSES)
    return clock


class Watch(TrainerCallback):
    """Notes when each step of a trainer ends, and how long its responses were."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.length = 0.0  # mean length of all responses, told at the end

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.at.append(time.process_time())

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.at.append(time.process_time())

    def on_log(self, *args: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        self.length = (logs or {}).get("completions/mean_length", self.length)


def theirs(world: World, trainer: Any, config: Any) -> Clock:
    """Updates of one of TRL's trainers, at the same settings."""
    rows = PROMPTS * RESPONSES
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = config(
            output_dir=folder, per_device_train_batch_size=rows, num_generations=RESPONSES, max_completion_length=LONGEST,
            max_steps=UPDATES, learning_rate=LR, lr_scheduler_type="constant", beta=KL, temperature=1.0, num_iterations=1,
            use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no", logging_strategy="no",
            disable_tqdm=True, seed=0,
        )  # fmt: skip
        data = Dataset.from_dict({"prompt": world.prompts})
        made = trainer(
            model=world.folder, reward_funcs=reward, args=args, train_dataset=data, processing_class=world.tokenizer, callbacks=[watch]
        )
        made.remove_callback(PrinterCallback)
        made.train()
    return Clock(np.diff(watch.at).tolist(), [rows * watch.length] * UPDATES)


def sides() -> dict[str, Callable[[World], Clock]]:
    return {
        "surefoot PPO, 5 responses": lambda world: ours(world, strategy="all"),
        "surefoot PF-PPO, reweighted": lambda world: ours(world, strategy="best_worst", mode="reweight"),
        "surefoot PF-PPO, filtered": lambda world: ours(world, strategy="best_random", mode="filter"),
        "TRL GRPO": lambda world: theirs(world, trl.GRPOTrainer, trl.GRPOConfig),
        "TRL RLOO": lambda world: theirs(world, trl.RLOOTrainer, trl.RLOOConfig),
    }


def main(out: Path = RESULTS) -> None:
    """Write `align_ppo.json`."""
    torch.set_num_threads(1)
    found = {name: Clock() for name in sides()}
    with tempfile.TemporaryDirectory() as folder:
        world = World.made(folder)
        size = sum(p.numel() for p in LanguagePolicy.load(folder).parameters()) / 1e6
        for _ in range(ROUNDS):
            for name, run in sides().items():
                clock = run(world)
                found[name].seconds += clock.seconds[1:]
                found[name].tokens += clock.tokens[1:]
    seconds = {name: float(np.median(clock.seconds)) for name, clock in found.items()}
    rows = [
        {"side": name, "seconds an update": seconds[name], "tokens of an update": float(np.mean(clock.tokens))}
        | {f"time of {peer} / this": seconds[peer] / seconds[name] for peer in found if peer.startswith("TRL")}
        for name, clock in found.items()
    ]
    write("align_ppo", rows, out, note=f", GPT-2 of {size:.1f}M parameters, TRL {trl.__version__}, the sides in turn, CPU time")
