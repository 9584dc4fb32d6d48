"""What README and docs say is what results/ holds, and every stored verdict follows from its raw scores."""

import json

import pytest

from surefoot.claims import base, claim, tables
from surefoot.claims.results import discrepancies
from surefoot.errors import UnknownNameError

STORED = [row.slug for row in tables.claimants() if tables.stored(row.slug) is not None]


def test_pages_and_verdicts_match_the_results():
    assert tables.problems() == []


@pytest.mark.parametrize("slug", STORED)
def test_every_verdict_follows_from_its_scores(slug):
    assert discrepancies(tables.stored(slug), claim(slug)) == []


@pytest.mark.parametrize("slug", STORED)
def test_reported_results_are_on_the_claims_own_seeds(slug):
    result, found = tables.stored(slug), claim(slug)
    assert result["scale"] == "small" and len(result["seeds"]) >= found.seeds and result["seeds"][0] == 0
    assert result["command"].startswith(f"surefoot reproduce {slug}")
    assert set(result["scores"]) <= set(found.panels)
    assert {arm for panel in result["scores"].values() for arm in panel} <= set(found.arms)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one result and one page."""
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# T\n<!-- table: claims -->\n<!-- end of table -->\nend\n")
    (tmp_path / "docs" / "a.md").write_text("<!-- table: outcome a2pr -->\nold\n<!-- end of table -->\n")
    return tmp_path


def result():
    scores = {"A": {"new": {"0": 3.0, "1": 4.0}, "old": {"0": 1.0, "1": 1.5}}}
    check = base.difference(scores, "A", "new", "old", name="a", statement="new | old")
    rest = {"slug": "a2pr", "claim": "c", "scale": "small", "seeds": [0, 1], "command": "surefoot reproduce a2pr", "commit": "abc"}
    rest |= {"machine": {"cores": 2}, "versions": {}, "wall_s": 120.0, "notes": ["a note"]}
    return rest | {"scores": scores, "checks": [vars(check)], "holds": check.holds}


def test_write_renders_and_check_sees_a_difference(checkout, capsys, monkeypatch):
    assert tables.main(["--check"]) == 1
    assert "README.md: a table is out of date" in capsys.readouterr().err
    assert tables.main(["--write"]) == 0
    assert tables.main(["--check"]) == 0
    assert "not measured yet" in (checkout / "README.md").read_text()
    (checkout / "results" / "a2pr.json").write_text(json.dumps(result()))
    monkeypatch.setattr("surefoot.claims.claim", lambda slug: claim_of(result()))
    assert tables.main(["--check"]) == 1
    assert tables.main(["--write"]) == 0
    assert tables.main(["--check"]) == 0
    page = (checkout / "docs" / "a.md").read_text()
    assert "| A | new | 3.5 |" in page and "new \\| old" in page and "- a note" in page
    assert (checkout / "README.md").read_text().endswith("<!-- end of table -->\nend\n")


def claim_of(stored):
    def checks(scores):
        return [base.difference(scores, "A", "new", "old", name="a", statement="new | old")]

    return base.Claim("a2pr", "t", stored["claim"], 2, {}, {}, {"small": ""}, lambda context: stored["scores"], checks)


def test_a_forged_verdict_is_a_problem(checkout, monkeypatch, capsys):
    forged = result() | {"holds": not result()["holds"]}
    (checkout / "results" / "a2pr.json").write_text(json.dumps(forged))
    monkeypatch.setattr("surefoot.claims.claim", lambda slug: claim_of(forged))
    tables.main(["--write"])
    assert tables.main(["--check"]) == 1
    assert "holds is stored as" in capsys.readouterr().err


def test_unknown_tables_and_arguments(checkout, capsys):
    with pytest.raises(UnknownNameError, match="did you mean 'claims'"):
        tables.rendered("<!-- table: claim -->\n<!-- end of table -->\n")
    assert tables.main([]) == 2
    (checkout / "results" / "a2pr.json").write_text("{")
    assert tables.main(["--write"]) == 2
    assert "is not JSON" in capsys.readouterr().err


def test_numbers_are_short_and_true():
    assert [tables.number(x) for x in (0.0, 0.123456, 12.345, 999.4, 12345.6, -0.5)] == ["0", "0.123", "12.3", "999", "12,346", "-0.5"]
    assert tables.number(None) == "unbounded"
    assert tables.p_value(0.0004) == "p < 0.001" and tables.p_value(0.0312) == "p = 0.031"


def test_benchmarks_render_their_rows(checkout):
    folder = checkout / "benchmarks" / "results"
    folder.mkdir(parents=True)
    rows = [{"library": "a", "updates_per_second": 1234.5}, {"library": "b", "updates_per_second": 10}]
    (folder / "speed.json").write_text(json.dumps({"command": "c", "machine": "m", "rows": rows}))
    text = tables.benchmark_table("speed")
    assert "| library | updates per second |" in text and "| a | 1,234 |" in text and "---:" in text
    assert "not measured yet" in tables.benchmark_table("none").lower()


def test_the_short_table_names_what_failed(checkout):
    failing = result() | {"holds": False}
    failing["checks"] = [failing["checks"][0] | {"holds": False}, failing["checks"][0] | {"name": "b", "holds": True}]
    (checkout / "results" / "a2pr.json").write_text(json.dumps(failing))
    row = next(line for line in tables.verdicts_table("docs/").splitlines() if "a2pr" in line)
    assert row.startswith("| [`a2pr`](docs/a2pr.md) | c | **does not hold**, 2 seeds, 2 min; 1 of 2 checks<br>✗ new \\| old: 2.25")
