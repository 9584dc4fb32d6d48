"""Language models by name: a run of `surefoot align`, a folder that `save_pretrained` made, an adapter, or a Hugging Face id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot.cli.subjects import read_settings

if TYPE_CHECKING:
    from surefoot.policies.language import LanguagePolicy, Precision

ADAPTER = "adapter_config.json"
MODEL_FILES = (ADAPTER, "model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class LanguageSubject:
    """A model as it was named, where its weights are, and the run it comes from."""

    name: str
    source: str
    run: Path | None
    settings: Mapping[str, Any]  # the run's config.json

    def load(self, *, precision: Precision, device: str, trust: bool) -> LanguagePolicy:
        """The model, an adapter merged into its weights. Raises PolicyError where it cannot be loaded."""
        from surefoot.policies.language import LanguagePolicy

        return LanguagePolicy.load(self.source, precision=precision, device=device, trust=trust).eval()


def is_language(ref: str) -> bool:
    """Whether `ref` names a folder with a language model, or a run with one."""
    folder = Path(ref)
    return any((place / name).is_file() for place in (folder, folder / "policy") for name in MODEL_FILES)


def language_subject(ref: str) -> LanguageSubject:
    """The model that `ref` names, with the settings of its run if it has one."""
    folder = Path(ref)
    if not _holds_model(folder) and (folder / "policy").is_dir():
        return LanguageSubject(ref, str(folder / "policy"), folder, read_settings(folder))
    run = folder.parent if folder.name == "policy" and (folder.parent / "config.json").is_file() else None
    return LanguageSubject(ref, ref, run, read_settings(run) if run is not None else {})


def shared(subjects: Sequence[LanguageSubject], key: str) -> Any:
    """What all runs among the subjects have alike in their settings; None where they differ."""
    named = [each.settings.get(key) for each in subjects if each.settings]
    return named[0] if named and all(each == named[0] for each in named) else None


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in MODEL_FILES)
