"""Causal language models of Hugging Face's format: loaded whole, with an adapter merged, or with a new one in their layers.

Only safetensors are read: neither transformers nor peft is let unpickle anything.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surefoot.envs.classifiers import transformers_or_say
from surefoot.errors import ConfigError, MissingExtraError, PolicyError, first_line

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class LoraOptions:
    """A low-rank adapter, which is trained in place of the model's own weights (Hu et al., arXiv 2106.09685v2)."""

    rank: int = 16
    """Rank of the two factors."""
    alpha: float = 32.0
    """Their product is scaled by alpha / rank."""
    targets: str = "all-linear"
    """Layers that get one: all-linear, or names separated by commas (q_proj,v_proj)."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"the rank of the adapter is {self.rank}: it must be at least 1.")


def load_causal(
    source: str | Path, *, lora: LoraOptions | None, dtype: torch.dtype, gradient_checkpointing: bool, trust: bool
) -> tuple[Any, Any]:
    """Model and tokenizer of a folder that `save_pretrained` made or of an id; an adapter's folder is merged into the model it belongs to.

    Frozen weights are of `dtype`. Raises PolicyError if it cannot be loaded.
    """
    transformers = transformers_or_say()
    base = adapter_base(source)
    settings = {"trust_remote_code": trust, "use_safetensors": True, "dtype": dtype if lora is not None else torch.float32}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(source), trust_remote_code=trust)
        model = transformers.AutoModelForCausalLM.from_pretrained(base or str(source), **settings)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise PolicyError(
            f"{source} is no causal language model that transformers can load ({first_line(error)}): give a folder made by "
            "save_pretrained, with the tokenizer's files and weights as safetensors, or a model id."
        ) from None
    if getattr(model, "_hf_peft_config_loaded", False):
        raise PolicyError(f"{source} is an adapter on the Hub: download it, and give its folder.")
    if base is not None:
        model = merged(model, Path(source))
    if lora is not None:
        model = adapted(model, lora)
    if gradient_checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable  # before 5.20
        enable()
        if lora is not None:
            model.enable_input_require_grads()
    return model, tokenizer


def adapter_base(source: str | Path) -> str | None:
    """The model that the adapter in a folder belongs to; None if there is no adapter's."""
    path = Path(source) / ADAPTER
    if not path.is_file():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PolicyError(f"{path} cannot be read ({error!r}): save the adapter again.") from None


def merged(model: Any, adapter: Path) -> Any:
    """The model with the adapter's products added to its weights."""
    from safetensors import SafetensorError

    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtraError("peft", "language") from None
    if not (adapter / ADAPTER_WEIGHTS).is_file():  # peft would unpickle another form
        raise PolicyError(f"the adapter {adapter} holds no {ADAPTER_WEIGHTS}: save it with save_pretrained.")
    try:
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise PolicyError(
            f"the adapter {adapter} does not fit its model ({first_line(error)}): bring back the one it was trained on."
        ) from None


def adapted(model: Any, lora: LoraOptions) -> Any:
    """The model with a new adapter in its layers. Raises PolicyError if it has no layer of the given names."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingExtraError("peft", "language") from None
    targets = lora.targets if lora.targets == "all-linear" else lora.targets.split(",")
    transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())  # GPT-2's layers hold [in, out]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=targets,
        task_type="CAUSAL_LM",
        fan_in_fan_out=transposed,
    )
    try:
        return get_peft_model(model, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise PolicyError(f"the model has no layers called {lora.targets} ({first_line(error)}): name others, or all-linear.") from None


def without_dropout(model: nn.Module) -> None:
    """Switch all dropout of a Hugging Face model off."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]


def is_plain(causal: Any) -> bool:
    """Whether the output embedding alone makes the logits of the last states: not if the model has a soft cap or a scale there.

    The model is asked rather than its kind looked up: both ways of computing two tokens' logits must agree.
    """
    head = causal.get_output_embeddings()
    if head is None or not hasattr(causal, "base_model"):
        return False
    was_training = causal.training
    causal.eval()
    with torch.no_grad():
        tokens = torch.zeros(1, 2, dtype=torch.int64, device=next(causal.parameters()).device)
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        states, logits = causal.base_model(**inputs, use_cache=False)[0], causal(**inputs, use_cache=False).logits
        agree = torch.allclose(head(states).float(), logits.float(), rtol=1e-4, atol=1e-4)
    causal.train(was_training)
    return agree


def takes(model: Any, argument: str) -> bool:
    """Whether the model's forward pass has an argument of this name, which differ from model to model and release to release."""
    return argument in inspect.signature(model.forward).parameters
