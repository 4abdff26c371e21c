"""The kinds of run, each one tree of arguments, and the rules that span sections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, TypeAdapter

from engine.contract.adapters import Lora
from engine.contract.client import split
from engine.contract.dataset import Data
from engine.contract.download import DownloadArgs
from engine.contract.errors import Problem
from engine.contract.fields import AUTO, MANY, arg
from engine.contract.imitation import Sft
from engine.contract.launching import Launch
from engine.contract.making import Answer, Endpoint, Pairs, What
from engine.contract.memory import Compute
from engine.contract.methods import Method
from engine.contract.optimiser import Optim
from engine.contract.root import Args
from engine.contract.rules import broken
from engine.contract.sections import Device, Dtype, Model, Record, Resume, Steps
from engine.contract.tasks import Task
from engine.contract.vision import Vision


class TrainArgs(Args):
    """Train a model on rows."""

    kind: Literal["train"] = "train"
    model: Model = Model()
    data: Data = Data()
    task: Task = arg(
        Sft(), "What is learnt.", when="SFT first: show it what good answers look like.", usual="sft", label="Task"
    )
    method: Method = arg(
        Lora(),
        "Which weights are trained.",
        when="Choose full only when LoRA has shown that the data is right and is not enough.",
        usual="lora",
        label="Method",
    )
    vision: Vision = Vision()
    optim: Optim = Optim()
    steps: Steps = Steps()
    record: Record = Record()
    compute: Compute = Compute()
    launch: Launch = Launch()
    resume: Resume = Resume()
    extra: dict[str, Any] = arg(
        {},
        "Further settings for the trainer, by its own names; the board's own settings cannot be overridden.",
        when="When you need something that has no field.",
        usual="empty",
        label="Extra trainer settings",
    )

    @property
    def packs(self) -> bool:
        """Whether a sequence may hold several rows."""
        return self.data.packing or self.task.packs

    @property
    def borders(self) -> bool:
        """Whether a sequence may hold several rows that must not see each other."""
        return self.data.packing or self.task.borders

    def problems(self) -> Iterator[Problem]:
        yield from broken(self)
        yield from self.model.problems()
        yield from self.task.problems()
        yield from self.method.problems()
        yield from self.launch.problems()
        yield from self.optim.problems()


class EvaluateArgs(Args):
    """Ask whether the tuned model is better than its base."""

    title: ClassVar[str] = "Evaluate"
    kind: Literal["evaluate"] = "evaluate"

    tuned: str = arg(
        "",
        "What to judge: a run, a checkpoint of a run (RUN/step-40), or a folder.",
        when="Always.",
        usual="the newest run",
        label="Model to judge",
        basic=True,
        choices="weights",
        min_length=1,
    )
    base: str = arg(
        AUTO,
        "What to compare it with; auto is the model that it was trained from.",
        when="To compare two runs.",
        usual="auto",
        label="Compare with",
        basic=True,
        choices="weights",
    )
    data: list[str] = arg(
        [],
        "Datasets to judge on. Empty takes the rows that the run held out, which neither model has seen.",
        when="To judge on rows of another kind.",
        usual="empty: the held-out rows",
        label="Datasets",
        basic=True,
        choices="datasets",
    )
    max_rows: int = arg(
        100,
        "At most this many rows.",
        when="More for a surer verdict.",
        usual="50 to 500",
        unit="rows",
        basic=True,
        ge=1,
        le=MANY,
    )
    max_tokens: int = arg(
        128,
        "Longest answer to generate.",
        when="Raise it when answers are cut.",
        usual="64 to 512",
        unit="tokens",
        basic=True,
        ge=1,
        le=32768,
    )
    max_length: int = arg(
        2048,
        "Longer rows are cut to this many tokens when the loss is measured.",
        when="When rows are longer.",
        usual="512 to 4096",
        unit="tokens",
        ge=8,
        le=1_048_576,
    )
    batch_size: int = arg(
        8,
        "Rows that go through the model at once.",
        when="Lower it when memory runs out.",
        usual="1 to 32",
        unit="rows",
        ge=1,
        le=1024,
    )
    confidence: float = arg(
        0.95,
        "How sure the interval is to hold the true difference.",
        when="Rarely.",
        usual="0.9 to 0.99",
        gt=0.5,
        lt=1,
    )
    resamples: int = arg(
        2000,
        "Bootstrap resamples behind the interval.",
        when="Rarely.",
        usual="1,000 to 10,000",
        ge=100,
        le=100_000,
    )
    fill: dict[str, str] = arg(
        {},
        "Words to put in place of placeholders such as {{name}} in the rows.",
        when="With data of your own; held-out rows keep the words that the run was trained with.",
        usual="name=Tuney",
        label="Fill in",
    )
    dtype: Dtype = arg(AUTO, "The precision of the arithmetic.", when="fp32 for exact comparisons.", usual="auto")
    device: Device = arg(AUTO, "Where it runs.", when="cpu to keep a GPU free.", usual="auto")
    seed: int = arg(
        42, "Fixes the rows and the resamples.", when="Rarely.", usual="any whole number", ge=0, le=2**32 - 1
    )


class ServeArgs(Args):
    """Load one base and any number of tuned models, and answer over HTTP as OpenAI's API does."""

    title: ClassVar[str] = "Serve"
    kind: Literal["serve"] = "serve"

    models: list[str] = arg(
        ["SmolLM2-135M-Instruct"],
        "What to load: models, runs, checkpoints (RUN/step-40) or folders. Adapters of one base share it.",
        when="Always.",
        usual="a base and a run",
        label="Models",
        basic=True,
        choices="weights",
        min_length=1,
    )
    port: int = arg(
        0, "Port on 127.0.0.1; 0 takes a free one.", when="When another program expects it.", usual="0", ge=0, le=65535
    )
    template: str = arg(
        AUTO, "The chat template; auto is the model's own.", when="Rarely.", usual="auto", choices="templates"
    )
    dtype: Dtype = arg(AUTO, "The precision of the arithmetic.", when="fp32 for exact comparisons.", usual="auto")
    device: Device = arg(AUTO, "Where it runs.", when="cpu to keep a GPU free.", usual="auto")
    trust_remote_code: bool = arg(
        False,
        "Runs Python code that comes with the model.",
        when="Only for a model whose author you trust.",
        usual="off",
        label="Trust the model's code",
    )


class ExportArgs(Args):
    """Take the result away: merged into its base, or the adapter alone, verified."""

    title: ClassVar[str] = "Export"
    kind: Literal["export"] = "export"

    tuned: str = arg(
        "",
        "What to export: a run, a checkpoint of a run (RUN/step-40), or a folder.",
        when="Always.",
        usual="the newest run",
        label="Model to export",
        basic=True,
        choices="weights",
        min_length=1,
    )
    form: Literal["merged", "adapter"] = arg(
        "merged",
        "merged writes a whole model that needs nothing else; adapter writes the small difference alone.",
        when="adapter when whoever uses it has the base already.",
        usual="merged",
        basic=True,
    )
    to: str = arg(
        "",
        "Name of the folder in the workspace's exports; empty takes the run's name.",
        when="To give it a name of its own.",
        usual="letters, digits, dashes",
        label="Folder name",
        basic=True,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$|^$",
        max_length=80,
    )
    dtype: Literal["auto", "bf16", "fp32", "fp16"] = arg(
        AUTO,
        "The precision of the written weights; auto is the base's own.",
        when="fp16 for programs without bf16.",
        usual="auto",
    )
    shard_gb: float = arg(
        5.0,
        "Largest size of one weights file.",
        when="When a file system or a hub wants smaller files.",
        usual="2 to 10",
        unit="GB",
        gt=0,
        le=1000,
        label="Shard size",
    )
    verify: bool = arg(
        True,
        "Loads the result afresh and compares its logits with the tuned model's.",
        when="Off only to save time on huge models.",
        usual="on",
    )
    probes: list[str] = arg(
        ["What is your name?", "Write one sentence about the sea.", "SELECT"],
        "Prompts that the verification compares.",
        when="Questions like those of your rows.",
        usual="three or more, one a line",
        lines=3,
        min_length=1,
        label="Probe prompts",
    )
    device: Device = arg(AUTO, "Where it runs.", when="cpu to keep a GPU free.", usual="auto")


class MakeArgs(Args):
    """Make rows with a model: conversations, answers, pairs, more of the kind, paraphrases, or a choice of the best."""

    title: ClassVar[str] = "Make data"
    kind: Literal["make"] = "make"

    what: What = arg(Answer(), "What is made of the rows.", when="Always.", usual="answer", label="What is made")
    data: list[str] = arg(
        ["identity"],
        "The datasets to begin with.",
        when="Always.",
        usual="a few hundred good rows",
        label="Begin with",
        basic=True,
        choices="datasets",
        min_length=1,
    )
    max_rows: int | None = arg(
        None,
        "Takes only this many rows.",
        when="For a look before a long run.",
        usual="10 at first",
        basic=True,
        ge=1,
        le=MANY,
        unit="rows",
    )
    to: str = arg(
        "made",
        "Name of the new dataset.",
        when="Always.",
        usual="letters, digits, dashes",
        label="New dataset",
        basic=True,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=80,
    )
    endpoint: Endpoint = Endpoint()
    likeness: float = arg(
        0.8,
        "New rows that are this much like another (share of word runs in common) are left out; 1 leaves out only equal "
        "ones.",
        when="Lower it for more variety.",
        usual="0.7 to 0.9",
        gt=0,
        le=1,
    )
    seed: int = arg(
        42, "Fixes what is drawn.", when="To draw other examples.", usual="any whole number", ge=0, le=2**32 - 1
    )
    resume: str = arg(
        "",
        "The run whose rows are kept and gone on with; the page sets this.",
        when="After a stop or a failure.",
        usual="empty",
        label="Go on from",
        max_length=200,
    )

    @property
    def asks(self) -> bool:
        """Whether a model is asked at all: templates may say both question and answer."""
        return not (isinstance(self.what, Pairs) and self.what.answer.strip())

    def problems(self) -> Iterator[Problem]:
        end = self.endpoint
        parts = split(end.address)
        if end.address != AUTO and parts is None:
            said = f"{end.address!r} is not the address of a server. Write it as https://host/v1, or auto."
            yield Problem("endpoint.address", said)
        if parts and (parts.username or parts.password):
            yield Problem("endpoint.address", "The address holds a secret. Name the variable that holds it instead.")
        if end.budget is not None and not (end.price_in or end.price_out):
            said = "endpoint.budget needs prices: set endpoint.price_in or endpoint.price_out."
            yield Problem("endpoint.budget", said)


KINDS: dict[str, type[Args]] = {
    "train": TrainArgs,
    "evaluate": EvaluateArgs,
    "serve": ServeArgs,
    "export": ExportArgs,
    "make": MakeArgs,
    "download": DownloadArgs,
}
AnyArgs = TrainArgs | EvaluateArgs | ServeArgs | ExportArgs | MakeArgs | DownloadArgs
ADAPTER: TypeAdapter[AnyArgs] = TypeAdapter(Annotated[AnyArgs, Discriminator("kind")])
