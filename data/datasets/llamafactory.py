"""Reads a `dataset_info.json`, LLaMA-Factory's list of datasets, as it is.

What is on this machine becomes an entry with its mapping, what is on a hub becomes an offer, and what can be neither is
said in a sentence. Knows nothing of the rows, but for the columns of the first one where the list leaves them open.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data.datasets.entries import Entry
from data.reading import files
from data.rows.mapping import Mapping, Role
from engine.contract.errors import DataError

LIST = "dataset_info.json"
Hub = Literal["huggingface", "modelscope"]
HUBS: dict[str, Hub] = {"hf_hub_url": "huggingface", "ms_hub_url": "modelscope"}
TAGS: dict[str, tuple[str, Role]] = {
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant"),
    "observation_tag": ("observation", "tool"),
    "function_tag": ("function_call", "call"),
    "system_tag": ("system", "system"),
}
MEDIA = ("images", "videos")


class Offer(NamedTuple):
    """A dataset on a hub, and how its rows are to be read once they are here. limit: only so many rows of it."""

    name: str
    id: str
    hub: Hub
    mapping: Mapping
    config: str = ""
    split: str = "train"
    folder: str = ""
    limit: int | None = None


class Brought(NamedTuple):
    """What one list comes to."""

    entries: list[Entry]
    offers: list[Offer]
    problems: list[str]


def read(folder: Path) -> Brought:
    """The list in this folder, in which the files are looked for too. What is wrong with it is among the problems."""
    brought = Brought([], [], [])
    try:
        stated = json.loads((folder / LIST).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        brought.problems.append(f"{folder / LIST} cannot be read: {error}.")
        return brought
    if not isinstance(stated, dict):
        brought.problems.append(f"{folder / LIST} must be an object of datasets by name.")
        return brought
    for name, fields in stated.items():
        try:
            _take(name, fields if isinstance(fields, dict) else {}, folder, brought)
        except DataError as error:
            brought.problems.append(f"{name}: {error}")
        except (TypeError, ValueError, AttributeError) as error:  # a list where a name should be, and the like
            brought.problems.append(f"{name}: the entry is not written as such a list has it: {error}.")
    return brought


def _take(name: str, fields: dict[str, Any], folder: Path, brought: Brought) -> None:
    hubs = {hub: fields[key] for key, hub in HUBS.items() if fields.get(key)}
    limit = fields.get("num_samples") or None
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise DataError(f"its num_samples is {limit!r}, which is no number of rows.", "Write a whole number above 0.")
    if file := fields.get("file_name"):
        path = (folder / str(file)).resolve()
        if path.exists():
            mapping = mapped(fields, path)
            brought.entries.append(
                Entry(name=name, title=name, path=path, limit=limit, **_said(mapping), origin=f"LLaMA-Factory: {LIST}")
            )
            return
        if not hubs:
            raise DataError(f"its file {file} is not in {folder}.", "Put it there, or take the entry out.")
    for hub, id in hubs.items():
        split, config = str(fields.get("split") or "train"), str(fields.get("subset") or "")
        offer = Offer(name, str(id), hub, mapped(fields), config, split, str(fields.get("folder") or ""), limit)
        brought.offers.append(offer)
    if hubs or file:
        return
    if fields.get("script_url"):
        raise DataError("it is made by a program of its own, and other people's programs are not run here.",
                        "Look for the same data as files.")  # fmt: skip
    if fields.get("cloud_file_name"):
        raise DataError("it lies in a cloud bucket.", "Download it, and give its path as file_name.")
    raise DataError("it names neither a file nor a hub.", "Give it a file_name.")


def _said(mapping: Mapping) -> dict[str, Any]:
    return {"format": mapping.format, "columns": mapping.columns, "roles": mapping.roles}


def mapped(fields: dict[str, Any], path: Path | None = None) -> Mapping:
    """The mapping that an entry states. What LLaMA-Factory reads only where it is told to is left unused where not."""
    columns = {name: str(column) for name, column in (fields.get("columns") or {}).items() if column}
    used = {name: columns.get(name, "") for name in ("system", "tools", *MEDIA)}
    formatting = fields.get("formatting") or "alpaca"
    if formatting == "alpaca":
        return _alpaca(columns, used, bool(fields.get("ranking")), path)
    if formatting not in ("sharegpt", "openai"):
        raise DataError(f"its formatting {formatting!r} is not known.", "Use alpaca, sharegpt or openai.")
    tags = fields.get("tags") or {}
    names = {"role": tags.get("role_tag", ""), "content": tags.get("content_tag", "")}
    turns = {name: str(key) for name, key in names.items() if key}
    roles = {str(tags[tag]): role for tag, (usual, role) in TAGS.items() if tags.get(tag)}
    messages = {"messages": columns["messages"]} if "messages" in columns else {}
    if fields.get("ranking"):
        prompt = {"prompt": messages["messages"]} if messages else {}
        answers = {name: columns.get(name, name) for name in ("chosen", "rejected")}
        return Mapping(format="preference", columns={**prompt, **answers, **used, **turns}, roles=roles)
    if "kto_tag" in columns:
        return Mapping(
            format="feedback", columns={**messages, "label": columns["kto_tag"], **used, **turns}, roles=roles
        )
    format = "messages" if formatting == "openai" or names["role"] == "role" else "sharegpt"
    return Mapping(format=format, columns={**messages, **used, **turns}, roles=roles)


def _alpaca(columns: dict[str, str], used: dict[str, str], ranking: bool, path: Path | None) -> Mapping:
    used = {**used, "history": columns.get("history", "")}
    asked, given = columns.get("prompt", "instruction"), columns.get("query", "input")
    if ranking:
        answers = {name: columns.get(name, name) for name in ("chosen", "rejected")}
        return Mapping(format="preference", columns={"prompt": asked, "input": given, **answers, **used})
    answer = columns.get("response", "output")
    if "kto_tag" in columns:
        judged = {"messages": "", "prompt": asked, "input": given, "completion": answer, "label": columns["kto_tag"]}
        return Mapping(format="feedback", columns={**judged, **used})
    if set(columns) == {"prompt"} and (path is None or answer not in _first(path)):
        return Mapping(format="text", columns={"text": asked})  # text to go on from, with nothing that answers it
    return Mapping(format="alpaca", columns={"instruction": asked, "input": given, "output": answer, **used})


def _first(path: Path) -> dict[str, Any]:
    return next((found.record for found in files.read(path)), {})
