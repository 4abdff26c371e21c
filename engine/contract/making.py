"""Rows made by a model behind an OpenAI-compatible endpoint: what is made of which rows, by whom, and at what price."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.contract.fields import AUTO, Section, arg, tagged


class Converse(Section):
    """Turn single questions into conversations: the model plays both sides, turn by turn."""

    title: ClassVar[str] = "Conversations"
    kind: Literal["converse"] = "converse"

    turns: int = arg(
        3,
        "Questions in each conversation, the given one included.",
        when="More for a model that must remember what was said.",
        usual="2 to 5",
        unit="turns",
        basic=True,
        ge=1,
        le=20,
    )
    guest: str = arg(
        "You play a curious person who talks to an assistant. Write only that person's next message.",
        "How the one who asks is played.",
        when="To have beginners, experts or impatient customers ask.",
        usual="a sentence or two",
        lines=2,
        min_length=1,
        label="Who asks",
    )


class Answer(Section):
    """Answer the rows' questions afresh, in the manner of a persona."""

    title: ClassVar[str] = "Answers"
    kind: Literal["answer"] = "answer"

    persona: str = arg(
        "You are a patient teacher. You answer briefly, in plain words, and end with an example.",
        "Who answers, and how.",
        when="Always: this is the style that will be learnt.",
        usual="a few sentences",
        lines=3,
        basic=True,
        min_length=1,
    )
    keep_persona: bool = arg(
        False,
        "Keeps the persona in the rows as their system prompt. Off teaches the style without being told.",
        when="When the persona will be told in use too.",
        usual="off",
        label="Persona in the rows",
    )


class Pairs(Section):
    """Make question-answer pairs from the columns of rows, or about pictures, by templates."""

    title: ClassVar[str] = "Pairs from rows"
    kind: Literal["pairs"] = "pairs"

    question: str = arg(
        "What is said about {title}?",
        "The question; {column} stands for what the row holds there. One template a line makes several pairs a row.",
        when="Always.",
        usual="What is the capital of {country}?",
        lines=3,
        basic=True,
        min_length=1,
    )
    answer: str = arg(
        "",
        "The answer, with {column} likewise; empty asks the model, which is shown the row or its picture.",
        when="When the answer stands in a column.",
        usual="{capital}, or empty",
        lines=2,
        basic=True,
    )
    picture: str = arg(
        "",
        "The column that holds a picture; the model must be able to see.",
        when="For rows about pictures.",
        usual="image, or empty",
    )


class Grow(Section):
    """Grow a set: the model is shown some rows and writes new ones of the kind (Wang et al., Self-Instruct, 2023)."""

    title: ClassVar[str] = "More of the kind"
    kind: Literal["grow"] = "grow"

    count: int = arg(
        100,
        "Rows to be made.",
        when="Start small, and look at what comes.",
        usual="50 to 1,000",
        unit="rows",
        basic=True,
        ge=1,
        le=1_000_000,
    )
    shown: int = arg(
        4, "Rows that are shown as examples each time, drawn anew.", when="More when the new rows stray.",
        usual="3 to 8", unit="rows", ge=1, le=50,
    )  # fmt: skip
    about: str = arg(
        "",
        "What the new rows should be about.",
        when="To fill a gap that the rows have.",
        usual="empty, or a sentence",
        lines=2,
    )


class Paraphrase(Section):
    """Ask the same in other words; the answers stay."""

    title: ClassVar[str] = "Paraphrases"
    kind: Literal["paraphrase"] = "paraphrase"

    times: int = arg(
        2,
        "New wordings of each question.",
        when="More when you have few rows.",
        usual="1 to 4",
        basic=True,
        ge=1,
        le=20,
    )


class Filter(Section):
    """Keep the good rows: the model gives each a mark by your rubric."""

    title: ClassVar[str] = "Filter"
    kind: Literal["filter"] = "filter"

    rubric: str = arg(
        "10 is a correct, complete and clear answer to the question; 1 is wrong or beside the point.",
        "What the marks from 1 to 10 stand for.",
        when="Always: say what good means for you.",
        usual="a few sentences",
        lines=3,
        basic=True,
        min_length=1,
    )
    least: float = arg(
        7.0,
        "Rows with this mark or a better one are kept.",
        when="Lower it when too little is left.",
        usual="6 to 9",
        basic=True,
        ge=1,
        le=10,
        label="Lowest mark kept",
    )


What = tagged(Answer, Converse, Pairs, Grow, Paraphrase, Filter)


class Endpoint(Section):
    """Who writes: any server that speaks OpenAI's protocol, ours included."""

    title: ClassVar[str] = "Endpoint"
    shorthand: ClassVar[str] = "address"

    address: str = arg(
        AUTO,
        "The server's address, such as https://api.example.com/v1; auto is the model that is loaded in Chat.",
        when="To have a larger model write.",
        usual="auto",
        basic=True,
        min_length=1,
        label="Server",
    )
    model: str = arg(
        AUTO,
        "The model's name there; auto is the first that the server lists.",
        when="When the server has several.",
        usual="auto",
        basic=True,
        min_length=1,
    )
    key_variable: str = arg(
        "OPENAI_API_KEY",
        "The environment variable that holds the key; the key itself is never written down.",
        when="When the key is in another variable.",
        usual="OPENAI_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$|^$",
        label="Key from variable",
    )
    at_once: int = arg(
        4,
        "Requests at the same time.",
        when="Lower it when the server refuses; our own answers one after another.",
        usual="1 to 16",
        ge=1,
        le=256,
    )
    temperature: float = arg(0.8, "How freely the model writes.", when="Lower for facts.", usual="0 to 1", ge=0, le=2)
    max_tokens: int = arg(
        512, "Longest answer.", when="Raise it when answers are cut.", usual="256 to 2,048", unit="tokens", ge=1,
        le=1_048_576,
    )  # fmt: skip
    patience: float = arg(
        120.0, "Longest wait for one answer.", when="Raise it for slow models.", usual="60 to 600", unit="seconds",
        gt=0, le=86_400,
    )  # fmt: skip
    retries: int = arg(
        4,
        "How often a request that failed is asked again, after a growing pause.",
        when="More when the server is busy.",
        usual="2 to 8",
        ge=0,
        le=100,
    )
    price_in: float = arg(
        0.0,
        "Price of a million tokens read, in your currency.",
        when="To see the cost, and to bound it.",
        usual="0 for your own model",
        ge=0,
    )
    price_out: float = arg(
        0.0, "Price of a million tokens written.", when="To see the cost, and to bound it.",
        usual="0 for your own model", ge=0,
    )  # fmt: skip
    budget: float | None = arg(
        None,
        "Ends when this has been spent; what was made so far is kept.",
        when="With prices.",
        usual="empty",
        gt=0,
    )
