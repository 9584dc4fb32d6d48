"""Minari data sets as logs, and logs as Minari data sets, through Minari's own functions."""

from __future__ import annotations

import contextlib
import difflib
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import torch
from minari.data_collector.episode_buffer import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from minari.namespace import create_namespace, list_local_namespaces
from minari.storage.datasets_root_dir import get_dataset_path

from surefoot.data.checks import as_numbers, check_actions, check_flags, check_size
from surefoot.data.columns import readable
from surefoot.data.log import Layout, Log
from surefoot.data.metadata import KEY, Metadata, add_warnings, from_json, to_json
from surefoot.data.packing import Request, infer_space, known_space
from surefoot.data.spec import Continuous, Discrete, Spec, action_space
from surefoot.envs.making import make_env
from surefoot.errors import DataError, EnvError, SurefootError, first_line
from surefoot.files import replacing_folder

MINARI = "minari:"
"""How the name of a log begins that is a Minari data set."""

DOWNLOADER = "huggingface_hub"
"""What Minari downloads with; a package of its own."""


# --- reading --------------------------------------------------------------------------------------------------------


def read_minari(dataset_id: str, request: Request) -> Log:
    """A Minari data set, the local one or else downloaded. Raises DataError for unknown ids, dict and image observations.

    An episode that Minari cut off is truncated: its last `next_obs` is recorded, so nothing is dropped.
    """
    source = request.source
    dataset = _open(dataset_id)
    recorded = dataset.env_spec.id if dataset.env_spec is not None else None
    text = dataset.storage.metadata.get(KEY)
    metadata = from_json(str(text), source) if text is not None else Metadata()
    obs_space = dataset.observation_space
    if not isinstance(obs_space, gym.spaces.Box):
        kind = type(obs_space).__name__
        raise DataError(f"{source}: observations are a {kind}, not a Box: only vectors of features can be learned from so far.")
    if obs_space.dtype == np.uint8 and len(obs_space.shape) >= 2:
        raise DataError(f"{source}: observations are images {obs_space.shape}: only vectors of features can be learned from so far.")
    n, obs_shape = dataset.total_steps, tuple(obs_space.shape) or (1,)
    check_size(n, source)
    own, discrete, width = _own_space(dataset.action_space, source)
    space = known_space(width, obs_shape, request, Metadata(metadata.action or own))
    layout = Layout.of(Spec(obs_shape, space)) if space is not None else Layout(int(np.prod(obs_shape)), width, discrete)
    packed, ends = np.empty((n, layout.width), np.float32), np.zeros(n, bool)
    with readable(source, "a Minari data set"):
        start = 0
        for episode in dataset.iterate_episodes():
            stop = start + len(episode.rewards)
            fields = {
                "observations": episode.observations,
                "actions": episode.actions,
                "rewards": episode.rewards,
                "terminations": episode.terminations,
            }
            _fill(packed[start:stop], fields, layout, start, source)
            if stop > start:
                ends[stop - 1] = True
            start = stop
    if start != n:
        raise DataError(f"{source}: its episodes hold {start} transitions, but its metadata says {n}: download or record it again.")
    ends |= packed[:, -1] == 1.0
    warned: list[str] = []
    actions = packed[:, layout.obs_dim : layout.obs_dim + layout.action_dim]
    if space is None:
        space, guess = infer_space(actions, discrete)
        warned.append(guess)
    check_actions(actions, space, 0, source, request.env_id)
    notes = metadata.notes if text is not None else {"recipe": f"Minari data set {dataset_id}"}
    env_id = request.env_id or metadata.env_id or recorded
    return Log(torch.from_numpy(packed), ends, obs_shape, space, source, env_id, add_warnings(notes, warned))


def _fill(rows: np.ndarray, fields: dict[str, np.ndarray], layout: Layout, first: int, source: str) -> None:
    """One episode of T transitions, whose T + 1 observations stand one after the other, into its packed rows `[T, D]`."""
    numbers = {name: as_numbers(np.asarray(array), name, first, source) for name, array in fields.items()}
    obs, t, s, a = numbers["observations"], len(rows), layout.obs_dim, layout.action_dim
    if len(obs) != t + 1:
        raise DataError(f"{source}: the episode at row {first} has {len(obs)} observations for {t} transitions: it needs {t + 1}.")
    check_flags(numbers["terminations"][:, 0], "terminations", first, source)
    rows[:, :s], rows[:, s + a + 1 : -1] = obs[:-1], obs[1:]
    rows[:, s : s + a], rows[:, s + a], rows[:, -1] = numbers["actions"], numbers["rewards"][:, 0], numbers["terminations"][:, 0]


def _own_space(space: gym.Space, source: str) -> tuple[Continuous | Discrete | None, bool, int]:
    """(the data set's action space, discrete, numbers of an action); the space is None for a box without bounds."""
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        return None, False, space.shape[0]
    try:
        own = action_space(space)
    except EnvError:
        raise DataError(f"{source}: actions are of {space}: only a flat Box and Discrete actions from 0 can be learned.") from None
    return own, isinstance(own, Discrete), own.dim if isinstance(own, Continuous) else 1


def _open(dataset_id: str) -> minari.MinariDataset:
    """The data set of this id. What Minari prints while downloading goes to stderr: stdout is for results."""
    _check_id(dataset_id)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            try:
                return minari.load_dataset(dataset_id, download=False)
            except FileNotFoundError:
                return minari.load_dataset(dataset_id, download=True)
    except ImportError as error:
        why = f"downloading it needs {DOWNLOADER}: pip install 'surefoot[minari]'" if DOWNLOADER in str(error) else str(error)
    except Exception as error:  # of the network, of the server, of the files: libraries below Minari raise what they like
        why = first_line(error)
    local = sorted(minari.list_local_datasets())
    near = difflib.get_close_matches(dataset_id, local, n=3, cutoff=0.4) or local[:5]
    hint = f"local ones: {', '.join(near)}" if near else "there are no local ones"
    raise DataError(f"Minari data set {dataset_id!r} cannot be opened ({why}); {hint}.")


def _bounds(box: Continuous) -> tuple[np.ndarray, np.ndarray]:
    return np.array(box.low, np.float32), np.array(box.high, np.float32)


def _check_id(dataset_id: str) -> None:
    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError):
        raise DataError(f"minari:{dataset_id} is no Minari id: it has the form NAME-v0 or GROUP/NAME-v0.") from None


# --- writing --------------------------------------------------------------------------------------------------------


def write_minari(log: Log, dataset_id: str) -> None:
    """Create the local data set of this id, whole or not at all. Raises DataError if it exists, or if the log does not fit.

    Minari stores T + 1 observations for T transitions, so `next_obs` must be the obs of the row that follows.
    """
    place = check_new(dataset_id)
    t = log.transitions
    inside = torch.from_numpy(np.flatnonzero(~log.ends[:-1]))
    if not torch.equal(t.next_obs[inside], t.obs[inside + 1]):
        raise DataError(
            f"{log.source}: next_obs is not always the obs of the next row, which is how Minari stores it: take another format."
        )
    box, spec = log.action, None
    if log.env_id is not None:
        with contextlib.suppress(SurefootError):  # one that is not installed here
            spec = make_env(log.env_id).spec
    space: gym.Space = gym.spaces.Discrete(box.n) if isinstance(box, Discrete) else gym.spaces.Box(*_bounds(box), dtype=np.float32)
    with replacing_folder(place) as new, _datasets_in(new / "root"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # author, e-mail, code link: Minari wants them for what is published
        minari.create_dataset_from_buffers(
            dataset_id,
            list(_buffers(log)),
            env=spec,
            observation_space=gym.spaces.Box(-np.inf, np.inf, log.obs_shape, np.float32),
            action_space=space,
            description="; ".join(f"{key}: {value}" for key, value in log.notes.items()) or None,
        ).storage.update_metadata({KEY: to_json(log)})
        shutil.move(get_dataset_path(dataset_id) / "data", new / "data")
        shutil.rmtree(new / "root")
    namespace = parse_dataset_id(dataset_id)[0]
    if namespace is not None and namespace not in list_local_namespaces():
        create_namespace(namespace)


def check_new(dataset_id: str) -> Path:
    """The folder of a data set that is still to be made. Raises DataError for what is no id, or if there is one."""
    _check_id(dataset_id)
    place = get_dataset_path(dataset_id)
    if place.exists():
        raise DataError(f"Minari data set {dataset_id!r} exists already: choose another name, or a higher version.")
    return place


def _buffers(log: Log) -> Iterator[EpisodeBuffer]:
    """One buffer an episode; an end that is not terminal is a truncation."""
    t = log.transitions
    for first, last in zip(log.episode_starts, log.episode_ends, strict=True):
        rows = slice(int(first), int(last) + 1)
        obs = torch.cat([t.obs[rows], t.next_obs[int(last)][None]]).reshape(-1, *log.obs_shape)
        terminated = t.terminated[rows].numpy().astype(bool)
        yield EpisodeBuffer(
            observations=obs.numpy(),
            actions=t.action[rows].numpy(),
            rewards=t.reward[rows].numpy(),
            terminations=terminated,
            truncations=log.ends[rows] & ~terminated,
        )


@contextlib.contextmanager
def _datasets_in(root: Path) -> Iterator[None]:
    """Minari's functions take the place of its data sets from the environment alone."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
