"""`surefoot train rrcm --images SOURCE --sigma S`: pre-train an encoder without labels, tune it at one noise level, certify, save.

The run folder holds a run of its own for the first stage, `pretraining/`, which other runs can start from (`--pretrained`); both
stages are saved as they go, and resume bit for bit.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from surefoot.claims.base import derived
from surefoot.cli.evaluate import number
from surefoot.cli.session import finished
from surefoot.cli.stages import resumed
from surefoot.data.augmenting import Augmentation
from surefoot.data.images import Epochs, Images, read_images
from surefoot.data.spec import Spec
from surefoot.errors import CheckpointError, ConfigError, DivergedError
from surefoot.evaluation.certified_actions import SHARES
from surefoot.evaluation.lvm_rs import ABSTAIN, average_certified_radius, certified_accuracy, cohen_inputs
from surefoot.files import replacing_file
from surefoot.methods.vision.classifier import NoiseClassifier, image_spec
from surefoot.methods.vision.noise_trained import NoiseTrained, TuningConfig
from surefoot.methods.vision.rrcm import PRESETS, RRCM, Preset, RRCMConfig, preset
from surefoot.nn.noise_conditional import NetworkSize, NoiseConditional
from surefoot.policies.saving import save_policy
from surefoot.training.checkpoint import read_newest
from surefoot.training.fit import fit
from surefoot.training.run import Run, check_free

FLAGS = (tyro.conf.FlagCreatePairsOff,)

KEPT = 500
"""Held-out images that a run keeps at most, in `held_out.npz`."""


@dataclass(frozen=True)
class Options:
    """What to learn from, at which noise, and where the results go."""

    images: str | None = None
    """Images to learn from: digits, an npz with x in [0, 1] and y, or a folder with one sub-folder a class (or train/ and val/)."""
    sigma: float = 0.25
    """Standard deviation of the noise to certify with, in units of images in [0, 1]."""
    preset: Literal["small", "cifar10", "imagenet"] = "small"
    """What the settings below default to: small images, or the paper's networks."""
    pretrained: Path | None = None
    """Run folder whose pre-trained encoder and images are used, so that another noise level costs the second stage alone."""
    size: int = 32
    """Pixels along a side that pictures of a folder are resized to."""
    held_out: float = 0.3
    """Share of the images that is kept back to certify at (a folder with train/ and val/ has its own)."""
    seed: int = 0
    """Everything random derives from it."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks live."""
    out: Path | None = None
    """Run folder to create (default: runs/rrcm-DATE-TIME)."""
    certified: int = 100
    """Held-out images that are certified at the end (0: none); surefoot certify takes more samples."""
    samples: int = 1000
    """Noisy copies of each of them."""
    alpha: float = 0.001
    """Probability that a certificate is wrong."""
    checkpoint_every: int = 1_000
    """Updates between checkpoints."""
    log_every: int = 100
    """Updates between rows of metrics."""
    no_progress: bool = False
    """Do not show how far training is (on standard error)."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("certified", 0), ("samples", 100), ("checkpoint_every", 1), ("log_every", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be at least {least}.")
        if not 0.0 < self.sigma < float("inf"):
            raise ConfigError(f"--sigma is {self.sigma}: the standard deviation of the noise must be positive and finite.")
        if not 0.0 < self.alpha < 1.0:
            raise ConfigError(f"--alpha is {self.alpha}: a probability of being wrong lies between 0 and 1.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("--device is cuda, but this machine or this build of PyTorch has no CUDA device: use --device cpu.")


@dataclass(frozen=True)
class Arguments:
    """The options, and the settings of both stages."""

    options: Annotated[Options, tyro.conf.arg(name="")]
    pretraining: RRCMConfig
    tuning: TuningConfig
    network: NetworkSize
    augmentation: Augmentation

    @property
    def settings(self) -> Preset:
        return Preset(self.pretraining, self.tuning, self.network, self.augmentation)


def main(argv: list[str]) -> int:
    """Entry of the verb; returns the exit code."""
    again = resumed(argv, "rrcm")
    if again is not None:
        run = Run.open(again.resume)
        options, settings = restored(run)
        options = replace(options, no_progress=again.no_progress, json=again.json)
        result = finished(run, None) or train(run, options, settings)
    else:
        run, options, settings = create(*parse(argv), argv)
        result = train(run, options, settings)
    return _report(run, result, options)


def parse(argv: Sequence[str]) -> tuple[Options, Preset]:
    """The command line: first which preset and noise, then all, with what these stand for as defaults."""

    def parsed(default: Preset, words: Sequence[str]) -> Arguments:
        described = (__doc__ or "").split("\n\n")[0].split(": ", 1)[1]
        start = Arguments(Options(), *(getattr(default, f.name) for f in fields(Preset)))
        return tyro.cli(Arguments, args=list(words), prog="surefoot train rrcm", description=described, default=start, config=FLAGS)

    options = parsed(PRESETS["small"], argv).options
    return options, parsed(preset(options.preset, options.sigma), argv).settings


# --- a run ------------------------------------------------------------------------------------------------------------


def create(options: Options, settings: Preset, argv: Sequence[str]) -> tuple[Run, Options, Preset]:
    """A new run, and its options and settings in full; the folder is made last, so that nothing is left behind by what does not fit."""
    out = options.out or Path("runs") / f"rrcm-{time.strftime('%Y%m%d-%H%M%S')}"
    check_free(out)
    options, settings = _as_pretrained(options, settings)
    if options.images is None:
        raise ConfigError("no images were named: give --images digits, FILE.npz or FOLDER (or --pretrained RUN).")
    images, _ = _images(options)
    if options.pretrained is not None and images.fingerprint != Run.open(options.pretrained).config.get("fingerprint"):
        raise CheckpointError(
            f"{options.images} does not hold what it held when {options.pretrained} was started (its fingerprint has changed):"
            " pre-train anew."
        )
    spec = image_spec(images.shape, len(images.classes))
    RRCM(spec, settings.pretraining, settings.network, settings.augmentation)  # raises what does not fit
    NoiseClassifier(spec, settings.network, options.sigma, settings.pretraining.levels)
    config = {
        "method": "rrcm",
        "env": None,
        "max_steps": None,
        "data": options.images,
        "noise": options.sigma,
        "steps": _steps(settings, images),
        "seeds": 1,
        "command": shlex.join(["surefoot", "train", "rrcm", *argv]),
        "fingerprint": images.fingerprint,
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()},
        "settings": asdict(settings),
    }
    return Run.create(out, config), options, settings


def restored(run: Run) -> tuple[Options, Preset]:
    """The options and settings of a run. Raises CheckpointError if its `config.json` does not hold them."""
    if run.config.get("method") != "rrcm":
        raise ConfigError(f"{run.folder} is a run of {run.config.get('method')}, not of rrcm: `surefoot train --resume` goes on with it.")
    try:
        saved = dict(run.config["options"])
        pretrained = None if saved["pretrained"] is None else Path(saved["pretrained"])
        options = Options(**{**saved, "pretrained": pretrained, "out": run.folder})
        kinds = {"pretraining": RRCMConfig, "tuning": TuningConfig, "network": NetworkSize, "augmentation": Augmentation}
        return options, Preset(**{name: kind(**run.config["settings"][name]) for name, kind in kinds.items()})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{run.folder / 'config.json'} does not hold the settings of rrcm ({error}): it cannot be resumed.") from None


def _as_pretrained(options: Options, settings: Preset) -> tuple[Options, Preset]:
    """With the images, network and first stage of the run that is started from: its held-out images must stay unseen.

    Raises ConfigError for a setting that was given and differs from that run's.
    """
    if options.pretrained is None:
        return options, settings
    theirs, made = restored(Run.open(options.pretrained))
    same = {name: getattr(theirs, name) for name in ("images", "size", "held_out", "seed")}
    for name, value in same.items():
        if getattr(options, name) not in (getattr(Options, name), value):
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{flag} is {getattr(options, name)}, but {options.pretrained} was trained with {value}, which is kept: leave {flag} out."
            )
    for name in ("pretraining", "network"):
        if getattr(settings, name) not in (getattr(PRESETS[options.preset], name), getattr(made, name)):
            raise ConfigError(f"settings --{name}.* differ from those of {options.pretrained}, which are kept: leave them out.")
    return replace(options, **same), replace(settings, pretraining=made.pretraining, network=made.network)


def _images(options: Options) -> tuple[Images, Images]:
    assert options.images is not None
    return read_images(options.images, held_out=options.held_out, size=options.size, seed=derived(options.seed, "split"))


def _steps(settings: Preset, images: Images) -> int:
    """Updates of both stages."""
    return settings.pretraining.steps + settings.tuning.passes * Epochs(images, settings.tuning.batch).batches


# --- stages -----------------------------------------------------------------------------------------------------------


def train(run: Run, options: Options, settings: Preset) -> dict[str, Any]:
    """Both stages from where they are, then save and certify; returns the result, which is in `result.json` too."""
    images, held_out = _images(options)
    if images.fingerprint != run.config.get("fingerprint"):
        raise CheckpointError(
            f"{options.images} does not hold what it held when {run.folder} was started (its fingerprint has changed): "
            "resume with the images as they were, or start a new run."
        )
    spec = image_spec(images.shape, len(images.classes))
    console = Console(stderr=True)
    sizes = f"{len(images):,} images of {options.images}, {len(images.classes)} classes"
    console.print(f"rrcm · {sizes} · sigma {options.sigma:g} → {run.folder}", highlight=False, soft_wrap=True)
    try:
        encoder, seconds = _pretrained(run, options, settings, spec, images)
        run = Run.open(run.folder)  # its clock starts with the second stage
        classifier = _tuned(run, options, settings, spec, images, encoder)
        run.close()
        save_policy(classifier, run.folder / "policy")
        _keep(held_out.evenly(KEPT), run.folder / "held_out.npz")
        certified = _certified(classifier, held_out, options) if options.certified else None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; go on with `surefoot train rrcm --resume {run.folder}`.") from None
    except DivergedError as error:
        what = str(error).split(";")[0]
        raise DivergedError(f"{what}; start again with a smaller learning rate (--pretraining.lr, --tuning.lr).") from None
    nothing: dict[str, Any] = {"last": None, "best": None, "offline": None, "weighting": None, "warnings": []}
    result = {name: run.config[name] for name in ("method", "env", "data", "steps", "seeds")}
    result |= {"wall_s": round(run.seconds + seconds, 1), **nothing, "sigma": options.sigma, "certified": certified}
    run.result(result)
    return result


def _pretrained(run: Run, options: Options, settings: Preset, spec: Spec, images: Images) -> tuple[NoiseConditional, float]:
    """Stage 1: the encoder, trained in `pretraining/` or taken from another run, and the seconds it took here."""
    config, seed = settings.pretraining, derived(options.seed, "pre-training")
    method = RRCM(spec, config, settings.network, settings.augmentation, device=options.device, seed=seed)
    if options.pretrained is not None:
        folder = options.pretrained / "pretraining"
        found = read_newest(folder / "checkpoint", folder / "checkpoint.previous")
        step = 0 if found is None else found[0]["step"]
        if found is None or step < config.steps:
            raise CheckpointError(
                f"{folder} is at step {step} of {config.steps}: finish it first (surefoot train rrcm --resume {options.pretrained})."
            )
        method.load_state_dict(found[0]["state"]["method"])
        return method.learned(), 0.0
    folder = run.folder / "pretraining"
    here = (folder / "config.json").is_file()
    stage = Run.open(folder) if here else Run.create(folder, {"method": "rrcm pre-training", "fingerprint": images.fingerprint})
    source = Epochs(images, config.batch, whole=True, device=options.device, seed=derived(options.seed, "pre-training batches"))
    fit(method, source, config.steps, run=stage, **_pace(options))
    stage.close()
    return method.learned(), stage.seconds


def _tuned(run: Run, options: Options, settings: Preset, spec: Spec, images: Images, encoder: NoiseConditional) -> NoiseClassifier:
    """Stage 2: the classifier at the noise that is asked for."""
    source = Epochs(images, settings.tuning.batch, device=options.device, seed=derived(options.seed, "tuning batches"))
    method = NoiseTrained(
        spec,
        settings.tuning,
        options.sigma,
        settings.network,
        epoch=source.batches,
        encoder=encoder,
        levels=settings.pretraining.levels,
        device=options.device,
        seed=derived(options.seed, f"tuning {options.sigma}"),
    )
    fit(method, source, method.total, run=run, **_pace(options))
    return method.classifier


def _pace(options: Options) -> dict[str, Any]:
    return {"log_every": options.log_every, "checkpoint_every": options.checkpoint_every, "progress": not options.no_progress}


# --- what comes of it -------------------------------------------------------------------------------------------------


def _keep(images: Images, path: Path) -> None:
    """Images that training never saw, as `surefoot certify --inputs` reads them."""
    with replacing_file(path) as new:
        np.savez(new, x=images.read().numpy(), y=images.y.numpy())


def _certified(classifier: NoiseClassifier, held_out: Images, options: Options) -> dict[str, Any]:
    """Certificates at some held-out images, as JSON."""
    some = held_out.evenly(options.certified)
    generator = torch.Generator(options.device).manual_seed(derived(options.seed, "certification"))
    settings: dict[str, Any] = {"n0": 100, "n": options.samples, "alpha": options.alpha, "generator": generator}
    start, console = time.monotonic(), Console(stderr=True)
    with Progress(console=console, transient=True, disable=options.no_progress or not console.is_terminal) as bar:
        task = bar.add_task("certifying", total=len(some))
        x, show = some.read().to(options.device), lambda done: bar.update(task, completed=done)
        found = cohen_inputs(classifier, x, options.sigma, progress=show, **settings)
    radii, labels = np.array(SHARES) * options.sigma, some.y.numpy()
    return {
        "images": len(some),
        "samples": options.samples,
        "alpha": options.alpha,
        "abstained": sum(one.label == ABSTAIN for one in found),
        "average_radius": average_certified_radius(found, labels),
        "radii": radii.tolist(),
        "accuracy": certified_accuracy(found, labels, radii).tolist(),
        "seconds_each": round((time.monotonic() - start) / len(some), 4),
    }


def table(result: dict[str, Any]) -> Table:
    """Certified accuracy by radius, for a terminal."""
    found = result["certified"]
    title = f"rrcm, sigma {result['sigma']:g}: share of {found['images']} held-out images that are right and certified within radius r (l2)"
    out = Table(title=title, title_justify="left")
    for name in ("abstains", "mean radius", *(f"r = {r:g}" for r in found["radii"])):
        out.add_column(name, justify="right")
    out.add_row(f"{found['abstained'] / found['images']:.0%}", number(found["average_radius"]), *(f"{a:.0%}" for a in found["accuracy"]))
    return out


def _report(run: Run, result: dict[str, Any], options: Options) -> int:
    """The result as a table, how to certify on, and JSON where it was asked for."""
    console = Console(stderr=True)
    if result["certified"] is not None:
        console.print(table(result))
    console.print(f"run     {run.folder}\ncertify surefoot certify {run.folder}", highlight=False, soft_wrap=True)
    if options.json:
        print(json.dumps(result, indent=2))
    return 0
