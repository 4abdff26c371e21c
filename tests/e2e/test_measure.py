"""Two real steps, by the command that a person types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine import __main__ as commands
from engine.contract.rundir import runs
from tests.tiny import rows as talks


def test_two_real_steps_on_the_longest_rows_leave_a_figure_and_no_run(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = talks(workspace / "datasets" / "many.jsonl", 40)
    long = {"messages": [{"role": "user", "content": "Go on."}, {"role": "assistant", "content": "Yes. " * 30}]}
    with open(file, "a", encoding="utf-8") as more:
        more.write(json.dumps(long) + "\n")
    words = ["model=tiny", "data=many.jsonl", "data.max_length=200", "compute.device=cpu", "data.split=80/20/0"]
    assert commands.main(["measure", *words, "--json", "--workspace", str(workspace)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["longest"] > 100 and not found["out_of_memory"]
    assert found["peak"] > 10**8 and found["speed"] > 0 and found["seconds"] > 0
    assert runs(workspace) == [] and list((workspace / "runs").iterdir()) == []
    assert commands.main(["plan", *words, "--json", "--workspace", str(workspace)]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["longest"] == found["longest"]
    assert (planned["basis"], planned["needed"]) == ("measured", found["peak"])
    assert planned["work"]["basis"] == "measured"
