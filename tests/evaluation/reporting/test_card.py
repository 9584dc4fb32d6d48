"""The card as a page: whole and alone, escaped, one a policy, with a picture for every form of evidence."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from surefoot.evaluation.diagnosis import frames_of
from surefoot.evaluation.report import render_cards, report_for_runs
from surefoot.evaluation.reporting.arms import read_arms
from surefoot.evaluation.reporting.card import card, cards, comparison
from surefoot.evaluation.reporting.directions import strongest
from surefoot.evaluation.reporting.dossier import dossiers
from surefoot.evaluation.reporting.evidence import pieces
from surefoot.evaluation.reporting.weighing import Tolerance

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def shown(arm, evidence=None, **settings):
    return card(dossiers([arm(evidence, **settings)])[0], Tolerance())


def figures(found):
    return {figure.title: figure for stack in found["stacks"] for figure in stack}


# --- one card -------------------------------------------------------------------------------------------------------


def test_it_has_a_tile_and_a_chart_for_everything(arm, made):
    found = shown(arm, made.everything())
    tiles = [(tile.name, re.sub("<[^>]*>", "", str(tile.value)), tile.warn) for tile in found["tiles"]]
    assert tiles == [
        ("Clean return", "480 [478.5, 481.5]", False),
        ("Under attack", "190 [186, 194]", True),
        ("Under attack", "300 [296, 304]", True),
        ("Certified actions", "70\u00a0%", False),
        ("Worst physics", "220 [216, 224]", True),
        ("In one direction", "62\u00a0%", False),
    ]
    drawn = figures(found)
    assert list(drawn) == [
        "Attacked: 0.2 at each step (largest change)",
        "Attacked: 0.2 over the episode (l2)",
        "Certified actions",
        "Other physics",
        "Sensitive direction",
    ]
    assert all('role="img"' in figure.drawing and 'aria-label="' in figure.drawing for figure in drawn.values())
    first = drawn["Attacked: 0.2 at each step (largest change)"]
    assert re.search(r'aria-label="[^"]*no attack 480 \[478.5, 481.5\], pgd 190 \[186, 194\], random 470[^"]*fgsm failed', first.drawing)
    assert "least accepted" in first.drawing and "Sizes tried: 0.1 and 0.2" in first.caption
    assert (found["line"], found["rule"]) == ("384", "20\u00a0% below the clean return (--drop 0.2; or name a return: --floor)")


def test_what_was_not_measured_has_its_command(arm):
    found = shown(arm)
    places = [re.sub("<[^>]*>", "", str(figure.drawing)) for figure in figures(found).values()]
    assert places == [
        "Not measured: run surefoot attack run --kind pgd --norm linf --budgets 0 0.05 0.1 0.2",
        "Not measured: run surefoot certify run --sigma 0.1",
        "Not measured: run surefoot stress run",
        "Not measured: run surefoot diagnose run",
    ]
    assert [re.sub("<[^>]*>", "", str(tile.value)) for tile in found["tiles"][1:]] == ["not measured"] * 4


def test_an_attack_of_other_sizes_is_named_but_not_drawn_beside_them(arm, made):
    evidence = {
        "attack-pgd": made.attack("pgd", (480.0, 440.0, 190.0)),
        "attack-mad": made.attack("mad", (480.0, 100.0), budgets=(0.0, 0.5)),
    }
    drawing = next(iter(figures(shown(arm, evidence)).values())).drawing
    assert "mad not played at this size, but at 0.5" in drawing


def test_many_attacks_leave_room_for_the_rest(arm, made):
    evidence = {f"attack-a{i:02d}": made.attack(f"a{i:02d}", (480.0, 470.0 - i)) for i in range(14)}
    for each in evidence.values():
        each["budgets"] = [0.0, 0.1]
    figure = next(iter(figures(shown(arm, evidence)).values()))
    assert "Not shown: 5 that did less." in figure.caption and "a13" in figure.drawing and "a04" not in figure.drawing


def test_attacks_that_failed_are_told_apart_from_those_that_did_less(arm, made):
    evidence = {f"attack-a{i:02d}": made.attack(f"a{i:02d}", (480.0, None if i > 8 else 470.0 - i), budgets=(0.0, 0.1)) for i in range(12)}
    caption = next(iter(figures(shown(arm, evidence)).values())).caption
    assert "Not shown: 3 without a number here." in caption


def test_a_certified_curve_with_the_attacks_it_is_about(arm, made):
    evidence = {
        "certificate": made.certificate((470.0, 430.0, 310.0)),
        "attack-q": made.attack("q", (480.0, 450.0, 400.0), norm="total", sigma=0.2),
    }
    figure = figures(shown(arm, evidence, noise=0.2))["Certified return"]
    assert "470 at budget 0, 430 at budget 0.1 and 310 at budget 0.2" in figure.drawing and figure.caption.endswith("Dots: attacks.")


@pytest.mark.parametrize(
    ("count", "side", "search"),
    [(1, 9, "grid"), (2, 4, "grid"), (2, 60, "grid"), (3, 3, "grid"), (4, 2, "grid"), (2, 6, "cmaes"), (1, 6, "cmaes")],
)
def test_physics_of_any_number_are_drawn(arm, made, count, side, search):
    figure = figures(shown(arm, {"stress": made.stress(count=count, side=side, search=search)}))["Other physics"]
    assert figure.drawing.startswith('<svg class="chart"') and len(figure.drawing) < 250_000
    assert "Worst (square) " in figure.caption and "nominal (ring) 480 [476, 484]" in figure.caption


def test_a_set_of_one_point_and_equal_returns_are_drawn(arm, made):
    assert "<svg" in figures(shown(arm, {"stress": made.stress(lambda *_: 7.0, count=2, side=3)}))["Other physics"].drawing
    lone = made.stress(count=1, side=1)
    assert "<svg" in figures(shown(arm, {"stress": lone}))["Other physics"].drawing


@pytest.mark.parametrize("shape", [(4, 84, 84), (84, 84, 4), (84, 84), (3, 8, 8), (10, 10, 1)])
def test_directions_of_pixels_are_a_picture(arm, made, shape):
    image = np.random.default_rng(0).standard_normal(shape)
    evidence = {"diagnosis": made.diagnosis(image, shape=shape, labels=None)}
    figure = figures(shown(arm, evidence))["Sensitive direction"]
    assert "data:image/png;base64," in figure.drawing and len(figure.drawing) < 120_000
    (diagnosis,) = pieces(arm(), "diagnosis", evidence["diagnosis"])
    assert frames_of(diagnosis.direction, diagnosis.shape).shape[-2:] == (
        (10, 10) if shape[-1] == 1 else (8, 8) if 8 in shape else (84, 84)
    )
    assert (frames_of(diagnosis.direction, diagnosis.shape) ** 2).sum() == pytest.approx(1.0)


def test_the_channel_that_counts_most_is_named(arm, made):
    image = np.zeros((4, 5, 5))
    image[2] = 1.0
    (diagnosis,) = pieces(arm(), "diagnosis", made.diagnosis(image, shape=(4, 5, 5), labels=None))
    assert strongest(diagnosis) == ("channel 3 of 4", pytest.approx(1.0))


def test_directions_of_many_numbers_show_the_largest(arm, made):
    direction = np.arange(1.0, 31.0)
    drawing = figures(shown(arm, {"diagnosis": made.diagnosis(direction, shape=(30,), labels=None)}))["Sensitive direction"].drawing
    assert "obs 29" in drawing and "23 others" in drawing and "obs 0<" not in drawing


# --- several policies -----------------------------------------------------------------------------------------------


def test_a_card_a_policy_and_a_row_each(tmp_path, made):
    pgd = made.attack("pgd", (480.0, 470.0, 400.0), (470.0, 460.0, 350.0))
    runs = [
        made.write_run(tmp_path / "one", {"attack-pgd": pgd, "attack-pgd@1": made.attack("pgd", (470.0, 440.0, 310.0))}, members=2),
        made.write_run(tmp_path / "two", {"stress-best": made.stress()}),
        made.write_run(tmp_path / "bare", {}),
    ]
    found = cards(read_arms(runs), Tolerance())
    assert [each["reference"] for each in found["cards"]] == ["one", "one@1", "two:best"]
    assert [each["anchor"] for each in found["cards"]] == ["card-1", "card-2", "card-3"]
    assert len(found["comparison"].rows) == 4 and len({len(row) for row in found["comparison"].rows}) == 1
    ((_, name, commands),) = found["bare"]
    assert name == "DQN (bare)" and commands[1] == "surefoot stress bare"
    table = comparison(dossiers(read_arms(runs)), Tolerance())
    assert ["✕ falls" in row[1] for row in table.rows] == [True, True, True, False] and "? not known" in table.rows[3][1]


def test_one_run_needs_no_comparison(arm, made):
    assert cards([arm(made.everything())], Tolerance())["comparison"] is None


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_card_alone_is_a_page_that_loads_nothing(tmp_path, made):
    page = report_for_runs([made.write_run(tmp_path / "run", made.everything())], tmp_path / "card.html", card=True)
    text = page.read_text()
    tags = Tags(text).found
    assert not {"script", "iframe", "object", "img"} & {tag for tag, _ in tags}
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids)) and "card-1" in ids
    assert not re.search(r"#0[1-6]0[1-6]", text), "no stand-in of a colour is left"
    assert str(tmp_path) not in text and "Learning curves" not in text
    assert text.count('class="fit"') == 1 and "@page" in text


def test_the_report_has_the_card_before_the_summary(tmp_path, made):
    text = report_for_runs([made.write_run(tmp_path / "run", made.everything())], tmp_path / "report.html").read_text()
    assert 0 < text.index("Robustness card: DQN") < text.index('id="summary"') and '<a href="#card">' in text


def test_hostile_names_are_only_text(tmp_path, made):
    evidence = {
        "attack-pgd": made.attack("pgd", (480.0, 440.0, 190.0)) | {"kind": EVIL, "policy": EVIL},
        "stress": made.stress(),
        "diagnosis": made.diagnosis((0.1, 0.2, 0.3, 0.4), labels=[EVIL] * 4),
    }
    evidence["stress"]["parameters"][0] |= {"name": "<b>mass</b>", "unit": EVIL}
    evidence["stress"]["members"][0]["worst"]["point"]["<b>mass</b>"] = 1.0
    evidence["diagnosis"]["members"][0]["shifts"] = {EVIL: 0.5}
    arms = read_arms([made.write_run(tmp_path / "run", evidence, name=EVIL)])
    assert len(dossiers(arms)[0].evidence) == 3
    tags = Tags(render_cards(arms)).found
    assert not {"script", "img"} & {tag for tag, _ in tags}
    assert not any(name.startswith("on") for _, attrs in tags for name in attrs)


def test_a_file_of_another_form_is_named_on_the_page(tmp_path, made):
    text = render_cards(read_arms([made.write_run(tmp_path / "run", {"notes": {"a": 1}})]))
    assert "evidence/notes.json is of another form than this version writes, and was left out." in text


def test_a_run_without_environment_or_result(tmp_path, made):
    run = made.write_run(tmp_path / "run", {}, env=None)
    (run / "result.json").unlink()
    text = render_cards(read_arms([run]))
    assert "Not known whether it holds without attack, under attack and in other physics." in text and "Nothing that was measured." in text


# --- for every reader -----------------------------------------------------------------------------------------------


def contrast(first, second):
    """Of two colours, as WCAG 2 defines it."""
    light = []
    for code in (first, second):
        parts = np.array([int(code[i : i + 2], 16) / 255.0 for i in (1, 3, 5)])
        light.append(float(np.dot(np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4), (0.2126, 0.7152, 0.0722))))
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize("ground", ["page", "card", "soft", "warnsoft"])
@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_on_every_ground(tmp_path, made, ground, dark):
    text = report_for_runs([made.write_run(tmp_path / "run", {})], tmp_path / "card.html", card=True).read_text()
    rules = re.findall(r":root \{(.*?)\}", text, re.S)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", rules[1 if dark else 0]))
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    for ink in ("ink", "muted", "accent", "warn"):
        assert contrast(colours[ink], colours[ground]) >= 4.5, ink
    for sign in ("accent", "warn", "muted"):
        assert contrast(colours["card"], colours[sign]) >= 4.5, "the verdict's sign"


def test_nothing_is_said_by_colour_alone(tmp_path, made):
    text = report_for_runs([made.write_run(tmp_path / "run", made.everything())], tmp_path / "card.html", card=True).read_text()
    assert text.count('class="warn"') == text.count("✕ below 384") == 3
    assert 'aria-hidden="true">✕</p>' in text and "Falls below what is accepted under attack and in other physics." in text
    charts = [attrs for tag, attrs in Tags(text).found if tag == "svg" and "aria-hidden" not in attrs]
    assert len(charts) == 5 and all(attrs["role"] == "img" and len(attrs["aria-label"]) > 40 for attrs in charts)


def test_a_third_norm_is_weighed_though_it_has_no_chart(arm, made):
    evidence = {
        "attack-a": made.attack("a", (480.0, 470.0, 460.0), norm="l2"),
        "attack-b": made.attack("b", (480.0, 470.0, 460.0), norm="linf"),
        "attack-c": made.attack("c", (480.0, 470.0, 100.0), norm="total"),
    }
    found = shown(arm, evidence)
    drawn = [title for title in figures(found) if title.startswith("Attacked")]
    assert drawn == ["Attacked: 0.2 over the episode (l2)", "Attacked: 0.2 at each step (l2)"], "what fell is shown first"
    assert len({side: points for side, _, points in found["sides"]}["for"]) == 3
