"""Finds what text brings along that nobody meant to teach: gaps to fill, stock phrases, broken characters, mark-up.

Looks at one row at a time, and says how each is mended where that is certain.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from data.review.rules import Rule
from data.review.utterance import Utterance, without_code

GAP = re.compile(
    r"(?<!\$)\{\{ ?[A-Za-z_]\w* ?\}\}|\blorem ipsum\b|^[ \t]*(?:TODO|TBD|FIXME)\b"
    r"|\[(?:insert|your) [a-z ]{2,30} here\]",
    re.IGNORECASE | re.MULTILINE,
)
GAP_NEEDS = ("{{", "orem ipsum", "OREM IPSUM", "TODO", "TBD", "FIXME", "here]")
STOCK = re.compile(
    r"\bas an (?:AI|artificial intelligence)(?: language)? (?:model|assistant)\b"
    r"|\bI(?:'m| am) (?:just )?an AI (?:language )?(?:model|assistant)(?: and|,)"
    r"|\bI(?:'m| am) (?:sorry|afraid|unable)\b[^.\n]{0,30}\b(?:assist|help|comply) (?:you )?with (?:that|this)\b"
    r"|\bI can(?:no|')t (?:assist|help|comply) with (?:that|this)\b|\bmy (?:knowledge|training) (?:cut-?off|data)\b"
    r"|作为一[个名]?(?:AI|人工智能|语言模型)|我是一个(?:AI|人工智能|语言模型)",
    re.IGNORECASE,
)
STOCK_NEEDS = ("AI", "rtificial", "ssist", "omply", "help", "cutoff", "cut-off", "ut off", "training data", "knowledge")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
LOST = "\ufffd"
TAG = re.compile(
    r"</?(?:a|b|blockquote|br|center|div|em|font|h[1-6]|hr|i|img|li|ol|p|pre|script|span|strong|style|table|tbody|td|th"
    r"|tr|u|ul)(?:\s[^<>]*)?/?>|&(?:amp|lt|gt|quot|nbsp|apos|#\d{2,6});",
    re.IGNORECASE,
)
WEB = re.compile(r"html|xml|css|tag|<!doctype|web ?page|markup", re.IGNORECASE)

# What a byte from 0x80 on becomes when it is read as Windows-1252 or as Latin-1 by mistake, and back.
_AS_BYTE = {chr(byte): byte for byte in range(0x80, 0x100)}
_AS_BYTE |= {char: byte for byte in range(0x80, 0x100) if (char := bytes([byte]).decode("cp1252", "ignore"))}


def _signs(low: int, high: int) -> str:
    return "[" + "".join(re.escape(sign) for sign, byte in _AS_BYTE.items() if low <= byte < high) + "]"


GARBLED = re.compile(f"{_signs(0xC2, 0xF5)}{_signs(0x80, 0xC0)}{{1,3}}")


def ungarbled(text: str) -> str:
    """The text with UTF-8 that was read as Windows-1252 (`Ã©` for é) set right; what is no such thing stays."""
    return text if text.isascii() else GARBLED.sub(_reread, text)


def _reread(match: re.Match[str]) -> str:
    try:
        return bytes(_AS_BYTE[char] for char in match.group()).decode("utf-8")
    except UnicodeDecodeError:
        return match.group()


def cleaned(text: str) -> str:
    """The text without control characters, and with garbled ones set right, be they garbled twice over."""
    while (mended := CONTROL.sub("", ungarbled(text))) != text:  # every round makes it shorter
        text = mended
    return text


def untagged(text: str) -> str:
    """The text as a web page shows it; code stays as it is."""
    parts = re.split(r"(```.*?(?:```|\Z))", text, flags=re.DOTALL)
    return "".join(part if part.startswith("```") else html.unescape(TAG.sub(_as_shown, part)) for part in parts)


def _as_shown(match: re.Match[str]) -> str:
    said = match.group().lower()
    if said.startswith("&"):
        return match.group()
    return "\n" if said.startswith(("<br", "</p", "</div", "</li", "</tr", "</h")) else ""


def _where(
    pattern: re.Pattern[str], needs: tuple[str, ...], part: Callable[[Utterance], str]
) -> Callable[[Utterance], str]:
    """needs: the pattern matches only where one of these is, which is quicker to rule out."""

    def sees(utterance: Utterance) -> str:
        text = part(utterance)
        return "found" if any(need in text for need in needs) and pattern.search(text) else ""

    return sees


def _broken(utterance: Utterance) -> str:
    text = utterance.everything
    return "found" if not text.isascii() and ungarbled(text) != text else ""


def _controlled(utterance: Utterance) -> str:
    text = utterance.everything
    if text.replace("\n", "").replace("\t", "").isprintable():  # in most rows, and found out in no time
        return ""
    return "found" if CONTROL.search(text) and CONTROL.search(ungarbled(text)) else ""


def _lost(utterance: Utterance) -> str:
    return "found" if LOST in utterance.everything else ""


def _tagged(utterance: Utterance) -> str:
    text = utterance.everything
    if ("<" not in text and "&" not in text) or not TAG.search(without_code(utterance.answered)):
        return ""
    return "" if WEB.search(utterance.prose) else "found"


RULES = (
    Rule("gap", "warning", "has a gap that was left to be filled in, such as {{name}} or lorem ipsum",
         "have gaps that were left to be filled in, such as {{name}} or lorem ipsum",
         _where(GAP, GAP_NEEDS, lambda utterance: utterance.prose),
         "Say what goes in (data.fill), or exclude these rows."),
    Rule("stock", "note", "has a stock phrase of another model, such as As an AI language model",
         "have stock phrases of other models, such as As an AI language model",
         _where(STOCK, STOCK_NEEDS, lambda utterance: utterance.answered),
         "The model will learn to say them; exclude these rows if it should not."),
    Rule("control", "warning", "holds control characters", "hold control characters",
         _controlled, "Remove them; nobody sees them, and the model does.", "clean"),
    Rule("garbled", "warning", "holds garbled characters, such as Ã© in place of é",
         "hold garbled characters, such as Ã© in place of é", _broken, "Set them right.", "clean"),
    Rule("lost", "warning", "holds the sign for a character that was lost (\N{REPLACEMENT CHARACTER})",
         "hold the sign for a character that was lost (\N{REPLACEMENT CHARACTER})", _lost,
         "The file was once read with a wrong encoding: get it anew, or exclude these rows."),
    Rule("tags", "note", "has an answer with left-overs of a web page, such as <br> or &amp;",
         "have answers with left-overs of a web page, such as <br> or &amp;", _tagged,
         "Take the mark-up out, unless the model should write it.", "untag"),
)  # fmt: skip
