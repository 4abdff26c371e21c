"""Arguments by chance: any valid tree of one kind of run, drawn from its declarations by hypothesis."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from engine.contract.args import KINDS, AnyArgs
from engine.contract.fields import AUTO, Spec, walk
from engine.contract.launching import Launch
from engine.contract.solvers import BY_MEASURE, SCHEDULES
from engine.contract.text import checked

# Rules that span fields are tested one by one; here their fields keep to values that suit every other.
BOUND = {
    "record.patience": st.none(),
    "record.keep_best": st.just(False),
    "steps.global_batch": st.just(AUTO),
    "steps.accumulation": st.sampled_from([AUTO, 8, 64]),
    "task.group": st.sampled_from([2, 4, 8]),
    "task.max_new_tokens": st.integers(1, 4),
    "task.rewards.functions": st.dictionaries(
        st.sampled_from(["exact", "numeric", "format", "length", "json", "sql"]), st.floats(-9, 9), min_size=1
    ),
    **{f"task.rewards.{name}": st.sampled_from(["(a)", "(b)+"]) for name in ("within", "pattern", "form")},
    "task.rewards.json_schema": st.sampled_from(["", '{"type": "object"}']),
    "task.rewards.label": st.just(""),
    "resume.checkpoint": st.just(""),
    "record.samples": st.just([]),
    "optim.warmup": st.floats(0, 1, exclude_max=True),
    "optim.optimiser": st.sampled_from(["adamw_torch", "adafactor", "muon", "lion_8bit", "ademamix", "sgd"]),
    "optim.own": st.just({}),
    "optim.schedule": st.sampled_from([name for name in SCHEDULES if name not in BY_MEASURE]),
    "optim.schedule_own": st.just({}),
    "optim.min_learning_rate": st.just(0.0),
    "method.dropout": st.just(0.0),
    "method.init": st.just("default"),
    "method.start_from": st.just(""),
    "method.on_top": st.just(False),
    "method.replicate": st.lists(st.sampled_from(["0-1", "0-15", "8-23"]), max_size=2),
    "method.layers": st.integers(1, 100),
    "method.feedforward": st.just([AUTO]),
    "method.own": st.just({}),
    "model.quantisation": st.just("none"),
    "model.rope": st.just("none"),
    "model.new_tokens": st.just([]),
    "compute.loss": st.sampled_from(["auto", "plain"]),
    "compute.padding_free": st.sampled_from([AUTO, False]),
    "compute.checkpointing": st.sampled_from([AUTO, False]),
    "data.packing": st.just(False),
    "task.label_smoothing": st.just(0.0),
    "task.boundaries": st.sampled_from(["joined", "alone"]),
    "task.start": st.just("weights"),
    "task.size": st.just({}),
    "task.vocabulary": st.none(),
    "task.divergence": st.just("reverse_kl"),
    "vision.language": st.just(True),
    "vision.min_pixels": st.just(AUTO),
    **{f"launch.{name}": st.just(value) for name, value in Launch().model_dump().items()},
    "endpoint.address": st.just(AUTO),
    "endpoint.key_variable": st.just("KEY"),
    "endpoint.budget": st.none(),
    "data.split": st.sampled_from(["100/0/0", "95/5/0", "80/10/10", "rest/20/0", "97.5/2.5/0"]),
}
# Tasks and methods that no value of any field brings together.
APART = {("reward", "prompt"), ("reward", "prefix")}
# What an args file and a command line can carry: no lone surrogates, and no NUL, which no program can be given.
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)
LEAVES = st.one_of(WORDS, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False))


def value(spec: Spec) -> st.SearchStrategy[Any]:
    """Any valid value of one argument."""
    plain: st.SearchStrategy[Any]
    if spec.path in BOUND:
        return BOUND[spec.path]
    if spec.type == "choice":
        plain = st.sampled_from(spec.choices)
    elif spec.type == "bool":
        plain = st.booleans()
    elif spec.type == "int":
        plain = st.integers(int(spec.low or 0), int(spec.high or 10**9))
    elif spec.type == "float":
        plain = st.floats(
            spec.low, spec.high, exclude_min=spec.open_low, exclude_max=spec.open_high, allow_nan=False,
            allow_infinity=False,
        )  # fmt: skip
    elif spec.type == "list":
        plain = st.lists(WORDS, min_size=1, max_size=3)
    elif spec.type == "map":
        number = st.integers(1, 1000)  # as in limits, weights and repetitions
        words = {"extra": LEAVES, "data.fill": WORDS, "fill": WORDS}.get(spec.path, number)
        plain = st.dictionaries(WORDS, words, max_size=3)
    else:
        plain = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True) if spec.path == "to" else WORDS
    others = [st.just(AUTO)] if spec.auto else []
    return st.one_of(plain, *others, *([st.none()] if spec.optional else []))


@st.composite
def arguments(draw: st.DrawFn, kind: str = "") -> AnyArgs:
    """Valid arguments of `kind` (any kind when empty), with some of them away from their defaults."""
    kind = kind or draw(st.sampled_from(sorted(KINDS)))
    specs = walk(KINDS[kind])
    tags = {spec.path: draw(st.sampled_from(spec.choices)) for spec in specs if spec.path.endswith(".kind")}
    assume((tags.get("task.kind"), tags.get("method.kind")) not in APART)
    free = [spec for spec in specs if spec.path not in tags and spec.variant in ("", tags.get(f"{spec.union}.kind"))]
    wanted = [spec for spec in free if spec.path in ("tuned", "task.boundaries", "task.max_new_tokens")]
    chosen = draw(st.lists(st.sampled_from(free), max_size=8, unique_by=lambda spec: spec.path))
    content: dict[str, Any] = {}
    pairs = ((spec.path, draw(value(spec))) for spec in {spec.path: spec for spec in [*wanted, *chosen]}.values())
    for path, said in itertools.chain(tags.items(), pairs):
        put(content, path, said)
    args, problems = checked(KINDS[kind], {"kind": kind, **content})
    assert not problems, problems
    return args  # type: ignore[no-any-return]


def put(content: dict[str, Any], path: str, said: Any) -> None:
    """Set the value at a dotted path."""
    *parts, last = path.split(".")
    for part in parts:
        content = content.setdefault(part, {})
    content[last] = said
