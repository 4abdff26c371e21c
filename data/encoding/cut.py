"""What goes from a row that is longer than allowed: oldest turns, the start of what was asked, the end of an answer.

oldest: whole exchanges go, the oldest first, and the shorter conversation is rendered again, so that what is trained is
what the template makes of it; a leading system message stays. When the last exchange alone is too long, as `prompt`.
prompt: tokens go from the start of what was asked (and from the longest first, where several turns ask), then from the
system message; the template's own words stay. What was asked keeps a quarter of the length, so that no answer is
learnt to nothing: what is still too long goes as in `answer`.
answer: the end of the row goes. Its end-of-turn goes with it and is not put back, since a model that is taught to stop
in the middle of a sentence does.
drop: the whole row goes.

Before all that goes what stands behind the last trained token. Knows nothing of formats, batches or reports.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix
from typing import Literal, NamedTuple

from data.encoding.mask import Heavy, Rendered, Stretches, words
from data.encoding.tokens import Encoded
from data.rows.conversation import Row

Cut = Literal["oldest", "prompt", "answer", "drop"]
Part = Literal["turns", "prompt", "answer", "row"]
ASKED = 4  # one part in so many of the length is left to what was asked


class View(NamedTuple):
    """A conversation as text, as tokens, and the stretches of them that are trained.

    ends: as in `data.encoding.mask`.
    """

    rendered: Rendered
    encoded: Encoded
    stretches: Stretches
    ends: bool

    @property
    def needed(self) -> int:
        """Tokens up to the last that is trained."""
        return self.stretches[-1][1] if self.stretches else len(self.encoded)


@dataclass(frozen=True)
class Kept:
    """What is left of each view, as token ids and the stretches of them that are trained, and which parts were lost."""

    sides: list[tuple[list[int], Stretches]]
    lost: tuple[Part, ...] = ()


def shortened(row: Row, views: Sequence[View], limit: int, cut: Cut, again: Callable[[Row], Sequence[View]]) -> Kept:
    """`views` of `row`, cut to `limit` tokens each; for `drop` without sides.

    There are several views when one prompt has several answers: what goes from the prompt goes from all of them.
    `again` makes the views of a row with fewer messages.
    """
    lost: list[Part] = []
    if _longest(views) > limit and cut == "drop":
        return Kept([], ("row",))
    if _longest(views) > limit and cut == "oldest":
        shorter, views = _without_oldest(row, views, limit, again)
        lost += ["turns"] if shorter is not row else []
        row = shorter
    gone: Stretches = []
    if (excess := _longest(views) - limit) > 0 and cut != "answer":
        gone = _of_prompt(row, views, excess, limit)
        lost += ["prompt"] if gone else []
    sides = [_left(view, gone, limit) for view in views]
    if any(map(_loses_answer, views, sides)):
        lost.append("answer")
    return Kept(sides, tuple(lost))


def _longest(views: Sequence[View]) -> int:
    return max(view.needed for view in views)


def _loses_answer(view: View, side: tuple[list[int], Stretches]) -> bool:
    before, after = (sum(last - first for first, last in found) for found in (view.stretches, side[1]))
    return after < before


def _without_oldest(
    row: Row, views: Sequence[View], limit: int, again: Callable[[Row], Sequence[View]]
) -> tuple[Row, Sequence[View]]:
    """The row with as many of its last exchanges as fit, and at least one; as it is when there is but one."""
    head = next((place for place, turn in enumerate(row.messages) if turn["role"] != "system"), 0)
    last = len(row.messages)
    if row.kind == "conversation":  # the last answer that is trained stays
        last = max(
            (place for place, turn in enumerate(row.messages)
             if turn["role"] == "assistant" and turn.get("weight") != 0), default=0,
        )  # fmt: skip
    starts = [place for place, turn in enumerate(row.messages[:last]) if turn["role"] == "user" and place > head]
    if not starts:
        return row, views
    tried: dict[int, tuple[Row, Sequence[View]]] = {}

    def fits(start: int) -> bool:
        shorter = replace(row, messages=row.messages[:head] + row.messages[start:])
        tried[start] = shorter, again(shorter)
        return _longest(tried[start][1]) <= limit

    found = starts[min(bisect_left(starts, True, key=fits), len(starts) - 1)]
    return tried[found]


def _of_prompt(row: Row, views: Sequence[View], excess: int, limit: int) -> Stretches:
    """The tokens to take from the prompt, at least `excess` if it has so many to give."""
    view = views[0]
    if not all(view.stretches for view in views):
        return []
    same = len(commonprefix([view.encoded.ids for view in views]))
    bound = min(same, *(view.stretches[-1][0] for view in views))
    contents = [
        (role, span)
        for role, span in _contents(row, view, bound)
        if all(span[1] <= first or last <= span[0] for first, last in view.stretches)
    ]
    gone: Stretches = []
    for asked in (True, False):
        spans = [span for role, span in contents if (role != "system") is asked]
        total = sum(last - first for first, last in spans)
        kept = max(total - excess, min(total, limit // ASKED) if asked else 0)
        level = _level([last - first for first, last in spans], kept)
        for first, last in spans:
            if last - first > level:
                gone.append((first, _whole_character(view.encoded, last - level, last)))
                excess -= gone[-1][1] - first
        if excess <= 0:
            break
    return sorted(gone)


def _contents(row: Row, view: View, bound: int) -> list[tuple[str, tuple[int, int]]]:
    """The tokens, before the token `bound`, of what is said by others than the assistant, with their role."""
    text, place, found = view.rendered.text, 0, []
    for message in row.messages:
        said = words(message).strip()
        begin = text.find(said, place)
        if not said or begin < 0:  # the template writes it in words of its own
            continue
        place = begin + len(said)
        if message["role"] == "assistant":
            continue
        first, last = view.encoded.at(begin), min(view.encoded.at(place), bound)
        if last > first and view.encoded.span(last - 1)[1] > place:  # the last token is in part the template's
            last -= 1
        if last > first:
            found.append((message["role"], (first, last)))
    return found


def _level(lengths: Sequence[int], kept: int) -> int:
    """The most that each may keep so that all keep at most `kept` together: the long give before the short."""
    for place, length in enumerate(sorted(lengths)):
        share = kept // (len(lengths) - place)
        if length > share:
            return share
        kept -= length
    return max(lengths, default=0)


def _whole_character(encoded: Encoded, end: int, last: int) -> int:
    """The end of a removal, moved on to where a character begins."""
    while end < last and encoded.span(end)[0] < encoded.span(end - 1)[1]:
        end += 1
    return end


def _left(view: View, gone: Stretches, limit: int) -> tuple[list[int], Stretches]:
    """The ids without those `gone`, up to the limit."""
    ids: list[int] = []
    place = 0
    for first, last in gone:
        ids += view.encoded.ids[place:first]
        place = last
    ids += view.encoded.ids[place:]

    def moved(index: int) -> int:
        return min(limit, index - sum(last - first for first, last in gone if last <= index))

    stretches = [
        Heavy(*ends, stretch.weight) if isinstance(stretch, Heavy) else ends
        for stretch in view.stretches
        if (ends := (moved(stretch[0]), moved(stretch[1]))) and ends[0] < ends[1]
    ]
    return ids[:limit], stretches
