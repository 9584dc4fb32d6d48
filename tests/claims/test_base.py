"""Verdicts follow from raw scores: checks, contexts, the registry."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.claims import base, claim
from surefoot.errors import ConfigError, UnknownNameError

ARMS = {"new": "the new method", "old": "the old one"}


def experiment(context: base.Context) -> base.Scores:
    rng = [np.random.default_rng(base.derived(seed, "data")) for seed in context.seeds]
    return {"A": {arm: context.arm([r.normal(loc, 1.0, 3) for r in rng]) for arm, loc in (("new", 8.0), ("old", 0.0))}}


def judge(scores: base.Scores) -> list[base.Check]:
    return [
        base.difference(scores, "A", "new", "old", name="a", statement="new beats old by 3", threshold=3.0),
        base.bound(scores, "A", "old", name="b", statement="old is poor", below=-5.0, required=False),
    ]


TOY = base.Claim("toy", "Toy", "new beats old", 5, ARMS, {"A": "score"}, {"small": "a toy"}, experiment, judge)


def test_a_claim_holds_when_its_required_checks_do():
    checks = TOY.checks(TOY.run(TOY.context()))
    assert [check.holds for check in checks] == [True, False]
    assert base.holds(checks)
    assert checks[0].p < 1e-3 and checks[0].test.startswith("Welch")
    assert checks[0].ci95[0] < checks[0].value < checks[0].ci95[1]


def test_one_seed_proves_nothing():
    checks = TOY.checks(TOY.run(TOY.context(n=1)))
    assert not base.holds(checks)
    assert checks[0].ci95 == (None, None)
    json.dumps([vars(check) for check in checks], allow_nan=False)


def test_no_required_check_is_no_verdict():
    assert not base.holds([])
    assert not base.holds([base.stated("a", "s", "A", 1.0, True, required=False)])


def test_offset_shifts_every_seed():
    here, there = TOY.context(n=3), TOY.context(n=3, offset=7)
    assert here.seeds == [0, 1, 2] and there.keys == ["7", "8", "9"]
    assert TOY.run(here) == TOY.run(TOY.context(n=3)) != TOY.run(there)


@given(st.integers(0, 2**31), st.sampled_from(["data", "training", "evaluation"]))
def test_derived_seeds_are_seeds_and_differ_by_purpose(seed, purpose):
    value = base.derived(seed, purpose)
    assert 0 <= value < 2**31 and value == base.derived(seed, purpose)
    assert value != base.derived(seed, purpose + "!") and value != base.derived(seed + 1, purpose)


def test_order_of_seeds_is_numeric_and_pairs_match():
    scores = {"A": {"new": {"10": 3.0, "9": 2.0, "2": 1.0}, "old": {"2": 0.0, "9": 1.5, "10": 1.0}}}
    np.testing.assert_array_equal(base.per_seed(scores, "A", "new"), [1.0, 2.0, 3.0])
    check = base.difference(scores, "A", "new", "old", name="a", statement="s", same_seeds=True)
    assert check.test.startswith("paired") and check.value == pytest.approx(7 / 6)


def test_lists_are_averaged_or_tabled():
    scores = {"A": {"new": {"1": [1.0, 3.0], "0": [5.0, 7.0]}}}
    np.testing.assert_array_equal(base.per_seed(scores, "A", "new"), [6.0, 2.0])
    np.testing.assert_array_equal(base.table(scores, "A", "new"), [[5.0, 7.0], [1.0, 3.0]])


def test_misuse_is_one_sentence():
    with pytest.raises(ConfigError, match="at least one seed"):
        TOY.context(n=0)
    with pytest.raises(ConfigError, match="start at 0"):
        TOY.context(offset=-1)
    with pytest.raises(ConfigError, match="no 'full' scale"):
        TOY.context("full")
    with pytest.raises(ConfigError, match="give --data"):
        TOY.context().logs("hopper.hdf5")
    with pytest.raises(ConfigError, match="2 values for 5 seeds"):
        TOY.context().arm([1.0, 2.0])


def test_claims_are_found_by_slug():
    with pytest.raises(UnknownNameError, match="'a2pr'"):
        claim("a2prr")
    with pytest.raises(ConfigError, match=r"beso is planned, not yet implemented; ready: .*a2pr"):
        claim("beso")
    with pytest.raises(ConfigError, match="baseline"):
        claim("td3_bc")
