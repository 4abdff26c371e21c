"""What it means that the Hugging Face hub refuses a model or a dataset, and the way out: the same words for both.

Asks nothing of the hub itself. Which error it becomes, whoever asked decides.
"""

from __future__ import annotations

from typing import Literal


def refused(of: str, problem: Exception, kind: Literal["model", "dataset"]) -> tuple[str, str]:
    """What is wrong, and what to do. of: the name on the hub, with the revision where one was asked for.

    problem: an answer of the hub, as its client raises it (`HfHubHTTPError`).
    """
    from huggingface_hub import errors

    if isinstance(problem, errors.GatedRepoError):  # first: it is one of those that are not found
        said = f"{of} is gated: its owner wants you to accept the terms first."
        return said, f"Accept them on the {kind}'s page, then log in with `hf auth login` or set HF_TOKEN."
    if isinstance(problem, errors.RevisionNotFoundError):
        return f"{of} was not found: the {kind} exists, the revision does not.", "Leave revision out for the newest."
    if isinstance(problem, errors.RepositoryNotFoundError):
        way_out = "Check the spelling. If it is private, log in with `hf auth login` or set HF_TOKEN."
        return f"{of} was not found on Hugging Face.", way_out
    return f"Hugging Face does not give {of}: {problem}", "Try again later; what is here already is kept."
