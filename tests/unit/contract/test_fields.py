"""How an argument is declared, and how the declarations are read back."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pytest
from pydantic import ValidationError

from engine.contract.args import KINDS, TrainArgs
from engine.contract.fields import AUTO, Auto, Section, Spec, arg, tagged, walk
from engine.contract.talk import Talk

ROOTS = [*KINDS.values(), Talk]
SPECS = [pytest.param(spec, id=f"{root.__name__}.{spec.path}") for root in ROOTS for spec in walk(root)]


class Knife(Section):
    """Cuts."""

    title: ClassVar[str] = "Knife"
    kind: Literal["knife"] = "knife"
    sharp: bool = arg(True, "Cuts well.", when="Never.", usual="on")


class Spoon(Section):
    """Holds soup."""

    kind: Literal["spoon"] = "spoon"
    size: float | Auto = arg(AUTO, "How much.", when="For soup.", usual="auto", unit="ml", gt=0, le=50, label="Bowl")


class Bread(Section):
    """What is eaten."""

    title: ClassVar[str] = "Bread"
    shorthand: ClassVar[str] = "sorts"
    sorts: list[str] = arg(["rye"], "Which.", when="Always.", usual="rye", min_length=1, choices="breads")
    slices: int | None = arg(None, "How many.", when="Rarely.", usual="two", ge=1)


class Meal(Section):
    """A tree with every kind of field."""

    bread: Bread = Bread()
    tool: tagged(Knife, Spoon) = arg(Knife(), "What with.", when="As needed.", usual="knife", label="Tool")  # type: ignore[valid-type]
    mood: Literal["good", "bad"] = arg("good", "How it is.", when="Daily.", usual="good", basic=True)
    notes: dict[str, Any] = arg({}, "What else.", when="Seldom.", usual="empty", to="diary.notes", lines=3)


def spec(path: str) -> Spec:
    return next(spec for spec in walk(Meal) if spec.path == path)


def test_walk_lists_every_argument_in_order_and_a_tag_before_its_variants() -> None:
    assert [(spec.path, spec.type, spec.variant) for spec in walk(Meal)] == [
        ("bread.sorts", "list", ""), ("bread.slices", "int", ""), ("tool.kind", "choice", ""),
        ("tool.sharp", "bool", "knife"), ("tool.size", "float", "spoon"), ("mood", "choice", ""), ("notes", "map", ""),
    ]  # fmt: skip


def test_a_section_within_a_variant_belongs_to_it() -> None:
    class Handle(Section):
        kind: Literal["wood"] = "wood"
        bread: Bread = Bread()

    class Drawer(Section):
        tool: tagged(Handle, Spoon) = arg(Handle(), "What with.", when="As needed.", usual="wood")  # type: ignore[valid-type]

    inner = [spec for spec in walk(Drawer) if spec.path.startswith("tool.bread.")]
    assert [(spec.path, spec.variant, spec.union, spec.section) for spec in inner] == [
        ("tool.bread.sorts", "wood", "tool", "Bread"), ("tool.bread.slices", "wood", "tool", "Bread"),
    ]  # fmt: skip


def test_a_spec_says_all_that_was_declared() -> None:
    size = spec("tool.size")
    assert (size.auto, size.optional, size.low, size.high, size.open_low, size.open_high) == (
        True, False, 0, 50, True, False
    )  # fmt: skip
    assert (size.label, size.unit, size.default, size.name, size.section) == ("Bowl", "ml", AUTO, "size", "tool")
    assert (spec("bread.slices").optional, spec("bread.slices").low, spec("bread.slices").open_low) == (True, 1, False)
    assert (spec("bread.sorts").choices_from, spec("bread.sorts").section) == ("breads", "Bread")
    assert (spec("notes").to, spec("notes").lines, spec("notes").label) == ("diary.notes", 3, "Notes")
    assert spec("mood").choices == ("good", "bad") and spec("mood").basic


def test_the_tag_of_a_union_explains_its_variants() -> None:
    tag = spec("tool.kind")
    assert (tag.choices, tag.default, tag.label, tag.basic) == (("knife", "spoon"), "knife", "Tool", True)
    assert tag.help == "What with. knife: Cuts. spoon: Holds soup."


def test_a_default_list_is_not_shared_between_sections() -> None:
    one = Bread()
    one.sorts.append("wheat")
    assert Bread().sorts == ["rye"]


def test_sections_are_frozen_and_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValidationError):
        Bread().slices = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Bread.model_validate({"butter": 1})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("rye", {"sorts": ["rye"], "slices": None}),
        (["rye", "oat"], {"sorts": ["rye", "oat"], "slices": None}),
        ({"sorts": "oat"}, {"sorts": ["oat"], "slices": None}),
        (None, {"sorts": ["rye"], "slices": None}),
        ({"slices": "2"}, {"sorts": ["rye"], "slices": 2}),
    ],
)
def test_a_bare_value_stands_for_the_main_field_of_a_section(given: Any, expected: Any) -> None:
    assert Bread.model_validate(given).model_dump() == expected


@pytest.mark.parametrize(
    ("given", "kind"), [("spoon", "spoon"), (None, "knife"), ({}, "knife"), ({"kind": "spoon"}, "spoon")]
)
def test_a_bare_word_is_the_kind_and_no_kind_is_the_first(given: Any, kind: str) -> None:
    assert Meal.model_validate({"tool": given}).tool.kind == kind


def test_what_belongs_to_another_variant_cannot_be_written_down() -> None:
    with pytest.raises(ValidationError):
        Meal.model_validate({"tool": {"kind": "knife", "size": 3}})


@pytest.mark.parametrize(
    ("size", "fits"), [(AUTO, True), (0.1, True), (50, True), (0, False), (50.1, False), ("x", False)]
)
def test_limits_hold_beside_auto(size: Any, fits: bool) -> None:
    if fits:
        assert Spoon(size=size).size == size
    else:
        with pytest.raises(ValidationError):
            Spoon(size=size)


def test_true_is_no_number_and_no_word_is_cut_into_letters() -> None:
    with pytest.raises(ValidationError):
        Bread.model_validate({"slices": True})
    assert Meal.model_validate({"notes": {"a": True}}).notes == {"a": True}


@pytest.mark.parametrize("spec", SPECS)
def test_every_argument_says_what_when_and_how_much(spec: Spec) -> None:
    for part in (spec.help, spec.when, spec.usual, spec.label):
        assert part.strip() == part and part
    assert spec.help.endswith((".", ")")) or spec.path.endswith(".kind"), spec.help
    assert spec.when.endswith("."), spec.when


@pytest.mark.parametrize("spec", SPECS)
def test_every_default_keeps_its_own_limits(spec: Spec) -> None:
    if isinstance(spec.default, (int, float)) and not isinstance(spec.default, bool):
        assert spec.low is None or spec.default >= spec.low
        assert spec.high is None or spec.default <= spec.high
    if spec.type == "choice":
        assert spec.default in (*spec.choices, AUTO)


@pytest.mark.parametrize("root", ROOTS)
def test_no_two_arguments_share_a_path_within_a_variant(root: type[Section]) -> None:
    keys = [(spec.path, spec.variant) for spec in walk(root)]
    assert len(keys) == len(set(keys))


def test_the_basics_of_training_are_in_sight() -> None:
    basic = {spec.path for spec in walk(TrainArgs) if spec.basic}
    assert basic >= {
        "model.path", "model.dtype", "data.train", "data.max_length", "data.split", "task.kind",
        "method.kind", "method.rank", "optim.learning_rate", "steps.epochs", "steps.max_steps", "steps.batch_size",
        "steps.accumulation", "steps.seed",
    }  # fmt: skip
