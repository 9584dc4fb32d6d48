"""DPO beside TRL's DPOTrainer: tokens a second and peak memory, of the same model, texts, batches and number of updates.

Every side runs in a process of its own, on one thread; the sides take turns. Measured is CPU time from the texts to the last update:
tokenising, the reference's log-probabilities and the updates. TRL is given its two ways with the reference, computed in every step or
once before, and batches in one forward pass or in several that accumulate; gradient checkpointing and bfloat16 are off on both sides.
Memory is the peak of the process less what it had after its imports. Tokens are those of the texts, padding not counted. Batches are in
the order of the file on both sides, so that both end with the same loss.

    python -m benchmarks --only align_dpo            on the CPU, a model of five million weights
    python -m benchmarks.align_dpo --large --device cuda   on a GPU, one of half a billion with random weights, in bfloat16
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import RESULTS, write

BATCH, ROUNDS, LR, BETA = 16, 3, 1e-4, 0.1
SIZES: dict[str, dict[str, Any]] = {
    "small": {"rows": 64, "width": 256, "layers": 4, "heads": 4, "vocabulary": 8192, "prompt": 48, "completion": 96, "micro": 2048},
    "large": {
        "rows": 512,
        "width": 1536,
        "layers": 16,
        "heads": 12,
        "vocabulary": 32_768,
        "prompt": 128,
        "completion": 256,
        "micro": 16_384,
    },
}
SIDES: dict[str, tuple[int, bool]] = {
    "surefoot": (0, True),
    "TRL": (BATCH, False),
    "TRL, accumulating": (4, False),
    "TRL, accumulating, reference first": (4, True),
    "TRL, one pair a pass, reference first": (1, True),
}
"""Of TRL's the pairs of a forward pass, and whether the reference is computed before training."""


# --- what is learned from ---------------------------------------------------------------------------------------------


def make(folder: Path, size: dict[str, Any]) -> None:
    """A model with random weights and a tokenizer of words in `folder`, and pairs of varied lengths (log-normal, as answers are)."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
    words = [*special.values(), *(f"w{i}" for i in range(len(special), size["vocabulary"]))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size["vocabulary"],
        hidden_size=size["width"],
        intermediate_size=int(size["width"] * 8 / 3) // 16 * 16,
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        max_position_embeddings=2048,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    rng = np.random.default_rng(0)

    def text(median: int) -> str:
        length = int(np.clip(median * np.exp(0.7 * rng.standard_normal()), 4, 4 * median))
        return " ".join(f"w{i}" for i in rng.integers(len(special), size["vocabulary"], length))

    with (folder / "pairs.jsonl").open("w") as file:
        for _ in range(size["rows"]):
            row = {"prompt": text(size["prompt"]), "chosen": " " + text(size["completion"]), "rejected": " " + text(size["completion"])}
            file.write(json.dumps(row) + "\n")


# --- the sides --------------------------------------------------------------------------------------------------------


class Gauge:
    """Seconds and memory of one side, from the moment its imports are done; CPU time and the process's memory, or the GPU's."""

    def __init__(self, device: str):
        self.device = device
        self.before = 0.0 if device == "cuda" else self._peak()

    def _peak(self) -> float:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def _now(self) -> float:
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def of(self, train: Callable[[], float]) -> dict[str, float]:
        """Of `train`, which gives the last loss."""
        start = self._now()
        loss = train()
        return {"seconds": self._now() - start, "MiB": self._peak() - self.before, "loss": loss}


def ours(folder: Path, size: dict[str, Any], device: str) -> dict[str, float]:
    from surefoot.data.completions import PairBatch
    from surefoot.data.preferences import read_preferences
    from surefoot.data.tokenising import tokenised_pairs
    from surefoot.methods.language.aligner import Tuning
    from surefoot.methods.language.pairwise import Pairwise, PairwiseConfig
    from surefoot.policies.language import LanguagePolicy, completion_logprobs

    gauge = Gauge(device)
    policy = LanguagePolicy.load(folder, precision="bf16" if device == "cuda" else "fp32", device=device)
    data = read_preferences(folder / "pairs.jsonl", "pairs")

    def train() -> float:
        chosen, rejected = tokenised_pairs(policy.tokenizer, data)
        reference = [completion_logprobs(policy, side, max_tokens=2 * size["micro"]) for side in (chosen, rejected)]
        pairs = PairBatch(chosen, rejected, *reference)
        tuning = Tuning(lr=LR, schedule="linear", warmup=0.0, micro_tokens=size["micro"])
        learner = Pairwise(policy, PairwiseConfig(beta=BETA), tuning, len(pairs) // BATCH)
        losses = [learner.update(pairs.select(range(i, i + BATCH)))["loss"] for i in range(0, len(pairs), BATCH)]
        return float(losses[-1])

    return gauge.of(train)


def theirs(folder: Path, pairs: int, precompute: bool, device: str) -> dict[str, float]:
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    gauge = Gauge(device)
    disable_progress_bars()
    rows = Dataset.from_list([json.loads(line) for line in (folder / "pairs.jsonl").open()])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    config = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=pairs,
        gradient_accumulation_steps=BATCH // pairs,
        precompute_ref_log_probs=precompute,
        precompute_ref_batch_size=2 * pairs,
        num_train_epochs=1,
        learning_rate=LR,
        beta=BETA,
        max_length=None,
        gradient_checkpointing=False,
        bf16=device == "cuda",
        use_cpu=device == "cpu",
        train_sampling_strategy="sequential",
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )

    def train() -> float:
        trainer = DPOTrainer(model, args=config, train_dataset=rows, processing_class=tokenizer)
        trainer.train()
        return float([row["loss"] for row in trainer.state.log_history if "loss" in row][-1])

    return gauge.of(train)


def measure(side: str, folder: Path, size: dict[str, Any], device: str) -> dict[str, float]:
    """One side, in this process."""
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return ours(folder, size, device) if side == "surefoot" else theirs(folder, *SIDES[side], device)


def elsewhere(side: str, folder: Path, name: str, device: str) -> dict[str, float]:
    """One side, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.align_dpo", "--side", side, "--folder", str(folder), "--size", name, "--device", device]
    threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} if device == "cpu" else {}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode:
        raise RuntimeError(f"{side} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


# --- all --------------------------------------------------------------------------------------------------------------


def tokens(folder: Path) -> int:
    """Tokens that every side reads: prompts twice, completions with their end tokens."""
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").open()]
    return sum(2 * len(row["prompt"].split()) + len(row["chosen"].split()) + len(row["rejected"].split()) + 2 for row in rows)


def table(found: dict[str, list[dict[str, float]]], count: int) -> list[dict[str, Any]]:
    """A row a side: medians over the rounds, and how ours compares."""
    middle = {side: {key: float(np.median([run[key] for run in runs])) for key in runs[0]} for side, runs in found.items()}
    own = middle["surefoot"]
    return [
        {
            "side": side,
            "tokens/s": count / seen["seconds"],
            "peak memory, MiB": round(seen["MiB"]),
            "last loss": round(seen["loss"], 4),
            "surefoot is faster by": seen["seconds"] / own["seconds"],
            "and needs of its memory": own["MiB"] / seen["MiB"],
        }
        for side, seen in middle.items()
    ]


def main(out: Path = RESULTS, name: str = "small", device: str = "cpu") -> None:
    """Write `align_dpo.json`, or `align_dpo_large.json`."""
    from importlib.metadata import version

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, SIZES[name])
        found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(ROUNDS):
            for side, runs in found.items():
                runs.append(elsewhere(side, folder, name, device))
                print(f"{side}: {runs[-1]}", file=sys.stderr)
        rows = table(found, tokens(folder))
    note = f", transformers {version('transformers')}, TRL {version('trl')}"
    if name == "small":
        write("align_dpo", rows, out, note=note)
    else:
        note += f", on {torch.cuda.get_device_name()}" if device == "cuda" else ""
        write("align_dpo_large", rows, out, command=f"python -m benchmarks.align_dpo --large --device {device}", note=note)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.align_dpo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--large", action="store_true", help="a model of half a billion weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder for the results (default: benchmarks/results)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=SIZES, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.side is not None:
        print(json.dumps(measure(told.side, told.folder, SIZES[told.size], told.device)))
    else:
        main(told.out, "large" if told.large else "small", told.device)
