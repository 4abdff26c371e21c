"""Training speed, memory and time to the first loss: the engine against TRL alone, by turns, on the same batches."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.programs import Line, Program, line

MODEL = "SmolLM2-135M-Instruct"
SAME, DEFAULT = "TRL alone, same settings", "TRL alone, its defaults"
# The job that LLaMA-Factory 0.9.6 was recorded at on two such cores: bf16, no checkpointing, 334 real tokens/s, 3.3 GB
# and first losses after 18 to 28 s. Its figures are quoted, not measured here.
ALPACA = ["method.rank=8", "steps.batch_size=2", "steps.accumulation=4", "data.max_length=512", "optim.warmup=0"]
RECORDED = "LLaMA-Factory 0.9.6 was recorded at"


@dataclass(frozen=True)
class Point:
    """A logged step: when (Unix seconds), the tokens trained on so far, and the loss."""

    t: float
    real: int
    loss: float
    trained: int = 0


@dataclass(frozen=True)
class Took:
    """One training process. Speeds count from its first logged step to its last, so that start-up stays out."""

    started: float
    peak_bytes: int
    processor_seconds: float
    points: list[Point]

    @property
    def seconds_to_first_loss(self) -> float:
        return self.points[0].t - self.started

    def per_second(self, tokens: list[int]) -> float:
        """Speed in `tokens`, which are counts at each point."""
        return (tokens[-1] - tokens[0]) / (self.points[-1].t - self.points[0].t)

    @property
    def real(self) -> list[int]:
        return [point.real for point in self.points]

    @property
    def trained(self) -> list[int]:
        return [point.trained for point in self.points]


def measure(folder: Path, model: Path, *, steps: int = 20, times: int = 2) -> list[Line]:
    """Each side by turns, `times` each, in workspaces under `folder`; `model` is the demo model's folder."""
    side = Sides(folder, model, steps)
    ours, same, default = [], [], []
    for _ in range(times):
        ours.append(side.ours())
        same.append(side.plain(SAME))
        default.append(side.plain(DEFAULT))
    if any(took.real != ours[0].real for took in [*ours, *same]):
        raise RuntimeError(f"The sides trained on different batches: {ours[0].real} and {same[0].real}")
    print(f"First loss: ours {ours[0].points[0].loss:.4f}, {SAME} {same[0].points[0].loss:.4f}", flush=True)
    trained = same[0].trained  # the same batches, so the same tokens; the engine does not journal this count
    return [
        *_lines(ours, same, trained, SAME),
        *_lines(ours, default, trained, DEFAULT),
        Line("Start (`engine train`, supervisor and checks included) to first loss", "s", side.whole()),
    ]


def measure_alpaca(folder: Path, model: Path, *, steps: int = 10, times: int = 2) -> list[Line]:
    """The recorded job on Alpaca-style rows of our own, by turns with TRL alone at the same settings."""
    side = Sides(folder, model, steps, ["data=alpaca.json", *ALPACA], "alpaca")
    (side.workspace / "datasets").mkdir()
    (side.workspace / "datasets" / "alpaca.json").write_text(json.dumps(alpaca(400)), encoding="utf-8")
    ours, same = [], []
    for _ in range(times):
        ours.append(side.ours())
        same.append(side.plain(SAME))
    if any(took.real != ours[0].real for took in [*ours, *same]):
        raise RuntimeError(f"The sides trained on different batches: {ours[0].real} and {same[0].real}")
    print(f"First loss: ours {ours[0].points[0].loss:.4f}, {SAME} {same[0].points[0].loss:.4f}", flush=True)
    mine, theirs = [[took.per_second(took.real) for took in one] for one in (ours, same)]
    waits = [[took.seconds_to_first_loss for took in one] for one in (ours, same)]
    spent = [[took.processor_seconds for took in one] for one in (ours, same)]
    peaks = [[took.peak_bytes / 1e6 for took in one] for one in (ours, same)]
    return [
        line("Alpaca: real tokens", "/s", mine, theirs, SAME, goal=f"at least 468 /s ({RECORDED} 334)"),
        line("Alpaca: process start to first loss", "s", *waits, SAME, goal=f"at most 9 to 14 s ({RECORDED} 18 to 28)"),
        line("Alpaca: processor time of the whole process", "s", *spent, SAME),
        line("Alpaca: peak memory of the process", "MB", *peaks, SAME, goal=f"at most 3,300 MB ({RECORDED} 3,300)"),
    ]


def alpaca(count: int) -> list[dict[str, str]]:
    """Instructions with their answers, some with an input, as long as such rows are; the same each time."""
    chance = random.Random(0)
    words = (
        "the of and a to in is you that it he was for on are as with his they at be this have from or one had by word "
        "but not what all were we when your can said there use an each which she do how their if will up other about "
        "out many then them these so some her would make like him into time has look two more write go see number no "
        "way could people my than first water been call who oil its now find long down day did get come made may part"
    ).split()

    def said(least: int, most: int) -> str:
        return " ".join(chance.choices(words, k=min(most, least + int(chance.expovariate(4 / (most - least))))))

    return [
        {"instruction": said(6, 50), "input": said(5, 120) if chance.random() < 0.4 else "", "output": said(5, 300)}
        for _ in range(count)
    ]


def _lines(ours: list[Took], theirs: list[Took], trained: list[int], against: str) -> list[Line]:
    fast: dict[str, Any] = {"goal": "at least 1.0 times"}
    mine, others = [[took.per_second(took.real) for took in side] for side in (ours, theirs)]
    mine_trained = [took.per_second(trained) for took in ours]
    others_trained = [took.per_second(took.trained) for took in theirs]
    waits = [[took.seconds_to_first_loss for took in side] for side in (ours, theirs)]
    spent = [[took.processor_seconds for took in side] for side in (ours, theirs)]
    peaks = [[took.peak_bytes / 1e6 for took in side] for side in (ours, theirs)]
    return [
        line("Train: real tokens", "/s", mine, others, against, **fast),
        line("Train: trained tokens", "/s", mine_trained, others_trained, against, **fast),
        line("Train: process start to first loss", "s", *waits, against, goal="close to 1.0 times"),
        line("Train: processor time of the whole process", "s", *spent, against),
        line("Train: peak memory of the process", "MB", *peaks, against, goal="at most 1.0 times"),
    ]


class Sides:
    """The two ways of running the same training: LoRA on the demo rows with the board's defaults, nothing held out."""

    def __init__(self, folder: Path, model: Path, steps: int, words: Sequence[str] = (), name: str = "train") -> None:
        self.folder, self.model, self.steps = folder, model, steps
        self.workspace = folder / name
        (self.workspace / "models").mkdir(parents=True)
        (self.workspace / "models" / MODEL).symlink_to(model.resolve())
        # Neither side evaluates or saves in between: what is compared is the training.
        self.words = [f"model={MODEL}", f"steps.max_steps={steps}", *words]
        self.quiet = ["data.split=100/0/0", f"record.save_every={10 * steps}"]

    def ours(self) -> Took:
        from engine.contract import rundir, text

        run = rundir.make(self.workspace, "bench", text.dump(self._args()))
        program = Program(["-m", "engine", "work", str(run.path)], run.path / "log.txt")
        return Took(program.started, *program.finish(), _journal_of(run.metrics_path))

    def plain(self, against: str) -> Took:
        job, journal = self.folder / "job.json", self.folder / "journal.jsonl"
        job.write_text(json.dumps({**self._job(against), "journal": str(journal)}))
        program = Program(["-m", "tests.bench.plain_trl", str(job)], self.folder / "plain.log")
        spent = program.finish()
        points = [
            Point(record["t"], record["tokens"], record["loss"], record["trained"])
            for record in map(json.loads, journal.read_text().splitlines())
        ]
        return Took(program.started, *spent, points)

    def whole(self) -> float:
        """Seconds from the command that a person types to its first training loss, held-out loss before it included."""
        from engine.contract.rundir import runs

        known = {run.id for run in runs(self.workspace)}
        words = ["-m", "engine", "train", *self.words, "steps.max_steps=1", "--workspace", str(self.workspace)]
        environment = {"TUNEBOARD_STATE": str(self.folder / "state")}  # its own queue: nobody else's run is waited for
        program = Program(words, self.folder / "whole.log", environment)
        program.finish()
        [run] = [run for run in runs(self.workspace) if run.id not in known]
        return _journal_of(run.metrics_path)[0].t - program.started

    def _args(self) -> Any:
        from engine.contract import text

        return text.parse({}, [*self.words, *self.quiet], kind="train")

    def _job(self, against: str) -> dict[str, Any]:
        """Model, rows and settings for plain_trl.py."""
        from data import models
        from engine.contract.auto import Facts, resolved
        from engine.contract.machine import machine
        from engine.upstream import settings

        conversations, examples = self._rows()
        facts = Facts(machine(), models.card(self.model).parameters, rows=len(examples))
        args = resolved(self._args(), facts)
        lora = settings(args, "peft")
        del lora["target_modules"]
        trainer: dict[str, Any] = {
            "output_dir": str(self.folder / "plain"), "max_steps": self.steps,
            "per_device_train_batch_size": args.steps.batch_size, "save_strategy": "no", "report_to": "none",
            "logging_steps": 1, "logging_first_step": True, "disable_tqdm": True,
            "use_cpu": machine().device == "cpu",  # TRL's default, bf16, is refused on a processor unless this is said
        }  # fmt: skip
        if against == DEFAULT:
            rows = [{"messages": messages} for messages in conversations]
        else:
            rows = [{"input_ids": example.input_ids, "labels": example.labels} for example in examples]
            dtype = args.model.dtype if args.model.dtype in ("bf16", "fp32") else "bf16"
            trainer |= {name: value for name, value in settings(args, "trainer").items()}
            trainer |= {
                "max_steps": self.steps, "max_length": None, "data_seed": args.steps.seed, "bf16": dtype == "bf16",
                "gradient_checkpointing": trainer["activation_checkpointing"], "loss_type": "nll",
                "model_init_kwargs": {"dtype": {"bf16": "bfloat16", "fp32": "float32"}[dtype]},
            }  # fmt: skip
        return {"model": str(self.model), "rows": rows, "trainer": trainer, "lora": lora}

    def _rows(self) -> tuple[list[Any], list[Any]]:
        """The demo rows as conversations, and as the token ids and labels that the engine makes of them."""
        from data.datasets import registry
        from data.encoding.prepare import prepare
        from data.encoding.render import ChatTemplate
        from data.encoding.tokens import TextTokenizer

        args = self._args()
        rows = [row for name in args.data.train for row in registry.load(registry.find(name, self.workspace))]
        template, tokenizer = ChatTemplate.of(self.model, None), TextTokenizer.of(self.model)
        prepared = prepare(rows, template, tokenizer, max_length=args.data.max_length)
        return [row.messages for row in rows], prepared.rows


def _journal_of(metrics: Path) -> list[Point]:
    from engine.contract.rundir import records

    found = [(record["t"], record["values"]) for record in records(metrics)]
    return [Point(t, int(v["train/tokens"]), v["train/loss"]) for t, v in found if "train/loss" in v]
