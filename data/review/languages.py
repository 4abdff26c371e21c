"""Which language prose is in, to see an answer in another than its question, and the few rows that are in another than
all others. Says nothing of texts that are short, mixed or not prose, nor of scripts without capital letters, which
data/review/scripts.py tells apart.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from data.review.finding import Finding
from data.review.rules import about, rows
from data.review.scripts import FEW, LOOKED_AT, ROWS, TRANSLATE, TRANSLATION, letters, main
from data.review.utterance import Utterance, without_code
from data.rows.conversation import said

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# Languages that are hard to tell apart in a few words share a name. What is not here is never named.
NAMES = {
    "af": "Dutch or Afrikaans", "be": "Belarusian", "bg": "Bulgarian or Macedonian", "bs": "Serbo-Croatian",
    "ca": "Catalan", "cs": "Czech or Slovak", "da": "Danish or Norwegian", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish or Galician", "et": "Estonian", "eu": "Basque", "fi": "Finnish", "fr": "French",
    "gl": "Spanish or Galician", "hr": "Serbo-Croatian", "hu": "Hungarian", "id": "Indonesian or Malay",
    "is": "Icelandic", "it": "Italian", "lt": "Lithuanian", "lv": "Latvian", "mk": "Bulgarian or Macedonian",
    "ms": "Indonesian or Malay", "nl": "Dutch or Afrikaans", "nn": "Danish or Norwegian", "no": "Danish or Norwegian",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Czech or Slovak", "sl": "Slovenian",
    "sq": "Albanian", "sr": "Serbo-Croatian", "sv": "Swedish", "sw": "Swahili", "tr": "Turkish", "uk": "Ukrainian",
    "vi": "Vietnamese",
}  # fmt: skip
CASED = {"Latin", "Cyrillic", "Greek"}
WORD = re.compile(r"[^\W\d_]+")
PIECE = re.compile(r"[\n.!?:;\"“”«»„]+")
SIGN = re.compile(r"[=(){}\[\]<>;_\\]")
SIGNS = 0.03  # of the characters, above which a text is code or the like
WORDS = 10  # different ones, below which nothing is said
MOST_WORDS = 50  # that are looked at
KIN = 4  # languages at most that share a name, and so are worth adding up
SURE = 0.9  # of a whole text
LIKELY = 0.5  # of each of its halves, so that it is not of two languages; and of a piece of a question
ALL_UP_TO = 1_000  # rows that are all looked at; of those after them each tenth
EACH = 10
# How words begin that speak of a language or name one; a question with such a word may want its answer in it.
SPEAKING_OF = tuple({name for names in NAMES.values() for name in names.lower().split(" or ")}) + tuple(
    "langu sprach språk sprog idioma lengua lingua língua język jazyk язык мова мовою dilinde "
    "engl anglais ingl англ deutsch aleman alemán alemão allemand tedesc duits niemiec немец français francais franz "
    "frances francês франц spani españ espag espan spagn испан portug ital russ русск nederl latin".split()
)


class Languages:
    """Counts rows by language, and those that answer in another than they were asked in."""

    def __init__(self) -> None:
        self._rows: dict[str, array[int]] = {}
        self._mixed = array("q")
        self._pairs: Counter[str] = Counter()
        self._passed = self._looked_at = 0

    def look(self, utterance: Utterance) -> None:
        self._passed += 1
        if self._passed > ALL_UP_TO and self._passed % EACH:
            return
        self._looked_at += 1
        asked, answered = language(utterance.asked), language(utterance.answered)
        usual = self._usual()
        if {asked, answered} - {"", usual} and not (
            throughout(utterance.asked, asked) and throughout(utterance.answered, answered) and not meant(utterance)
        ):
            return
        other, number = asked or usual, utterance.row.number
        if answered and answered != other and {answered, other} <= parts(utterance.asked):
            return
        if asked and answered and asked != answered:
            self._mixed.append(number)
            self._pairs[f"{asked} to {answered}"] += 1
        elif name := answered or asked:
            self._rows.setdefault(name, array("q")).append(number)

    def _usual(self) -> str:
        return max(self._rows, key=lambda name: len(self._rows[name]), default="")

    def findings(self) -> Iterator[Finding]:
        where = f" of {self._looked_at:,} that were looked at" if self._looked_at < self._passed else ""
        if self._mixed:
            often = len(self._mixed) > TRANSLATION * self._looked_at
            verb = "is" if len(self._mixed) == 1 else "are"
            pairs = ", ".join(f"{pair} ({count:,})" for pair, count in self._pairs.most_common(3))
            text = f"{rows(len(self._mixed))}{where} {verb} answered in another language than asked in: {pairs}."
            hint = "A set of translations does so on purpose; else " if often else "Unless that is meant, "
            hint += "mend such rows, or leave them out."
            yield about("answer_language", "note" if often else "warning", text, self._mixed, hint, "exclude")
        told = sum(map(len, self._rows.values()))
        if told < ROWS:
            return
        usual = self._usual()
        for name, numbers in self._rows.items():
            if name != usual and len(numbers) <= FEW * told and len(self._rows[usual]) >= (1 - 2 * FEW) * told:
                verb = "is" if len(numbers) == 1 else "are"
                text = f"{rows(len(numbers))}{where} {verb} in {name}, and nearly all others in {usual}."
                yield about("language", "note", text, numbers, "Leave out what came in by mistake.", "exclude")


def language(text: str) -> str:
    """The language that a text is surely in, by its name; empty when it is short, not prose, or unsure."""
    words = _words(text)
    name, sure = likely(words) if words else ("", 0.0)
    return name if sure >= SURE else ""


def throughout(text: str, name: str) -> bool:
    """Whether both halves of a text are in its language, which no text is that goes from one to another."""
    words = _words(text) if name else []
    middle = len(words) // 2
    halves = (likely(half) for half in (words[:middle], words[middle:]) if half)
    return all(half == name and sure >= LIKELY for half, sure in halves)


def _words(text: str) -> list[str]:
    """What tells the language of prose: words in small letters, which names and keywords are not, each of them once."""
    text = without_code(text[: 2 * LOOKED_AT])
    words = list(dict.fromkeys(word for word in WORD.findall(text) if word.islower()))[:MOST_WORDS]
    if len(words) < WORDS or len(SIGN.findall(text)) > SIGNS * len(text) or main(letters(text)) not in CASED:
        return []
    return words


def likely(words: list[str]) -> tuple[str, float]:
    """The name that fits words best, and how sure that is, 0 to 1; no name where the language has none here."""
    shares: Counter[str] = Counter()
    for code, share in _identifier().rank(" ".join(words))[:KIN]:
        shares[NAMES.get(code, "")] += share
    return shares.most_common(1)[0]


def meant(utterance: Utterance) -> bool:
    """Whether a row asks for a translation or speaks of a language, and so may be in whichever it likes."""
    asked = "\n".join(said(turn) for turn in utterance.row.messages if turn["role"] in ("system", "user"))
    words = set(WORD.findall(asked.lower()))
    return bool(TRANSLATE.search(asked)) or any(word.startswith(SPEAKING_OF) for word in words)


def parts(text: str) -> set[str]:
    """The languages that a question seems to be in, piece by piece, since it may quote another than its own."""
    pieces = (WORD.findall(piece.lower()) for piece in PIECE.split(text[: 2 * LOOKED_AT]))
    found = (likely(words) for words in pieces if len(words) > 2)
    return {name for name, sure in found if sure >= LIKELY}


@cache
def _identifier() -> LanguageIdentifier:
    """The model that comes with the package: a second to load, and a tenth of a millisecond for a text."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
