"""Two policies play for preference: win rates, the regularised duality gap and its Nash policy, exactly, from matrices.

The game of "Iterative Nash Policy Optimization" (Zhang et al., ICLR 2025, arXiv 2407.00617v4): a player is a distribution p over the Y
responses to each prompt, P[y, y'] = P(y > y') the probability that y is preferred, and both pay for leaving a reference policy:

    J(p, q)  = sum_{y,y'} p(y) P[y, y'] q(y') - tau KL(p || ref) + tau KL(q || ref)            p maximises, q minimises
    V(q)     = max_p J(p, q) = tau logsumexp(log ref + P q / tau) + tau KL(q || ref)
    gap(p)   = max_q J(q, p) - min_q J(p, q) = 2 V(p) - 1 >= 0                                 0 at the Nash policy alone
    step     : p'(y) ∝ exp(P(y > q) / eta) ref(y)^{tau / eta} p(y)^{1 - tau / eta}             online mirror descent (their Eq. 5)
    Nash     : p(y) ∝ ref(y) exp(P(y > p) / tau)

P(y > y') + P(y' > y) = 1 makes the game symmetric, so both players have the same Nash policy. Everything is `[..., S, Y]` (matrices
`[..., S, Y, Y]`): S prompts are S games of their own, leading axes are copies, and policies are given by their log-probabilities.

`nash` is not the paper's: an extragradient method (Cen, Wei and Chi, "Fast policy extragradient methods for competitive games with
entropy regularization", arXiv 2105.15186), whose linear rate holds for every tau, where the plain step may cycle.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.errors import ConfigError, DataError

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5}
"""How far P(y > y') + P(y' > y) may be from 1."""


@dataclass(frozen=True)
class PreferenceGame:
    """Preferences `[..., S, Y, Y]`, log-probabilities of the reference `[..., S, Y]`, and the price tau of leaving it (>= 0).

    Raises DataError where the matrices are no preferences or the reference no distribution, ConfigError for a tau below 0.
    """

    preference: Tensor
    log_reference: Tensor
    tau: float

    def __post_init__(self) -> None:
        _check(self.preference, self.log_reference, self.tau)

    def win_rate(self, opponent: Tensor) -> Tensor:
        """P(y > q) = E_{y' ~ q} P(y > y') of every response, `[..., S, Y]`, against the policy with log-probabilities `opponent`."""
        return (self.preference @ opponent.exp().unsqueeze(-1)).squeeze(-1)

    def value(self, first: Tensor, second: Tensor) -> Tensor:
        """J(first, second) of each prompt, `[..., S]`."""
        won = (first.exp() * self.win_rate(second)).sum(-1)
        return won - self.tau * (kl(first, self.log_reference) - kl(second, self.log_reference))

    def best_response(self, opponent: Tensor) -> Tensor:
        """argmax_p J(p, opponent), `[..., S, Y]`: p ∝ ref exp(P q / tau). Raises ConfigError without a tau."""
        if self.tau == 0.0:
            raise ConfigError("tau is 0: the best response to a policy is then a single response; give the game a positive tau.")
        return (self.log_reference + self.win_rate(opponent) / self.tau).log_softmax(-1)

    def duality_gap(self, policy: Tensor) -> Tensor:
        """max_q J(q, p) - min_q J(p, q) of each prompt, `[..., S]`: how much the best opponents gain by knowing p."""
        rate = self.win_rate(policy)
        best = self.tau * (self.log_reference + rate / self.tau).logsumexp(-1) if self.tau else rate.amax(-1)
        return 2.0 * (best + self.tau * kl(policy, self.log_reference)) - 1.0

    def worst_case_win_rate(self, policy: Tensor) -> Tensor:
        """min_y P(p > y) of each prompt, `[..., S]`: the win rate against the response that beats it best (at most 1/2)."""
        return 1.0 - self.win_rate(policy).amax(-1)

    def step(self, policy: Tensor, eta: float | Tensor, opponent: Tensor | None = None) -> Tensor:
        """One exact step of online mirror descent against `opponent` (default: the policy itself), `[..., S, Y]`.

        `eta`, an inverse step size, is a number or broadcasts with `[..., S, Y]`. Raises ConfigError where it is below tau.
        """
        check_eta(eta, self.tau)
        rate = self.win_rate(policy if opponent is None else opponent)
        return ((rate + self.tau * self.log_reference + (eta - self.tau) * policy) / eta).log_softmax(-1)

    def nash(self, tolerance: float = 1e-10, most: int = 200_000) -> Tensor:
        """Log-probabilities of the Nash policy, `[..., S, Y]`, to `tolerance` in its fixed point's logits (in nats).

        The error falls by 1 - tau min(1/2, 1 / (2 tau + 1)) an iteration. Raises ConfigError where `most` do not suffice, or tau is 0.
        """
        policy = ahead = self.log_reference
        eta = max(2.0, 2.0 * self.tau + 1.0)  # of win rates less 1/2, which make the same steps: |P - 1/2| <= 1/2
        for _ in range(most):
            ahead = self.step(policy, eta, ahead)  # what the opponent, who thinks alike, will have moved to
            policy = self.step(policy, eta, ahead)
            if bool((policy - self.best_response(policy)).abs().amax() <= tolerance):
                return policy
        raise ConfigError(f"no Nash policy to {tolerance} within {most} iterations: allow more, or a larger tolerance or tau.")


def kl(policy: Tensor, reference: Tensor) -> Tensor:
    """KL(policy || reference) of log-probabilities `[..., Y]`, in nats, `[...]`; a response of probability 0 adds nothing."""
    p = policy.exp()
    return torch.where(p > 0.0, p * (policy - reference), 0.0).sum(-1)


def check_eta(eta: float | Tensor, tau: float) -> None:
    """Raises ConfigError unless 0 < eta and tau <= eta."""
    least = float(torch.as_tensor(eta).min())
    if not least > 0.0 or least < tau * (1.0 - 1e-6):
        raise ConfigError(f"eta is {least:g} and tau {tau:g}: eta must be positive, and tau at most eta.")


def growing_eta(tau: float, iteration: int) -> float:
    """eta_t = max(tau (t + 2) / 2, tau) for iteration t = 1, 2, ... (t = 0 gives tau), with which the last iterate converges as 1/T."""
    return max(tau * (iteration + 2) / 2.0, tau)


def random_game(
    generator: torch.Generator,
    tau: float,
    *,
    n_prompts: int = 16,
    n_responses: int = 8,
    strength: float = 0.4,
    cyclic: float = 2.0,
) -> PreferenceGame:
    """A game of general preferences: P = sigmoid(s_i - s_j + cyclic (u_i x u_j)), s ~ N(0, strength^2), u ~ N(0, I_2), ref ∝ exp N(0, 1).

    The cross product u_i x u_j of points in the plane prefers whoever is ahead in the circle, which no reward can express; with `cyclic`
    0 preferences are Bradley-Terry's. Double precision.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(n_prompts, n_responses, *shape, generator=generator, dtype=torch.float64)

    s, u, logits = strength * normal(), normal(2), normal()
    x, y = u.unbind(-1)
    cross = x.unsqueeze(-1) * y.unsqueeze(-2) - y.unsqueeze(-1) * x.unsqueeze(-2)
    return PreferenceGame(torch.sigmoid(s.unsqueeze(-1) - s.unsqueeze(-2) + cyclic * cross), logits.log_softmax(-1), tau)


def _check(preference: Tensor, log_reference: Tensor, tau: float) -> None:
    if not 0.0 <= tau < float("inf"):
        raise ConfigError(f"tau is {tau}: the price of leaving the reference must be finite and not negative.")
    y = preference.shape[-1]
    if preference.dim() < 3 or preference.shape[-2] != y or preference.shape[:-1] != log_reference.shape:
        shapes = f"{tuple(preference.shape)} and {tuple(log_reference.shape)}"
        raise DataError(f"preferences and log_reference have shapes {shapes}: they must be [..., S, Y, Y] and [..., S, Y].")
    rounding = ROUNDING.get(preference.dtype, 1e-2)
    off = (preference + preference.transpose(-1, -2) - 1.0).abs()
    bad = ~(off <= rounding) | ~((preference >= 0.0) & (preference <= 1.0))  # so that NaN is bad too
    if bool(bad.any()):
        *_, s, i, j = bad.nonzero()[0].tolist()
        p, q = float(preference[bad][0]), float(preference.transpose(-1, -2)[bad][0])
        raise DataError(
            f"prompt {s}: P({i} > {j}) is {p:g} and P({j} > {i}) is {q:g}: they must lie in [0, 1] and add up to 1 (1/2 on the diagonal)."
        )
    if not bool((log_reference.logsumexp(-1).abs() <= max(rounding, 1e-6)).all()):
        raise DataError("log_reference is no distribution: its exponentials must add up to 1 for every prompt (take log_softmax).")
