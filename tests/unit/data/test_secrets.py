"""Secrets and personal data are found where they are, let pass where they are examples, and never said again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.review import findings, secrets
from tests.unit.data.test_findings import chat

# Made up here, and put together so that no scanner takes this file for a leak.
KEYS = {
    "AWS key": "AKIA" + "Z7Q2M4KD9X1B3NV6",
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----",
    "GitHub token": "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "Hugging Face token": "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH",
    "Slack token": "xoxb-" + "123456789012-abcdefGHIJKLmnop",
    "API key": "sk-proj-" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6",
    "Google key": "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "Stripe key": "sk_live_" + "a1B2c3D4e5F6g7H8i9J0k1L2",
    "npm token": "npm_" + "a1B2c3D4e5F6" * 3,
    "GitLab token": "glpat-" + "a1B2c3D4e5F6g7H8i9J0",
    "web token": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N",
    "password in an address": "Tr0ub4dor&3",
}
PERSONS = {
    "e-mail address": "ann.berg+news@post.cam.ac.uk",
    "IBAN": "DE89 3704 0044 0532 0130 00",
    "card number": "4539 1488 0343 6467",
    "phone number": "+49 170 2468097",
}


def around(sort: str, said: str) -> str:
    return f"postgres://ann:{said}@db.corp:5432/x" if sort.startswith("password") else f"Use {said}, please."


@pytest.mark.parametrize(("sort", "said"), [*KEYS.items(), *PERSONS.items()])
def test_each_sort_is_found_counted_masked_and_never_said(sort, said):
    text = around(sort, said)
    kind = "secret" if sort in KEYS else "personal"
    [finding] = findings.look([chat(1, "How do I sign in?", text)])
    assert (finding.kind, finding.fix) == (kind, "mask") and f"{sort} (1)" in finding.text
    assert said not in finding.text + finding.hint
    masked = secrets.masked(text)
    assert masked == around(sort, f"[{sort}]")
    assert findings.look([chat(1, "How do I sign in?", masked)]) == []


def test_a_row_with_several_sorts_is_one_row_and_names_them_all():
    said = f"{KEYS['AWS key']} or {KEYS['GitHub token']}, and again {KEYS['AWS key']}"
    [finding] = findings.look([chat(1, "Which keys?", said)])
    assert finding.text == "1 row holds a secret: AWS key and GitHub token (1)."


@pytest.mark.parametrize(
    "text",
    [
        "Write to name@example.com, you@yourcompany.com or me@localhost.",
        "The key AKIAIOSFODNN7EXAMPLE is the sample key; sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx another.",
        "Connect with postgres://user:password@host/db or redis://:@cache and mysql://root:${PASSWORD}@db.",
        "Call (555) 123-4567 or 202-555-0143.",
        "1234 5678 9012 3456 is no card, 4539 1488 0343 6468 neither, and 4444 4444 4444 4448 none that is in use.",
        "Pi is 3.14159265358979, and 2 ** 64 is 18446744073709551616; the sum is 10074111313 + 960397912423686.",
        "On 2024-01-15 10:30:00 the file 2024-01-15-103000.txt had 1,234,567,890 bytes at 192.168.100.200.",
        "DE00 1234 5678 9012 3456 78 does not add up, and ISBN 978-3-16-148410-0 is a book.",
        "@property\ndef task-force(self): ... # eyJ is how such tokens begin, ghp_ others",
        "12 - 3 (4 + 5) 6.7 8 9 10 11 12",
    ],
)
def test_examples_and_plain_numbers_are_let_pass(text):
    assert findings.look([chat(1, "What is it?", text)]) == [] and secrets.masked(text) == text


@given(st.text())
def test_masking_changes_nothing_that_holds_no_secret_and_ends(text):
    sorts = secrets.SECRETS + secrets.PERSONAL
    masked = secrets.masked(text)
    assert masked == text or list(secrets.found(text, sorts))
    assert not list(secrets.found(masked, secrets.SECRETS))


def test_secrets_in_calls_and_thoughts_are_found_too():
    row = chat(1, "Sign in.", "Done.")
    call = {"type": "function", "function": {"name": "login", "arguments": {"key": KEYS["GitHub token"]}}}
    row.messages[1] |= {"tool_calls": [call], "reasoning_content": f"I was told {KEYS['AWS key']}."}
    kinds = [finding.kind for finding in findings.look([row])]
    assert "secret" in kinds
