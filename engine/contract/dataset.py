"""Which rows are trained on, how several datasets are mixed, what is held out, and how rows become tokens."""

from __future__ import annotations

import re
from typing import ClassVar, Literal, NamedTuple

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from engine.contract.fields import AUTO, MANY, Auto, Section, arg

REST = "rest"


class Split(NamedTuple):
    """What of the rows is for training, validation and test: shares from 0 to 1, or, when `counted`, rows.

    When counted, training gets what is left, and its number here is 0.
    """

    train: float
    validation: float
    test: float
    counted: bool

    @classmethod
    def of(cls, said: str) -> Split:
        """`98/2/0` (per cent) or `rest/200/50` (rows). Raises ValueError with a sentence."""
        parts = [part.strip().removesuffix("%").strip() for part in said.split("/")]
        form = "Write it as 98/2/0 (per cent for training, validation and test) or as rest/200/0 (rows)."
        if len(parts) == 2:
            parts.append("0")
        if len(parts) != 3 or not all(re.fullmatch(r"\d+(\.\d+)?", part) for part in parts[1:]):
            raise ValueError(f"{said!r} is no split. {form}")
        validation, test = float(parts[1]), float(parts[2])
        if parts[0] == REST:
            if validation % 1 or test % 1:
                raise ValueError(f"{said!r} is no split: rows are whole numbers. {form}")
            return cls(0.0, validation, test, True)
        if not re.fullmatch(r"\d+(\.\d+)?", parts[0]):
            raise ValueError(f"{said!r} is no split. {form}")
        train = float(parts[0])
        if abs(train + validation + test - 100) > 1e-6:
            raise ValueError(f"the shares {said} add up to {train + validation + test:g}; they must add up to 100.")
        if not train:
            raise ValueError(f"in {said} the share for training is 0; something must be left to train on.")
        return cls(train / 100, validation / 100, test / 100, False)


class Data(Section):
    """Which rows are trained on, and how they become tokens."""

    title: ClassVar[str] = "Data"
    shorthand: ClassVar[str] = "train"

    train: list[str] = arg(
        ["identity", "sql"],
        "The datasets to train on, by name or by file; several are put together.",
        when="Always: this is what the model will learn.",
        usual="50 to 50,000 rows",
        label="Datasets",
        basic=True,
        choices="datasets",
        min_length=1,
    )
    validation: list[str] = arg(
        [],
        "Datasets that are never trained on and measure the loss during training.",
        when="When you have rows set aside. Empty holds out what the split says.",
        usual="empty",
        choices="datasets",
        label="Validation datasets",
    )
    split: str = arg(
        "95/5/0",
        "Shares of the rows for training, validation and test, in per cent; or rows, as rest/200/0.",
        when="100/0/0 when every row counts; more when you have few rows; a test share for the last word.",
        usual="98/2/0 to 80/10/10",
        basic=True,
        label="Train/validation/test",
    )
    max_length: int = arg(
        512,
        "Longer rows are cut to this many tokens; memory grows with it.",
        when="Raise it when What will happen says that rows are cut.",
        usual="512 to 4096",
        unit="tokens",
        basic=True,
        ge=8,
        le=1_048_576,
    )
    cut: Literal["oldest", "prompt", "answer", "drop"] = arg(
        "oldest",
        "What goes from a row that is too long: its oldest turns, the start of its prompt, the end of its answer, or "
        "the whole row.",
        when="answer when what was asked must stay whole; drop when half a row is worse than none.",
        usual="oldest",
        label="Cut",
    )
    train_on: Literal["assistant", "last", "everything"] = arg(
        "assistant",
        "Where the loss falls: on every assistant turn, on the last one only, or on all text.",
        when="last when earlier answers in your rows are bad examples.",
        usual="assistant",
        label="Train on",
    )
    packing: bool = arg(
        False,
        "Puts several short rows into one sequence of the maximum length; attention keeps them apart.",
        when="When rows are much shorter than the maximum length: fewer, fuller steps.",
        usual="off under 1,000 rows",
    )
    thoughts: Literal["keep", "drop"] = arg(
        "keep",
        "Whether the thoughts in the rows are trained as the template writes them, or taken out first.",
        when="drop to train a thinking model to answer at once.",
        usual="keep",
    )
    mix: Literal["concatenate", "interleave"] = arg(
        "concatenate",
        "How several datasets become one: one behind the other, or drawn from by their weights.",
        when="interleave when a small dataset must not drown in a large one.",
        usual="concatenate",
    )
    until: Literal["first", "all"] = arg(
        "first",
        "Interleaving ends when the first dataset is exhausted, or when all are, repeating the short ones.",
        when="all when every row must be seen.",
        usual="first",
        label="Interleave until exhausted",
    )
    weights: dict[str, float] = arg(
        {},
        "How often each dataset is drawn from when interleaving, by its name; 1 where nothing is said.",
        when="To give one dataset more say.",
        usual="identity=2",
    )
    repeat: dict[str, float] = arg(
        {},
        "How many times the rows of a dataset are taken, by its name; 0.5 takes half of them.",
        when="When a small dataset matters more than its size says.",
        usual="identity=3",
    )
    limits: dict[str, int] = arg(
        {},
        "At most this many rows of a dataset, by its name, drawn with the seed.",
        when="When a dataset is larger than you need.",
        usual="sql=1000",
        label="Rows at most",
    )
    bad_rows: Literal["stop", "skip"] = arg(
        "stop",
        "What happens when rows cannot be read: nothing starts, or they are left out and counted.",
        when="skip once you have seen which rows they are.",
        usual="stop",
        label="Rows that cannot be read",
    )
    max_rows: int | None = arg(
        None,
        "Takes only this many rows of each dataset.",
        when="For a quick look before a long run.",
        usual="empty: all",
        ge=1,
        le=MANY,
        unit="rows",
    )
    fill: dict[str, str] = arg(
        {},
        "Words to put in place of placeholders such as {{name}} in the rows.",
        when="To give the sample dataset's assistant a name of your own.",
        usual="name=Tuney",
        label="Fill in",
    )
    workers: int | Auto = arg(
        AUTO,
        "Further processes that turn rows into tokens.",
        when="Lower it when memory is short while preparing.",
        usual="auto: one a core for 40,000 rows and more on four cores; else none, as one process fills the cores",
        ge=0,
        le=256,
    )

    @field_validator("split")
    @classmethod
    def _is_split(cls, said: str) -> str:
        try:
            Split.of(said)
        except ValueError as problem:
            raise PydanticCustomError("sentence", "{sentence}", {"sentence": str(problem)}) from None
        return said

    @field_validator("weights", "repeat")
    @classmethod
    def _is_positive(cls, given: dict[str, float]) -> dict[str, float]:
        if wrong := [name for name, value in given.items() if not 0 < value < 1e6]:
            raise PydanticCustomError(
                "sentence",
                "{sentence}",
                {"sentence": f"the number for {', '.join(wrong)} must be above 0 and below 1,000,000."},
            )
        return given

    @field_validator("limits")
    @classmethod
    def _is_count(cls, given: dict[str, int]) -> dict[str, int]:
        if wrong := [name for name, value in given.items() if not 1 <= value <= MANY]:
            raise PydanticCustomError(
                "sentence", "{sentence}", {"sentence": f"the number for {', '.join(wrong)} must be from 1 to {MANY:,}."}
            )
        return given
