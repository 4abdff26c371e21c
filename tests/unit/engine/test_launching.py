"""What is said of devices and machines, and the commands that come of it."""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine.contract import machine, rundir, text
from engine.contract.clusters import CLUSTERS
from engine.contract.errors import ArgsError
from engine.contract.launching import Launch, command
from engine.contract.needs import Here, unmet
from engine.devices import launch
from engine.devices.ranks import ENDS, Ending
from engine.report import Report, Stop, Stopped
from engine.supervise import FAILED, OUT_OF_MEMORY, STOPPED
from tests.processes import until

LARGE = ["model=Qwen/Qwen3-8B", "data=my.jsonl", "name=it's mine", "launch.devices=[0, 1, 2, 3]", "launch.machines=2",
         "launch.address=10.0.0.1", "launch.strategy=fsdp"]  # fmt: skip


def parsed(*words: str) -> text.AnyArgs:
    return text.parse({}, ["model=x", *words], kind="train")


def refused(*words: str) -> list[str]:
    with pytest.raises(ArgsError) as found:
        parsed(*words)
    return [str(problem) for problem in found.value.problems]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (["launch.devices=[first]"], "launch.devices: first is no number of a device. They count from 0."),
        (["launch.devices=[0, 0]"], "launch.devices: A device is named twice. Each process needs one of its own."),
        (["launch.devices=[0, 1]", "launch.processes=3"],
         "launch.processes: 3 processes cannot have one each of 2 devices (launch.devices). Leave it on auto."),
        (["launch.machines=2"], "launch.address: launch.machines is above 1: say where machine 0 is reached."),
        (["launch.number=1"], "launch.number: There is no machine 1 among 1 (launch.machines). They count from 0."),
        (["launch.strategy=fsdp"],
         "launch.strategy: fsdp needs two processes or more (launch.processes). Set it to ddp."),
        (["launch.pipeline_parallel=2"],
         "launch.pipeline_parallel: accelerate's parallelism configuration has no pipeline to train with. Set it to 1, "
         "and launch.strategy to fsdp."),
        (["launch.processes=2", "launch.offload=true"],
         "launch.offload: ddp (launch.strategy) shares nothing out that could be kept elsewhere. Turn it off."),
        (["launch.processes=2", "steps.batch_size=4", "steps.global_batch=4"],
         "steps.global_batch: 4 cannot be made of batches of 4 (steps.batch_size) on 2 devices (launch.processes). "
         "Make it a multiple of their product."),
        (["launch.processes=2", "launch.strategy=fsdp", "task=grpo"],
         "launch.strategy: GRPO (task.kind) writes answers while it trains, for which every process needs all weights. "
         "Set launch.strategy to ddp or zero2."),
        (["launch.processes=2", "launch.strategy=fsdp", "task=ilql"],
         "launch.strategy: ILQL (task.kind) has heads beside the model, and fsdp gathers weights only within it. Set "
         "launch.strategy to ddp or zero2."),
        (["launch.processes=2", "launch.strategy=fsdp", "data.packing=true", "model.attention=flash_attention_2"],
         "model.attention: Whether a model keeps rows apart that share a sequence (data.packing, task.boundaries) is "
         "asked before fsdp (launch.strategy) shares it out, in main memory, where flash_attention_2 cannot run. Set "
         "it to auto."),
        (["launch.processes=2", "launch.strategy=fsdp", "method.init=pissa"],
         "launch.strategy: Half of this adapter must stand still (method.init, method.on_top), and fsdp shares the "
         "halves out as one. Set launch.strategy to ddp or zero2, or method.init to default and method.on_top off."),
        (["launch.processes=2", "launch.strategy=zero2", "method=tuner", "method.tuner=adalora"],
         "launch.strategy: AdaLoRA (method.tuner) judges whole matrices by their gradients, and zero2 shares one or "
         "the other out. Set launch.strategy to ddp."),
        (["launch.processes=2", "launch.strategy=fsdp", "method=tuner", "method.tuner=vblora"],
         "launch.strategy: All layers learn the same numbers with vblora (method.tuner), and fsdp shares each layer "
         "out by itself. Set launch.strategy to ddp, or choose another adapter."),
        (["launch.processes=2", "method=tuner", "method.tuner=loha", "method.own={module_dropout: 0.5}"],
         "method.own: Each process (launch.processes) would leave out other layers, and their gradients would not add "
         "up. Leave module_dropout away, or start one process."),
        (["launch.processes=2", "launch.tensor_parallel=2"],
         "launch.tensor_parallel: transformers cannot save a model split this way so that its training goes on. Set it "
         "to 1, and launch.strategy to fsdp."),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said_with_the_way_out(said: list[str], sentence: str) -> None:
    assert sentence in refused(*said)


def test_no_layer_left_out_is_nothing_that_several_processes_disagree_about() -> None:
    parsed("launch.processes=2", "method=tuner", "method.tuner=loha", "method.own={module_dropout: 0.0}")


def test_devices_are_numbers_as_one_types_them() -> None:
    assert parsed("launch.devices=[0, 1]").launch.devices == ["0", "1"]


def test_rows_of_a_step_count_every_device() -> None:
    assert Launch(processes=4).replicas == 4
    assert Launch(processes=8, strategy="fsdp", context_parallel=2).replicas == 4
    assert Launch(devices=["0", "1"], machines=3, address="a").everywhere == 6


def test_a_run_waits_for_each_of_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("cuda", "npu", "mps", "xpu"):
        found = machine.Machine(device, "a device", 8, True)
        monkeypatch.setattr(machine, "machine", lambda found=found: found)
        assert machine.device_ids("auto", ["1", "3"]) == (f"{device}-1", f"{device}-3")
        assert machine.device_ids("auto") == (f"{device}-0",)


@pytest.mark.parametrize("device", ["cuda", "npu", "mps", "xpu"])
def test_every_accelerator_is_started_by_the_same_words(device: str) -> None:
    words = command(Launch(devices=["0", "1"]), ["engine", "work", "RUN"], cpu=False)
    assert device not in " ".join(words)
    assert words[words.index("--gpu_ids") + 1] == "0,1"


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_deepspeed_is_for_accelerators_and_names_its_package(strategy: str) -> None:
    args = parsed("launch.processes=2", f"launch.strategy={strategy}")
    [on_cpu] = [problem.text for problem in unmet(args, Here("cpu"))]
    assert "this run is on a CPU. Set launch.strategy to ddp or fsdp." in on_cpu
    said = [problem.text for problem in unmet(args, Here("cuda"))]
    assert said in ([], [f"{strategy} needs a package that is not installed. Set launch.strategy to fsdp, or: "
                         "pip install deepspeed"])  # fmt: skip


def test_each_machine_s_line_is_the_same_run_with_a_number_of_its_own() -> None:
    args = text.parse({}, LARGE, kind="train")
    lines = [line for line in CLUSTERS["machines"](args, "").splitlines() if not line.startswith("#")]
    for number, line in enumerate(lines):
        words = shlex.split(line)
        assert words[:4] == ["python", "-m", "engine", "train"]
        again = text.parse({}, words[4:], kind="train")
        assert (again.launch.number, again.launch.everywhere, again.name) == (number, 8, "it's mine")
        assert again.model == args.model
    assert len(lines) == 2


def test_jobs_for_clusters_are_well_formed() -> None:
    args = text.parse({}, LARGE, kind="train")
    checked = subprocess.run(
        ["bash", "-n"], input=CLUSTERS["slurm"](args, ""), text=True, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    ast.parse(CLUSTERS["ray"](args, ""))
    service, job = yaml.safe_load_all(CLUSTERS["kubernetes"](args, ""))
    assert job["spec"]["completions"] == 2
    program = job["spec"]["template"]["spec"]["containers"][0]["command"][2]
    said = subprocess.run(["bash", "-n"], input=program, text=True, capture_output=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    assert program.endswith("launch.number=$JOB_COMPLETION_INDEX launch.address=tuneboard-0.tuneboard")
    assert service["spec"]["selector"] == {"job-name": "tuneboard"}


def test_a_job_keeps_what_is_written_on_several_lines() -> None:
    args = text.parse({}, [*LARGE, 'description="what it is\\nto find out: \\"ü\\""'], kind="train")
    _, job = yaml.safe_load_all(CLUSTERS["kubernetes"](args, ""))
    words = shlex.split(job["spec"]["template"]["spec"]["containers"][0]["command"][2])
    assert f"description={text.flow(args.description)}" in words and "\n" in args.description


@pytest.mark.parametrize("kind", sorted(CLUSTERS))
def test_each_text_begins_with_what_to_do_and_marks_what_only_a_person_knows(kind) -> None:
    said = CLUSTERS[kind](text.parse({}, ["launch.processes=2"], kind="train"), "/a place")
    first = next(line for line in said.splitlines() if not line.startswith("#!"))
    assert first.startswith("# ") and "REPLACE" in said
    assert ("--workspace '/a place'" in said.replace("'\"'\"'", "'")) == (kind != "kubernetes")


@pytest.mark.parametrize(
    ("others", "struck", "code"),
    [
        ([Ending(0, STOPPED)], 1, OUT_OF_MEMORY),
        ([Ending(0, FAILED, "Connection closed by peer.", bug=True)], 1, OUT_OF_MEMORY),
        ([Ending(0, STOPPED)], 0, FAILED),
        ([Ending(0, FAILED, "The disk is full.")], 1, FAILED),
    ],
    ids=["struck", "and the others lost it", "nothing tells", "another cause was told"],
)
def test_a_process_that_the_kernel_ended_for_memory_is_tried_again(
    others: list[Ending], struck: int, code: int, tmp_path: Path
) -> None:
    run = rundir.make(tmp_path, "two", "kind: train")
    report = Report(run)
    assert launch.ended([*others, Ending(1)], run, report, Stop(), everywhere=2, struck=struck) == code
    told = [record["text"] for record in rundir.records(run.events_path) if record["kind"] == "error"]
    assert len(told) == (code == FAILED)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ([Ending(0, asked=True), Ending(1)], "Process 1 of 4 died"),
        ([Ending(0, FAILED, "Connection closed by peer.", bug=True, asked=True), Ending(1)], "Process 1 of 4 died"),
        ([Ending(0), Ending(1)], "Processes 0, 1 of 4 died"),
        ([Ending(0, asked=True), Ending(1, asked=True)], "Processes 0, 1 of 4 died"),
    ],
    ids=["the other was asked to end", "the other noticed", "both at once", "from outside"],
)
def test_a_process_that_died_is_told_from_those_that_were_ended_with_it(
    said: list[Ending], sentence: str, tmp_path: Path
) -> None:
    run = rundir.make(tmp_path, "two", "kind: train")
    assert launch.ended(said, run, Report(run), Stop(), everywhere=4, struck=0) == FAILED
    [told] = [record["text"] for record in rundir.records(run.events_path) if record["kind"] == "error"]
    assert told.startswith(sentence)


@pytest.mark.parametrize(
    ("said", "asked", "stopped"),
    [
        ([Ending(0, STOPPED, at=1.0), Ending(1, FAILED, "Connection closed by peer.", bug=True, at=2.0)], True, True),
        ([Ending(0, STOPPED, at=1.0), Ending(1, FAILED, "The disk is full.", at=2.0)], True, False),
        ([Ending(0, FAILED, "KeyError: 1", bug=True, at=1.0), Ending(1, STOPPED, at=2.0)], True, False),
        ([Ending(0, STOPPED, at=1.0), Ending(1, FAILED, "Connection closed by peer.", bug=True, at=2.0)], False, False),
    ],
    ids=["one was missed by the other", "another cause", "a bug before the stop", "nobody asked"],
)
def test_a_stop_is_no_failure_of_those_who_miss_the_first_to_heed_it(
    said: list[Ending], asked: bool, stopped: bool, tmp_path: Path
) -> None:
    run, stop = rundir.make(tmp_path, "two", "kind: train"), Stop()
    stop.asked = asked
    if stopped:
        with pytest.raises(Stopped):
            launch.ended(said, run, Report(run), stop, everywhere=2, struck=0)
    else:
        assert launch.ended(said, run, Report(run), stop, everywhere=2, struck=0) == FAILED


def test_a_process_that_hangs_has_noted_that_it_was_asked_to_end_and_what_it_forked_off_notes_nothing(
    tmp_path: Path,
) -> None:
    program = """
import os, signal, sys, threading
from pathlib import Path
from engine.devices import ranks
ranks.settle(Path(sys.argv[1]))
signal.signal(signal.SIGTERM, lambda *_: threading.Event().wait())
child = os.fork()
if not child:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    os.kill(os.getpid(), signal.SIGTERM)
os.waitpid(child, 0)
print("forked", flush=True)
threading.Event().wait()
"""
    environment = {**os.environ, ENDS: str(tmp_path), "RANK": "0"}
    command = [sys.executable, "-c", program, str(tmp_path / "log")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as hanging:
        try:
            assert hanging.stdout is not None and hanging.stdout.readline() == "forked\n"
            assert not Ending.read(tmp_path, 0).asked
            hanging.terminate()
            until(lambda: Ending.read(tmp_path, 0).asked, 30, "the note")
        finally:
            hanging.kill()
    assert Ending.read(tmp_path, 0).code is None


def test_a_stop_that_comes_while_a_failure_is_written_down_changes_nothing(tmp_path: Path) -> None:
    run = rundir.make(tmp_path, "two", "kind: nonsense")
    program = """
import signal, sys
from pathlib import Path
from engine import work

class Asked(work.Report):
    def failure(self, *args, **facts):
        signal.raise_signal(signal.SIGTERM)
        super().failure(*args, **facts)
work.Report = Asked
sys.exit(work.work(Path(sys.argv[1])))
"""
    held_open = subprocess.Popen([sys.executable, "-c", program, str(run.path)], stdin=subprocess.PIPE)
    with held_open:
        assert held_open.wait(60) == FAILED
    assert [record["kind"] for record in rundir.records(run.events_path)] == ["phase", "error"]
