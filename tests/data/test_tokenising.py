"""Texts as token ids: nothing lies across the boundary, templates continue what they opened, nothing is cut without being asked for."""

import copy
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.data.preferences import Preferences
from surefoot.data.tokenising import (
    Tokenising,
    check_same_vocabulary,
    check_vocabulary,
    ready_tokenizer,
    tokenised,
    tokenised_pairs,
    tokenised_prompts,
)
from surefoot.errors import ConfigError, DataError, UnknownNameError

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system, please') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}<end>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def trained():
    """A byte-level tokenizer in the manner of GPT-2, whose merges reach over a blank (`Ġyes`)."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    special = ["<begin>", "<end>", "<|user|>", "<|assistant|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, show_progress=False, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    inner.train_from_iterator(["yes no yes no the answer is yes", "say yes or no\n\nyes"] * 20, trainer)
    return inner


@pytest.fixture
def tokenizer(trained):
    return transformers.PreTrainedTokenizerFast(tokenizer_object=copy.deepcopy(trained), bos_token="<begin>", eos_token="<end>")


@pytest.fixture
def beginning(trained):
    """The same in the manner of Llama: a begin token before every text."""
    inner = copy.deepcopy(trained)
    template = tokenizers.processors.TemplateProcessing(single="<begin> $A", special_tokens=[("<begin>", inner.token_to_id("<begin>"))])
    inner.post_processor = tokenizers.processors.Sequence([template])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<begin>", eos_token="<end>")


@pytest.fixture
def words():
    """One token a word, parted at blanks, without a begin token: two texts written together have other words."""
    vocabulary = {"<end>": 0, "<unk>": 1, "a": 2, "b": 3, "c": 4}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<end>")


# --- plain texts ------------------------------------------------------------------------------------------------------


def test_no_token_lies_across_the_boundary(tokenizer):
    """ "say " + "yes" would be `say|Ġyes`; the prompt is what sampling sees, so the answer comes apart from it."""
    across = tokenizer("say yes")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(across)[-1] == "Ġyes"
    found = tokenised(tokenizer, ["say ", "say"], ["yes", " yes"])
    assert found.prompts == [tokenizer("say ")["input_ids"], tokenizer("say")["input_ids"]]
    assert found.completions[0] == [*tokenizer("yes")["input_ids"], tokenizer.eos_token_id]
    assert found.completions[1] == [across[-1], tokenizer.eos_token_id]


piece = st.text(alphabet="yesno \n.é", min_size=1, max_size=12)


@given(piece, piece)
def test_prompt_and_completion_are_the_texts(trained, prompt, completion):
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=trained, bos_token="<begin>", eos_token="<end>")
    found = tokenised(tokenizer, [prompt], [completion])
    assert found.prompts == [tokenizer(prompt)["input_ids"]]
    assert tokenizer.decode(found.prompts[0]) == prompt
    assert found.completions[0][-1] == tokenizer.eos_token_id and tokenizer.decode(found.completions[0][:-1]) == completion


def test_words_that_grow_together_stay_apart(words):
    """ "a b" + "c a" is read as `a|bc|a`, and "a x" + "y a" as `a|unknown|a`, which begins as the prompt does."""
    found = tokenised(words, ["a b", "a x", "a"], ["c a", "y a", " b"])
    assert found.prompts == [[2, 3], [2, 1], [2]]
    assert found.completions == [[4, 2, 0], [1, 2, 0], [3, 0]]


def test_a_begin_token_comes_once_and_a_prompt_has_one_token_at_least(tokenizer, beginning, words):
    begin = beginning.bos_token_id
    plain = tokenizer("say")["input_ids"]
    assert tokenised_prompts(beginning, ["say", "<begin>say", ""]) == [[begin, *plain], [begin, *plain], [begin]]
    assert tokenised(beginning, ["say"], [" yes"]).completions == tokenised(tokenizer, ["say"], [" yes"]).completions
    assert tokenised_prompts(tokenizer, ["say", ""]) == [plain, [begin]]  # put there only where there is nothing else
    with pytest.raises(DataError, match=r"prefs.jsonl, row 1: the prompt has no tokens, and the tokenizer no begin token"):
        tokenised_prompts(words, ["a", " "], source="prefs.jsonl")
    with pytest.raises(DataError, match="memory, row 0: the completion has no tokens"):
        tokenised(words, ["a"], ["  "])


def test_a_completion_ends_once(tokenizer):
    end = tokenizer.eos_token_id
    newline = tokenizer("\n")["input_ids"]
    found = tokenised(tokenizer, ["say"] * 3, [" yes", " yes<end>", " yes\n"], Tokenising(ends=tuple(newline)))
    yes = tokenizer(" yes")["input_ids"]
    assert found.completions == [[*yes, end], [*yes, end], [*yes, *newline]]


# --- conversations ----------------------------------------------------------------------------------------------------

ASKED = [{"role": "user", "content": "say"}]


def answer(content):
    return [{"role": "assistant", "content": content}]


def test_conversations_are_written_by_the_template(tokenizer):
    tokenizer.chat_template = CHAT_TEMPLATE
    data = Preferences([ASKED], [answer("yes")], [answer("no")])
    chosen, rejected = tokenised_pairs(tokenizer, data)
    opened = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)
    assert chosen.prompts == rejected.prompts == [opened] == tokenised_prompts(tokenizer, [ASKED])
    assert tokenizer.decode(opened) == "<|user|>say<end>\n<|assistant|>"
    assert [tokenizer.decode(each.completions[0]) for each in (chosen, rejected)] == ["yes<end>", "no<end>"]  # and no end of the line
    assert chosen.completions[0].count(tokenizer.eos_token_id) == 1


def test_templates_that_do_not_fit(tokenizer):
    with pytest.raises(ConfigError, match="memory, row 0 is a conversation, but the tokenizer has no chat template"):
        tokenised_prompts(tokenizer, [ASKED])
    tokenizer.chat_template = CHAT_TEMPLATE
    with pytest.raises(DataError, match=r"x.jsonl, row 1: the tokenizer's chat template refuses the conversation \(no system, please\)"):
        tokenised_prompts(tokenizer, [ASKED, [{"role": "system", "content": "be short"}]], source="x.jsonl")
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|assistant|>{%", "<|assistant|><think>{%")
    with pytest.raises(DataError, match="memory, row 0: the tokenizer's chat template writes an answer otherwise than it opens one"):
        tokenised(tokenizer, [ASKED], [answer("yes")])


# --- the context ------------------------------------------------------------------------------------------------------


def test_too_long_is_an_error_that_names_the_row(words):
    with pytest.raises(
        DataError, match=r"p.jsonl, row 1: prompt and completion have 3 \+ 2 tokens, more than the 4 of the context: .*--truncate"
    ):
        tokenised(words, ["a", "a b c"], ["b", "a"], Tokenising(4), source="p.jsonl")
    with pytest.raises(DataError, match="memory, row 0: the prompt has 3 tokens, more than 2"):
        tokenised_prompts(words, ["a b c"], Tokenising(2))
    with pytest.raises(DataError, match="memory, row 0: the prompt has 3 tokens, which leaves no room for 2 new ones in 4"):
        tokenised_prompts(words, ["a b c"], Tokenising(4), room=2)
    with pytest.raises(ConfigError, match="completions of 4 tokens leave no room for a prompt in 4"):
        tokenised_prompts(words, ["a"], Tokenising(4, truncate=True), room=4)
    with pytest.raises(ConfigError, match="max_length is 1"):
        Tokenising(1)


def test_truncation_keeps_the_end_of_a_prompt_and_the_beginning_of_a_completion(words, beginning):
    cut = Tokenising(6, truncate=True)
    found = tokenised(words, ["a b c a b c", "a b c a", "a"], ["a b", "a a b b c", "b b b b b b b"], cut)
    assert found.prompts == [[2, 3, 4], [3, 4, 2], [2]]
    assert found.completions == [[2, 3, 0], [2, 2, 3], [3, 3, 3, 3, 3]]
    chosen, rejected = tokenised_pairs(words, Preferences(["a b c a b c"], ["a"], ["a b c"]), cut)
    assert chosen.prompts == rejected.prompts == [[2, 3, 4]]  # room for the longer one, up to half of the context
    assert (chosen.completions, rejected.completions) == ([[2, 0]], [[2, 3, 4]])
    assert tokenised_prompts(words, ["a b c a b c", "a"], cut, room=2) == [[4, 2, 3, 4], [2]]
    whole = tokenised_prompts(beginning, ["say yes or no"])[0]
    assert tokenised_prompts(beginning, ["say yes or no"], Tokenising(3, truncate=True))[0] == [whole[0], *whole[-2:]]


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=4), st.integers(2, 12))
def test_what_is_cut_fits_and_what_fits_is_not_cut(rows, most):
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<end>": 0, "a": 1}, unk_token="a"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    prompts, completions = ([" ".join("a" * row[k]) for row in rows] for k in range(2))
    found = tokenised(words, prompts, completions, Tokenising(most, truncate=True))
    for (p, c), prompt, completion in zip(rows, found.prompts, found.completions, strict=True):
        assert prompt and completion and len(prompt) + len(completion) <= most
        if p + c + 1 <= most:
            assert (len(prompt), len(completion)) == (p, c + 1)
        else:
            assert len(prompt) + len(completion) == most or len(completion) == c + 1
        assert (completion[-1] == 0) == (len(completion) == c + 1)


# --- the tokenizer ----------------------------------------------------------------------------------------------------


def test_a_tokenizer_needs_an_end_and_takes_it_for_padding(trained):
    bare = transformers.PreTrainedTokenizerFast(tokenizer_object=copy.deepcopy(trained))
    with pytest.raises(ConfigError, match=r"the tokenizer has no end token, .*: name the one of its tokens that is meant \(--eos-token\)"):
        ready_tokenizer(bare)
    with pytest.raises(UnknownNameError, match="unknown token '<ende>': did you mean '<end>'"):
        ready_tokenizer(bare, "<ende>")
    ready = ready_tokenizer(bare, "<end>")
    assert ready.eos_token_id == ready.pad_token_id == trained.token_to_id("<end>")
    ready.pad_token = "<begin>"
    assert ready_tokenizer(ready).pad_token == "<begin>"  # its own stays


def test_vocabularies_must_fit(tokenizer, words):
    n = len(tokenizer)
    check_vocabulary(SimpleNamespace(tokenizer=tokenizer, vocabulary=n))
    with pytest.raises(ConfigError, match=f"the tokenizer has tokens up to {n - 1}, the model's embedding {n - 1} rows"):
        check_vocabulary(SimpleNamespace(tokenizer=tokenizer, vocabulary=n - 1))
    own, other = (SimpleNamespace(tokenizer=each, vocabulary=n) for each in (tokenizer, words))
    check_same_vocabulary(own, own)
    with pytest.raises(ConfigError, match=f"different vocabularies \\(the model {n} tokens, the reference 5\\)"):
        check_same_vocabulary(own, SimpleNamespace(tokenizer=words, vocabulary=5))
    with pytest.raises(ConfigError, match=r"different vocabularies \(token '<begin>' is 0 in the model and none in the reference\)"):
        check_same_vocabulary(own, other)
