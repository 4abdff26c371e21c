"""What every task says of itself, for the rules, the rows, the planner and the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from engine.contract.errors import Problem
from engine.contract.fields import Section


class Learning(Section):
    """A task. Its class says what it needs; its fields are the user's to choose.

    takes: the kinds of row that it learns from, the usual one first.
    reference: whether a frozen copy of the model at its start is asked in every step.
    generates: whether the model writes answers while it is trained.
    steady: whether it compares what the model says now with what it said before, which dropout would blur.
    lean: whether its batches are plain rows, which may come without padding and whose loss may be taken in chunks.
    gentle: whether a tenth of the usual learning rate is enough, since it knows only differences, easily widened.
    step_rows: rows per optimiser step when nobody says: enough to smooth the gradient, few enough to learn from little.
    aim: the metric that says how well it went: `loss`, or one that is the better the higher.
    wide_heads: networks on the model that say a number for each token there is, and learn; each has a slow copy.
    head: what stands on the model: `lm` (the next token), `score` (one number for a text), or `value` (both).
    lasting: the fields that a run that goes on from another must leave as they were.
    decides: the fields on which it depends which rows are trained on, and what tokens they become.
    """

    takes: ClassVar[tuple[str, ...]] = ()
    reference: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    steady: ClassVar[bool] = False
    lean: ClassVar[bool] = False
    gentle: ClassVar[bool] = False
    step_rows: ClassVar[int] = 4
    aim: ClassVar[str] = "loss"
    wide_heads: ClassVar[int] = 0
    head: ClassVar[str] = "lm"
    lasting: ClassVar[tuple[str, ...]] = ()
    decides: ClassVar[tuple[str, ...]] = ()

    @property
    def together(self) -> int:
        """Answers that are compared with one another, and so must come in one step."""
        return 1

    @property
    def again(self) -> int:
        """Steps that are made from the same answers."""
        return 1

    @property
    def looks(self) -> int:
        """How often an answer that was written is read before it is learnt from, by the model itself and by what it is
        held to."""
        return 0

    @property
    def lessons(self) -> int:
        """How often an answer that was written is learnt from."""
        return self.again

    @property
    def packs(self) -> bool:
        """Whether the task fills its sequences with several rows by itself."""
        return False

    @property
    def borders(self) -> bool:
        """Whether rows that share a sequence must not see each other."""
        return False

    def problems(self) -> Iterator[Problem]:
        """Rules between the task's own fields."""
        yield from ()
