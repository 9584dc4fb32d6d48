"""Fresh groups with earlier ones: what is in a batch, what is kept, and a resume that gives the same batches."""

import pytest
import torch

from surefoot.data.completions import Completions, GroupBatch, joined
from surefoot.errors import ConfigError, DataError
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.copg import CoPG, CoPGConfig
from surefoot.methods.language.generated import Generated
from surefoot.methods.language.replayed import Replayed
from surefoot.methods.language.sampling import Sampling
from surefoot.policies.language import Reference
from tests.tiny_language import some_prompts, tiny_policy

torch.set_num_threads(1)


def groups(first: int, n: int, k: int = 2, old: bool = True) -> GroupBatch:
    """`n` groups whose rewards say which they are, and for which prompt and completion."""
    number = torch.arange(first, first + n)[:, None].expand(n, k).float()
    texts = Completions([[i % 20] for i in range(first, first + n) for _ in range(k)], [[j] for _ in range(n) for j in range(k)])
    return GroupBatch(texts, number, -number, -2.0 * number if old else None)


class Counting:
    """A source of 4 new groups a batch."""

    def __init__(self):
        self.drawn = 0

    def __next__(self):
        self.drawn += 4
        return groups(self.drawn - 4, 4)

    def state_dict(self):
        return {"drawn": torch.tensor(self.drawn)}

    def load_state_dict(self, state):
        self.drawn = int(state["drawn"])


def numbers(batch: GroupBatch) -> list[int]:
    """Which groups a batch holds; each is whole."""
    for name, factor in (("reference", -1.0), ("old", -2.0)):
        assert torch.equal(getattr(batch, name), factor * batch.rewards)
    assert batch.completions.prompts == [[int(i) % 20] for i in batch.rewards.flatten()]
    return batch.rewards[:, 0].int().tolist()


def test_half_of_a_batch_is_earlier():
    source = Replayed(Counting(), share=0.5, seed=3)
    assert numbers(next(source)) == [0, 1, 2, 3]  # nothing to replay yet
    for step in range(1, 6):
        found = numbers(next(source))
        assert found[:4] == list(range(4 * step, 4 * step + 4))
        assert len(set(found[4:])) == 4 and max(found[4:]) < 4 * step


@pytest.mark.parametrize(("share", "rows"), [(0.0, 4), (0.25, 5), (0.75, 16)])
def test_shares(share, rows):
    source = Replayed(Counting(), share=share)
    found = [len(next(source)) for _ in range(6)]
    assert found[-1] == rows and found[0] == 4


def test_the_oldest_go_first():
    source = Replayed(Counting(), share=0.5, capacity=6)
    for _ in range(5):
        next(source)
    assert sorted(numbers(source.kept)) == [14, 15, 16, 17, 18, 19]
    assert min(numbers(next(source))) >= 14 and source.metrics() == {"train/kept_groups": 6.0}


def test_it_may_begin_with_logged_groups():
    """Of which nobody knows what the policy that drew them thought: then `old` is unknown for the batch."""
    source = Replayed(Counting(), share=0.5, start=groups(100, 8, old=False))
    batch = next(source)
    assert batch.old is None and set(batch.rewards[4:, 0].int().tolist()) <= set(range(100, 108))


def test_a_resumed_source_gives_the_same_batches():
    source = Replayed(Counting(), share=0.5, capacity=10, seed=1)
    for _ in range(4):
        next(source)
    state = source.state_dict()
    assert all(isinstance(x, torch.Tensor) for x in state.values())
    expected = [numbers(next(source)) for _ in range(4)]
    again = Replayed(Counting(), share=0.5, capacity=10, seed=7)
    again.load_state_dict(state)
    assert [numbers(next(again)) for _ in range(4)] == expected
    fresh = Replayed(Counting(), share=0.5)
    fresh.load_state_dict(Replayed(Counting(), share=0.5).state_dict())  # from before the first batch
    assert numbers(next(fresh)) == [0, 1, 2, 3]


def test_copg_on_its_own_samples_and_earlier_ones():
    """The replayed mode: the policy draws, an earlier half is learned from again, and the reward rises."""
    policy = tiny_policy(seed=2)
    prompts = some_prompts()
    reward = lambda prompts, completions: [float(text.split().count("w3")) for text in completions]  # noqa: E731
    drawing = {"batch": 8, "max_new_tokens": 4, "seed": 0, "reference": Reference(policy)}
    source = Replayed(Generated(policy, prompts, reward, Sampling(samples=4, reuse=1), **drawing), share=0.5)
    learner = CoPG(policy, CoPGConfig(beta=0.1, responses=4), Tuning(lr=1e-2, warmup=0.0), 25)
    seen = [float(learner.update(next(source))["reward"]) for _ in range(25)]
    assert sum(seen[-5:]) / 5 > sum(seen[:5]) / 5 + 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"share": 1.0}, "share is 1.0"), ({"share": -0.1}, "share is -0.1"), ({"capacity": 0}, "capacity is 0: at least one group")],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        Replayed(Counting(), **settings)


def test_groups_of_different_sizes_are_refused():
    with pytest.raises(DataError, match=r"groups of \[2, 3\] completions cannot be in one batch"):
        joined([groups(0, 2), groups(0, 2, k=3)])
