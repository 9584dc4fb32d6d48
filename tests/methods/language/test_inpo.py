"""INPO: the card's numbers, its limits, the first step from the reference, and that the anchor at the reference is what it learns by."""

import pytest
import torch
from torch import Tensor

from surefoot.data.completions import Completions, PairBatch
from surefoot.errors import ConfigError
from surefoot.methods.exact.preference_game import PreferenceGame, growing_eta, random_game
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.inpo import INPO, INPOConfig
from surefoot.methods.language.losses import anchor, inpo, log_ratio
from surefoot.methods.language.pairwise import Pairwise, PairwiseConfig
from surefoot.methods.language.self_play import SelfPlay, SelfPlayBatch, SelfPlaySettings
from surefoot.nn.lbfgs import minimise
from tests.tiny_language import VOCABULARY, WORDS, tiny_policy

P = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]], dtype=torch.float64)
REF, NOW = (torch.tensor(p, dtype=torch.float64).log() for p in ([0.6, 0.3, 0.1], [0.5, 0.2, 0.3]))
TAU, ETA = 0.1, 0.3
GAME = PreferenceGame(P[None], REF[None], TAU)


def all_pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.broadcast_tensors(x.unsqueeze(-1), x.unsqueeze(-2))


def log_ratios(logp: Tensor, tau: float = TAU, eta: float = ETA) -> Tensor:
    """h of every (winner, loser), `[Y, Y]`."""
    return log_ratio(*all_pairs(logp), *all_pairs(anchor(REF, NOW, tau, eta)))


def labelled_loss(logp: Tensor) -> Tensor:
    """L_INPO in population: both responses pi_t's, the winner by the oracle."""
    first, second = all_pairs(NOW.exp())
    return (first * second * 2.0 * P * inpo(log_ratios(logp), ETA)).sum()  # either may be drawn first


def step_loss(logp: Tensor) -> Tensor:
    """L_t, whose only zero is the exact step."""
    first, second = all_pairs(NOW.exp())
    rate, other = all_pairs(P @ NOW.exp())
    return (first * second * (log_ratios(logp) - (rate - other) / ETA).square()).sum()


# --- the card's numbers --------------------------------------------------------------------------------------------------


def test_the_minimiser_of_the_labelled_loss_is_the_exact_step():
    found = minimise(lambda logits: labelled_loss(logits.log_softmax(-1)), torch.zeros(3, dtype=torch.float64)).log_softmax(-1)
    assert found.exp().tolist() == pytest.approx([0.536656, 0.149922, 0.313423], abs=1e-6)
    torch.testing.assert_close(found, GAME.step(NOW[None], ETA)[0], rtol=0.0, atol=1e-7)
    assert float(step_loss(found)) == pytest.approx(0.0, abs=1e-10)
    assert float(labelled_loss(found)) == pytest.approx(2.608889, abs=1e-6)


@pytest.mark.parametrize(("policy", "labelled", "step"), [((0.4, 0.3, 0.3), 2.887970, 0.279082), ((0.2, 0.2, 0.6), 3.753148, 1.144259)])
def test_both_losses_differ_by_a_constant(policy, labelled, step):
    logp = torch.tensor(policy, dtype=torch.float64).log()
    assert float(labelled_loss(logp)) == pytest.approx(labelled, abs=1e-6)
    assert float(step_loss(logp)) == pytest.approx(step, abs=1e-6)
    assert float(labelled_loss(logp) - step_loss(logp)) == pytest.approx(2.608889, abs=1e-6)


# --- the learner on a pair -----------------------------------------------------------------------------------------------

PAIRS = Completions([[1, 2], [3]], [[4, 5, 6], [7]]), Completions([[1, 2], [3]], [[8], [9, 10]])
WORKED = {"ref": (-10.5, -10.8), "cur": (-9.8, -10.9)}


def batch_of(t: int, n: int = 2) -> SelfPlayBatch:
    """Two pairs with the card's log-probabilities under the reference and pi_t, of round t."""
    (ref_w, ref_l), (cur_w, cur_l) = ((torch.full((n,), x) for x in WORKED[name]) for name in ("ref", "cur"))
    return SelfPlayBatch(*PAIRS, ref_w, ref_l, cur_w, cur_l, t)


def loss_of(config: INPOConfig, batch: PairBatch) -> float:
    """Of log-probabilities -10 and -11, whatever the policy's own."""
    method = INPO(tiny_policy(), config, Tuning(), 10)
    method.logprobs = lambda texts: torch.tensor([-10.0, -10.0, -11.0, -11.0], requires_grad=True)
    method.descend = lambda parts, loss: {"loss": sum(loss(part)[0] for part in parts)}
    return float(method.update(batch)["loss"].detach())


def test_the_pair_value():
    assert loss_of(INPOConfig(eta=0.3, tau=0.1), batch_of(2)) == pytest.approx(2.25, abs=1e-5)  # h = 1/6
    assert loss_of(INPOConfig(), batch_of(2)) == pytest.approx(9966.694444, abs=2e-2)  # eta 0.005, tau a third
    eta = growing_eta(0.1, 4)
    h = 1.0 - (0.1 / eta * 0.3 + (1.0 - 0.1 / eta) * 1.1)
    assert loss_of(INPOConfig(tau=0.1, growing=True), batch_of(4)) == pytest.approx((h - 0.5 / eta) ** 2, abs=1e-5)


def test_limits():
    """tau = eta is IPO against the reference, tau = 0 against pi_t, and pairs without a pi_t are the first round's: IPO for every tau."""
    against_ref, against_cur = (1.0 - 0.3 - 0.5 / 0.3) ** 2, (1.0 - 1.1 - 0.5 / 0.3) ** 2
    plain = PairBatch(*PAIRS, torch.full((2,), -10.5), torch.full((2,), -10.8))
    assert loss_of(INPOConfig(eta=0.3, tau=0.3), batch_of(5)) == pytest.approx(against_ref, abs=1e-5)
    assert loss_of(INPOConfig(eta=0.3, tau=0.0), batch_of(5)) == pytest.approx(against_cur, abs=1e-5)
    for tau in (0.0, 0.1, 0.3):
        assert loss_of(INPOConfig(eta=0.3, tau=tau), plain) == pytest.approx(against_ref, abs=1e-5)


def test_on_plain_pairs_the_gradient_is_that_of_ipo():
    """Up to the factor beta^2 that IPO is written with."""
    beta, gradients = 0.4, []
    for method_class, config in ((INPO, INPOConfig(eta=beta, tau=0.1)), (Pairwise, PairwiseConfig(beta, "ipo"))):
        policy = tiny_policy()
        batch = PairBatch(*PAIRS, torch.tensor([-9.0, -3.0]), torch.tensor([-3.0, -6.0]))
        method_class(policy, config, TUNING, 1).update(batch)
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0] * beta**2, gradients[1], rtol=1e-4, atol=1e-6)


TUNING = Tuning(lr=1e-3, warmup=0.0, gradient_clip=0.0)


def test_from_the_reference_every_log_ratio_is_zero():
    policy = tiny_policy()
    source = SelfPlay(policy, [[1], [2, 3], [4]], lambda p, a, b: [0.5] * len(p), SelfPlaySettings(batch=3, max_new_tokens=6))
    metrics = INPO(policy, INPOConfig(eta=0.05), TUNING, source.updates).update(next(source))
    assert float(metrics["loss"]) == pytest.approx(100.0, rel=1e-6)  # (0 - 1/(2 eta))^2
    assert [float(metrics[side]) for side in ("chosen", "rejected")] == pytest.approx([0.0, 0.0], abs=1e-5)


def test_the_step_does_not_depend_on_how_the_batch_is_cut():
    after = []
    for tokens in (10_000, 1):
        policy = tiny_policy()
        INPO(policy, INPOConfig(eta=0.3), Tuning(lr=1e-2, warmup=0.0, micro_tokens=tokens), 1).update(batch_of(3))
        after.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    torch.testing.assert_close(*after, rtol=0.0, atol=2e-5)


# --- learning ------------------------------------------------------------------------------------------------------------

N_PROMPTS, PAIRS_A_ROUND, PRICE = 2, 600, 0.2


def one_token_game(policy) -> PreferenceGame:
    """A random game whose prompts and responses are single tokens; those without a word are one response, "", in several tokens."""
    generator = torch.Generator().manual_seed(1)
    words = random_game(generator, PRICE, n_prompts=N_PROMPTS, n_responses=WORDS + 1, strength=1.0, cyclic=3.0)
    place = torch.arange(VOCABULARY).clamp_max(WORDS)
    return PreferenceGame(words.preference[:, place][:, :, place], answers(policy), PRICE)


@torch.no_grad()
def answers(policy) -> Tensor:
    """Log-probabilities of one token after each prompt, `[S, Y]`."""
    return policy.model(input_ids=torch.arange(N_PROMPTS).unsqueeze(-1)).logits[:, -1].double().log_softmax(-1)


def gaps(tau: float) -> tuple[float, float]:
    """Mean duality gap over prompts of a GPT that answers one token, before and after six rounds of self-play."""
    policy = tiny_policy()
    game = one_token_game(policy)

    def prefers(prompts, first, second):
        at = [[int(text[1:]) if text else WORDS for text in texts] for texts in (prompts, first, second)]
        return game.preference[at[0], at[1], at[2]]

    n = PAIRS_A_ROUND
    settings = SelfPlaySettings(rounds=6, prompts=n, batch=n, epochs=8, max_new_tokens=1, prompts_at_once=n, max_tokens=10**6)
    source = SelfPlay(policy, [[i % N_PROMPTS] for i in range(n)], prefers, settings)
    tuning = Tuning(lr=1e-2, warmup=0.0, schedule="linear", micro_tokens=10**6)
    method = INPO(policy, INPOConfig(eta=0.4, tau=tau), tuning, source.updates)
    for batch in source:
        method.update(batch)
    before, after = (float(game.duality_gap(each).mean()) for each in (game.log_reference, answers(policy)))
    return before, after


def test_learns_only_with_the_reference_in_the_anchor():
    """The key term: the same steps and eta without it end with a larger gap than they began with."""
    before, after = gaps(tau=PRICE)
    _, without = gaps(tau=0.0)
    assert after < 0.5 * before, (before, after)
    assert without > 2.0 * before, (before, without)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eta": 0.0}, "eta is 0 and tau 0: eta must be positive"),
        ({"eta": float("nan")}, "eta is nan: it must be finite"),
        ({"tau": -0.1}, "tau is -0.1"),
        ({"eta": 0.1, "tau": 0.2}, r"eta is 0.1 and tau 0.2: eta must be positive, and tau at most eta"),
        ({"growing": True}, "tau is None, and eta is to grow with it"),
        ({"growing": True, "tau": 0.0}, "tau is 0.0, and eta is to grow with it"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        INPOConfig(**settings)


def test_defaults_are_the_papers():
    config = INPOConfig()
    assert config.price == pytest.approx(0.005 / 3.0) and config.eta_of(1) == config.eta_of(3) == 0.005
    growing = INPOConfig(tau=0.1, growing=True)
    assert [growing.eta_of(t) for t in (1, 2, 3)] == pytest.approx([0.15, 0.2, 0.25])
    settings = SelfPlaySettings()
    assert (settings.rounds, settings.prompts, settings.batch, settings.epochs, settings.selection) == (3, 20_000, 128, 2, "random")
