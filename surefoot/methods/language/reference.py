"""Log-probabilities under the reference, which never change: computed once for a data set, and kept on disk for the next run.

A cached file is named by what the numbers depend on: the token ids (and so the data, the tokenizer and its settings), the weights, the
architecture and the precision. Whatever of these changes, the numbers are computed again; a file that is damaged is too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from surefoot.data.completions import Completions, micro_batches
from surefoot.files import replacing_file
from surefoot.policies.language import LanguagePolicy, completion_logprobs

FORMAT = "1"


def reference_logprobs(
    policy: LanguagePolicy,
    completions: Completions,
    *,
    max_tokens: int,
    cache: Path | None = None,
    accelerator: Any = None,
    say: Callable[[str], None] = lambda line: None,
) -> Tensor:
    """Log-probability of each completion `[N]`, the sum over its tokens, float32 on the CPU, without a gradient.

    Args:
        policy: as it stands: for the reference of a policy with an adapter, call this inside `policy.reference()`.
        completions: in any order; rows of like length share a forward pass.
        max_tokens: tokens of one forward pass, padding included.
        cache: folder in which the numbers are looked up first and kept; None: computed, and not kept.
        accelerator: of Hugging Face's Accelerate: its processes, which must all call this with the same rows, share the work.
        say: is told when a cached file is damaged and its numbers are computed again.

    Raises CheckpointError where the cache cannot be written.
    """
    if cache is None:
        return _computed(policy, completions, max_tokens, accelerator)
    key = reference_key(policy, completions)
    path = cache / f"reference-{key[:32]}.safetensors"
    found = _cached(path, key, len(completions), say)
    if accelerator is not None:  # a process may have found the file that another is about to write
        accelerator.wait_for_everyone()
        found = found if _all_have(found is not None, accelerator) else None
    if found is None:
        found = _computed(policy, completions, max_tokens, accelerator)
        if accelerator is None or accelerator.is_main_process:
            _keep(found, path, key)
    return found


def _computed(policy: LanguagePolicy, completions: Completions, max_tokens: int, accelerator: Any) -> Tensor:
    if accelerator is None or accelerator.num_processes == 1:
        return completion_logprobs(policy, completions, max_tokens=max_tokens)
    parts = micro_batches(completions.lengths, max_tokens)[accelerator.process_index :: accelerator.num_processes]
    mine = [row for rows in parts for row in rows]
    found = torch.zeros(len(completions))
    found[mine] = completion_logprobs(policy, completions.select(mine), max_tokens=max_tokens)
    return accelerator.reduce(found.to(policy.device), "sum").cpu()  # of every row one process has the number, the others 0


def _all_have(own: bool, accelerator: Any) -> bool:
    count = accelerator.reduce(torch.tensor(float(own), device=accelerator.device), "sum")
    return int(count) == accelerator.num_processes


# --- what the numbers depend on -------------------------------------------------------------------------------------


def reference_key(policy: LanguagePolicy, completions: Completions) -> str:
    """SHA-256 of the token ids, the weights that are in use (not those of an adapter that is off), the architecture and the precision."""
    digest = hashlib.sha256(f"{FORMAT} {policy.precision} {_architecture(policy)}".encode())
    for tensor in (*completions.packed().values(), *_weights(policy)):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{tuple(plain.shape)} {plain.dtype}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _architecture(policy: LanguagePolicy) -> str:
    """The model's settings, without its name, the place it came from, and who wrote it."""
    config = policy.causal.config.to_dict()
    return repr(sorted((name, repr(value)) for name, value in config.items() if not name.startswith("_") and "version" not in name))


def _weights(policy: LanguagePolicy) -> list[Tensor]:
    """All weights, or, while an adapter is off, all but its own."""
    off: set[int] = set()
    for module in policy.model.modules():
        if getattr(module, "disable_adapters", False) is True:
            own = [getattr(module, name) for name in module.adapter_layer_names]
            off |= {id(p) for each in own if hasattr(each, "parameters") for p in each.parameters()}
    return [p for p in policy.model.parameters() if id(p) not in off]


# --- the file -------------------------------------------------------------------------------------------------------


def _keep(found: Tensor, path: Path, key: str) -> None:
    with replacing_file(path) as new:
        save_file({"logprobs": found}, new, {"key": key, "sum": _checksum(found)})


def _cached(path: Path, key: str, n: int, say: Callable[[str], None]) -> Tensor | None:
    """The numbers in a file; None if there is none, or if it is not exactly what was written."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            about, found = file.metadata() or {}, file.get_tensor("logprobs")
        if about.get("key") == key and found.shape == (n,) and about.get("sum") == _checksum(found):
            return found
        reason = "it is not what was written"
    except (SafetensorError, OSError) as error:
        reason = str(error)
    say(f"the cached log-probabilities {path} are damaged ({reason}): they are computed again.")
    return None


def _checksum(found: Tensor) -> str:
    return hashlib.sha256(found.numpy().tobytes()).hexdigest()
