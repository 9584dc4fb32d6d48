"""A short episode as a moving picture: played here, drawn in a process of its own, encoded as an animated WebP.

Drawing needs what machines without a screen may lack (OpenGL for MuJoCo), and may end in a crash of native code rather than in
an exception. So a child process replays the recorded actions and draws; whatever becomes of it, this process goes on.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, features

from surefoot.data.spec import Spec
from surefoot.envs.making import check_fits, make_env, time_limit
from surefoot.errors import EnvError
from surefoot.evaluation.rollouts import device_of
from surefoot.policies.base import Policy

SECONDS = 12.0  # of the environment's own time that are shown
FRAMES = 110  # at most
PIXELS = 320  # of the longer side
PATIENCE = 90.0  # seconds that drawing may take


@dataclass(frozen=True)
class Episode:
    """What happened in one episode; `obs` has the first observation in front."""

    env_id: str
    seed: int
    limit: int
    obs: np.ndarray  # [T + 1, *obs_shape]
    action: np.ndarray  # [T, A] or [T]
    reward: np.ndarray  # [T]


@dataclass(frozen=True)
class Clip:
    """An episode as `data:` addresses: the moving picture, and one frame of it for those who want no motion."""

    moving: str
    still: str
    width: int
    height: int
    seconds: float  # shown
    whole: bool  # the clip shows the episode to its end


def play_episode(policy: Policy, env_id: str, *, seed: int, max_steps: int | None = None) -> Episode:
    """One episode of a lone policy, acting greedily. Raises EnvError where policy and environment disagree."""
    limit = time_limit(env_id, max_steps)
    env = make_env(env_id, max_episode_steps=limit, disable_env_checker=True)
    try:
        check_fits("the policy", policy.spec, env_id, Spec.from_env(env))
        device = device_of(policy)
        generator = torch.Generator(device).manual_seed(seed)
        memory = policy.start(1)
        obs, _ = env.reset(seed=seed)
        seen, actions, rewards, done = [np.array(obs)], [], [], False
        while not done:
            with torch.no_grad():
                batch = torch.as_tensor(np.array(obs), dtype=torch.float32, device=device)[None]
                chosen, memory = policy.act(batch, memory, generator=generator)
            action = chosen[0].cpu().numpy()
            obs, reward, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
            seen.append(np.array(obs))
            actions.append(action)
            rewards.append(float(reward))
    finally:
        env.close()
    return Episode(env_id, seed, limit, np.stack(seen), np.stack(actions), np.array(rewards))


def film(episode: Episode, *, most_bytes: int = 300_000) -> Clip:
    """The episode as a moving picture of about `most_bytes`. Raises EnvError with the reason where it cannot be drawn here."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.save(place / "actions.npy", episode.action)
        command = [sys.executable, "-m", __name__, episode.env_id, str(episode.seed), str(episode.limit), folder]
        try:
            child = subprocess.run(command, cwd=folder, env=_headless(), capture_output=True, text=True, errors="replace", timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise EnvError(f"{episode.env_id} could not be drawn here: it took longer than {PATIENCE:.0f} s.") from None
        if child.returncode != 0 or not (place / "frames.npy").exists():
            raise EnvError(f"{episode.env_id} could not be drawn here ({_reason(child)}).")
        frames, fps = np.load(place / "frames.npy", allow_pickle=False), float((place / "fps").read_text())
    shown = min(len(episode.action), round(SECONDS * fps))
    pictures = [Image.fromarray(frame) for frame in frames]
    each = 1000.0 * shown / fps / max(1, len(pictures) - 1)
    encoded, picture = _encode(pictures, each, most_bytes)
    still = BytesIO()
    picture.save(still, "PNG", optimize=True)
    kind = "webp" if features.check("webp") else "gif"
    return Clip(_data(encoded, kind), _data(still.getvalue(), "png"), *picture.size, shown / fps, shown == len(episode.action))


def _encode(pictures: Sequence[Image.Image], each: float, most_bytes: int) -> tuple[bytes, Image.Image]:
    """The smallest loss of quality, size and frames that stays within `most_bytes`, and a frame from the middle."""
    encoded = b""
    for scale, quality, step in ((1.0, 70, 1), (1.0, 45, 1), (0.7, 45, 1), (0.7, 30, 2), (0.5, 25, 3)):
        chosen = [p.resize((round(p.width * scale), round(p.height * scale)), Image.Resampling.LANCZOS) for p in pictures[::step]]
        durations = [round(each * step)] * (len(chosen) - 1) + [1200]  # the end stays for a moment
        buffer = BytesIO()
        if features.check("webp"):
            chosen[0].save(buffer, "WEBP", save_all=True, append_images=chosen[1:], duration=durations, loop=0, quality=quality, method=4)
        else:
            flat = [p.quantize(64) for p in chosen]
            flat[0].save(buffer, "GIF", save_all=True, append_images=flat[1:], duration=durations, loop=0)
        encoded = buffer.getvalue()
        if len(encoded) <= most_bytes:
            break
    return encoded, chosen[len(chosen) // 2]


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _headless() -> dict[str, str]:
    """This process's environment, for a machine that may have no screen, and finding what this process finds."""
    env = {"SDL_VIDEODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"} | dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    if sys.platform.startswith("linux") and not env.get("DISPLAY"):
        env.setdefault("MUJOCO_GL", "egl")
    return env


def _reason(child: subprocess.CompletedProcess[str]) -> str:
    if child.returncode < 0:
        return f"drawing crashed with signal {-child.returncode}"
    lines = [line for line in child.stderr.splitlines() if line.strip()]
    return re.sub(r"^[\w.]*\.(?:EnvError: )?", "", lines[-1].strip())[:200] if lines else f"drawing ended with code {child.returncode}"


# --- the child process ----------------------------------------------------------------------------------------------


def draw(env_id: str, seed: int, limit: int, folder: Path) -> None:
    """Replay `actions.npy` of the folder and leave `frames.npy` `[n, H, W, 3]` uint8 and `fps` there."""
    actions = np.load(folder / "actions.npy", allow_pickle=False)
    plain = make_env(env_id)
    plain.close()
    if "rgb_array" not in plain.metadata.get("render_modes", []):
        raise EnvError("it offers no render mode rgb_array")
    env = make_env(env_id, render_mode="rgb_array", max_episode_steps=limit, disable_env_checker=True)
    fps = float(env.metadata.get("render_fps") or 30)
    steps = min(len(actions), round(SECONDS * fps))
    wanted = set(np.linspace(0, steps, min(steps + 1, FRAMES)).round().astype(int).tolist())
    frames = []
    env.reset(seed=seed)
    for t in range(steps + 1):
        if t in wanted:
            frames.append(_small(env.render()))
        if t < steps:
            env.step(actions[t])
    env.close()
    np.save(folder / "frames.npy", np.stack(frames))
    (folder / "fps").write_text(str(fps))


def _small(frame: object) -> np.ndarray:
    picture = Image.fromarray(np.asarray(frame, np.uint8)).convert("RGB")
    picture.thumbnail((PIXELS, PIXELS), Image.Resampling.LANCZOS)
    return np.asarray(picture)


if __name__ == "__main__":
    draw(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
