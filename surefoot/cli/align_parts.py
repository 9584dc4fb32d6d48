"""What the settings of `surefoot align` stand for: the learner, and the source of its batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from surefoot.claims.base import derived
from surefoot.cli.align_settings import Asked, Baseline, Critic, Drawing, Replay, Updates
from surefoot.cli.align_workshop import Parts, Say, Workshop, as_conversations, imitable, spread
from surefoot.data.completions import Ids, concatenated
from surefoot.data.preferences import Kind, Preferences, Prompts, ScoredTexts, Texts, read_preferences
from surefoot.data.tokenising import (
    Tokenising,
    check_vocabulary,
    ready_tokenizer,
    tokenised,
    tokenised_pairs,
)
from surefoot.errors import ConfigError, DataError
from surefoot.files import replacing_folder
from surefoot.methods.language.aligner import Aligner
from surefoot.methods.language.generated import Generated
from surefoot.methods.language.pair_source import GroupSource, PairSource
from surefoot.methods.language.replayed import Replayed
from surefoot.methods.language.sampling import Sampling
from surefoot.methods.language.self_play import SelfPlay, SelfPlaySettings
from surefoot.methods.language.sft import CompletionSource
from surefoot.nn.sharding import whole_weights
from surefoot.policies.language import LanguagePolicy
from surefoot.policies.token_values import TokenValues


def build(asked: Asked, accelerator: Any = None, say: Say = lambda line: None) -> Parts:
    """The parts of a run. Reads the data, loads the model, writes nothing but cached log-probabilities of the reference.

    Raises a SurefootError for whatever does not fit.
    """
    options = asked.options
    if options.model is None:
        raise ConfigError("name the model to begin with: --model FOLDER, or a Hugging Face id.")
    if options.data is None:
        raise ConfigError(f"{asked.name} learns from texts: name them with --data (JSON lines, Parquet, a data set).")
    if spread(accelerator):
        _check_spread(asked)
    texts = _read(asked, options.data)
    texts = as_conversations(texts) if options.chat else texts
    device = options.device if accelerator is None else str(accelerator.device)
    with torch.random.fork_rng():
        torch.manual_seed(derived(options.seed, "model"))  # adapters and new heads are drawn from the global generator
        policy = _scoring_model(asked, device) if asked.method.feed == "judged" else _policy(asked, device)
        return FEEDS[asked.method.feed](Workshop(asked, policy, texts, accelerator, say))


def _check_spread(asked: Asked) -> None:
    """Raises ConfigError for what weights that are spread over processes cannot serve."""
    if asked.options.merge:
        raise ConfigError(
            "--merge needs whole weights, but they are spread over processes (FSDP): leave it out, and merge the adapter later."
        )
    if asked.method.feed == "rollouts":
        raise ConfigError(f"{asked.name} needs policy and critic whole in each process: leave FSDP out (accelerate launch --multi_gpu).")


def _policy(asked: Asked, device: str) -> LanguagePolicy:
    options = asked.options
    assert options.model is not None
    policy = LanguagePolicy.load(
        options.model,
        lora=asked.adapter.options,
        precision=options.computed,
        gradient_checkpointing=options.gradient_checkpointing,
        device=device,
        trust=options.trust,
    )
    ready_tokenizer(policy.tokenizer, options.eos_token)
    check_vocabulary(policy)
    return policy


def _scoring_model(asked: Asked, device: str) -> Any:
    from surefoot.methods.language.reward_model import ScoringModel

    options = asked.options
    assert options.model is not None
    model = ScoringModel.load(
        options.model,
        precision=options.computed,
        gradient_checkpointing=options.gradient_checkpointing,
        device=device,
        trust=options.trust,
        seed=derived(options.seed, "head"),
    )
    ready_tokenizer(model.tokenizer, options.eos_token)
    return model


def _read(asked: Asked, data: str) -> Texts:
    """The data, checked row by row. Raises ConfigError for prompts alone where nothing scores what would be drawn for them."""
    kind = _kind(asked)
    further: dict[str, Any] = {"split": asked.options.split, "skip_bad": asked.options.skip_bad}
    try:
        return read_preferences(data, kind, **further)
    except DataError:
        if kind == "scored" and isinstance(read_preferences(data, None, **further), Prompts):
            raise ConfigError(
                f"{data} holds prompts without scored completions: name a --reward for what the policy draws, or give it the columns "
                "prompt, completion, score."
            ) from None
        raise


def _kind(asked: Asked) -> Kind | None:
    """What the data must hold; None: whatever they do."""
    match asked.method.feed:
        case "pairs" | "based" | "judged":
            return "pairs"
        case "scored" if asked.reward.reward is None:
            return "scored"
        case "groups" | "play":
            return "prompts"
        case "rollouts" if getattr(asked.config, "reset_source", None) != "data":
            return "prompts"
    return None


# --- feeds ------------------------------------------------------------------------------------------------------------


def _pairs(shop: Workshop) -> Parts:
    """Pairs of a file against the reference; with `--given` completions to imitate beside them."""
    asked, tokenizer = shop.asked, shop.policy.tokenizer
    chosen, rejected = tokenised_pairs(tokenizer, cast(Preferences, shop.texts), shop.tokenising)
    further: dict[str, Any] = {}
    if "Baseline" in asked.groups:
        baseline: Baseline = asked.groups["Baseline"]
        if baseline.given is not None:
            given = read_preferences(baseline.given, None, skip_bad=asked.options.skip_bad)
            given = as_conversations(given) if asked.options.chat else given
            further["given"] = imitable(tokenizer, given, shop.tokenising)
    ref_chosen, ref_rejected = shop.reference_logprobs(concatenated([chosen, rejected])).chunk(2)
    source = PairSource(chosen, rejected, ref_chosen, ref_rejected, asked.passes.batch, seed=shop.seed("source"))
    steps = asked.passes.updates(source.n)
    return shop.parts(shop.learner(steps, **further), source, steps)


def _judged(shop: Workshop) -> Parts:
    """Pairs alone, for a reward model."""
    options = Tokenising(max_length=shop.asked.options.max_length, truncate=shop.asked.options.truncate)
    chosen, rejected = tokenised_pairs(shop.policy.tokenizer, cast(Preferences, shop.texts), options)
    nothing = torch.zeros(len(chosen))
    source = PairSource(chosen, rejected, nothing, nothing, shop.asked.passes.batch, seed=shop.seed("source"))
    steps = shop.asked.passes.updates(source.n)
    return shop.parts(shop.learner(steps, centre_on=chosen), source, steps)


def _texts(shop: Workshop) -> Parts:
    """Completions to imitate."""
    completions = imitable(shop.policy.tokenizer, shop.texts, shop.tokenising)
    source = CompletionSource(completions, shop.asked.passes.batch, seed=shop.seed("source"))
    steps = shop.asked.passes.updates(source.n)
    return shop.parts(shop.learner(steps), source, steps)


def _scored(shop: Workshop) -> Parts:
    """Scored completions of a file; with `--reward` those that the policy draws, and with `--replay` both."""
    asked, replay = shop.asked, cast(Replay, shop.asked.groups["Replay"])
    if asked.reward.reward is None:
        if replay.replay > 0.0:
            raise ConfigError("--replay is for completions that the policy draws: name a --reward, or leave it out.")
        source = _scored_file(shop)
        steps = asked.passes.updates(source.n)
        left = f"{source.left_out:,} prompts have fewer than {source.size} scored completions and are left out"
        return shop.parts(shop.learner(steps), source, steps, [left] if source.left_out else [])
    start = None
    if replay.replay > 0.0 and isinstance(shop.texts, ScoredTexts):
        kept = _scored_file(shop)
        start = kept.at(range(kept.n))
    fresh, rows = _generated(shop, Sampling(samples=asked.config.responses, reuse=1))
    steps = asked.passes.updates(rows)
    if replay.replay == 0.0:
        return shop.parts(shop.learner(steps), fresh, steps)
    both = Replayed(fresh, share=replay.replay, capacity=replay.replay_capacity, start=start, seed=shop.seed("replay"))
    return shop.parts(shop.learner(steps), both, steps)


def _scored_file(shop: Workshop) -> GroupSource:
    asked, texts = shop.asked, cast(ScoredTexts, shop.texts)
    completions = tokenised(shop.policy.tokenizer, texts.prompts, texts.completions, shop.tokenising, source=texts.source)
    scores, reference = torch.tensor(texts.scores), shop.reference_logprobs(completions)
    return GroupSource(completions, scores, reference, asked.passes.batch, size=asked.config.responses, seed=shop.seed("source"))


def _groups(shop: Workshop) -> Parts:
    """Groups that the policy draws, in the order of the on-policy study."""
    sampling: Sampling = shop.asked.config.sampling
    source, rows = _generated(shop, sampling)
    steps = shop.asked.passes.updates(rows, sampling.reuse)
    return shop.parts(shop.learner(steps), source, steps)


def _generated(shop: Workshop, sampling: Sampling) -> tuple[Generated, int]:
    """Completions of the policy, drawn and scored as they are needed, and how many prompts there are."""
    drawing, batch = cast(Drawing, shop.asked.groups["Drawing"]), shop.asked.passes.batch
    reward = shop.reward()
    ids, texts, _ = shop.prompts(drawing.max_new_tokens)
    source = Generated(
        shop.policy,
        ids,
        reward,
        sampling,
        texts=texts,
        reference=shop.reference(),
        batch=batch,
        max_new_tokens=drawing.max_new_tokens,
        temperature=drawing.draw_temperature,
        top_p=drawing.top_p,
        max_tokens=shop.max_tokens,
        accelerator=shop.drawing,
        seed=shop.seed("source"),
    )
    return source, len(ids)


def _play(shop: Workshop) -> Parts:
    """Pairs of the policy's own, round after round."""
    settings: SelfPlaySettings = shop.asked.groups["SelfPlaySettings"]
    preference = shop.preference()
    ids, texts, _ = shop.prompts(settings.max_new_tokens)
    source = SelfPlay(
        shop.policy,
        ids,
        preference,
        settings,
        texts=texts,
        reference=shop.reference(),
        accelerator=shop.drawing,
        seed=shop.seed("source"),
    )
    return shop.parts(shop.learner(source.updates), source, source.updates)


def _rollouts(shop: Workshop) -> Parts:
    """PPO's own responses; of DR-PO a share begins with a prefix of the data's."""
    config, updates = shop.asked.config, cast(Updates, shop.asked.groups["Updates"])
    reward = shop.reward()
    ids, texts, rows = shop.prompts(config.max_new_tokens)
    each = config.epochs * config.minibatches  # steps that the responses of one draw are used for, all of them
    steps = -(-(updates.steps or each * max(1, len(ids) // config.prompts)) // each) * each
    learner = shop.learner(steps, reference=shop.reference(), critic=_critic(shop))
    further: dict[str, Any] = {}
    if getattr(config, "reset_source", None) == "data" and not isinstance(shop.texts, Prompts):
        further["responses"] = _responses(shop, rows)
    return shop.parts(learner, learner.source(ids, reward, texts=texts, seed=shop.seed("source"), **further), steps)


def _critic(shop: Workshop) -> TokenValues | None:
    """What values tokens, where it is not a copy of the policy."""
    critic, options = cast(Critic, shop.asked.groups["Critic"]).critic, shop.asked.options
    if critic is None:
        return None
    return TokenValues.load(critic, shop.policy, gradient_checkpointing=options.gradient_checkpointing, trust=options.trust)


def _responses(shop: Workshop, rows: Texts) -> list[list[Ids]]:
    """Of each prompt the responses that were preferred: chosen ones, or those with the prompt's highest score."""
    texts = shop.texts
    completions = imitable(shop.policy.tokenizer, texts, shop.tokenising).completions
    scores = texts.scores if isinstance(texts, ScoredTexts) else [0.0] * len(texts)
    own: dict[str, list[tuple[float, Ids]]] = {}
    for prompt, score, ids in zip(texts.prompts, scores, completions, strict=True):
        own.setdefault(json.dumps(prompt), []).append((score, ids))
    best = {prompt: max(score for score, _ in found) for prompt, found in own.items()}
    return [[ids for score, ids in own[key] if score == best[key]] for key in map(json.dumps, rows.prompts)]


FEEDS: dict[str, Callable[[Workshop], Parts]] = {
    "pairs": _pairs,
    "based": _pairs,
    "judged": _judged,
    "texts": _texts,
    "scored": _scored,
    "groups": _groups,
    "play": _play,
    "rollouts": _rollouts,
}


def save(learner: Aligner, folder: Path, *, merge: bool, writes: bool = True) -> None:
    """What was learned as an ordinary `save_pretrained` folder. All processes call this, the one that `writes` does so."""
    policy: Any = learner.policy
    if hasattr(learner, "finish"):
        learner.finish()
    weights = whole_weights(policy.model)
    if not writes:
        return
    if merge and getattr(policy, "adapted", False) and weights is None:
        policy = LanguagePolicy(policy.model.merge_and_unload(), policy.tokenizer, precision=policy.precision)
    with replacing_folder(folder) as new:
        policy.save(new, weights)
