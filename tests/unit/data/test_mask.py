"""The tokens that are trained are those that the assistant says, whatever the template and the tokenizer."""

from __future__ import annotations

import pickle
from bisect import bisect_left
from unicodedata import is_normalized

import pytest
from hypothesis import given
from hypothesis import strategies as some
from tokenizers import AddedToken
from tokenizers.normalizers import NFC, Lowercase
from tokenizers.pre_tokenizers import ByteLevel

from data.encoding.encoded import Spelt
from data.encoding.mask import Heavy, learnt, locate, tokenise
from data.encoding.render import ChatTemplate
from data.encoding.tokens import TextTokenizer
from data.rows.conversation import Row
from engine.contract.errors import DataError, ModelError
from tests.wording import CHATML, MARKED, byte_fallback, byte_level, model_folder

NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello, 世界?"},
    {"role": "assistant", "content": "It is four 🙂."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "你好"},
]
# Qwen3's way with thoughts: only the last answer keeps its own, and gets an empty one where it has none
THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.role == 'assistant' and loop.last %}"
    "{{ '<think>\\n' + (message.reasoning_content or '') + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# DeepSeek-R1's: the prompt opens a thought that the rendered answer does not have
OPENED = CHATML.replace("'<|im_start|>assistant\\n' }}{% endif", "'<|im_start|>assistant\\n<think>\\n' }}{% endif")
VICUNA = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}"
    "{{ 'BOT: ' + message.content + eos_token }}{% else %}"
    "{{ message.content + ' ' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'BOT:' }}{% endif %}"
)
UNCLOSED = (
    "{% for message in messages %}{{ message.role + ': ' + message.content + '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TOOLS = (
    "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content }}{% for call in message.tool_calls or [] %}"
    "{{ call.function | tojson }}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer(byte_level(), NAMED)


def template(source: str) -> ChatTemplate:
    return ChatTemplate("the-template", source, NAMED)


def trained(messages, source, tokenizer, train_on="assistant", tools=None) -> list[str]:
    """The trained stretches, decoded from their ids: what the loss really falls on."""
    tokens = tokenise(Row(messages, tools, "rows.jsonl", 7), template(source), tokenizer, train_on)
    assert tokenizer.decode(tokens.ids) == tokens.text
    stretches: list[list[int]] = [[]]
    for id, one in zip(tokens.ids, tokens.trained, strict=True):
        if one:
            stretches[-1].append(id)
        elif stretches[-1]:
            stretches.append([])
    return [tokenizer.decode(stretch) for stretch in stretches if stretch]


@pytest.mark.parametrize("source", [CHATML, MARKED], ids=["by prefix", "by markers"])
def test_every_answer_is_trained_with_its_end_and_without_what_follows(tokenizer, source):
    assert trained(CHAT, source, tokenizer) == ["It is four 🙂.<|im_end|>", "你好<|im_end|>"]
    assert trained(CHAT, source, tokenizer, "last") == ["你好<|im_end|>"]


def test_everything_means_all_of_the_text(tokenizer):
    text = template(CHATML).render(CHAT)
    assert trained(CHAT, CHATML, tokenizer, "everything") == [text.rstrip("\n")]


def test_no_bos_is_added_to_the_one_in_the_template(tokenizer):
    row = Row(CHAT[1:3], None, "rows.jsonl", 1)
    tokens = tokenise(row, template(VICUNA), tokenizer)
    assert tokens.ids.count(tokenizer.bos_id) == 1 and tokens.ids[0] == tokenizer.bos_id
    assert tokenise(row, template(CHATML), tokenizer).ids.count(tokenizer.bos_id) == 0


def test_a_space_between_prompt_and_answer_belongs_to_whoever_writes_it(tokenizer):
    # the answer's first token takes the space along, and it is the model that writes both
    assert trained(CHAT[1:3], VICUNA, tokenizer) == [" It is four 🙂.</s>"]
    # here the prompt ends in the space; the token that starts there begins outside the answer
    assert trained(CHAT[1:3], UNCLOSED, tokenizer) == [" is four 🙂."]


def test_a_turn_without_an_end_is_reported_and_not_guessed(tokenizer):
    row = Row(CHAT, None, "rows.jsonl", 1)
    assert tokenise(row, template(CHATML), tokenizer).ends
    assert tokenise(row, template(MARKED), tokenizer).ends
    unclosed = tokenise(row, template(UNCLOSED), tokenizer)
    assert not unclosed.ends
    assert not unclosed.trained[-1] and unclosed.text.endswith("\n\n")
    inner = MARKED.replace("{{ message['content'] + '<|im_end|>\\n' }}{% endgeneration %}",
                           "{{ message['content'] }}{% endgeneration %}{{ '<|im_end|>\\n' }}")  # fmt: skip
    assert inner != MARKED
    assert not tokenise(row, template(inner), tokenizer).ends


def test_consecutive_answers_and_one_that_opens_the_conversation_are_trained(tokenizer):
    messages = [{"role": "assistant", "content": "Hi"}, *CHAT[1:3], {"role": "assistant", "content": "Done"}]
    assert trained(messages, CHATML, tokenizer) == ["Hi<|im_end|>", "It is four 🙂.<|im_end|>", "Done<|im_end|>"]


def test_tool_calls_are_trained_and_their_results_are_not(tokenizer):
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    tool = {"type": "function", "function": {"name": "look"}}
    messages = [CHAT[1], {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": "sun"}, CHAT[2]]  # fmt: skip
    written = '{"name": "look", "arguments": {}}<|im_end|>'
    assert trained(messages, TOOLS, tokenizer, tools=[tool]) == [written, "It is four 🙂.<|im_end|>"]
    for source, tools in ((CHATML, None), (CHATML, [tool]), (MARKED, None)):
        with pytest.raises(DataError, match="does not write the tool 'look'"):
            trained(messages, source, tokenizer, tools=tools)


def test_a_template_that_rewrites_earlier_turns_is_refused_with_the_ways_out(tokenizer):
    with pytest.raises(DataError) as caught:
        trained(CHAT, THINKING, tokenizer)
    assert "rows.jsonl, row 7" in caught.value.text and "the-template" in caught.value.text
    assert "(turn 3) differently once later turns follow" in caught.value.text
    assert "last turn only" in caught.value.hint
    assert trained(CHAT, THINKING, tokenizer, "last") == ["<think>\n\n</think>\n\n你好<|im_end|>"]
    thought = [CHAT[1], {**CHAT[2], "reasoning_content": "2+2"}]
    assert trained(thought, THINKING, tokenizer) == ["<think>\n2+2\n</think>\n\nIt is four 🙂.<|im_end|>"]


def test_a_template_whose_prompt_is_not_how_the_answer_begins_is_refused(tokenizer):
    for train_on in ("assistant", "last"):
        with pytest.raises(DataError) as caught:
            trained(CHAT, OPENED, tokenizer, train_on)
        assert "differently once the answer is given" in caught.value.text
    assert "last turn" not in caught.value.hint


def test_a_template_that_marks_nothing_is_refused(tokenizer):
    with pytest.raises(DataError, match="row 7: the template the-template marks nothing"):
        trained(CHAT, "{% generation %}{% endgeneration %}" + CHATML, tokenizer)


def test_the_last_turn_is_found_where_earlier_ones_change_after_it(tokenizer):
    # as gpt-oss does, an answer shows more of itself while it is the last
    changing = MARKED.replace("{% generation %}", "{% generation %}{% if loop.last %}{{ '!' }}{% endif %}")
    assert trained(CHAT, changing, tokenizer, "last") == ["!你好<|im_end|>"]


def test_a_turn_may_be_marked_in_pieces(tokenizer):
    pieces = (
        "{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
        "{% endgeneration %}{% generation %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% generation %}"
        "{{ '</s>' }}{% endgeneration %}{% else %}{{ message.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    )
    both = ["It is four 🙂.<|im_end|>", "</s>", "你好<|im_end|>", "</s>"]
    assert trained(CHAT, pieces, tokenizer) == both
    assert trained(CHAT, pieces, tokenizer, "last") == both[2:]
    assert tokenise(Row(CHAT, None, "rows.jsonl", 1), template(pieces), tokenizer).ends


def test_an_eos_behind_the_whole_conversation_does_not_stand_in_the_way(tokenizer):
    closed = CHATML.replace("{% endfor %}", "{% endfor %}{% if not add_generation_prompt %}{{ eos_token }}{% endif %}")
    assert trained(CHAT, closed, tokenizer) == ["It is four 🙂.<|im_end|>", "你好<|im_end|>\n</s>"]


def test_an_eos_that_ends_the_last_turn_alone_is_refused(tokenizer):
    ending = "(eos_token if loop.last and message.role == 'assistant' else '<|im_end|>')"  # as gpt-oss does
    returned = "{% for message in messages %}{{ message.content + " + ending + " }}{% endfor %}"
    with pytest.raises(DataError, match="once later turns follow"):
        trained(CHAT, returned, tokenizer)
    assert trained(CHAT, returned, tokenizer, "last") == ["你好</s>"]


@pytest.mark.parametrize("body", ["{}", "{{% generation %}}{}{{% endgeneration %}}"], ids=["by prefix", "by markers"])
def test_an_answer_that_the_template_leaves_out_is_refused(tokenizer, body):
    silent = "{% for message in messages %}" + body.format("{{ message.role + ': <|im_end|>' }}") + "{% endfor %}"
    with pytest.raises(DataError, match="does not write an answer as it stands"):
        trained(CHAT, silent, tokenizer)


def test_refusals_of_the_template_name_the_row(tokenizer):
    with pytest.raises(DataError, match="rows.jsonl, row 7: .*alternate"):
        trained(CHAT, "{{ raise_exception('roles must alternate') }}", tokenizer)


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
@pytest.mark.parametrize("text", ["Hi", " Hi", "你好，世界", "🙂🙃", "a🙂 b", "é\u0301👨‍👩‍👧", "  ", "\n\nHi"])
def test_offsets_cover_the_text_to_the_character(make, text):
    tokenizer = TextTokenizer(make(), {"eos_token": "</s>"})
    whole = f"Hi:\n{text}</s>"
    encoded = tokenizer.encode(whole)
    assert {position for start, end in encoded.offsets for position in range(start, end)} == set(range(len(whole)))
    starts = [start for start, _ in encoded.offsets]
    assert starts == sorted(starts)
    # cut at the border of the text, the trained ids decode to the text itself
    inside = [id for id, start in zip(encoded.ids, starts, strict=True) if 4 <= start < 4 + len(text)]
    if make is byte_level and text.strip() == text:
        assert tokenizer.decode(inside) == text


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
@given(text=some.text(alphabet="aé世🙂\u0301 \n<s>/", max_size=30))
def test_the_first_token_at_a_place_is_the_one_that_all_offsets_tell(make, text):
    encoded = TextTokenizer(make(), {"eos_token": "</s>"}).encode(text)
    starts = [start for start, _ in encoded.offsets]
    for place in range(len(text) + 1):
        assert encoded.at(place) == bisect_left(starts, place)
    assert [encoded.span(index) for index in range(len(encoded))] == encoded.offsets


@pytest.mark.parametrize("source", [CHATML, MARKED], ids=["by prefix", "by markers"])
def test_an_answer_of_weight_nothing_is_read_and_not_trained(tokenizer, source):
    weighed = [CHAT[0], CHAT[1], {**CHAT[2], "weight": 0}, CHAT[3], {**CHAT[4], "weight": 1}]
    assert trained(weighed, source, tokenizer) == ["你好<|im_end|>"]
    assert trained([*weighed[:4], {**CHAT[4], "weight": 0}], source, tokenizer) == []
    assert trained([*CHAT[:4], {**CHAT[4], "weight": 0}], source, tokenizer, "last") == ["It is four 🙂.<|im_end|>"]
    rest = template(source).render(CHAT).split("It is four 🙂.<|im_end|>\n")
    assert trained(weighed, source, tokenizer, "everything") == [rest[0].rstrip("\n"), rest[1].rstrip("\n")]
    kept = [{**turn, "weight": 1} for turn in CHAT]
    tokens = tokenise(Row(kept, None, "rows.jsonl", 1), template("{{ messages | tojson }}"), tokenizer, "everything")
    assert "brief" in tokens.text and "weight" not in tokens.text


def test_a_turn_of_weight_nothing_is_told_apart_where_turns_are_marked_in_pieces(tokenizer):
    pieces = MARKED.replace("{{ message['content'] + '<|im_end|>\\n' }}{% endgeneration %}",
                            "{{ message['content'] }}{% endgeneration %}{{ ' ' }}{% generation %}{{ '<|im_end|>' }}"
                            "{% endgeneration %}")  # fmt: skip
    assert pieces != MARKED
    weighed = [*CHAT[:2], {**CHAT[2], "weight": 0}, *CHAT[3:]]
    assert trained(weighed, pieces, tokenizer) == ["你好", "<|im_end|>"]


def test_tokenising_in_a_batch_is_the_same(tokenizer):
    texts = ["Hello", "你好 🙂", "<|im_start|>x<|im_end|>"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("composed", [False, True])
@given(text=some.text(alphabet="aé世🙂\u0301\u3000 \n<s>/Å", max_size=30))
def test_places_out_of_bytes_alone_are_those_that_the_tokenizer_tells(composed, text):
    made = byte_level()
    if composed:
        made.normalizer = NFC()
    tokenizer = TextTokenizer(made, {"eos_token": "</s>"})
    (found,), told = tokenizer.encode_batch([text]), tokenizer.encode(text)
    assert isinstance(found, Spelt) is (not composed or is_normalized("NFC", text))
    assert found == told
    assert [found.span(index) for index in range(len(found))] == told.offsets
    assert [found.at(place) for place in range(len(text) + 1)] == [told.at(place) for place in range(len(text) + 1)]


@pytest.mark.parametrize("change", ["lower case", "a space in front", "tokens that take spaces in"])
def test_a_tokenizer_that_rewrites_texts_is_asked_for_every_place(change):
    made = byte_level()
    match change:
        case "lower case":
            made.normalizer = Lowercase()
        case "a space in front":
            made.pre_tokenizer = ByteLevel(add_prefix_space=True)
        case _:
            made.add_tokens([AddedToken("<|x|>", rstrip=True)])
    tokenizer, texts = TextTokenizer(made, {"eos_token": "</s>"}), ["Hi <|x|>  you", "You"]
    found = tokenizer.encode_batch(texts)
    assert found == [tokenizer.encode(text) for text in texts]
    assert not any(isinstance(one, Spelt) for one in found)


def test_stored_truncation_padding_and_added_tokens_are_ignored(tmp_path):
    stored = byte_level()
    stored.enable_truncation(2)
    stored.enable_padding(length=50)
    tokenizer = TextTokenizer.of(model_folder(tmp_path, tokenizer=stored))
    text = "Hello world, what is the answer?"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_tokens_equal_those_of_transformers(tmp_path):
    from transformers import PreTrainedTokenizerFast

    folder = model_folder(tmp_path, VICUNA, pad_token="<|im_end|>")
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    ours = TextTokenizer.of(folder)
    tokens = tokenise(Row(CHAT, None, "rows.jsonl", 1), ChatTemplate.of(folder), ours)
    assert tokens.ids == theirs.apply_chat_template(CHAT)["input_ids"]
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert ours.vocabulary_size == len(theirs)


def test_a_named_token_that_is_not_flagged_becomes_special():
    plain = byte_level()
    eos = "four"
    plain.add_tokens([eos])
    tokenizer = TextTokenizer(plain, {"eos_token": eos})
    assert tokenizer.eos_id in tokenizer.special_ids
    assert tokenizer.eos_id in tokenizer.encode("twofourtwo").ids


def test_tokenizer_travels_to_another_process(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode("Hello 🙂") == tokenizer.encode("Hello 🙂")
    assert (again.eos_id, again.special_ids) == (tokenizer.eos_id, tokenizer.special_ids)


def test_a_folder_without_a_tokenizer_says_what_to_do(tmp_path):
    with pytest.raises(ModelError, match="has no tokenizer.json.*save it again"):
        TextTokenizer.of(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read"):
        TextTokenizer.of(tmp_path)


@pytest.mark.parametrize("source", [CHATML, MARKED])
def test_each_turn_keeps_its_weight_and_what_is_between_weighs_one(tokenizer, source):
    turns = [CHAT[0], CHAT[1], {**CHAT[2], "weight": 0.5}, CHAT[3], {**CHAT[4], "weight": 2}]
    made = template(source)
    for train_on, expected in (("assistant", [0.5, 2.0]), ("last", [2.0]), ("everything", [1.0, 0.5, 1.0, 2.0])):
        found = locate(Row(turns, None, "f", 1), made, train_on)
        assert list(found.weights) == expected
        said = [found.text[begin:end] for begin, end in found.spans]
        if train_on == "everything":
            assert "".join(said) == found.text
        encoded = tokenizer.encode(found.text)
        stretches, _ = learnt(found, encoded, tokenizer)
        heavy = {(one[0], one[1]): one.weight for one in stretches if isinstance(one, Heavy)}
        assert list(heavy.values()) == [weight for weight in expected if weight != 1]
    silent = locate(Row([*turns[:4], {**CHAT[4], "weight": 0}], None, "f", 1), made, "everything")
    assert CHAT[4]["content"] not in "".join(silent.text[begin:end] for begin, end in silent.spans)
