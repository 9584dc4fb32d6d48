import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.preference_game import PreferenceGame, growing_eta, kl, random_game

P = torch.tensor([[[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]]], dtype=torch.float64)
REF = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log()
GAME = PreferenceGame(P, REF, tau=0.1)
NOW = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64).log()


def gaps(game: PreferenceGame, etas: list[float]) -> list[float]:
    """Duality gaps of the iterates from the reference on, one more than there are etas."""
    policy, out = game.log_reference, [float(game.duality_gap(game.log_reference))]
    for eta in etas:
        policy = game.step(policy, eta)
        out.append(float(game.duality_gap(policy)))
    return out


def close(found: Tensor, expected: list[float], atol: float = 1e-6) -> bool:
    return torch.allclose(found.squeeze(0), torch.tensor(expected, dtype=found.dtype), rtol=0.0, atol=atol)


# --- the card's numbers --------------------------------------------------------------------------------------------------


def test_closed_form_step():
    assert close(GAME.win_rate(NOW), [0.49, 0.36, 0.61])
    assert close(GAME.step(NOW, 0.3).exp(), [0.536656, 0.149922, 0.313423])


def test_constant_eta_converges_to_the_nash_policy():
    found = gaps(GAME, [0.3] * 50)
    assert [found[t] for t in (0, 1, 2, 3, 10)] == pytest.approx([0.122063, 0.082206, 0.065705, 0.037723, 0.003148], abs=1e-6)
    assert found[50] < 1e-8
    nash = GAME.nash()
    assert close(nash.exp(), [0.453485, 0.148841, 0.397674])
    assert torch.allclose(nash, (REF + GAME.win_rate(nash) / GAME.tau).log_softmax(-1), atol=1e-9)
    assert float(GAME.duality_gap(nash)) < 1e-12


def test_growing_eta_of_the_last_iterate_theorem():
    found = gaps(GAME, [growing_eta(0.1, t) for t in range(1, 51)])
    assert [found[t] for t in (1, 2, 3, 10)] == pytest.approx([0.113027, 0.048063, 0.033792, 0.004741], abs=1e-6)
    assert found[50] == pytest.approx(0.0000204, abs=1e-7)
    assert growing_eta(0.1, 0) == 0.1  # never below tau


def test_smoothed_best_response_cycles():
    """eta = tau: a negative control, the steps do not shrink and the gap does not vanish."""
    found = gaps(GAME, [0.1] * 400)
    assert min(found[200:]) > 0.05
    policy = GAME.nash() + torch.tensor([1e-3, 0.0, 0.0])
    away = [policy := GAME.step(policy.log_softmax(-1), 0.1) for _ in range(60)]  # and leaves the Nash policy, once it is off it
    assert float((away[-1] - GAME.nash()).abs().max()) > 0.1


@pytest.mark.parametrize(("tau", "expected"), [(0.1, 0.895921), (0.5, 0.438489)])
def test_two_responses(tau: float, expected: float):
    reference = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    game = PreferenceGame(torch.tensor([[[0.5, 0.8], [0.2, 0.5]]], dtype=torch.float64), reference.log(), tau)
    first = float(game.nash()[0, 0].exp())
    assert first == pytest.approx(expected, abs=1e-6)
    assert first == pytest.approx(1.0 / (1.0 + math.exp(-(math.log(0.3 / 0.7) + 0.3 / tau))), abs=1e-9)


# --- invariants ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), tau=st.sampled_from([0.02, 0.1, 1.0]), spread=st.floats(0.0, 8.0))
def test_gap_is_what_the_best_responses_gain(seed: int, tau: float, spread: float):
    generator = torch.Generator().manual_seed(seed)
    game = random_game(generator, tau, n_prompts=3, n_responses=4)
    policy, other = (spread * torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)).log_softmax(-1)
    gap, best = game.duality_gap(policy), game.best_response(policy)
    assert (gap >= -1e-12).all()
    assert torch.allclose(game.value(policy, policy), torch.full((3,), 0.5, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(gap, game.value(best, policy) - game.value(policy, best), atol=1e-9)
    assert torch.allclose(game.value(policy, other) + game.value(other, policy), torch.ones(3, dtype=torch.float64))
    assert (game.value(other, policy) <= game.value(best, policy) + 1e-12).all()
    assert (game.worst_case_win_rate(policy) <= 0.5 + 1e-12).all()
    assert (kl(policy, other) >= -1e-12).all()


@pytest.mark.parametrize("tau", [0.02, 0.1, 2.0])
def test_nash_of_many_games_at_once(tau: float):
    game = random_game(torch.Generator().manual_seed(1), tau, n_prompts=20, n_responses=6)
    assert float(game.duality_gap(game.nash(1e-9)).max()) < 1e-9


def test_step_is_what_its_objective_asks_for():
    """argmin_p <grad l(pi_t), p> + eta KL(p || pi_t), by descent on a softmax."""
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    gradient = -GAME.win_rate(NOW) + GAME.tau * (NOW - REF + 1.0)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        policy = logits.log_softmax(-1)
        value = (gradient * policy.exp()).sum() + 0.3 * kl(policy, NOW).sum()
        value.backward()
        return value

    optimiser.step(loss)
    assert torch.allclose(logits.log_softmax(-1), GAME.step(NOW, 0.3), atol=1e-6)


def test_no_regularisation():
    game = PreferenceGame(P, REF, tau=0.0)
    policy = game.log_reference
    assert float(game.duality_gap(policy)) == pytest.approx(2.0 * float(game.win_rate(policy).max()) - 1.0)
    assert float(game.worst_case_win_rate(policy)) == pytest.approx(1.0 - float(game.win_rate(policy).max()))
    with pytest.raises(ConfigError, match="tau is 0"):
        game.nash()


def test_random_games_without_cycles_are_bradley_terry():
    game = random_game(torch.Generator().manual_seed(0), 0.1, cyclic=0.0)
    logits = game.preference.logit()
    assert torch.allclose(logits[..., 0, 1] + logits[..., 1, 2], logits[..., 0, 2])
    cyclic = random_game(torch.Generator().manual_seed(0), 0.1).preference.logit()
    assert (cyclic[..., 0, 1] + cyclic[..., 1, 2] - cyclic[..., 0, 2]).abs().max() > 0.5


# --- misuse --------------------------------------------------------------------------------------------------------------


def test_refuses_what_is_no_game():
    apart, missing = P.clone(), P.clone()
    apart[0, 0, 2], missing[0, 1, 1] = 0.3, torch.nan
    with pytest.raises(DataError, match=r"prompt 0: P\(0 > 2\) is 0.3 and P\(2 > 0\) is 0.8"):
        PreferenceGame(apart, REF, 0.1)
    with pytest.raises(DataError, match=r"prompt 0: P\(1 > 1\) is nan"):
        PreferenceGame(missing, REF, 0.1)
    with pytest.raises(DataError, match="shapes"):
        PreferenceGame(P, REF[:, :2], 0.1)
    with pytest.raises(DataError, match="no distribution"):
        PreferenceGame(P, REF + 1.0, 0.1)
    with pytest.raises(ConfigError, match="tau is -1"):
        PreferenceGame(P, REF, -1.0)
    with pytest.raises(ConfigError, match=r"eta is 0.05 and tau 0.1"):
        GAME.step(NOW, 0.05)
    with pytest.raises(ConfigError, match="within 2 iterations"):
        GAME.nash(most=2)
