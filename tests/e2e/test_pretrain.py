"""Pretraining: every token is learnt, documents see each other or do not, from weights or from scratch."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from data.checking.preflight import problems
from data.datasets import registry
from data.encoding.render import NoTemplate
from data.encoding.tokens import TextTokenizer
from data.planning.sizes import resized
from engine.contract import rundir, text
from engine.contract.errors import ArgsError, DataError
from tests.e2e.training import TINY, events, losses, train, weights

TEXTS = ["Once upon a time there was a small engine.", "It ran on words alone, and it ran well.",
         "A third text, which is rather longer than the other two: it says the same thing twice, the same thing twice.",
         "Short.", "And the last one ends it."]  # fmt: skip
PRETRAIN = ["task=pretrain", "data=texts.jsonl", "data.max_length=32"]
ONE_STEP = [*PRETRAIN, "steps.max_steps=1", "steps.batch_size=4", "steps.accumulation=64"]
SCRATCH = [*PRETRAIN, "method=full", "task.start=scratch"]


@pytest.fixture
def texts(workspace: Path) -> Path:
    file = workspace / "datasets" / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": said}) for said in TEXTS))
    return workspace


def documents(workspace: Path) -> list[list[int]]:
    """Each text as the tokens that are learnt from it, its end included."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(workspace / "models" / "tiny")
    rows = registry.load(registry.find("texts.jsonl", workspace))
    return [[*tokenizer(row.text, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for row in rows]


def tiny(workspace: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(workspace / "models" / "tiny", dtype=torch.float32).eval()


def mean_loss(model: Any, pieces: list[list[int]]) -> float:
    """The mean negative log-likelihood of all tokens of `pieces` but the first of each, in plain PyTorch."""
    total, count = 0.0, 0
    with torch.no_grad():
        for ids in pieces:
            log_probs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            total -= sum(float(log_probs[place, id]) for place, id in enumerate(ids[1:]))
            count += len(ids) - 1
    return total / count


def cut(pieces: list[list[int]], first: int, size: int) -> list[list[int]]:
    """`pieces` cut after `first` tokens and then after every `size`, each part beginning with the token before it."""
    found = []
    for ids in pieces:
        found.append(ids[:first])
        found += [ids[at - 1 : at - 1 + size] for at in range(first, len(ids), size - 1)]
    return found


def test_joined_documents_are_one_text_in_full_sequences(texts: Path) -> None:
    run = train(texts, *ONE_STEP, "task.boundaries=joined", "method=full")
    whole = [id for ids in documents(texts) for id in ids]
    assert losses(run)[0] == pytest.approx(mean_loss(tiny(texts), cut([whole], 32, 32)), abs=1e-5)
    assert losses(run, "train/perplexity")[0] == pytest.approx(math.exp(losses(run)[0]))


def test_documents_apart_do_not_see_each_other(texts: Path) -> None:
    run = train(texts, *ONE_STEP, "task.boundaries=apart", "method.rank=4")
    pieces, used = [], 0
    for ids in documents(texts):  # by hand: where a document meets the end of a sequence
        place = 0
        while place < len(ids):
            begin = place - 1 if place and not used else place
            pieces.append(ids[begin : begin + 32 - used])
            used, place = (used + len(pieces[-1])) % 32, begin + len(pieces[-1])
    assert losses(run)[0] == pytest.approx(mean_loss(tiny(texts), pieces), abs=1e-5)


def test_a_document_alone_has_sequences_of_its_own(texts: Path) -> None:
    run = train(texts, *ONE_STEP, "task.boundaries=alone", "method=freeze")
    assert losses(run)[0] == pytest.approx(mean_loss(tiny(texts), cut(documents(texts), 32, 32)), abs=1e-5)


def test_perplexity_of_held_out_text_is_measured(texts: Path) -> None:
    run = train(texts, *PRETRAIN, "data.split=60/40/0", "method.rank=4")
    assert losses(run, "eval/perplexity") == pytest.approx([math.exp(loss) for loss in losses(run, "eval/loss")])
    assert len(losses(run, "eval/perplexity")) > 2


def test_a_model_without_a_chat_template_is_pretrained(texts: Path) -> None:
    import shutil

    base = texts / "models" / "base"
    shutil.copytree(texts / "models" / "tiny", base)
    (base / "chat_template.jinja").unlink(missing_ok=True)
    run = train(texts, *PRETRAIN, "model=base", "method.rank=4", "record.samples=[Once upon]", "data.split=60/40/0")
    assert isinstance(NoTemplate.if_any(base), NoTemplate)
    assert run.model_path.is_dir() and events(run, "sample")[0]["prompt"] == "Once upon"


def test_a_sample_of_plain_text_begins_as_rows_do(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from engine.recipes.run import _asked
    from tests.wording import model_folder

    folder = model_folder(tmp_path / "base")  # its tokenizer puts a token before every text
    tokenizer = TextTokenizer.of(folder)
    args: Any = text.parse({}, ["task=pretrain", "record.samples=[Once]"], kind="train")
    asked = _asked(args, folder, SimpleNamespace(generation_config=None))
    assert asked["samples"] == [("Once", [tokenizer.bos_id, *tokenizer.encode("Once").ids])]


def test_conversations_are_refused_by_kind(texts: Path) -> None:
    with pytest.raises(DataError, match="(?s)12 of 12 rows.*no plain text, which pretraining learns from"):
        train(texts, "task=pretrain", "data=sums.jsonl")


@pytest.mark.parametrize("boundaries", ["apart", "joined"])
def test_a_resumed_pretraining_equals_an_uninterrupted_one(texts: Path, boundaries: str) -> None:
    common = [*SCRATCH, f"task.boundaries={boundaries}", "task.vocabulary=300", "record.save_every=2", "record.keep=9"]
    whole = train(texts, *common)
    resumed = train(texts, *common, f"resume.run={whole.id}", "resume.checkpoint=step-2")
    assert losses(resumed) == losses(whole)[2:]
    expected, found = weights(whole.model_path), weights(resumed.model_path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    other = [*TINY, *common, f"resume.run={whole.id}", "task.vocabulary=301"]
    [problem] = problems(text.parse({}, other, kind="train"), texts)
    assert problem.path == "task.vocabulary" and "was trained with another value" in problem.text


def test_from_scratch_begins_with_random_weights_that_the_seed_draws(texts: Path) -> None:
    runs = [train(texts, *SCRATCH, "steps.max_steps=1", f"steps.seed={seed}") for seed in (1, 1, 2)]
    first, again, other = (weights(run.start_path) for run in runs)
    own = weights(texts / "models" / "tiny")
    matrices = [name for name in own if own[name].dim() > 1]
    assert all(torch.equal(first[name], again[name]) for name in own)
    assert all(not torch.equal(first[name], other[name]) for name in matrices)
    assert all(not torch.equal(first[name], own[name]) for name in matrices)
    assert losses(runs[0])[0] == pytest.approx(math.log(len(own["model.embed_tokens.weight"])), abs=0.3)


def test_from_scratch_takes_another_size_and_a_tokenizer_of_its_own(texts: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = train(texts, *SCRATCH, "task.size={layers: 3, hidden: 48, heads: 6, key_value_heads: 3}",
                "task.vocabulary=310")  # fmt: skip
    model, tokenizer = (kind.from_pretrained(run.model_path) for kind in (AutoModelForCausalLM, AutoTokenizer))
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 48, 6)
    assert (config.vocab_size, model.get_input_embeddings().num_embeddings) == (len(tokenizer), len(tokenizer))
    assert config.eos_token_id == tokenizer.eos_token_id == model.generation_config.eos_token_id
    old = AutoTokenizer.from_pretrained(texts / "models" / "tiny")
    assert tokenizer.decode(tokenizer(TEXTS[2]).input_ids) == TEXTS[2]
    [learnt] = [event["facts"] for event in events(run, "note") if "vocabulary" in event["facts"]]
    assert learnt["vocabulary"] == len(tokenizer)
    assert len(tokenizer) != len(old) and tokenizer.eos_token == old.eos_token
    assert len(tokenizer(TEXTS[2]).input_ids) < len(old(TEXTS[2]).input_ids)  # it has learnt from this very text


def test_what_was_trained_from_scratch_is_measured_against_its_start(texts: Path) -> None:
    from engine.exporting import lineage

    run = train(texts, *SCRATCH, "steps.max_steps=1", "task.vocabulary=300")
    assert lineage.of(run.id, texts).base == str(run.start_path)


@pytest.mark.parametrize(("given", "said"), [
    (["method=lora"], "method.kind: From scratch .task.start. every weight must learn.*Choose full"),
    (["method=full", "task.size={depth: 3}"], "A model has no size called depth. There are layers, hidden"),
    (["method=full", "task.size={layer: 3}"], "Did you mean layers?"),
    (["method=full", "task.size={hidden: 50, heads: 4}"], r"task.size: hidden \(50\) cannot be shared among 4 heads"),
    (["method=full", "data.packing=true"], "fills its sequences by itself .task.boundaries.. Turn packing off"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_way_out(texts: Path, given: list[str], said: str) -> None:
    with pytest.raises(ArgsError, match=said):
        train(texts, *PRETRAIN, "task.start=scratch", *given)
    try:
        args = text.parse({}, [*TINY, *PRETRAIN, "task.start=scratch", *given], kind="train")
    except ArgsError:
        return  # the arguments alone say so
    assert [str(problem) for problem in problems(args, texts) if problem.path == "task.size"]


def test_sizes_belong_to_a_start_from_scratch(texts: Path) -> None:
    with pytest.raises(ArgsError, match="(?s)task.size: The model's own weights fit.*task.vocabulary: The model's own"):
        train(texts, *PRETRAIN, "task.size={layers: 1}", "task.vocabulary=400")


def test_a_head_follows_from_hidden_and_heads_where_it_did_before() -> None:
    llama = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
             "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}  # fmt: skip
    assert resized(llama, {"hidden": 32, "layers": 1}) == {
        "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1
    }  # fmt: skip
    gemma = {**llama, "head_dim": 32}
    assert resized(gemma, {"hidden": 32})["head_dim"] == 32
    assert resized({"n_embd": 8, "n_head": 2, "n_layer": 1}, {"layers": 3})["n_layer"] == 3


@pytest.mark.shared
def test_pretraining_from_scratch_goes_below_the_unigram_entropy(workspace: Path, shared: Path) -> None:
    """What a model that knew only how often each token comes would reach; below it, it has learnt what follows what."""
    from transformers import AutoTokenizer

    lines = (shared / "pretrain" / "wiki_demo.txt").read_text(encoding="utf-8").splitlines()
    (workspace / "datasets" / "wiki.txt").write_text("\n".join(lines), encoding="utf-8")
    run = train(
        workspace, *SCRATCH, "data=wiki.txt", "data.max_length=64", "data.split=90/10/0", "steps.batch_size=8",
        "steps.accumulation=1", "steps.max_steps=200", "optim.learning_rate=1e-2", "task.vocabulary=400",
        "task.boundaries=joined", "record.evaluate_every=200", "record.log_every=50",
        "task.size={layers: 1, hidden: 64, heads: 4, key_value_heads: 2, feed_forward: 128}",
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(run.model_path)
    held = [json.loads(line)["text"] for line in run.heldout_path.read_text().splitlines()]
    counts = Counter(id for said in lines if said not in held for id in tokenizer(said).input_ids)
    mixed = Counter(id for said in held for id in tokenizer(said).input_ids)
    total, tokens = sum(counts.values()) + len(tokenizer), sum(mixed.values())
    # Held-out tokens by the shares of the trained ones, one more of each so that none is impossible.
    unigram = -sum(many * math.log((counts[id] + 1) / total) for id, many in mixed.items()) / tokens
    print(f"unigram entropy {unigram:.3f}, held-out loss {losses(run, 'eval/loss')[-1]:.3f} nats a token")
    assert losses(run, "eval/loss")[0] > unigram > losses(run, "eval/loss")[-1] + 0.2


def test_held_out_text_judges_the_result_against_its_start(texts: Path) -> None:
    from engine import evaluate
    from engine.contract.args import EvaluateArgs
    from engine.report import Report, Stop

    run = train(texts, *SCRATCH, "data.split=60/40/0", "task.boundaries=alone", "data.max_length=128",
                "optim.learning_rate=1e-2")  # fmt: skip
    args = EvaluateArgs(tuned=run.id, max_tokens=4, resamples=100, dtype="fp32", device="cpu")
    judged = rundir.make(texts, "evaluate", text.dump(args))
    evaluate.run(args, judged, Report(judged), Stop())
    rows = [json.loads(line) for line in (judged.results_path / "rows.jsonl").read_text().splitlines()]
    means = [sum(row[name]["nll"] for row in rows) / sum(row[name]["tokens"] for row in rows)
             for name in ("base", "tuned")]  # fmt: skip
    held = losses(run, "eval/loss")
    assert means == pytest.approx([held[0], held[-1]], abs=1e-4)
