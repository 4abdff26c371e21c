"""Getting a model or a dataset from a hub, as a run: it has progress, can be stopped, and goes on where it was."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.contract.fields import AUTO, arg
from engine.contract.root import Args


class DownloadArgs(Args):
    """Get a model or a dataset from a hub. What has arrived stays, so a download that ended goes on from there."""

    title: ClassVar[str] = "Download"
    kind: Literal["download"] = "download"

    id: str = arg(
        "SmolLM2-135M-Instruct",
        "What to get: a name from the list, or a hub id such as Qwen/Qwen3-0.6B.",
        when="Always.",
        usual="owner/name",
        label="Hub id",
        basic=True,
        min_length=1,
    )
    of: Literal["model", "dataset"] = arg(
        "model", "Whether it is a model or a dataset.", when="Always.", usual="model", basic=True, label="What it is"
    )
    hub: Literal["auto", "huggingface", "modelscope"] = arg(
        AUTO,
        "Where it comes from; auto takes Hugging Face, and ModelScope for ids that only the list has there.",
        when="modelscope where Hugging Face cannot be reached.",
        usual="auto",
    )
    revision: str = arg(
        "",
        "Pins one commit, branch or tag.",
        when="When a result must be repeatable.",
        usual="empty for the newest",
    )
    subset: str = arg("", "Which configuration of a dataset.", when="When it has several.", usual="empty: the first")
    split: str = arg("", "Which split of a dataset.", when="When it has several.", usual="train", label="Dataset split")
    trust_remote_code: bool = arg(
        False,
        "Takes a model's own Python files too.",
        when="Only for a model whose code you have read or whose author you trust.",
        usual="off",
        label="Take the model's own code",
    )
