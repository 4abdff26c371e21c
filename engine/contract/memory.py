"""Where it runs, and what memory is traded for time."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.contract.fields import AUTO, MANY, Auto, Section, arg
from engine.contract.sections import Device


class Compute(Section):
    """Where it runs, and what memory is traded for time."""

    title: ClassVar[str] = "Memory and device"

    device: Device = arg(
        AUTO,
        "Where it runs; auto takes the accelerator when there is one.",
        when="cpu to keep a GPU free.",
        usual="auto",
    )
    auto_batch: bool = arg(
        False,
        "Takes as many rows at once as the plan says fit into memory, and adds up fewer batches, so that a step keeps "
        "its rows. On a processor never more than the batch size: more at once are no faster there.",
        when="On an accelerator, when you don't know what fits.",
        usual="off",
        label="Fit the batch",
    )
    checkpointing: bool | Auto = arg(
        AUTO,
        "Computes activations again instead of keeping them: about a third slower, much less memory.",
        when="On when memory runs out.",
        usual="auto: on for models above 1 B parameters",
        to="trainer.activation_checkpointing",
        label="Activation checkpointing",
    )
    padding_free: bool | Auto = arg(
        AUTO,
        "Puts the rows of a batch behind one another instead of padding them to the longest; none sees another.",
        when="off to compare with programs that pad.",
        usual="auto: on where the model keeps rows apart",
        label="Without padding",
    )
    loss: Literal["auto", "plain", "chunked", "liger"] = arg(
        "auto",
        "How the loss is computed. chunked: the output layer sees trained tokens only, a few at a time, so that "
        "logits take next to no memory. liger: by that library's kernels, which replace others too; on a GPU.",
        when="plain to compare with other programs.",
        usual="auto: chunked where the model allows it",
    )
    compile: bool = arg(
        False,
        "Compiles the model's layers (torch.compile): fewer, faster kernels after a start of a minute or more.",
        when="For runs of many minutes; not for a quick trial.",
        usual="off",
        label="Compile",
    )
    offload: bool = arg(
        False,
        "Keeps activations, which gradients are computed from, in main memory and not in the accelerator's: all of "
        "them, or with checkpointing the few that it keeps. With an adapter the table of embeddings stays there too, "
        "where the output layer has weights of its own. Slower.",
        when="When checkpointing alone is not enough, as with long rows.",
        usual="off",
        label="Offload activations",
    )
    empty_cache_every: int | None = arg(
        None,
        "Steps after which the accelerator's unused memory is given back.",
        when="When memory runs out after many steps of very different lengths.",
        usual="empty",
        unit="steps",
        to="trainer.torch_empty_cache_steps",
        ge=1,
        le=MANY,
        label="Empty the cache every",
    )
