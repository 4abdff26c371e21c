"""Gets a model: the embedded one out of its PyPI wheel, any other from the hub.

The embedded model lands in `<workspace>/models/<name>/`, whole or not at all; a hub model lands in the user's own hub
cache. It refuses to know what the model is for, and never loads pickles.

    python -m engine fetch NAME [workspace=DIR] [revision=REV] [wheel=FILE]
"""

from __future__ import annotations

import difflib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data import models
from data.hubs import web
from data.hubs.refusal import refused
from engine.contract.errors import ArgsError, ModelError, Problem, ResourceError

Say = Callable[[str], None]
Progress = Callable[[int, int], None]
"""Told the bytes that have arrived, and those of the whole."""
NEEDED = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja")
"""Files of an embedded model's folder without which it is not whole."""
HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
HUB_NOT = ("*/*.safetensors", "*/*.json", "*/*.model")
"""Sub-folders hold copies for other programs."""


@dataclass(frozen=True)
class Wheel:
    """Where an embedded model lies: a GGUF `member` in a wheel; `megabytes` of disk prepare it."""

    package: str
    version: str
    sha256: str
    member: str
    quantised: str
    megabytes: int


def registry() -> dict[str, dict]:
    """The models that the board knows, by name."""
    return {entry["name"]: entry for entry in models.known()}


def fetch(
    name: str,
    workspace: Path,
    *,
    revision: str | None = None,
    wheel: Path | None = None,
    code: bool = False,
    say: Say = print,
    progress: Progress | None = None,
) -> Path:
    """The folder of the model `name`, fetched if it is not there yet.

    `name` is one of the registry or a hub id (`owner/name`); `wheel` is a wheel that was downloaded by other means
    (default: `TUNEBOARD_WHEEL` in the environment). `code` takes a hub model's own Python files too: only with the
    user's consent; `progress` is told how much of a hub's files is here. Raises ModelError or ResourceError.
    """
    entries = registry()
    if name in entries and "wheel" in entries[name]:
        if revision:
            raise ModelError(f"{name} is embedded and has one revision only, not {revision!r}.", "Leave revision out.")
        folder = workspace / "models" / name
        if not is_whole(folder):
            given = wheel or (Path(path) if (path := os.environ.get("TUNEBOARD_WHEEL")) else None)
            with locked(folder, say):
                prepare(entries[name], folder, given, say)
        return folder
    if name in entries:
        entry = entries[name]
        return from_hub(entry["hub"][0], revision or entry.get("revision"), say, code=code, progress=progress)
    if "/" in name:
        return from_hub(name, revision, say, code=code, progress=progress)
    near = difflib.get_close_matches(name, entries, n=1, cutoff=0.4)
    meant = f"Did you mean {near[0]}? " if near else ""
    raise ModelError(f"No model is called {name!r}.", f"{meant}A model on the hub is written owner/name.")


def is_whole(folder: Path) -> bool:
    """A folder appears by one rename, so it is whole unless somebody took files away: then say so, touch nothing."""
    if not folder.exists():
        return False
    if missing := [file for file in NEEDED if not (folder / file).is_file()]:
        raise ModelError(
            f"The model folder {folder} is not whole: {', '.join(missing)} is missing.",
            "Delete the folder and try again.",
        )
    return True


@contextmanager
def locked(folder: Path, say: Say) -> Iterator[None]:
    """Hold the folder's lock, so that two at once do the work once. A process that dies frees it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".lock-{folder.name}", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another process is preparing {folder.name}; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare(entry: dict, folder: Path, given: Path | None, say: Say) -> None:
    """Wheel -> GGUF -> safetensors, in a folder beside `folder`, renamed when whole. Called with the lock held."""
    for stale in folder.parent.glob(f".partial-{folder.name}-*"):  # we hold the lock, so nobody is writing there
        shutil.rmtree(stale)
    if is_whole(folder):  # made while we waited
        return
    source = Wheel(**entry["wheel"])
    if (free := shutil.disk_usage(folder.parent).free) < source.megabytes * 1_000_000:
        raise too_small(folder.parent, free, source.megabytes * 1_000_000)
    partial = folder.parent / f".partial-{folder.name}-{os.getpid()}"
    partial.mkdir()
    try:
        wheel = given or download(source, partial / "wheel", say)
        gguf = unpack(source, wheel, partial)
        say(f"Converting {folder.name} to bfloat16 safetensors, once ...")
        convert(entry, gguf, partial / "model")
        flush(partial / "model")
        os.replace(partial / "model", folder)
        flush(folder.parent, files=False)
    except OSError as problem:
        if problem.errno != errno.ENOSPC:
            raise
        raise too_small(folder.parent, 0, source.megabytes * 1_000_000) from problem
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    say(f"{folder.name} is ready in {folder}.")


def too_small(folder: Path, free: int, needed: int) -> ResourceError:
    return ResourceError(
        f"The disk of {folder} has {free / 1e6:,.0f} MB free; getting this model needs {needed / 1e6:,.0f} MB.",
        "Free some space, or choose a workspace on another disk.",
    )


def download(source: Wheel, to: Path, say: Say) -> Path:
    """The wheel, by this interpreter's own pip with the user's own settings."""
    wanted = f"{source.package}=={source.version}"
    otherwise = "or download the wheel on another machine and name it with wheel=FILE or TUNEBOARD_WHEEL."
    say(f"Downloading {wanted} with pip ...")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(to), wanted]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it gave no reason"]
        why = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1])
        raise ModelError(
            f"pip could not download {wanted}: {why.removeprefix('ERROR: ')}",
            f"Check the network and pip's settings (pip config list), {otherwise}",
        )
    return next(to.glob("*.whl"))


def unpack(source: Wheel, wheel: Path, into: Path) -> Path:
    """The GGUF out of the wheel, after the wheel's checksum was found right."""
    try:
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise ModelError(
            f"The wheel {wheel} cannot be read: {problem.strerror}.", "Check wheel=FILE or TUNEBOARD_WHEEL."
        ) from problem
    if found != source.sha256:
        raise ModelError(
            f"The checksum of {wheel.name} is wrong: {found}, expected {source.sha256}.",
            f"The download is damaged or is not {source.package} {source.version}. It was not used: get it again.",
        )
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(source.member, into))


def convert(entry: dict, gguf: Path, into: Path) -> None:
    """Write the GGUF's model as bfloat16 safetensors, with its tokenizer, template, generation settings and card."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The GGUF names its pre-tokenizer ("smollm") without carrying it and the reader takes GPT-2's, which cuts white
    # space before digits differently. These models were trained with digits cut off first.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = entry["context"]
    for leftover in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(leftover, None)

    # Without `dequantize` the weights may stay packed where a kernel for them is installed.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.hf_quantizer = None
    for leftover in ("quantization_config", "_model_name_or_path"):
        if hasattr(model.config, leftover):
            delattr(model.config, leftover)
    special = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**special)

    count = sum(weight.numel() for weight in model.parameters())  # tied embeddings are one parameter here
    if count != entry["parameters"] or None in special.values() or not tokenizer.chat_template:
        raise ModelError(
            f"{entry['name']} came out wrong: {count:,} parameters, expected {entry['parameters']:,}; {special}.",
            "This version of transformers reads the GGUF differently: install the versions that pyproject.toml names.",
        )
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)
    (into / "README.md").write_text(card(entry), encoding="utf-8")


def card(entry: dict) -> str:
    source = Wheel(**entry["wheel"])
    return f"""---
license: {entry["licence"].lower()}
base_model: {entry["hub"][0]}
---

# {entry["name"]}

{entry["about"]}

The weights were **dequantised from {source.quantised}** (the GGUF file in the PyPI package {source.package}
{source.version}) to bfloat16, so they differ a little from the original's, [{entry["hub"][0]}](https://huggingface.co/{entry["hub"][0]}).

- Parameters: {entry["parameters"]:,}
- Context: {entry["context"]:,} tokens
- Licence: {entry["licence"]}
"""


def flush(folder: Path, *, files: bool = True) -> None:
    """Onto the disk: `folder`'s own list of names and, with `files`, what is in them."""
    for path in [*(folder.iterdir() if files else ()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def from_hub(
    model: str,
    revision: str | None,
    say: Say,
    *,
    code: bool = False,
    progress: Progress | None = None,
) -> Path:
    """The snapshot of a hub model in the user's own cache: weights, tokenizer, settings; programs only with `code`."""
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    files = {"allow_patterns": [*HUB_FILES, *(["*.py"] if code else [])], "ignore_patterns": list(HUB_NOT)}
    at = f"{model} at {revision}" if revision else model
    try:
        plan = snapshot_download(model, revision=revision, dry_run=True, **files)
    except hub.DryRunError:  # the hub did not answer; a copy in the cache will do
        plan = []
    except hub.HFValidationError as problem:
        raise ModelError(f"{model!r} is not a model's name on the hub.", "It is written owner/name.") from problem
    except (hub.HTTPError, OSError) as problem:
        raise hub_error(at, problem) from problem
    if plan and not any(file.filename.endswith(".safetensors") for file in plan):
        raise ModelError(
            f"{at} has no safetensors weights.", "Other formats can run code when loaded: choose a model that has them."
        )
    missing = [file for file in plan if file.will_download]
    size = sum(file.file_size for file in missing)
    cache = next(folder for folder in [Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents] if folder.exists())
    if size > (free := shutil.disk_usage(cache).free):
        raise too_small(cache, free, size)
    if size:
        say(f"Downloading {at}: {size / 1e6:,.0f} MB ...")
    try:
        _fill(model, missing, Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}" / "blobs", progress)
        return Path(snapshot_download(model, revision=revision, **files))
    except (hub.HTTPError, OSError) as problem:
        raise hub_error(at, problem) from problem


def _fill(model: str, missing: list[Any], blobs: Path, progress: Progress | None) -> None:
    """Put the files where the hub's client keeps their content, so that it has only to name them.

    The client itself begins a file anew when it was interrupted, and does not end before its threads do.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    here, size = 0, sum(file.file_size for file in missing)

    def tell(arrived: int) -> None:
        nonlocal here
        here += arrived
        if progress:
            progress(here, size)

    for file in missing:
        url = hf_hub_url(model, file.filename, revision=file.commit_hash)
        facts = get_hf_file_metadata(url)
        if not facts.etag or (blobs / facts.etag).exists():
            continue
        # The token is for the hub, not for where it keeps its files.
        own = urlsplit(facts.location).netloc == urlsplit(url).netloc
        web.fetch(
            facts.location, blobs / facts.etag, version=facts.etag, size=facts.size,
            sha256=facts.etag if re.fullmatch(r"[0-9a-f]{64}", facts.etag) else "",
            headers=build_hf_headers() if own else {}, tell=tell,
        )  # fmt: skip


def hub_error(at: str, problem: Exception) -> ModelError:
    """What the hub's refusal means, and the way out."""
    from huggingface_hub import errors as hub

    from data.hubs.hub import offline

    for answer in (problem, problem.__cause__):  # the client may hide what the hub said behind what it has not
        if isinstance(answer, hub.HfHubHTTPError):
            return ModelError(*refused(at, answer, "model"))
    if isinstance(problem, hub.LocalEntryNotFoundError):
        set_by = offline()
        return ModelError(
            f"{at} is not in the hub cache, and "
            + (f"the board is offline, because {set_by} is set." if set_by else "the hub cannot be reached."),
            f"{f'Unset {set_by}' if set_by else 'Check the network'}, or give the path of a folder that you have.",
        )
    return ModelError(f"{at} could not be downloaded: {problem}", "Try again later; what is here already is kept.")


def main(words: Sequence[str], workspace: Path = Path("workspace")) -> int:
    """`fetch NAME [workspace=DIR] [revision=REV] [wheel=FILE] [code=true]`;
    the last line printed is the model's folder."""
    names = [word for word in words if "=" not in word]
    given = dict(word.split("=", 1) for word in words if "=" in word)
    problems = [Problem("", f"fetch takes one model, here are {len(names)}.")] if len(names) != 1 else []
    problems += [
        Problem(key, "fetch has no such argument; it has workspace, revision, wheel and code.")
        for key in given.keys() - {"workspace", "revision", "wheel", "code"}
    ]
    if problems:
        raise ArgsError(problems)
    wheel = Path(given["wheel"]) if "wheel" in given else None
    folder = Path(given.get("workspace", workspace))
    code = given.get("code") == "true"
    print(fetch(names[0], folder, revision=given.get("revision"), wheel=wheel, code=code))
    return 0
