"""On how many devices and machines a run trains, what each of them holds, and the command that starts them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import field_validator

from engine.contract.errors import Problem
from engine.contract.fields import AUTO, Auto, Section, arg


class Launch(Section):
    """On how many devices and machines a run trains, and what each of them holds."""

    title: ClassVar[str] = "Devices and machines"

    devices: list[str] = arg(
        [],
        "The devices to train on, by their numbers; empty takes the first.",
        when="When the machine has several, or another program uses one.",
        usual="empty, or 0 and 1, one a line",
        label="Devices",
    )
    processes: int | Auto = arg(
        AUTO,
        "Processes on this machine, each with a device of its own; on a CPU they share the cores.",
        when="Rarely: auto is one for each of the devices above.",
        usual="auto",
        ge=1,
        le=1024,
    )
    strategy: Literal["ddp", "fsdp", "zero2", "zero3"] = arg(
        "ddp",
        "What each process holds. ddp: the whole model, and a share of the rows. fsdp: a share of the weights, "
        "gradients and optimiser state too (PyTorch's FSDP2). zero2 shares gradients and optimiser state, zero3 the "
        "weights as well (DeepSpeed).",
        when="fsdp when the model does not fit into one device; ddp is faster where it does.",
        usual="ddp",
    )
    offload: bool = arg(
        False,
        "Keeps what is shared out in main memory while it is not needed: less device memory, much slower.",
        when="When sharing alone does not make it fit.",
        usual="off",
        label="Offload to main memory",
    )
    tensor_parallel: int = arg(
        1,
        "Splits every layer's matrices over this many devices.",
        when="Never here: what is trained so cannot be stopped and gone on with. fsdp serves the same end.",
        usual="1",
        unit="devices",
        ge=1,
        le=1024,
    )
    context_parallel: int = arg(
        1,
        "Splits each row's tokens over this many devices (ring attention); goes with fsdp.",
        when="When single rows are too long for one device.",
        usual="1",
        unit="devices",
        ge=1,
        le=1024,
    )
    sequence_parallel: int = arg(
        1,
        "Splits each row's tokens over this many devices (Ulysses, by DeepSpeed); goes with zero2 and zero3.",
        when="As context parallel, where DeepSpeed is used.",
        usual="1",
        unit="devices",
        ge=1,
        le=1024,
    )
    pipeline_parallel: int = arg(
        1,
        "Puts the layers one behind the other on this many devices.",
        when="Never here: accelerate does not train that way. fsdp serves the same end.",
        usual="1",
        unit="devices",
        ge=1,
        le=1024,
    )
    machines: int = arg(
        1,
        "Machines that train together; the same command is started on each, with a number of its own.",
        when="When one machine is not enough.",
        usual="1",
        ge=1,
        le=4096,
    )
    number: int = arg(
        0,
        "This machine's number, from 0; number 0 keeps the run's records and checkpoints.",
        when="With several machines.",
        usual="0",
        label="This machine",
        ge=0,
        le=4095,
    )
    address: str = arg(
        "",
        "The address under which the other machines reach machine 0.",
        when="With several machines.",
        usual="10.0.0.1, or a host name",
        label="Address of machine 0",
        pattern=r"^[A-Za-z0-9._:-]*$",
    )
    port: int = arg(
        29500,
        "The port on machine 0 where the processes meet; with one machine a free one is taken.",
        when="When it is taken.",
        usual="29500",
        ge=1,
        le=65535,
    )

    @field_validator("devices", mode="before")
    @classmethod
    def _as_words(cls, given: object) -> object:
        return [str(one) if type(one) is int else one for one in given] if isinstance(given, list) else given

    @property
    def here(self) -> int:
        """Processes on this machine."""
        return max(1, len(self.devices)) if self.processes == AUTO else int(self.processes)

    @property
    def everywhere(self) -> int:
        """Processes on all machines."""
        return self.here * self.machines

    @property
    def shares_weights(self) -> bool:
        """Whether layers' weights are gathered when these are called, so that they must be called as they are."""
        return self.strategy in ("fsdp", "zero3") or self.tensor_parallel > 1 or self.context_parallel > 1

    @property
    def replicas(self) -> int:
        """How many different batches go through the model at once."""
        return max(1, self.everywhere // self.together)

    @property
    def together(self) -> int:
        """Processes that work on the same rows."""
        return self.tensor_parallel * self.context_parallel * self.sequence_parallel * self.pipeline_parallel

    @property
    def shards(self) -> bool:
        """Whether no process holds all of the weights."""
        return self.strategy in ("fsdp", "zero3")

    def problems(self) -> Iterator[Problem]:
        """Rules between these fields alone."""
        yield from self._places()
        yield from self._splits()
        if self.everywhere == 1 and self.strategy != "ddp":
            yield Problem(
                "launch.strategy", f"{self.strategy} needs two processes or more (launch.processes). Set it to ddp."
            )
        if self.offload and self.strategy == "ddp":
            yield Problem(
                "launch.offload", "ddp (launch.strategy) shares nothing out that could be kept elsewhere. Turn it off."
            )

    def _places(self) -> Iterator[Problem]:
        """Devices and machines."""
        if wrong := [name for name in self.devices if not name.isdecimal()]:
            yield Problem("launch.devices", f"{', '.join(wrong)} is no number of a device. They count from 0.")
        elif len({int(name) for name in self.devices}) < len(self.devices):
            yield Problem("launch.devices", "A device is named twice. Each process needs one of its own.")
        elif self.devices and self.processes != AUTO and self.processes != len(self.devices):
            said = f"{self.processes} processes cannot have one each of {len(self.devices)} devices (launch.devices)."
            yield Problem("launch.processes", f"{said} Leave it on auto.")
        if self.machines > 1 and not self.address:
            yield Problem("launch.address", "launch.machines is above 1: say where machine 0 is reached.")
        if self.number >= self.machines:
            said = f"There is no machine {self.number} among {self.machines} (launch.machines)."
            yield Problem("launch.number", f"{said} They count from 0.")

    def _splits(self) -> Iterator[Problem]:
        """Processes that work on the same rows."""
        if self.tensor_parallel > 1:
            said = "transformers cannot save a model split this way so that its training goes on."
            yield Problem("launch.tensor_parallel", f"{said} Set it to 1, and launch.strategy to fsdp.")
        if self.pipeline_parallel > 1:
            said = "accelerate's parallelism configuration has no pipeline to train with."
            yield Problem("launch.pipeline_parallel", f"{said} Set it to 1, and launch.strategy to fsdp.")
        elif self.everywhere % self.together:
            said = f"{self.everywhere} processes cannot be made of groups of {self.together}"
            yield Problem("launch.processes", f"{said} (tensor x context x sequence parallel). Make it a multiple.")
        if self.context_parallel > 1 and self.strategy != "fsdp":
            yield Problem(
                "launch.context_parallel",
                f"It goes with fsdp (launch.strategy), not with {self.strategy}. Set it to 1.",
            )
        if self.sequence_parallel > 1 and self.strategy not in ("zero2", "zero3"):
            yield Problem(
                "launch.sequence_parallel",
                f"It goes with zero2 and zero3 (launch.strategy), not with {self.strategy}. Set it to 1.",
            )


def command(launch: Launch, program: list[str], *, cpu: bool) -> list[str]:
    """`accelerate launch` for this machine's processes; `program` is a Python module and its words.

    How the work is shared out is told to the trainer, not to the launcher, which starts processes alone: so it is the
    same line for every strategy and device. On a CPU it is asked for nothing of the device, as it would want MPI.
    """
    words = ["--multi_gpu", "--num_processes", str(launch.everywhere), "--num_machines", str(launch.machines)]
    words += ["--machine_rank", str(launch.number), "--mixed_precision", "no", "--dynamo_backend", "no"]
    words += ["--main_process_port", str(launch.port if launch.machines > 1 else 0)]
    if launch.machines > 1:
        words += ["--main_process_ip", launch.address]
    if launch.devices and not cpu:
        words += ["--gpu_ids", ",".join(launch.devices)]
    return ["-m", "accelerate.commands.accelerate_cli", "launch", *words, "-m", *program]
