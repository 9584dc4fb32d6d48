"""CoPG: the card's numbers, the identities of its loss, and a language model that finds the regularised optimum from skewed data."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surefoot.data.completions import Completions, GroupBatch
from surefoot.errors import ConfigError
from surefoot.methods.language import losses
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.copg import CoPG, CoPGConfig, leave_one_out, regularised_reward
from surefoot.methods.language.pair_source import GroupSource
from surefoot.policies.language import completion_logprobs
from tests.tiny_language import VOCABULARY, tiny_policy

torch.set_num_threads(1)


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- the card's numbers -----------------------------------------------------------------------------------------------


def pair(logp: Tensor) -> tuple[Tensor, Tensor]:
    """d and the difference of rewards of the card's pair."""
    ratio = logp - row(-8.0, -8.5)
    return (ratio[0] - ratio[1])[None], row(1.3 - 0.4)


def paper_form(d: Tensor, difference: Tensor, beta: float) -> Tensor:
    """What the paper maximises: (R_{b/2}(y1) - R_{b/2}(y2)) d, everything differentiated."""
    return (difference - 0.5 * beta * d) * d


def test_the_worked_pair():
    """Oracle 1: three forms, one gradient."""
    logp = row(-7.2, -9.1).requires_grad_()
    d, difference = pair(logp)
    regularised = regularised_reward(row(1.3, 0.4), logp, row(-8.0, -8.5), 0.5)
    assert d.item() == pytest.approx(1.4) and (regularised[0] - regularised[1]).item() == pytest.approx(0.2)
    forms = [
        losses.copg(d, difference, 0.5),
        losses.copg_policy_gradient(d, difference, 0.5),
        losses.copg_group(regularised[None], 0.5),
        -paper_form(d, difference, 0.5),
    ]
    assert [forms[i].item() for i in (0, 2)] == pytest.approx([0.04, 0.04], abs=1e-12)
    assert -forms[3].item() == pytest.approx(0.77, abs=1e-12) == (0.9**2 - 0.2**2) / (2 * 0.5)
    for form in forms:
        (slope,) = torch.autograd.grad(form.sum(), logp, retain_graph=True)
        torch.testing.assert_close(slope, row(-0.2, 0.2))


REWARD, REF = row(2.5, 2.0, 1.0), row(0.2, 0.3, 0.5)


def expected(logits: Tensor, mu: Tensor, beta: float = 0.5, reward: Tensor = REWARD, ref: Tensor = REF) -> Tensor:
    """The loss of pairs whose two responses are independent draws from `mu`."""
    ratio = logits.log_softmax(-1) - ref.log()
    d, difference = (x[:, None] - x[None, :] for x in (ratio, reward))
    return (mu[:, None] * mu[None, :] * losses.copg(d, difference, beta)).sum()


def value(logits: Tensor, beta: float = 0.5) -> Tensor:
    logp = logits.log_softmax(-1)
    return (logp.exp() * regularised_reward(REWARD, logp, REF.log(), beta)).sum()


def test_three_arms():
    """Oracle 2."""
    best = (REF.log() + REWARD / 0.5).log_softmax(-1)
    torch.testing.assert_close(best.exp(), row(0.596557, 0.329191, 0.074252), atol=5e-7, rtol=0)
    assert float(value(best)) == pytest.approx(1.953572, abs=5e-7)
    pi = row(0.3, 0.3, 0.4).log().requires_grad_()
    loss = expected(pi, row(0.1, 0.6, 0.3))
    assert loss.item() == pytest.approx(0.379106, abs=5e-7)
    (slope,) = torch.autograd.grad(loss, pi)
    torch.testing.assert_close(slope, row(-0.106814, -0.284162, 0.390976), atol=5e-7, rtol=0)
    for mu in (row(0.1, 0.6, 0.3), row(1.0, 0.0, 0.0), row(0.05, 0.05, 0.9)):
        at_best = best.clone().requires_grad_()
        loss = expected(at_best, mu)
        assert loss.item() == pytest.approx(0.0, abs=1e-15)
        assert float(torch.autograd.grad(loss, at_best)[0].abs().max()) < 1e-8


def test_on_policy_it_is_twice_the_policy_gradient():
    """Oracle 3."""
    pi = row(0.3, 0.3, 0.4).log().requires_grad_()
    j = value(pi)
    assert j.item() == pytest.approx(1.733809, abs=5e-7)
    (slope,) = torch.autograd.grad(j, pi)
    torch.testing.assert_close(slope, row(0.169038, 0.079857, -0.248895), atol=5e-7, rtol=0)
    (own,) = torch.autograd.grad(expected(pi, pi.detach().exp()), pi)
    torch.testing.assert_close(-own, row(0.338075, 0.159715, -0.497790), atol=5e-7, rtol=0)
    torch.testing.assert_close(-own, 2.0 * slope)


def test_quarter_rewards_are_ipo():
    """Oracle 4."""
    assert float(losses.copg(row(1.7), row(0.5), 0.5)) == pytest.approx(0.1225, abs=1e-12)
    d = torch.linspace(-3, 3, 13, dtype=torch.float64)
    for beta in (0.06, 0.5, 2.0):
        torch.testing.assert_close(losses.copg(d, torch.full_like(d, 0.5), beta), 0.5 * beta * (d - 0.5 / beta).square())
        torch.testing.assert_close(losses.copg(d, torch.full_like(d, 0.5), beta), losses.ipo(beta * d) / (2.0 * beta))


def test_groups():
    """Oracle 5."""
    own = row(0.3, -1.0, 0.7, 0.2)
    pairs = sum(float((own[i] - own[j]) ** 2) for i in range(4) for j in range(i)) / 3
    assert pairs == pytest.approx(2.146667, abs=5e-7)
    assert float(losses.copg_group(own[None], 0.5)) == pytest.approx(2.146667 / (2 * 0.5), abs=5e-7)
    torch.testing.assert_close(leave_one_out(own), row(0.333333, -1.4, 0.866667, 0.2), atol=5e-7, rtol=0)


def numbers(k: int) -> st.SearchStrategy[Tensor]:
    return st.lists(st.floats(-5, 5, width=32), min_size=k, max_size=k).map(lambda x: row(*x))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(2, 5), st.floats(0.05, 3.0))
def test_the_gradient_is_leave_one_out(data, k, beta):
    """grad L = -sum_i [R_b(y_i) - mean of the others] grad log pi(y_i), and for k = 2 the group is the pair."""
    reward, ref = data.draw(numbers(k)), data.draw(numbers(k))
    logp = data.draw(numbers(k)).requires_grad_()
    regularised = regularised_reward(reward, logp, ref, beta)
    (slope,) = torch.autograd.grad(losses.copg_group(regularised, beta), logp)
    torch.testing.assert_close(slope, -leave_one_out(regularised.detach()))
    others = [torch.cat([regularised[:i], regularised[i + 1 :]]).mean() for i in range(k)]
    torch.testing.assert_close(-slope, (regularised - torch.stack(others)).detach())
    if k == 2:
        d = (logp - ref)[0] - (logp - ref)[1]
        torch.testing.assert_close(losses.copg_group(regularised, beta), losses.copg(d[None], (reward[0] - reward[1])[None], beta)[0])


@settings(max_examples=25, deadline=None)
@given(numbers(3), numbers(3), numbers(3), st.floats(0.05, 3.0), st.floats(-20, 20), st.floats(0.1, 10.0))
def test_invariances(logp, ref, reward, beta, constant, scale):
    """Oracle 6: constants of a prompt change nothing; rewards and beta scaled together scale the loss."""

    def loss(reward: Tensor, ref: Tensor, beta: float) -> Tensor:
        return losses.copg_group(regularised_reward(reward, logp, ref, beta), beta)

    own = loss(reward, ref, beta)
    torch.testing.assert_close(loss(reward + constant, ref, beta), own, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(loss(reward, ref + constant, beta), own, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(loss(scale * reward, ref, scale * beta), scale * own, atol=1e-9, rtol=1e-9)


def test_what_is_not_rewarded_stays_at_the_reference():
    """Oracle 7: the minimiser is the reference without rewards, and nears it as beta grows."""
    mu = row(0.1, 0.6, 0.3)

    def minimiser(reward: Tensor, beta: float) -> Tensor:
        logits = row(1.0, -1.0, 0.5).requires_grad_()
        optimiser = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = expected(logits, mu, beta, reward)
            loss.backward()
            return loss

        optimiser.step(closure)
        return logits.detach().softmax(-1)

    torch.testing.assert_close(minimiser(0.0 * REWARD, 0.5), REF, atol=1e-6, rtol=0)
    torch.testing.assert_close(minimiser(REWARD, 1e4), REF, atol=1e-4, rtol=0)
    torch.testing.assert_close(minimiser(REWARD, 0.5), (REF.log() + REWARD / 0.5).softmax(-1), atol=1e-6, rtol=0)


def test_detaching_the_regularised_reward_in_the_square_gives_no_gradient():
    """The pitfall of mixing the two forms: it is the log-probabilities in the square that carry it."""
    logp = row(-1.0, -2.0).requires_grad_()
    assert not losses.copg_group(regularised_reward(row(1.0, 0.0), logp, row(-1.0, -1.0), 0.5).detach(), 0.5).requires_grad
    assert losses.copg_group(regularised_reward(row(1.0, 0.0), logp, row(-1.0, -1.0), 0.5), 0.5).requires_grad


# --- a language model -------------------------------------------------------------------------------------------------

BETA, PROMPTS = 0.5, 5


class TokenBandit:
    """A prompt of one token, an answer of one token: mis-centred rewards, and completions from a skewed law that is not the model's."""

    def __init__(self, groups: int = 600, k: int = 4):
        g = torch.Generator().manual_seed(1)
        self.policy = tiny_policy(seed=1)
        self.reward = torch.randn(PROMPTS, VOCABULARY, generator=g) + 3.0 * torch.randn(PROMPTS, 1, generator=g)
        mu = torch.randn(PROMPTS, VOCABULARY, generator=g).softmax(-1)
        self.reference = self.logp().detach()
        prompt = torch.arange(groups) % PROMPTS
        answers = torch.multinomial(mu[prompt], k, replacement=True, generator=g)
        rows = [(int(x), int(a)) for x, each in zip(prompt, answers, strict=True) for a in each]
        self.texts = Completions([[x] for x, _ in rows], [[a] for _, a in rows])
        index = torch.tensor(rows)
        self.scores, self.ref = self.reward[index[:, 0], index[:, 1]], self.reference[index[:, 0], index[:, 1]]

    def source(self, size: int = 4, seed: int = 0) -> GroupSource:
        """All answers to a prompt are one group, from which `size` are drawn: so as many batches as there are epochs."""
        return GroupSource(self.texts, self.scores, self.ref, batch_size=PROMPTS, size=size, seed=seed)

    def logp(self) -> Tensor:
        everything = [(x, a) for x in range(PROMPTS) for a in range(VOCABULARY)]
        texts = Completions([[x] for x, _ in everything], [[a] for _, a in everything])
        return completion_logprobs(self.policy, texts, max_tokens=10_000).view(PROMPTS, VOCABULARY)

    def gap(self) -> float:
        """J(pi*) - J(pi), exact."""

        def value(logp: Tensor) -> Tensor:
            return (logp.exp() * (self.reward - BETA * (logp - self.reference))).sum(-1).mean()

        return float(value((self.reference + self.reward / BETA).log_softmax(-1)) - value(self.logp()))


def trained(k: int = 16, steps: int = 250) -> tuple[TokenBandit, list[dict[str, Tensor]]]:
    world = TokenBandit()
    tuning = Tuning(lr=1e-2, warmup=0.05, gradient_clip=10.0)
    learner, source = CoPG(world.policy, CoPGConfig(beta=BETA, responses=k), tuning, steps), world.source(k)
    return world, [learner.update(next(source)) for _ in range(steps)]


def test_a_language_model_finds_the_optimum():
    """Answers were drawn by a law that is neither the model's nor the reference's, and rewards have another centre at each prompt."""
    start = TokenBandit().gap()
    world, seen = trained()
    assert start > 0.5 and world.gap() < 0.03 * start
    assert float(seen[-1]["residual"]) < 0.1 * float(seen[0]["residual"])
    assert float(seen[0]["reach"]) == pytest.approx(float(seen[-1]["reach"]), rel=0.3)


def test_without_the_contrast_it_does_not(monkeypatch):
    """The key term off: the regularised reward itself weighs grad log pi, as in a policy gradient without a baseline."""
    monkeypatch.setattr(losses, "copg_group", lambda regularised, beta: regularised.square().sum(-1) / (2.0 * beta))
    world, _ = trained()
    assert world.gap() > 0.3 * TokenBandit().gap()


def group_batch(k: int = 3) -> GroupBatch:
    world = TokenBandit(groups=20, k=4)
    return next(world.source(k))


@pytest.mark.parametrize("tokens", [6, 10_000])
def test_an_update_is_the_mean_of_the_prompts_losses(tokens):
    """Whatever the parts: loss, metrics and gradient are those of the formula."""
    policy, batch = tiny_policy(seed=1), group_batch()
    learner = CoPG(policy, CoPGConfig(beta=BETA, responses=3), Tuning(lr=1e-9, micro_tokens=tokens), 1)
    logp = learner.logprobs(batch.completions).view(batch.rewards.shape)
    regularised = regularised_reward(batch.rewards, logp, batch.reference, BETA)
    loss = losses.copg_group(regularised, BETA).mean()
    slopes = torch.autograd.grad(loss, list(policy.parameters()))
    seen = learner.update(batch)
    assert float(seen["loss"]) == pytest.approx(loss.item(), rel=1e-4)
    assert float(seen["gradient"]) == pytest.approx(float(sum(g.square().sum() for g in slopes) ** 0.5), rel=1e-3)
    assert float(seen["reward"]) == pytest.approx(float(batch.rewards.mean()), rel=1e-4)
    assert float(seen["log_ratio"]) == pytest.approx((logp - batch.reference).mean().item(), abs=1e-5)
    assert float(seen["regularised"]) == pytest.approx(regularised.mean().item(), rel=1e-4)


def test_a_resumed_run_equals_the_uninterrupted_one():
    def learner():
        world = TokenBandit(groups=40)
        return CoPG(world.policy, CoPGConfig(beta=BETA), Tuning(lr=1e-2), 6), world.source(2)

    whole, source = learner()
    for _ in range(3):
        whole.update(next(source))
    saved = {name: x.clone() for name, x in whole.state_dict().items()}, source.state_dict()
    for _ in range(3):
        whole.update(next(source))
    again, source = learner()
    again.load_state_dict(saved[0])
    source.load_state_dict(saved[1])
    for _ in range(3):
        again.update(next(source))
    for a, b in zip(whole.policy.parameters(), again.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "beta is 0.0: it must be positive and finite"),
        ({"beta": float("inf")}, "beta is inf"),
        ({"responses": 1}, "responses is 1: CoPG contrasts at least two"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        CoPGConfig(**settings)


def test_groups_of_one_are_refused():
    with pytest.raises(ConfigError, match="contrasts at least two"):
        CoPG(tiny_policy(), CoPGConfig(), Tuning(), 1).update(group_batch(1))
