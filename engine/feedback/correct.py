"""Whether an answer is right, has the form or the length that is wanted: functions from text to a score of 0 to 1.

Answers come from a model and patterns from a person, so neither is trusted: searches are timed and numbers bounded.
Knows nothing of models, rows or runs.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any

import regex

SEARCHED = 100_000  # characters of an answer that a pattern is looked for in
DIGITS = 400  # a longer number is none
EDGES = " \t\n\r.,;:!?\"'`*“”‘’「」。，！？"
NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,4})?", re.ASCII
)
FRACTION = re.compile(r"([-+−]?\d+)\s*/\s*(\d+)", re.ASCII)
TEX = re.compile(r"([-+−]?)\\[dt]?frac\{([-+]?\d+)\}\{(\d+)\}", re.ASCII)
FENCED = re.compile(r"```[\w+-]*[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def exact(answer: str, right: str, *, strict: bool = False) -> float:
    """1 when the two say the same; unless `strict`, whatever their case, spaces and the punctuation around them."""
    if strict:
        return float(answer.strip() == right.strip())
    return float(normalised(answer) == normalised(right))


def normalised(text: str) -> str:
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.strip(EDGES) or plain


def numeric(answer: str, right: str, *, tolerance: float = 0.0) -> float:
    """1 when the last number of the answer is that of the right one, or at most `tolerance` of it away.

    In both, what stands in \\boxed{...} or behind #### goes before what comes last.
    """
    said, wanted = number(answer), number(right)
    if said is None or wanted is None:
        return 0.0
    with localcontext(prec=2 * DIGITS):
        return float(abs(said - wanted) <= Decimal(tolerance) * abs(wanted))


def number(text: str) -> Decimal | None:
    """The number that a text comes to, None where it has none: thousands separators and fractions are understood."""
    text = text[-SEARCHED:]
    if marked := _boxed(text):
        text = marked
    elif "####" in text:
        text = text.rpartition("####")[2]
    text = TEX.sub(_written_out, text)
    if whole := FRACTION.fullmatch(text.strip(EDGES + "$ ")):
        return _divided(*whole.groups())
    found = None
    for match in NUMBER.finditer(text):
        found = match.group()
    if found is None or len(found) > DIGITS:
        return None
    try:
        value = Decimal(found.replace(",", "").replace("−", "-"))
    except InvalidOperation:
        return None
    return value if abs(value.adjusted()) <= DIGITS else None


def _written_out(fraction: re.Match[str]) -> str:
    sign, above, below = fraction.groups()
    share = _divided(above, below)
    return " " if share is None else f" {-share if sign in ('-', '−') else share} "


def _divided(above: str, below: str) -> Decimal | None:
    if len(above + below) >= DIGITS or not int(below):
        return None
    return Decimal(above.replace("−", "-")) / Decimal(below)


def _boxed(text: str) -> str:
    """What stands in the last \\boxed{...}, braces within it included."""
    begin = text.rfind("\\boxed{")
    if begin < 0:
        return ""
    depth, start = 0, begin + len("\\boxed{")
    for place in range(start - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
    return ""


def part(answer: str, pattern: str, seconds: float) -> str | None:
    """What the first group of `pattern` holds where it is last found in the answer; None where it is not found."""
    found = None
    try:
        for match in regex.finditer(pattern, answer[:SEARCHED], regex.DOTALL, timeout=seconds):
            found = match
    except TimeoutError:
        return None
    return None if found is None else (found.group(1) or "")


def found(answer: str, pattern: str, right: str | None, *, strict: bool = False, seconds: float = 1.0) -> float:
    """1 when `pattern` is in the answer; where it has a group, when what the group holds is the right answer."""
    if regex.compile(pattern).groups and right is not None:
        held = part(answer, pattern, seconds)
        return 0.0 if held is None else exact(held, right, strict=strict)
    try:
        return float(regex.search(pattern, answer[:SEARCHED], regex.DOTALL, timeout=seconds) is not None)
    except TimeoutError:
        return 0.0


def formed(answer: str, pattern: str, *, seconds: float = 1.0) -> float:
    """1 when the whole answer has the form of `pattern`."""
    if len(answer) > SEARCHED:
        return 0.0
    try:
        return float(regex.fullmatch(pattern, answer, regex.DOTALL, timeout=seconds) is not None)
    except TimeoutError:
        return 0.0


def long(count: int, wanted: int, *, limit: bool) -> float:
    """With a `limit`: 1 up to it, then falling to 0 at twice as much. Else: falling to 0 at nothing and at twice."""
    if limit and count <= wanted:
        return 1.0
    return max(0.0, 1.0 - abs(count - wanted) / wanted)


def unfenced(answer: str) -> str:
    """What stands in the last block between ``` lines, or the whole answer where there is none."""
    blocks = FENCED.findall(answer)
    return str(blocks[-1] if blocks else answer).strip()


def structured(answer: str, keys: Sequence[str] = (), schema: Mapping[str, Any] | None = None) -> float:
    """1 when the answer is JSON, an object with `keys` if there are any, and as `schema` says."""
    try:
        value = json.loads(unfenced(answer), parse_constant=_refused)
        if keys and not (isinstance(value, dict) and all(key in value for key in keys)):
            return 0.0
        return float(fits(value, schema or {}))
    except (ValueError, RecursionError):
        return 0.0


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value is as a JSON schema says, in the words of it that `rewards.json_schema` lists."""
    kinds = schema.get("type", [])
    if kinds and not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if "enum" in schema and not any(value == one and type(value) is type(one) for one in schema["enum"]):
        return False
    if isinstance(value, bool):
        return True
    if isinstance(value, (int, float)):
        return _between(value, schema, "minimum", "maximum")
    if isinstance(value, str):
        return _between(len(value), schema, "minLength", "maxLength")
    if isinstance(value, list):
        items = schema.get("items", {})
        return _between(len(value), schema, "minItems", "maxItems") and all(fits(one, items) for one in value)
    if isinstance(value, dict):
        known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        further = [name for name in value if name not in known]
        return (
            all(name in value for name in schema.get("required", []))
            and all(fits(value[name], inner) for name, inner in known.items() if name in value)
            and (more is not False or not further)
            and (not isinstance(more, Mapping) or all(fits(value[name], more) for name in further))
        )
    return True


def _is(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return not isinstance(value, bool) and (whole if kind == "integer" else isinstance(value, (int, float)))
    return isinstance(value, KINDS[kind]) if kind in KINDS else False


def _between(value: float, schema: Mapping[str, Any], least: str, most: str) -> bool:
    return schema.get(least, value) <= value <= schema.get(most, value)
