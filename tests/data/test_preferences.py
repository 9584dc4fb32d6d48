"""Reading what a language model is aligned on: every format, every form, and every row that cannot be learned from by name."""

import json
import re

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.data.preferences import Preferences, Prompts, ScoredTexts, read_preferences
from surefoot.data.text_rows import is_text_data
from surefoot.errors import ConfigError, DataError, UnknownNameError

PAIRS = [{"prompt": f"p{i}", "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(5)]


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def lines(path, rows):
    """A JSON-lines file; rows that are text already are written as they are."""
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path, rows, **options):
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


# --- formats --------------------------------------------------------------------------------------------------------


def formats(folder):
    datasets = pytest.importorskip("datasets")
    lines(folder / "a.jsonl", PAIRS)
    (folder / "array.json").write_text(json.dumps(PAIRS))
    table(folder / "b.parquet", PAIRS, row_group_size=2)
    (folder / "parts").mkdir()
    lines(folder / "parts" / "part-10.jsonl", PAIRS[3:])
    table(folder / "parts" / "part-2.parquet", PAIRS[:3])
    made = datasets.Dataset.from_list(PAIRS)
    made.save_to_disk(str(folder / "saved"))
    datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(str(folder / "splits"))
    return [folder / name for name in ("a.jsonl", "array.json", "b.parquet", "parts", "saved", "splits")]


def test_every_format_gives_the_same_rows(tmp_path):
    found = [read_preferences(path) for path in formats(tmp_path)]
    for data in found:
        assert isinstance(data, Preferences) and data.kind == "pairs" and not data.chat and not data.notes
        assert data.prompts == [row["prompt"] for row in PAIRS]
        assert data.chosen == [row["chosen"] for row in PAIRS] and data.rejected == [row["rejected"] for row in PAIRS]
    assert len({data.fingerprint for data in found}) == 1
    assert all(is_text_data(data.source) for data in found)
    assert len(read_preferences(tmp_path / "splits", split="test")) == 1


def test_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(PAIRS)
    datasets.DatasetDict({"prefs": made, "test": made}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(DataError, match=r"has the splits prefs, test: choose one \(--split\)"):
        read_preferences(tmp_path / "splits")
    with pytest.raises(UnknownNameError, match="did you mean 'prefs'"):
        read_preferences(tmp_path / "splits", split="pref")
    made.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ConfigError, match="has no splits, but split is 'train'"):
        read_preferences(tmp_path / "saved", split="train")
    with pytest.raises(ConfigError, match="has no splits, but split is 'train'"):
        read_preferences(lines(tmp_path / "a.jsonl", PAIRS), split="train")


def test_the_hub_is_asked_for_what_is_no_file_here(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name: ["train", "test"])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append((name, split)) or datasets.Dataset.from_list(PAIRS))
    assert len(read_preferences("owner/name", "pairs", split="test")) == 5
    assert asked == [("owner/name", "test")]

    def fails(name):
        raise ConnectionError("no route.\nmore")

    monkeypatch.setattr(datasets, "get_dataset_split_names", fails)
    with pytest.raises(DataError, match=r"owner/name is no file here and cannot be had from the Hugging Face Hub \(no route\)"):
        read_preferences("owner/name")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    lines(tmp_path / "data" / "prefs", [])
    with pytest.raises(DataError, match="there is no file or folder data/pref: did you mean data/prefs"):
        read_preferences("data/pref")  # a folder of this name is here: it was not meant as a name on the Hub


def test_select_and_fingerprint():
    data = Preferences(["a", "b"], ["c", "d"], ["e", "f"], [1.0, 2.0])
    assert data.select([1]).chosen == ["d"] and data.select([1]).margins == [2.0] and len(data.select([1, 0, 1])) == 3
    prompts = Prompts(["a", "b"], {"tests": [["x"], ["y"]]})
    assert prompts.select([1]).columns == {"tests": [["y"]]}
    others = [
        Preferences(["a", "b"], ["c", "d"], ["e", "f"]),
        Preferences(["a", "b"], ["c", "d"], ["f", "e"], [1.0, 2.0]),
        ScoredTexts(["a", "b"], ["c", "d"], [1.0, 2.0]),
        Prompts(["a", "b"]),
        data.select([1, 0]),
    ]
    assert len({each.fingerprint for each in (data, *others)}) == 6
    assert data.select([0, 1]).fingerprint == data.fingerprint


texts = st.text(min_size=1, max_size=8).filter(lambda text: text.strip())


@given(st.lists(st.tuples(st.text(max_size=8), texts, texts, st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path_factory, rows):
    rows = [{"prompt": p, "chosen": c, "rejected": c + r, "margin": m} for p, c, r, m in rows]
    folder = tmp_path_factory.mktemp("rows")
    for data in (read_preferences(lines(folder / "a.jsonl", rows)), read_preferences(table(folder / "a.parquet", rows))):
        assert [data.prompts, data.chosen, data.rejected, data.margins] == [
            [row[name] for row in rows] for name in ("prompt", "chosen", "rejected", "margin")
        ]


# --- kinds and forms --------------------------------------------------------------------------------------------------


def test_kinds_by_their_columns(tmp_path):
    scored = lines(
        tmp_path / "scored.jsonl",
        [{"prompt": "p", "completion": "c", "score": 1, "more": 2}, {"prompt": "p", "completion": "d", "score": True}],
    )
    data = read_preferences(scored)
    assert isinstance(data, ScoredTexts) and data.completions == ["c", "d"] and data.scores == [1.0, 1.0]
    prompts = read_preferences(scored, "prompts")
    assert isinstance(prompts, Prompts) and prompts.columns == {"completion": ["c", "d"], "score": [1, True], "more": [2, None]}
    with pytest.raises(DataError, match="holds question, answer: give it the columns of one kind of data"):
        read_preferences(lines(tmp_path / "other.jsonl", [{"question": "p", "answer": "c"}]))
    with pytest.raises(UnknownNameError, match="kind of data 'pair'"):
        read_preferences(scored, "pair")


ASKED = [user("ask")]
CONVERSATIONS = {
    "prompt as text, answers alone": {"prompt": "ask", "chosen": [assistant("yes")], "rejected": [assistant("no")]},
    "UltraFeedback: prompt as text, and again in both": {
        "prompt": "ask",
        "chosen": [*ASKED, assistant("yes")],
        "rejected": [*ASKED, assistant("no")],
    },
    "TRL: no prompt": {"chosen": [*ASKED, assistant("yes")], "rejected": [*ASKED, assistant("no")]},
    "all messages": {"prompt": ASKED, "chosen": [assistant("yes")], "rejected": [assistant("no")]},
    "messages, and again in both": {"prompt": ASKED, "chosen": [*ASKED, assistant("yes")], "rejected": [*ASKED, assistant("no")]},
    "messages with answers as text": {"prompt": ASKED, "chosen": "yes", "rejected": "no"},
}


@pytest.mark.parametrize("form", CONVERSATIONS)
@pytest.mark.parametrize("write", [lines, table])
def test_conversations_come_apart_alike(tmp_path, form, write):
    data = read_preferences(write(tmp_path / f"a.{'jsonl' if write is lines else 'parquet'}", [CONVERSATIONS[form]]), "pairs")
    assert data.chat
    assert (data.prompts, data.chosen, data.rejected) == ([ASKED], [[assistant("yes")]], [[assistant("no")]])


def test_longer_conversations(tmp_path):
    """All that both begin with is the prompt, earlier answers included; what a table fills up with null is left out."""
    begin = [{"role": "system", "content": "short"}, user("a"), assistant("b"), user("c")]
    row = {
        "chosen": [*begin, {**assistant("yes"), "name": None}],
        "rejected": [*begin, assistant("no")],
        "score_chosen": 9,
        "score_rejected": 2.5,
    }
    data = read_preferences(lines(tmp_path / "a.jsonl", [row]))
    assert data.prompts == [begin] and data.chosen == [[assistant("yes")]] and data.margins == [6.5]


def test_scored_conversations(tmp_path):
    row = {"prompt": "ask", "completion": [*ASKED, assistant("yes")], "score": 0.5}
    data = read_preferences(lines(tmp_path / "a.jsonl", [row]))
    assert (data.prompts, data.completions, data.scores) == ([ASKED], [[assistant("yes")]], [0.5])


def test_agrees_with_trl_on_conversations():
    """The prompt that both begin with, as TRL's `extract_prompt` finds it."""
    extract = pytest.importorskip("trl.data_utils").extract_prompt
    from surefoot.data.text_checks import pair

    row = {
        "chosen": [user("a"), assistant("b"), user("c"), assistant("d")],
        "rejected": [user("a"), assistant("b"), user("c"), assistant("e")],
    }
    theirs = extract(row)
    assert pair(row, "") == (theirs["prompt"], theirs["chosen"], theirs["rejected"])


# --- what cannot be learned from --------------------------------------------------------------------------------------

GOOD = PAIRS[0]
BAD_PAIRS = {
    "null": ({**GOOD, "chosen": None}, "line 2: field 'chosen' is null: give it a value"),
    "absent": ({"prompt": "p", "chosen": "c"}, "line 2: there is no field 'rejected': give it"),
    "misspelt": ({"prompt": "p", "chosen": "c", "rejectd": "r"}, "line 2: there is no field 'rejected': rename 'rejectd'"),
    "no prompt": ({"chosen": "c", "rejected": "r", "question": "q"}, "line 2: there is no field 'prompt': rename 'question'"),
    "number": ({**GOOD, "chosen": 3}, r"line 2: field 'chosen' is 3 \(int\): it must be a string or a list of messages"),
    "empty": ({**GOOD, "rejected": ""}, "line 2: field 'rejected' is an empty completion: give it text"),
    "blank": ({**GOOD, "rejected": " \n"}, "line 2: field 'rejected' is an empty completion"),
    "equal": ({**GOOD, "rejected": "c0"}, "line 2: 'chosen' and 'rejected' are equal \\('c0'\\): a pair needs two different completions"),
    "margin": ({**GOOD, "margin": 1.0}, "line 2: this row has a margin, though rows before it have none"),
    "chat": ({**GOOD, "prompt": [user("p")]}, "line 2: this row is of chat messages, those before it are of plain text"),
    "half chat": ({**GOOD, "chosen": [assistant("c")]}, "line 2: of 'chosen' and 'rejected' one is a string and one is a list of messages"),
    "no messages": ({**GOOD, "prompt": []}, "line 2: field 'prompt' is a conversation without messages"),
    "no message": ({**GOOD, "prompt": ["p"]}, r"line 2: message 0 of field 'prompt' is 'p': it must be an object \{role, content\}"),
    "ShareGPT": (
        {**GOOD, "prompt": [{"from": "human", "value": "p"}]},
        r"line 2: message 0 of field 'prompt' has no 'role' \(it has from, value\): 'role' must be a string",
    ),
    "no content": (
        {**GOOD, "prompt": [{"role": "user", "content": None}]},
        "message 0 of field 'prompt' has content None: 'content' must be",
    ),
    "surrogate": (
        '{"prompt": "\\ud800", "chosen": "c", "rejected": "r"}\n',
        r"line 2: field 'prompt' has half a character at 0 \('\\ud800'\)",
    ),
    "list": ("[1, 2]\n", "line 2: it is a list instead of an object with named fields"),
    "no JSON": ("hello\n", r"line 2: it is no JSON \(Expecting value at column 1\)"),
    "cut off": (
        '{"prompt": "p", "chos',
        r"line 2: it is cut off \(Unterminated string starting at at column 17\): copy or write the file again",
    ),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_the_first_bad_row_is_named(tmp_path, case):
    row, said = BAD_PAIRS[case]
    path = lines(tmp_path / "bad.jsonl", [GOOD, row])
    with pytest.raises(DataError, match=said) as error:
        read_preferences(path, "pairs")
    assert str(error.value).startswith(f"{path}, line 2: ") and "or leave such rows out (--skip-bad)" in str(error.value)
    data = read_preferences(path, "pairs", skip_bad=True)
    assert len(data) == 1 and data.notes[0].startswith(f"1 of 2 rows were left out; the first: {path}, line 2: ")


CHAT = {"prompt": ASKED, "chosen": [assistant("yes")], "rejected": [assistant("no")]}
BAD_CHATS = {
    "plain": (GOOD, "this row is of plain text, those before it are of chat messages"),
    "equal": ({**CHAT, "rejected": [assistant("yes")]}, "'chosen' and 'rejected' are equal"),
    "nothing shared": (
        {"chosen": [user("a"), assistant("b")], "rejected": [user("c"), assistant("d")]},
        "there is no 'prompt', nor do 'chosen' and 'rejected' begin with the same messages: give the prompt",
    ),
    "another prompt": (
        {"prompt": "other", "chosen": [*ASKED, assistant("b")], "rejected": [*ASKED, assistant("d")]},
        r"begin with the same messages, but 'prompt' \('other'\) is none of them",
    ),
    "user's words": (
        {**CHAT, "chosen": [assistant("a"), user("b"), assistant("c")]},
        "field 'chosen' has a message of role 'user' after the prompt: only what the 'assistant' says is learned",
    ),
    "empty": ({**CHAT, "chosen": [assistant("")]}, "field 'chosen' is an empty completion"),
    "nothing but the prompt": ({**CHAT, "chosen": ASKED}, "field 'chosen' is an empty completion"),
}


@pytest.mark.parametrize("case", BAD_CHATS)
def test_the_first_bad_conversation_is_named(tmp_path, case):
    row, said = BAD_CHATS[case]
    with pytest.raises(DataError, match=f"line 2: .*{said}"):
        read_preferences(lines(tmp_path / "bad.jsonl", [CHAT, row]), "pairs")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "field 'score' is nan: it must be finite"),
        (float("-inf"), "field 'score' is -inf: it must be finite"),
        ("1.5", r"field 'score' is '1.5' \(str\): it must be a number"),
        (None, "field 'score' is null"),
    ],
)
@pytest.mark.parametrize("write", [lines, table])
def test_bad_scores(tmp_path, value, said, write):
    row = {"prompt": "p", "completion": "c", "score": 1.0}
    if write is table and isinstance(value, str):  # a column of a table has one type
        row["score"] = value
    path = write(tmp_path / f"a.{'jsonl' if write is lines else 'parquet'}", [row, {**row, "score": value}])
    with pytest.raises(DataError, match=f"{re.escape(str(path))}, ({'line 2' if write is lines else 'row [01]'}): {said}"):
        read_preferences(path, "scored")


def test_a_column_that_no_row_has(tmp_path):
    rows = [{"prompt": "p", "choosen": "c", "rejected": "r"}]
    for path in (lines(tmp_path / "a.jsonl", rows), table(tmp_path / "a.parquet", rows)):
        with pytest.raises(
            DataError, match=rf"{path.name}: there is no column 'chosen' \(it holds prompt, choosen, rejected\): rename 'choosen'"
        ):
            read_preferences(path, "pairs")
        with pytest.raises(DataError, match=r"not one of its 1 rows can be used; the first: .* there is no field 'chosen'"):
            read_preferences(path, "pairs", skip_bad=True)
    with pytest.raises(DataError, match=r"there is no column 'completion' .*: rename 'response'"):
        read_preferences(lines(tmp_path / "b.jsonl", [{"prompt": "p", "response": "c", "score": 1}]), "scored")
    with pytest.raises(DataError, match=r"there is no column 'score' .*: scored need prompt, completion, score"):
        read_preferences(lines(tmp_path / "c.jsonl", [{"prompt": "p", "completion": "c"}]), "scored")


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "caf\xe9"}\n' + json.dumps(PAIRS[1]).encode())
    with pytest.raises(DataError, match=r"line 2: byte 15 is 0xe9, which is not UTF-8"):
        read_preferences(path)
    assert len(read_preferences(path, skip_bad=True)) == 2


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\n\n")
    assert read_preferences(path).prompts == ["p0"]


def test_files_that_are_no_data(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "model.pt").write_bytes(b"x")
    (tmp_path / "blank.jsonl").write_text("\n\n")
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "cut.parquet").write_bytes(table(tmp_path / "whole.parquet", PAIRS).read_bytes()[:-20])
    (tmp_path / "none").mkdir()
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "tokenizer_config.json").write_text("{}")
    (tmp_path / "array.json").write_text("[{")
    pyarrow.parquet.write_table(pa.table({name: pa.array([], pa.string()) for name in GOOD}), tmp_path / "no-rows.parquet")
    for name, said in {
        "empty.jsonl": "empty.jsonl is empty: copy or write it again",
        "blank.jsonl": "blank.jsonl: it holds no rows",
        "no-rows.parquet": "no-rows.parquet: it holds no rows",
        "model.pt": "is a pickle, which can only be read by running the code in it",
        "text.txt": "is of no kind that is read as texts: give .jsonl",
        "cut.parquet": "cut.parquet cannot be read as Parquet",
        "array.json": "array.json cannot be read as JSON",
        "none": "is a folder without .jsonl",
        "policy": "is the folder of a model, not of data",
        "emty.jsonl": "there is no file or folder .*emty.jsonl: did you mean .*empty.jsonl",
    }.items():
        with pytest.raises(DataError, match=said):
            read_preferences(tmp_path / name, "pairs")
