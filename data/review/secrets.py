"""Finds what should not be learnt by heart: keys and passwords, and what leads to a person. Never says it again.

Patterns with a check where there is one (the digits of a card, the sum in an IBAN), so that a number alone is not taken
for more. What is kept for examples (`name@example.com`, 555-0123, AWS's own sample key) is let pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from data.review.rules import Rule
from data.review.utterance import Utterance


class Sort(NamedTuple):
    """One sort of secret. needs: the pattern can only match where one of these is; quick to rule out.   holds: whether
    what matched really is one.   group: the part of the match that is masked."""

    name: str
    needs: tuple[str, ...]
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] = lambda match: True
    group: int = 0


STAND_IN = re.compile(
    r"(?:^|\.)(?:example(?:\.\w+)?|test|invalid|localhost"
    r"|(?:your|my|the)?-?(?:company|domain|e?mail|website|site)\.\w+)$"
)


def _is_card(match: str) -> bool:
    digits = [int(digit) for digit in match if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return len(set(digits)) > 2 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(match: str) -> bool:
    said = match.replace(" ", "")
    return 15 <= len(said) <= 34 and int("".join(str(int(sign, 36)) for sign in said[4:] + said[:4])) % 97 == 1


def _is_phone(match: str) -> bool:
    digits = re.sub(r"\D", "", match)
    return 9 <= len(digits) <= 13 and "12345" not in digits and "555" not in digits[-10:-4] and len(set(digits)) > 3


def _is_address(match: str) -> bool:
    domain = match.rpartition("@")[2].lower()
    return bool(domain) and not STAND_IN.search(domain)


def _is_password(match: str) -> bool:
    return not re.fullmatch(r"(?i)pass(?:word|wd)?|pwd|secret|\*+|x+|\.+|[<{$\[].*", match)


def _varied(match: str) -> bool:
    """Whether it is no stand-in such as sk-xxxxxxxx."""
    return len(set(match)) > 9 and "EXAMPLE" not in match.upper()


SECRETS = (
    Sort("AWS key", ("AKIA", "ASIA"), re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), _varied),
    Sort("private key", ("PRIVATE KEY",),
         re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:[\s\S]*?-----END [A-Z0-9 ]+-----)?")),
    Sort("GitHub token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
         re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})\b"), _varied),
    Sort("Hugging Face token", ("hf_",), re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"), _varied),
    Sort("Slack token", ("xox",), re.compile(r"\bxox[abeprs]-[A-Za-z0-9-]{20,}"), _varied),
    Sort("API key", ("sk-",), re.compile(r"\bsk-(?:[a-z]+\d*-)*[A-Za-z0-9_-]{32,}"), _varied),
    Sort("Google key", ("AIza",), re.compile(r"\bAIza[A-Za-z0-9_-]{35}"), _varied),
    Sort("Stripe key", ("k_live_",), re.compile(r"\b[rs]k_live_[A-Za-z0-9]{20,}"), _varied),
    Sort("npm token", ("npm_",), re.compile(r"\bnpm_[A-Za-z0-9]{36}\b"), _varied),
    Sort("GitLab token", ("glpat-",), re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}"), _varied),
    Sort("web token", ("eyJ",), re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"), _varied),
    Sort("password in an address", ("://",), re.compile(r"://[^\s/:@?#]{1,64}:([^\s/@]{3,64})@"), _is_password, 1),
)  # fmt: skip
CARD = re.compile(
    r"(?<![\d.,-])(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6011|65\d\d)([ -]?)\d{4}\1\d{4}\1\d{4}(?![\d.,-]?\d)"
    r"|(?<![\d.,-])3[47]\d{2}([ -]?)\d{6}\2\d{5}(?!\d)"
)
PHONE = re.compile(
    r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){2,4}"
    r"|\(\d{3}\) ?\d{3}[-.]\d{4}|\d{3}-\d{3}-\d{4}|1[3-9]\d-?\d{4}-?\d{4})(?![\w-]|\.\d)"
)
# what stands between a password and its host is no address, and goes by without being taken
MAIL = re.compile(r"://[^\s/@]*@|(\b[A-Za-z0-9][\w.+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}\b)")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
PERSONAL = (
    Sort("e-mail address", ("@",), MAIL, _is_address, 1),
    Sort("IBAN", (), IBAN, _is_iban),
    Sort("card number", (), CARD, _is_card),
    Sort("phone number", (), PHONE, _is_phone),
)
_LONG_NUMBER = re.compile(r"\d(?:[ ().-]{0,2}\d){8}")  # without which there is no card, IBAN or phone number


def found(text: str, sorts: tuple[Sort, ...]) -> Iterator[tuple[Sort, re.Match[str]]]:
    """Every secret of these sorts, and where it is."""
    numbers: bool | None = None
    for sort in sorts:
        if sort.needs:
            if not any(need in text for need in sort.needs):
                continue
        else:
            numbers = bool(_LONG_NUMBER.search(text)) if numbers is None else numbers
            if not numbers:
                continue
        for match in sort.pattern.finditer(text):
            if sort.holds(match.group(sort.group) or ""):
                yield sort, match


def masked(text: str, sorts: tuple[Sort, ...] = SECRETS + PERSONAL) -> str:
    """The text with each secret replaced by what it is: `[e-mail address]`."""
    for sort in sorts:
        for start, end in reversed([match.span(sort.group) for _, match in found(text, (sort,))]):
            text = f"{text[:start]}[{sort.name}]{text[end:]}"
    return text


def _named(sorts: tuple[Sort, ...]) -> Callable[[Utterance], str]:
    def sees(utterance: Utterance) -> str:
        return " and ".join(dict.fromkeys(sort.name for sort, _ in found(utterance.everything, sorts)))

    return sees


RULES = (
    Rule("secret", "warning", "holds a secret", "hold secrets", _named(SECRETS),
         "A model can say by heart what it was trained on: mask them, and have those in use changed.",
         "mask", said=True),
    Rule("personal", "warning", "holds what leads to a person", "hold what leads to a person", _named(PERSONAL),
         "Mask what people have not agreed to.", "mask", said=True),
)  # fmt: skip
