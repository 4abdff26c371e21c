"""Which encoding the bytes of a text are in, told from a bounded sample.

Knows nothing of files or of what the text means. What is not clear stays UTF-8, so that a damaged file is called
damaged and is not read as nonsense in another alphabet.
"""

from __future__ import annotations

import codecs

SAMPLE = 1 << 18  # bytes that are looked at
EVIDENCE = 3  # bytes beyond ASCII that are needed before anything but UTF-8 is believed
DAMAGE = 0.1  # the share of broken sequences up to which a text is still called UTF-8

# The encodings in which datasets are found, the common first. Each stands for its subsets, as GB18030 does for GBK.
CANDIDATES = ["gb18030", "big5", "cp932", "euc_jp", "cp949", "cp1252", "cp1251", "cp1250"]
TITLES = {
    "utf-8": "UTF-8", "utf-8-sig": "UTF-8 with a byte order mark", "utf-16": "UTF-16",
    "utf-16-le": "UTF-16 (little-endian)", "utf-16-be": "UTF-16 (big-endian)", "utf-32": "UTF-32",
    "gb18030": "GB18030", "big5": "Big5", "cp932": "Shift-JIS", "euc_jp": "EUC-JP", "cp949": "EUC-KR",
    "cp1252": "Windows-1252", "cp1251": "Windows-1251", "cp1250": "Windows-1250",
}  # fmt: skip
MARKS = [
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]


def guess(sample: bytes) -> str:
    """The name, as `codecs` knows it, of the encoding that the sample is in; `utf-8` where nothing tells otherwise."""
    for mark, name in MARKS:
        if sample.startswith(mark):
            return name
    if wide := _without_mark(sample):
        return wide
    beyond = sum(byte > 127 for byte in sample)
    if beyond < EVIDENCE or _damage(sample) <= DAMAGE * beyond:
        return "utf-8"
    from charset_normalizer import from_bytes  # 30 ms that only such a file pays for

    line = sample.rfind(b"\n") + 1  # the cut may have split a character
    found = from_bytes(sample[:line] or sample, cp_isolation=CANDIDATES)
    best = found.best()
    if best is None:
        return "utf-8"
    # Alphabets of neighbours often fit about as well; then the one that is more common.
    as_good = [
        match.encoding for match in found if match.chaos <= best.chaos and match.coherence > best.coherence - 0.1
    ]
    return min(as_good, key=CANDIDATES.index)


def title(name: str) -> str:
    """The encoding as people call it."""
    return TITLES.get(name, name)


def _without_mark(sample: bytes) -> str | None:
    """UTF-16 betrays itself by many zeros, all of them in every other byte."""
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if (even + odd) * 10 < len(sample):
        return None
    if odd > 9 * even:
        return "utf-16-le"
    return "utf-16-be" if even > 9 * odd else None


def _damage(sample: bytes) -> int:
    """How many bytes of the sample are no UTF-8, the character that the cut split left out."""
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(sample)
    return 0 if text.isascii() else sum("\udc80" <= sign <= "\udcff" for sign in text)
