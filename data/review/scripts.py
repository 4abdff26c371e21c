"""Which script text is written in, by the blocks of Unicode: enough to see an answer in another language than its
question, as long as the two are written differently. Languages that share a script are not told apart.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping

from data.review.finding import Finding
from data.review.rules import about, rows
from data.review.utterance import Utterance, without_code

SCRIPTS = {
    "Latin": "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "Chinese": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
    "Japanese": "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    "Korean": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "Cyrillic": "\u0400-\u052f",
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Arabic": "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufefc",
    "Hebrew": "\u0590-\u05ff",
    "Devanagari": "\u0900-\u097f",
    "Bengali": "\u0980-\u09ff",
    "Gurmukhi": "\u0a00-\u0a7f",
    "Gujarati": "\u0a80-\u0aff",
    "Tamil": "\u0b80-\u0bff",
    "Telugu": "\u0c00-\u0c7f",
    "Kannada": "\u0c80-\u0cff",
    "Malayalam": "\u0d00-\u0d7f",
    "Thai": "\u0e00-\u0e7f",
    "Georgian": "\u10a0-\u10ff",
    "Armenian": "\u0530-\u058f",
    "Ethiopic": "\u1200-\u137f",
    "Khmer": "\u1780-\u17ff",
}
LETTERS = {name: re.compile(f"[{blocks}]+") for name, blocks in SCRIPTS.items()}
FOREIGN = re.compile("[^\\x00-\\x7f\u00c0-\u024f\u1e00-\u1eff\u2000-\u206f\u20a0-\u20bf\u3000-\u303f\uff00-\uff65]")
LOOKED_AT = 1000  # characters from each end of a text
ENOUGH = 20  # letters, below which nothing is said; a sign of the denser scripts counts for three
DENSE = {"Chinese", "Japanese", "Korean"}
MOST = 0.7  # of the letters that make a script that of the text
FEW = 0.05  # of the rows, up to which a script is the odd one out
TRANSLATION = 0.2  # of the rows, from which on answers in another script look meant
TRANSLATE = re.compile(
    r"translat|traduc|traduz|tradui|übersetz|перевед|перевод|翻译|翻譯|翻訳|번역|ترجم|अनुवाद|[英中汉漢法德俄韩韓日]语|[英中日]文",
    re.IGNORECASE,
)
ROWS = 20  # rows from which on a share means something


def letters(text: str) -> dict[str, int]:
    """How much of the text is in each script, by letters of a script of letters."""
    if len(text) > 2 * LOOKED_AT:
        text = text[:LOOKED_AT] + text[-LOOKED_AT:]
    if not FOREIGN.search(text):
        return {"Latin": sum(map(len, LETTERS["Latin"].findall(text)))}
    counts = {name: sum(map(len, signs.findall(text))) * (3 if name in DENSE else 1) for name, signs in LETTERS.items()}
    if counts["Japanese"] * 10 > counts["Chinese"]:  # Japanese is written with Chinese characters too
        counts["Japanese"] += counts.pop("Chinese")
    return counts


def main(counts: Mapping[str, int]) -> str:
    """The script that most of the text is in; empty when there is too little, or no script has most of it."""
    best = max(counts, key=counts.__getitem__)
    total = sum(counts.values())
    return best if total >= ENOUGH and counts[best] >= MOST * total else ""


class Scripts:
    """Counts rows by script, and those that answer in another than they were asked in."""

    def __init__(self) -> None:
        self._rows: dict[str, array[int]] = {}
        self._mixed = array("q")
        self._pairs: Counter[str] = Counter()
        self._total = 0

    def look(self, utterance: Utterance) -> None:
        number = utterance.row.number
        self._total += 1
        question = letters(without_code(utterance.asked))
        asked, answered = main(question), main(letters(without_code(utterance.answered)))
        if either := answered or asked:
            self._rows.setdefault(either, array("q")).append(number)
        # what quotes the answer's script, or asks for a translation, has asked for such an answer
        if asked and answered and asked != answered and question.get(answered, 0) < ENOUGH:
            if TRANSLATE.search(utterance.asked):
                return
            self._mixed.append(number)
            self._pairs[f"{asked} to {answered}"] += 1

    def findings(self) -> Iterator[Finding]:
        if self._mixed:
            meant = len(self._mixed) > TRANSLATION * self._total
            verb = "is" if len(self._mixed) == 1 else "are"
            pairs = ", ".join(f"{pair} ({count:,})" for pair, count in self._pairs.most_common(3))
            text = f"{rows(len(self._mixed))} {verb} answered in another script than asked in: {pairs}."
            hint = "A set of translations does so on purpose; else exclude them." if meant else "Exclude them, or mend."
            yield about("languages", "note" if meant else "warning", text, self._mixed, hint, "exclude")
        if self._total < ROWS or not self._rows:
            return
        usual = max(self._rows, key=lambda name: len(self._rows[name]))
        for name, numbers in self._rows.items():
            if name != usual and len(numbers) <= FEW * self._total and len(self._rows[usual]) > self._total / 2:
                verb = "is" if len(numbers) == 1 else "are"
                text = f"{rows(len(numbers))} {verb} in {name} script, and most others in {usual}."
                yield about("script", "note", text, numbers, "Exclude them if they came in by mistake.", "exclude")
