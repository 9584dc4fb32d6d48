"""The catalog: all 48 systems from day one, rows of ready systems backed by files, and what a wrong name says."""

from importlib import import_module, util
from pathlib import Path

import pytest

from surefoot import catalog
from surefoot.errors import ConfigError, UnknownNameError

ROOT = Path(__file__).resolve().parents[1]
# fmt: off
SYSTEMS = {
    "a2pr", "adversarial-mdp", "adyen-bandits", "beso", "carp", "copg", "d3po", "demonstration-regularized", "diagnosing",
    "dichotomy-of-control", "digi-q", "dr-po", "famo2o", "find", "fishery-control", "glide", "h-infinity-locomotion",
    "hybrid-npg", "inpo", "iwocs", "lvm-rs", "martingale-evaluation", "mode", "n-harpg", "noise-mask", "odice",
    "on-policy-preferences", "online-cbf", "pad", "paris-particle-gibbs", "parl", "pf-ppo", "pmoe", "policy-guided-diffusion",
    "policy-smoothing", "prdc", "props", "protected", "r2pvi", "rdpo", "resip", "ro2o", "rpo", "rrcm", "seppo", "serl",
    "trajectory-weighting", "v-gps",
}
# fmt: on
BASELINES = {"bc", "td3_bc", "iql", "cql", "dqn", "sac", "ppo", "sa_dqn", "sa_ppo"}
READY = [row for row in catalog.ROWS if row.status == "ready"]


def test_all_systems_and_baselines_are_rows():
    assert len(SYSTEMS) == 48
    assert {row.slug for row in catalog.ROWS if row.claim} == SYSTEMS
    assert {row.slug for row in catalog.ROWS if not row.claim} == BASELINES
    assert len({row.slug for row in catalog.ROWS}) == len(catalog.ROWS) == 57


@pytest.mark.parametrize("row", catalog.ROWS, ids=lambda row: row.slug)
def test_rows_are_whole(row):
    assert row.name and row.title and row.authors and row.venue and 1980 < row.year < 2030
    assert row.group in catalog.GROUPS and set(row.learns_from) <= set(catalog.GROUPS)
    assert row.room.startswith("surefoot.")
    assert row.url.startswith("https://arxiv.org/abs/") or not row.arxiv


@pytest.mark.parametrize("row", READY, ids=lambda row: row.slug)
def test_ready_systems_have_module_page_and_test(row):
    import_module(row.room)
    assert (ROOT / "docs" / "methods" / f"{row.slug}.md").exists()
    assert list((ROOT / "tests").rglob(f"test_{row.room.split('.')[-1]}*.py"))


@pytest.mark.parametrize("row", [row for row in READY if row.claim], ids=lambda row: row.slug)
def test_ready_systems_have_a_claim_and_its_result(row):
    from surefoot.claims import claim

    found = claim(row.slug)
    assert found.slug == row.slug and set(found.scales) == {"small", "full"}
    assert (ROOT / "results" / f"{row.slug}.json").exists()


def test_planned_systems_are_not_there_yet():
    for row in catalog.ROWS:
        if row.status == "planned":
            parent = row.room.rsplit(".", 1)[0]
            assert util.find_spec(parent) is None or util.find_spec(row.room) is None, f"{row.slug} exists: is it ready?"


def test_a_wrong_name_gets_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown method 'a2rp': did you mean .*'a2pr'"):
        catalog.find("a2rp")
    with pytest.raises(UnknownNameError, match="known: a2pr, adversarial-mdp"):
        catalog.find("zzzzzz")


def test_a_planned_system_says_so():
    with pytest.raises(ConfigError, match=r"^beso is planned, not yet implemented; ready: a2pr, .*\.$"):
        catalog.require_ready(catalog.find("beso"))
    assert catalog.require_ready(catalog.find("a2pr")).name == "A2PR"


def test_learners_that_train_are_in_the_catalog():
    from surefoot.methods.registry import LEARNERS

    assert set(LEARNERS) <= {row.slug for row in READY if row.kind == "learner"}
