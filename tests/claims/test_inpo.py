"""The trainer of INPO's claim on three kinds of policy, what its arms are in their limits, and its verdict."""

import pytest
import torch
from torch import Tensor, nn

from surefoot.claims import base
from surefoot.claims.inpo import (
    ARMS,
    BASELINES,
    CLAIM,
    INPO,
    WITHOUT_KL,
    Arm,
    Rounds,
    Table,
    Task,
    anchored,
    checks,
    fit,
    games,
    labelled,
    logprobs,
    measured,
    play,
)
from surefoot.errors import ConfigError
from surefoot.methods.exact.preference_game import PreferenceGame, random_game
from surefoot.methods.language import losses
from surefoot.nn.mlp import MLP
from tests.tiny_language import tiny_model

TAU = 0.1


class OnOneHots(nn.Module):
    """An MLP asked about every prompt."""

    def __init__(self, n_prompts: int, n_responses: int):
        super().__init__()
        self.net = MLP((n_prompts, 32, n_responses), generator=torch.Generator().manual_seed(0))
        self.prompts = torch.eye(n_prompts)

    def forward(self) -> Tensor:
        return self.net(self.prompts)


class OneToken(nn.Module):
    """A GPT that answers each prompt, one token, with one of the first `n_responses` tokens."""

    def __init__(self, n_prompts: int, n_responses: int):
        super().__init__()
        self.model = tiny_model("gpt2").eval()
        self.prompts, self.n_responses = torch.arange(n_prompts).unsqueeze(-1), n_responses

    def forward(self) -> Tensor:
        return self.model(input_ids=self.prompts).logits[:, -1, : self.n_responses]


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def game_of(policy: nn.Module, n_prompts: int, n_responses: int, seed: int = 3) -> PreferenceGame:
    """A random game whose reference is the policy as it is."""
    game = random_game(torch.Generator().manual_seed(seed), TAU, n_prompts=n_prompts, n_responses=n_responses)
    return PreferenceGame(game.preference, logprobs(policy).double(), TAU)


@pytest.mark.parametrize(
    ("policy", "learning_rate"),
    [(Table(torch.zeros(4, 6)), 0.1), (OnOneHots(4, 6), 0.02), (OneToken(4, 6), 0.01)],
    ids=["table", "mlp", "gpt"],
)
def test_one_trainer_for_every_kind_of_policy(policy, learning_rate):
    game = game_of(policy, 4, 6)
    iterates = play(game, policy, ARMS[INPO], seeded(0), Rounds(n=8, pairs=8000, steps=40, learning_rate=learning_rate))
    gaps = [float(game.duality_gap(each.double()).mean()) for each in iterates]
    assert gaps[-1] < 0.25 * gaps[0]


def test_learns_only_with_the_reference_in_the_anchor():
    """The key term: with tau = 0 in the anchor the same steps end further from the reference, and far from the Nash policy."""
    game = games((0, 1))
    found = {}
    for name in (INPO, WITHOUT_KL):
        rounds = Rounds(n=12, pairs=8000, steps=60)
        policies = play(game, Table(game.log_reference), ARMS[name], seeded(0, 1), rounds)
        found[name] = float(game.duality_gap(policies[-1]).mean())
    assert found[INPO] < 0.02, found
    assert found[WITHOUT_KL] > 0.15, found


def test_a_round_without_noise_is_the_exact_step():
    """Population shares of the pairs instead of draws: the fit is the closed form, whatever pi_t."""
    game = random_game(torch.Generator().manual_seed(5), TAU, n_prompts=3, n_responses=5)
    current = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).log_softmax(-1)
    shares = 2.0 * current.exp().unsqueeze(-1) * current.exp().unsqueeze(-2) * game.preference / 3.0  # drawn in either order
    table = Table(current)
    fit(table, shares, *anchored(game, current, Arm(losses.inpo, 0.3), 1), Rounds(steps=400, learning_rate=0.1))
    torch.testing.assert_close(logprobs(table), game.step(current, 0.3), rtol=0.0, atol=1e-3)


def test_labels_have_the_frequencies_of_the_game():
    game = games((7, 8))
    current = game.log_reference
    shares = labelled(game, current, seeded(1, 2), 200_000)
    assert shares.shape == game.preference.shape and torch.allclose(shares.sum((-3, -2, -1)), torch.ones(2, dtype=torch.float64))
    p = current.exp()
    expected = 2.0 * p.unsqueeze(-1) * p.unsqueeze(-2) * game.preference / 16.0  # drawn in either order
    assert ((shares - expected).abs() <= 5.0 * (expected / 200_000).sqrt() + 1e-6).all()
    assert torch.equal(shares[0], labelled(games((7,)), current[:1], seeded(1), 200_000)[0])  # a copy draws as it would alone


def test_copies_are_what_each_would_be_alone():
    small = Rounds(n=3, pairs=500, steps=20)
    both = measured(Task(INPO, (3, 4), small))
    alone = measured(Task(INPO, (4,), small))
    for name, values in both.items():
        assert values[1] == pytest.approx(alone[name][0], abs=1e-12)


def test_arms_in_their_limits():
    """tau = eta anchors at the reference (IPO), tau = 0 at pi_t; in the first round of a policy that starts as the reference all agree."""
    game = games((0,))
    current = torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log_softmax(-1)
    same, loss = anchored(game, current, Arm(losses.inpo, TAU), 5)
    assert torch.equal(same, game.log_reference)
    h = torch.linspace(-3.0, 3.0, 9, dtype=torch.float64)
    assert torch.allclose(loss(h), losses.ipo(TAU * h) / TAU**2)
    assert torch.equal(anchored(game, current, ARMS[WITHOUT_KL], 5)[0], current)
    first = [anchored(game, game.log_reference, arm, 1)[0] for arm in ARMS.values()]
    assert all(torch.allclose(each, game.log_reference, atol=1e-12) for each in first)
    assert [ARMS[INPO].of_round(t)[0] for t in (1, 2, 8)] == pytest.approx([0.15, 0.2, 0.5])


# --- verdict -------------------------------------------------------------------------------------------------------------


def scores(gap: float, win: float, kl: float) -> base.Scores:
    """Five seeds whose baselines have a gap of 0.1, a worst-case win rate of 0.3 and more, and INPO these."""
    keys = [str(seed) for seed in range(5)]

    def arm(value: float) -> base.Arm:
        return {key: value * (1.0 + 0.01 * int(key)) for key in keys}

    panels = {"gap": (gap, 0.1, 0.5), "least gap": (gap, 0.1, 0.4), "worst-case win rate": (win, 0.3, 0.25), "KL": (0.3, 1.0, kl)}
    return {
        panel: {name: arm(own if name == INPO else without if name == WITHOUT_KL else baseline) for name in ARMS}
        for panel, (own, baseline, without) in panels.items()
    }


def test_verdict():
    assert set(BASELINES) == {name for name in ARMS if name.startswith(("dpo", "ipo"))} and set(CLAIM.arms) == set(ARMS)
    assert base.holds(checks(scores(0.01, 0.4, 1.5)))
    failing = {
        "gap": scores(0.04, 0.4, 1.5),
        "win rate": scores(0.01, 0.29, 1.5),
        "kl without tau": scores(0.01, 0.4, 0.2),
        "win rate without tau": scores(0.01, 0.24, 1.5),
    }
    for name, each in failing.items():
        failed = {check.name for check in checks(each) if check.required and not check.holds}
        assert name in failed and not base.holds(checks(each))
    by_name = {check.name: check for check in checks(scores(0.01, 0.4, 1.5))}
    assert by_name["gap"].value == pytest.approx(10.0)


def test_full_scale_says_what_to_do():
    with pytest.raises(ConfigError, match="surefoot align inpo"):
        CLAIM.run(CLAIM.context("full"))
