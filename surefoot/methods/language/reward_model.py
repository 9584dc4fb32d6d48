"""A reward model of our own: Bradley and Terry's law fitted to preferred pairs, one score a text, read at its last token.

P(w preferred to l | x) = sigmoid(r(x, w) - r(x, l)), and the loss is -log sigmoid of that difference: Ouyang et al., arXiv 2203.02155v1,
Eq. 1, and Stiennon et al., arXiv 2009.01325v3. Where labels are flipped with a known rate, the unbiased form of rDPO's section 3 (Ray
Chowdhury et al., arXiv 2403.00409v2: "rPPO" is any reinforcement learning on its result). Only differences of rewards are learned; a bias
makes the reference's completions score 0 on average (Stiennon et al., section 3.4), which a KL penalty or a fixed low score for
completions that never end relies on.

The model is an ordinary sequence classifier of Hugging Face's with one label, and so is the folder that `save` writes: `surefoot align
--reward FOLDER` reads it, `load_classifier` and a critic (`TokenValues.load`) too. transformers finds the last token of a padded text as
the last that is not the pad token; where a tokenizer pads with its end token, the end of a text would be overlooked, so the model is
given another token for padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from surefoot.data.completions import Completions, Ids, PairBatch, concatenated, micro_batches
from surefoot.envs.classifiers import forward, quiet, transformers_or_say
from surefoot.errors import DataError, PolicyError, first_line
from surefoot.methods.language import losses
from surefoot.methods.language.aligner import Aligner, Metrics, Tuning
from surefoot.policies.language import Precision
from surefoot.policies.language_models import without_dropout


@dataclass(frozen=True)
class RewardModelConfig:
    flip_rate: float = 0.0
    """Share of the labels that are known to be swapped, below 0.5: the loss is corrected for it. Lower the learning rate with it."""

    def __post_init__(self) -> None:
        losses.check_flip_rate(self.flip_rate)


def bradley_terry(scores_w: Tensor, scores_l: Tensor, flip_rate: float = 0.0) -> Tensor:
    """-log sigmoid of the margin `[B]` by which the recorded winners' scores lead, made robust to flips (`losses.robust`)."""
    return losses.robust(losses.dpo, scores_w - scores_l, flip_rate)


class ScoringModel(nn.Module):
    """A sequence classifier with one label, and its tokenizer. Dropout is switched off: it would draw numbers that no resume repeats."""

    def __init__(self, model: Any, tokenizer: Any, *, precision: Precision = "fp32"):
        super().__init__()
        self.model: Any = model
        self.tokenizer, self.precision = tokenizer, precision
        self.bias = float((getattr(model.config, "surefoot_reward", None) or {}).get("bias", 0.0))  # mean score of the reference's texts
        without_dropout(model)
        pad = padding_token(tokenizer, model)
        model.config.get_text_config().pad_token_id = pad
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)

    @staticmethod
    def load(
        source: str | Path,
        *,
        precision: Precision = "fp32",
        gradient_checkpointing: bool = False,
        device: str = "cpu",
        trust: bool = False,
        seed: int = 0,
    ) -> ScoringModel:
        """A language model's folder or Hugging Face id with a new head, drawn with `seed`; or a reward model's, with the head that it has.

        Raises PolicyError if it cannot be loaded, or if it is a classifier of several classes.
        """
        transformers = transformers_or_say()
        try:
            with quiet(transformers), torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)  # transformers draws the head from the global generator
                tokenizer = transformers.AutoTokenizer.from_pretrained(str(source), trust_remote_code=trust)
                model = transformers.AutoModelForSequenceClassification.from_pretrained(
                    str(source), num_labels=1, dtype=torch.float32, trust_remote_code=trust, use_safetensors=True
                )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            reason = first_line(error)
            raise PolicyError(
                f"{source} cannot become a reward model ({reason}): give a folder made by save_pretrained, with the tokenizer's files and "
                "weights as safetensors, or a model id."
            ) from None
        if gradient_checkpointing:
            model.gradient_checkpointing_enable()
        return ScoringModel(model.to(device), tokenizer, precision=precision).train()

    @property
    def device(self) -> Any:
        return next(self.model.parameters()).device

    def forward(self, rows: Sequence[Ids]) -> Tensor:
        """Score of each text `[B]`, float32, before the bias; `rows` are token ids of prompt and completion."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            return forward(self.model, {"input_ids": rows}).squeeze(-1).float()

    @torch.no_grad()
    def scores(self, completions: Completions, *, max_tokens: int = 16_384) -> Tensor:
        """Reward of each completion `[N]` on the CPU, the bias subtracted."""
        found = torch.zeros(len(completions))
        for part in micro_batches(completions.lengths, max_tokens):
            found[part] = self(texts_of(completions.select(part))).cpu()
        return found - self.bias

    def centre(self, completions: Completions, *, max_tokens: int = 16_384) -> None:
        """Set the bias so that `completions`, the reference's or a data set's, score 0 on average. Raises DataError for none."""
        if not len(completions):
            raise DataError("a reward model is centred on completions, but there are none: give those of the reference.")
        self.bias += float(self.scores(completions, max_tokens=max_tokens).mean())

    def save(self, folder: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write an ordinary Hugging Face folder. Its config says what `text_rewards` needs: how texts are read, and the bias.

        `weights` are those of `model` by name, where they are spread over processes.
        """
        self.model.config.surefoot_reward = {"form": "tokens", "bias": self.bias}
        with quiet(transformers_or_say()):
            self.model.save_pretrained(str(folder), state_dict=weights, safe_serialization=True)
            self.tokenizer.save_pretrained(str(folder))


def texts_of(completions: Completions) -> list[Ids]:
    """Prompt and completion of each row as one text."""
    return [prompt + completion for prompt, completion in zip(completions.prompts, completions.completions, strict=True)]


def padding_token(tokenizer: Any, model: Any) -> int:
    """A token that ends no text: the tokenizer's pad token unless it is the end token too, else one that hardly ever stands last."""
    end, rows = tokenizer.eos_token_id, int(model.get_input_embeddings().weight.shape[0])
    special = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id)
    last = range(min(len(tokenizer), rows) - 1, -1, -1)
    return next(token for token in (*special, *last) if token is not None and token != end and token < rows)


class RewardModel(Aligner):
    """Fit a `ScoringModel` to pairs; what it learned is `policy` (with `scores`, `centre` and `save`). `finish` it before it is saved.

    `accuracy` is the share of pairs whose recorded winner scores higher (with flips at most 1 - flip_rate is right), `margin` the mean
    lead of winners.
    """

    config_class: ClassVar[type] = RewardModelConfig
    learns_from: ClassVar = "pairs"
    config: RewardModelConfig

    def __init__(
        self,
        model: ScoringModel,
        config: RewardModelConfig,
        tuning: Tuning,
        total: int,
        *,
        centre_on: Completions | None = None,
        accelerator: Any = None,
        seed: int = 0,
    ):
        super().__init__(cast(Any, model), config, tuning, total, accelerator=accelerator, seed=seed)
        self.centre_on = centre_on

    def update(self, batch: PairBatch) -> Metrics:
        """One step on the pairs; their reference log-probabilities are not looked at."""
        n = len(batch)

        def share(rows: list[int]) -> tuple[Tensor, Metrics]:
            part = batch.select(rows)
            winners, losers = self._network(texts_of(concatenated([part.chosen, part.rejected]))).chunk(2)
            margin = (winners - losers).detach()
            seen = {"accuracy": (margin > 0.0).float(), "margin": margin, "chosen": winners.detach(), "rejected": losers.detach()}
            own = bradley_terry(winners, losers, self.config.flip_rate)
            return own.sum() / n, {name: value.sum() / n for name, value in seen.items()}

        return self.descend(micro_batches(batch.lengths, self.tuning.micro_tokens, rows_each=2, multiple_of=self.processes), share)

    def finish(self) -> None:
        """Let `centre_on`, the reference's completions or the data's chosen ones, score 0 on average; nothing if there are none."""
        if self.centre_on is not None:
            cast(ScoringModel, self.policy).centre(self.centre_on, max_tokens=2 * self.tuning.micro_tokens)
