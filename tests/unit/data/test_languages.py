"""An answer in another language than its question is seen, and so are the few rows in another than all others."""

from __future__ import annotations

import pytest

from data.review import findings, languages
from data.review.utterance import Utterance
from data.rows.conversation import Row

ENGLISH = (
    "Could you please tell me in a few words why the water of the sea rises and falls twice on every single day?",
    "The tides come from the pull of the moon, which draws the water towards it, and from the turning of the earth.",
)
GERMAN = (
    "Kannst du mir bitte in wenigen Worten sagen, warum das Wasser am Meer jeden Tag zweimal steigt und wieder fällt?",
    "Das kommt davon, dass der Mond das Wasser zu sich zieht, und davon, dass sich die Erde dabei immer weiter dreht.",
)
SPANISH = (
    "¿Me puedes decir en pocas palabras por qué el agua del mar sube y baja dos veces cada uno de los días?",
    "Las mareas se deben a la atracción de la luna, que tira del agua de los mares, y a la rotación de la tierra.",
)
WORDS = "tides rivers clouds glaciers deserts forests lakes islands caves winds storms valleys".split()


def chat(number: int, question: str, answer: str, system: str = "") -> Row:
    said = {"system": system, "user": question, "assistant": answer}
    turns = [{"role": role, "content": text} for role, text in said.items() if text]
    return Row(turns, None, "rows.jsonl", number)


def sound(count: int, said: tuple[str, str] = ENGLISH) -> list[Row]:
    return [chat(n, f"{n}: {said[0]} {WORDS[n % 12]}", f"{n}: {said[1]} {WORDS[n % 12]}") for n in range(1, count + 1)]


def found(rows) -> dict[str, findings.Finding]:
    """What is said of languages alone."""
    seen = languages.Languages()
    for row in rows:
        seen.look(Utterance(row))
    return {finding.kind: finding for finding in seen.findings()}


@pytest.mark.parametrize(
    ("asked", "answered", "pair"),
    [
        (ENGLISH, GERMAN, "English to German"),
        (GERMAN, SPANISH, "German to Spanish or Galician"),
        (SPANISH, ENGLISH, "Spanish or Galician to English"),
    ],
)
def test_an_answer_in_another_language_than_its_question_is_named(asked, answered, pair):
    seen = {finding.kind: finding for finding in findings.look([*sound(30), chat(99, asked[0], answered[1])])}
    one = seen["answer_language"]
    assert (one.rows, one.level, one.fix) == ((99,), "warning", "exclude")
    assert one.text == f"1 row is answered in another language than asked in: {pair} (1)."


def test_few_rows_in_another_language_than_all_others_are_noted():
    looked = findings.look([*sound(60), chat(97, "Warum?", GERMAN[1]), chat(98, *SPANISH)])
    assert [(one.rows, one.level, one.text) for one in looked if one.kind == "language"] == [
        ((97,), "note", "1 row is in German, and nearly all others in English."),
        ((98,), "note", "1 row is in Spanish or Galician, and nearly all others in English."),
    ]


def test_a_set_of_two_languages_is_no_mistake():
    half = [chat(row.number + 100, *(turn["content"] for turn in row.messages)) for row in sound(20, GERMAN)]
    assert found([*sound(30), *half]) == {}


def test_too_few_rows_say_nothing_of_a_set():
    assert found([*sound(10), chat(99, *GERMAN)]) == {}


def test_a_set_of_translations_is_only_noted():
    rows = [chat(n, f"{n}: {ENGLISH[1]}", f"{n}: {GERMAN[1]}") for n in range(30)]
    assert found(rows)["answer_language"].level == "note"


@pytest.mark.parametrize(
    ("question", "answer", "system"),
    [
        (f"Translate this: {ENGLISH[1]}", GERMAN[1], ""),
        (f"{ENGLISH[0]} Answer in German.", GERMAN[1], ""),
        (f"{GERMAN[0]} Bitte auf Spanisch.", SPANISH[1], ""),
        (ENGLISH[0], GERMAN[1], "You always speak German."),
        (f"Please go on where this ends, and make it nice. \"{' '.join(GERMAN[1].split()[:9])}\"", GERMAN[1], ""),
        ("What now?", "Ja, gut.", ""),
        (GERMAN[0], "select name, count(*) from users join orders on users.id = orders.user_id where orders.total > 3 "
         "group by name order by name desc limit 10", ""),
        (GERMAN[0], "def add(a, b): return a + b\nfor i in range(len(values)): total = total + values[i]", ""),
        (ENGLISH[0], "Juan Carlos Pérez, María García, José Luis Martínez, Ana López, Pedro Sánchez, Carmen Ruiz", ""),
        (ENGLISH[0], "quercus robur, fagus sylvatica, betula pendula, pinus sylvestris, picea abies, acer campestre",
         ""),
        (ENGLISH[0], "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt.", ""),
        (GERMAN[0], "12 + 14 = 26, 26 + 14 = 40, 40 + 14 = 54, 54 + 14 = 68, 68 + 14 = 82, 82 + 14 = 96", ""),
        (GERMAN[0], '{"name": "tides", "arguments": {"city": "berlin", "unit": "metres", "days": 3, "at": "sea"}}', ""),
    ],
)  # fmt: skip
def test_what_was_asked_for_or_is_no_prose_is_let_pass(question, answer, system):
    asked = GERMAN if question.startswith(GERMAN[0]) else ENGLISH
    assert found([*sound(60, asked), chat(99, question, answer, system)]) == {}


def test_a_text_of_two_languages_is_of_neither():
    mixed = f"{GERMAN[0]} {GERMAN[1]} {ENGLISH[0]} {ENGLISH[1]}"
    assert found([*sound(60), chat(98, ENGLISH[0], mixed), chat(99, mixed, ENGLISH[1])]) == {}
    assert languages.language(mixed)  # taken as a whole it seems to be of one


def test_of_many_rows_a_part_is_looked_at_and_the_sentence_says_so(monkeypatch):
    monkeypatch.setattr(languages, "ALL_UP_TO", 20)
    seen = found([*sound(119), chat(120, ENGLISH[0], GERMAN[1]), chat(121, ENGLISH[0], GERMAN[1])])["answer_language"]
    assert seen.rows == (120,) and "1 row of 30 that were looked at is answered" in seen.text
