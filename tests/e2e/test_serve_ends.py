"""How a server ends, and the chat in the terminal that is its client."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import openai
import psutil
import pytest

from data.encoding.special import settings
from engine.contract import start
from engine.contract.args import ServeArgs
from engine.contract.client import Server, ServerError, address_of
from engine.contract.queue import device_lock
from tests.e2e.served import LONG, MESSAGES, SECONDS, address, answer, client, ended, house, serving, until  # noqa: F401
from tests.e2e.training import train

# The end


def free(device: str = "cpu") -> bool:
    """Whether the device could be had alone."""
    lock = os.open(device_lock(device), os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def test_unloading_in_the_middle_of_an_answer_ends_the_process_and_frees_the_device(house: Path) -> None:
    run = serving(house, "models=[exports/one]")
    server = Server(until(lambda: address_of(run), "serving"))
    worker = run.status()["worker"]["pid"]
    assert not free()
    pieces = server.stream("exports/one", MESSAGES, {"max_tokens": LONG, "temperature": 0})
    next(pieces)
    assert start.stop(run)
    with pytest.raises(ServerError, match=r"The server was stopped|in the middle of the answer"):
        list(pieces)
    assert ended(run).state() == "stopped"
    assert not psutil.pid_exists(worker)
    until(free, "the release of the device")  # the supervisor, which holds it too, ends right after its last word
    with pytest.raises(ServerError, match="Stopped on request"):
        address_of(run)


def test_models_that_cannot_be_loaded_end_the_server_with_a_sentence(house: Path) -> None:
    run = ended(serving(house, "models=[nothing]"))
    assert run.state() == "failed"
    with pytest.raises(ServerError, match="There is no model called 'nothing'"):
        address_of(run)


# The terminal


def terminal(*words: str, workspace: Path, said: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", "chat", "--workspace", str(workspace), *words]
    return subprocess.run(command, input=said, capture_output=True, text=True, timeout=SECONDS, check=False)


def test_one_question_in_the_terminal_prints_the_answer_alone(address: str, client: openai.OpenAI, house: Path) -> None:
    ended = terminal(
        f"address={address}",
        "model=exports/one",
        "greedy=true",
        "max_tokens=24",
        "What is the answer?",
        workspace=house,
    )
    assert ended.returncode == 0 and ended.stdout == answer(client, "exports/one") + "\n"
    assert "exports/one · 24 tokens" in ended.stderr


def test_a_conversation_in_the_terminal_remembers_and_obeys(address: str, client: openai.OpenAI, house: Path) -> None:
    lines = [
        "What is the answer?", "/regenerate", "/model exports/two", "/new", "What is the answer?", "/model nobody",
        "/set temperature=9", "/exit", "never read",
    ]  # fmt: skip
    ended = terminal(
        f"address={address}", "greedy=true", "max_tokens=24", workspace=house, said="\n".join(lines) + "\n"
    )
    base, two = answer(client), answer(client, "exports/two")
    assert ended.returncode == 0
    assert ended.stdout.count(base) == 2 and ended.stdout.count(two) == 1
    assert "no model 'nobody'" in ended.stderr and "temperature: 9 is out of range" in ended.stderr


def test_ctrl_c_stops_the_answer_and_the_server_is_free_again(address: str, client: openai.OpenAI, house: Path) -> None:
    command = [sys.executable, "-m", "engine", "chat", "--workspace", str(house), f"address={address}"]
    command += ["greedy=true", f"max_tokens={LONG}", "What is the answer?"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.read(5)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
    assert answer(client, max_tokens=3)


def test_a_chat_of_its_own_leaves_nothing_behind(house: Path) -> None:
    before = sorted((house / "runs").iterdir())
    ended = terminal("models=base", "device=cpu", "dtype=fp32", "max_tokens=3", "Hello?", workspace=house)
    assert ended.returncode == 0 and "base · 3 tokens" in ended.stderr
    assert sorted((house / "runs").iterdir()) == before
    until(free, "the release of the device")


def test_a_learnt_prompt_takes_nothing_from_a_context_that_nobody_knows(workspace: Path, tmp_path: Path) -> None:
    from engine.serving import roster

    run, base = train(workspace, "method=prompt", "steps.max_steps=1"), workspace / "models" / "tiny"
    config = {name: value for name, value in settings(base / "config.json").items() if "position" not in name}
    bare = shutil.copytree(base.resolve(), tmp_path / "bare")
    (bare / "config.json").write_text(json.dumps(config), encoding="utf-8")
    base.unlink()
    base.symlink_to(bare)
    assert roster.load(ServeArgs(models=[run.id]), workspace).find(run.id).context is None
