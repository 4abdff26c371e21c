"""What cannot be combined: one table, read by form, check and engine alike.

`RULES` are about the arguments alone; what they need of a machine is in `needs.py`. Each rule says in a sentence which
fields do not go together and what to do. To add one is to add a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.contract.adapters import Lora
from engine.contract.dataset import Split
from engine.contract.errors import Problem
from engine.contract.fields import AUTO
from engine.contract.needs import FLASH
from engine.contract.solvers import BY_MEASURE, FREE_OF_SCHEDULES, SOLVERS, Solver
from engine.contract.tuners import ONE_FOR_ALL

if TYPE_CHECKING:
    from engine.contract.args import TrainArgs

MEASURE = "Raise the share for validation, name data.validation, or turn this off."


class Rule(NamedTuple):
    """`broken(args)` tells whether `args` break it; `text` is formatted with `args`, and is shown at `path`."""

    path: str
    broken: Callable[[TrainArgs], bool]
    text: str


def _at_once(args: TrainArgs) -> int:
    """Rows that go through the model at once, on all devices."""
    return args.steps.batch_size * args.launch.replicas


def _divides(args: TrainArgs) -> bool:
    return args.steps.global_batch == AUTO or int(args.steps.global_batch) % _at_once(args) == 0


def _adds_up(args: TrainArgs) -> bool:
    steps = args.steps
    given = steps.global_batch != AUTO and steps.accumulation != AUTO
    return not given or int(steps.global_batch) == _at_once(args) * int(steps.accumulation)


def _step_rows(args: TrainArgs) -> int:
    """Rows of an optimiser step as far as they are said; 0 where they are made to suit the task."""
    if args.steps.accumulation != AUTO:
        return _at_once(args) * int(args.steps.accumulation)
    return 0 if args.steps.global_batch == AUTO else int(args.steps.global_batch)


def _measures(args: TrainArgs) -> bool:
    return bool(args.data.validation) or Split.of(args.data.split).validation > 0


def _solver(args: TrainArgs) -> Solver:
    return SOLVERS[args.optim.optimiser]


def _several(args: TrainArgs) -> bool:
    """Whether the gradients of several batches are added up before a step."""
    from engine.contract.auto import accumulation_of  # which imports the arguments, which import this

    return accumulation_of(args) > 1


def _least_beyond_auto(args: TrainArgs) -> bool:
    """Whether the lowest rate may not be below a peak on auto, which is lower for large models."""
    from engine.contract.auto import learning_rate

    peak = learning_rate(args, parameters=10**9)
    return args.optim.learning_rate == AUTO and peak != AUTO and args.optim.min_learning_rate >= peak


def _more_least_than_most(args: TrainArgs) -> bool:
    least, most = args.vision.min_pixels, args.vision.max_pixels
    return isinstance(least, int) and isinstance(most, int) and least > most


def _quantised(args: TrainArgs) -> bool:
    return args.model.quantisation != "none"


def _of_lora(args: TrainArgs, name: str) -> Any:
    return getattr(args.method, name) if isinstance(args.method, Lora) else None


RULES: tuple[Rule, ...] = (
    # Steps
    Rule("steps.global_batch", lambda args: not _divides(args) and args.launch.replicas == 1,
         "{args.steps.global_batch} cannot be made of batches of {args.steps.batch_size} (steps.batch_size). "
         "Make it a multiple."),
    Rule("steps.global_batch", lambda args: not _divides(args) and args.launch.replicas > 1,
         "{args.steps.global_batch} cannot be made of batches of {args.steps.batch_size} (steps.batch_size) on "
         "{args.launch.replicas} devices (launch.processes). Make it a multiple of their product."),
    Rule("steps.global_batch", lambda args: _divides(args) and not _adds_up(args) and args.launch.replicas == 1,
         "{args.steps.global_batch} is not {args.steps.batch_size} (steps.batch_size) x {args.steps.accumulation} "
         "(steps.accumulation). Leave steps.accumulation or steps.global_batch on auto."),
    Rule("steps.global_batch", lambda args: _divides(args) and not _adds_up(args) and args.launch.replicas > 1,
         "{args.steps.global_batch} is not {args.steps.batch_size} (steps.batch_size) x {args.steps.accumulation} "
         "(steps.accumulation) x {args.launch.replicas} devices (launch.processes). Leave steps.accumulation or "
         "steps.global_batch on auto."),
    # Questions that the model answers
    Rule("task.group", lambda args: _step_rows(args) % args.task.together != 0,
         "The answers of a step (steps.batch_size x steps.accumulation) do not make whole groups of {args.task.group} "
         "(task.group). Leave steps.accumulation and steps.global_batch on auto, or make them a multiple."),
    Rule("task.max_new_tokens", lambda args: args.task.generates and args.task.max_new_tokens >= args.data.max_length,
         "{args.task.max_new_tokens} leaves no room for the question within data.max_length ({args.data.max_length}). "
         "Lower it, or raise data.max_length."),
    Rule("task.rewards.person",
         lambda args: args.task.generates and args.task.rewards.person and args.launch.replicas > 1,
         "{args.launch.replicas} processes (launch.processes) would wait for you at once. Turn it off, or start one "
         "process on one machine."),
    Rule("method.tuner", lambda args: args.task.kind == "rloo" and getattr(args.method, "tuner", "") == "adalora",
         "RLOO (task.kind) begins with a second adapter, and AdaLoRA is the only one of its model. Choose another "
         "adapter, or GRPO."),
    # Devices
    Rule("launch.strategy", lambda args: args.launch.shards and args.task.generates,
         "{args.task.title} (task.kind) writes answers while it trains, for which every process needs all weights. "
         "Set launch.strategy to ddp or zero2."),
    Rule("launch.strategy", lambda args: args.launch.shards and args.task.head == "value" and not args.task.generates,
         "{args.task.title} (task.kind) has heads beside the model, and {args.launch.strategy} gathers weights only "
         "within it. Set launch.strategy to ddp or zero2."),
    Rule("launch.strategy", lambda args: args.launch.shards and args.task.reference and not args.method.adapter,
         "{args.task.title} (task.kind) keeps a second copy of weights that are all trained, and the copy is not "
         "shared out. Set launch.strategy to ddp or zero2, or method.kind to lora."),
    Rule("launch.strategy", lambda args: args.launch.shards and _quantised(args),
         "The packed weights of {args.model.quantisation} (model.quantisation) are not shared out. Set launch.strategy "
         "to ddp or zero2, or model.quantisation to none."),
    Rule("launch.strategy",
         lambda args: args.launch.strategy != "ddp" and getattr(args.method, "tuner", "") == "adalora",
         "AdaLoRA (method.tuner) judges whole matrices by their gradients, and {args.launch.strategy} shares one or "
         "the other out. Set launch.strategy to ddp."),
    Rule("launch.strategy", lambda args: args.launch.strategy == "fsdp" and getattr(args.method, "keeps_frozen", False),
         "Half of this adapter must stand still (method.init, method.on_top), and fsdp shares the halves out as one. "
         "Set launch.strategy to ddp or zero2, or method.init to default and method.on_top off."),
    Rule("launch.strategy",
         lambda args: args.launch.strategy == "fsdp" and getattr(args.method, "tuner", "") in ONE_FOR_ALL,
         "All layers learn the same numbers with {args.method.tuner} (method.tuner), and fsdp shares each layer out by "
         "itself. Set launch.strategy to ddp, or choose another adapter."),
    Rule("method.own",
         lambda args: args.launch.everywhere > 1 and bool(getattr(args.method, "own", {}).get("module_dropout")),
         "Each process (launch.processes) would leave out other layers, and their gradients would not add up. "
         "Leave module_dropout away, or start one process."),
    Rule("model.attention",
         lambda args: args.launch.shards and args.borders and args.model.attention in FLASH,
         "Whether a model keeps rows apart that share a sequence (data.packing, task.boundaries) is asked before "
         "{args.launch.strategy} (launch.strategy) shares it out, in main memory, where {args.model.attention} cannot "
         "run. Set it to auto."),
    Rule("launch.context_parallel",
         lambda args: args.launch.context_parallel > 1
         and (args.borders or args.task.kind not in ("sft", "pretrain")),
         "Rows are split among devices only for sft and pretrain (task.kind), and not where one sequence holds several "
         "that must not see each other (data.packing, task.boundaries). Set it to 1."),
    Rule("resume.run", lambda args: bool(args.resume.checkpoint and not args.resume.run),
         "resume.checkpoint is set, but no run that it belongs to. Set resume.run too."),
    # Quantised weights
    Rule("model.quantisation", lambda args: _quantised(args) and not args.method.adapter,
         "{args.model.quantisation} weights cannot be trained themselves, as {args.method.kind} (method.kind) would. "
         "Choose lora there, or set model.quantisation to none."),
    Rule("model.quantisation",
         lambda args: _quantised(args) and args.method.adapter and args.model.quantisation not in args.method.stands_on,
         "This adapter (method.kind) cannot stand on {args.model.quantisation} weights. Choose lora, or set "
         "model.quantisation to none."),
    Rule("method.dora", lambda args: bool(_of_lora(args, "dora")) and args.model.quantisation == "int8",
         "DoRA cannot stand on int8 weights. Turn it off, or set model.quantisation to nf4 or torchao_int8."),
    Rule("method.init", lambda args: _quantised(args) and _of_lora(args, "init") in ("pissa", "olora"),
         "{args.method.init} takes the weights in full precision apart. Set method.init to default (or loftq for nf4 "
         "and fp4), or model.quantisation to none."),
    Rule("method.init",
         lambda args: _of_lora(args, "init") == "loftq" and args.model.quantisation not in ("nf4", "fp4"),
         "loftq mends what quantising to 4 bits broke. Set model.quantisation to nf4, or method.init to default."),
    # Adapters
    Rule("method.init", lambda args: _of_lora(args, "init") == "eva" and args.task.generates,
         "eva starts from the rows' answers, and {args.task.title} writes its own. Set method.init to default."),
    Rule("method.init", lambda args: _of_lora(args, "init") == "eva" and args.borders,
         "eva looks at rows one by one, and here they share sequences (data.packing, task.boundaries). Set method.init "
         "to default, or leave each row a sequence of its own."),
    Rule("optim.weight_decay",
         lambda args: isinstance(args.method, Lora) and args.method.keeps_frozen and args.optim.weight_decay > 0,
         "Weight decay would pull at the part of the adapter that must stand still (method.init, method.on_top). Set "
         "it to 0."),
    Rule("data.packing", lambda args: args.data.packing and args.method.virtual,
         "Packed rows would share one learnt prompt ({args.method.title}, method.kind). Turn packing off."),
    Rule("task.boundaries", lambda args: args.task.borders and args.method.virtual,
         "Documents that share a sequence would share one learnt prompt ({args.method.title}, method.kind). Set it to "
         "alone or joined."),
    Rule("method.kind", lambda args: args.method.virtual and args.task.head == "score",
         "A learnt prompt ({args.method.title}) does not reach the score of {args.task.title}. Choose lora."),
    Rule("compute.checkpointing", lambda args: args.method.kind == "prefix" and args.compute.checkpointing is True,
         "Prefix tuning (method.kind) keeps keys that checkpointing would compute twice. Turn checkpointing off."),
    Rule("compute.compile", lambda args: args.compute.compile and args.launch.shards,
         "Layers are compiled where their weights are whole, and {args.launch.strategy} (launch.strategy) shares them "
         "out. Turn it off, or set launch.strategy to ddp."),
    # Memory
    Rule("compute.loss", lambda args: args.compute.loss == "chunked" and not args.task.lean,
         "{args.task.title} (task.kind) asks for the logits of each token. Set compute.loss to auto."),
    Rule("compute.loss",
         lambda args: args.compute.loss == "chunked" and (args.launch.shards or args.launch.context_parallel > 1),
         "The output layer or its rows are shared out (launch.strategy, launch.context_parallel), and the loss in "
         "chunks takes it as a whole. Set compute.loss to auto."),
    Rule("compute.loss",
         lambda args: args.compute.loss == "chunked" and bool(args.model.new_tokens) and args.method.adapter,
         "The output layer learns single tokens (model.new_tokens), and the loss in chunks takes one that is all its "
         "own. Set compute.loss to auto."),
    Rule("compute.padding_free", lambda args: args.compute.padding_free is True and not args.task.lean,
         "The rows of {args.task.title} (task.kind) come padded. Set compute.padding_free to auto."),
    Rule("compute.padding_free", lambda args: args.compute.padding_free is True and args.compute.loss == "liger",
         "liger (compute.loss) takes rows padded. Set compute.padding_free to auto, or compute.loss."),
    Rule("compute.padding_free", lambda args: args.compute.padding_free is True and args.method.virtual,
         "A learnt prompt ({args.method.title}, method.kind) stands before each row. Set compute.padding_free to "
         "auto."),
    Rule("compute.padding_free", lambda args: args.compute.padding_free is True and args.model.attention == "eager",
         "eager attention (model.attention) would compute a mask of all tokens by all. Set one of both to auto."),
    Rule("compute.padding_free",
         lambda args: args.compute.padding_free is True and bool(getattr(args.task, "neftune", None)),
         "The noise on the embeddings goes by the length of a row (task.neftune), which needs rows apart. Set one of "
         "both to empty or auto."),
    Rule("compute.padding_free", lambda args: args.compute.padding_free is True and args.launch.context_parallel > 1,
         "Rows are split among devices (launch.context_parallel). Set compute.padding_free to auto."),
    # Recording
    Rule("record.patience", lambda args: args.record.patience is not None and not _measures(args),
         "No row is held out (data.split is {args.data.split}), so nothing says when to end. " + MEASURE),
    Rule("record.keep_best", lambda args: args.record.keep_best and not _measures(args),
         "No row is held out (data.split is {args.data.split}), so nothing says which weights are best. " + MEASURE),
    # Model
    Rule("model.rope", lambda args: args.model.rope != "none" and getattr(args.task, "start", "weights") == "scratch",
         "A model from scratch (task.start) has no positions to stretch. Set model.rope to none, and the context in "
         "task.size."),
    Rule("model.new_tokens", lambda args: bool(args.model.new_tokens) and not args.method.learns_tokens,
         "{args.method.title} (method.kind) leaves the embeddings as they are, so the new tokens would learn nothing. "
         "Choose lora or full, or freeze with method.embeddings on; or leave model.new_tokens empty."),
    Rule("model.new_tokens",
         lambda args: bool(args.model.new_tokens) and getattr(args.task, "start", "weights") == "scratch",
         "A model from scratch (task.start) learns its tokens from the rows (task.vocabulary). Leave model.new_tokens "
         "empty."),
    Rule("model.new_tokens", lambda args: bool(args.model.new_tokens) and bool(_of_lora(args, "start_from")),
         "The adapter {args.method.start_from} (method.start_from) belongs to the model as it was. Leave it empty, or "
         "model.new_tokens."),
    Rule("model.new_tokens", lambda args: bool(args.model.new_tokens) and args.method.adapter and args.launch.shards,
         "An adapter learns single tokens, and {args.launch.strategy} (launch.strategy) shares whole matrices out. "
         "Set launch.strategy to ddp, or method.kind to full."),
    # Optimiser
    Rule("optim.optimiser", lambda args: _solver(args).matrices and args.method.adapter,
         "{args.optim.optimiser} saves the memory of training the model's own weights, and {args.method.kind} "
         "(method.kind) trains an adapter. Set optim.optimiser to adamw_torch or adamw_8bit, or method.kind to full."),
    Rule("optim.optimiser", lambda args: _solver(args).at_once and _several(args),
         "{args.optim.optimiser} takes its step in every batch, so gradients cannot be added up. Set "
         "steps.accumulation to 1 and raise steps.batch_size, or choose another optimiser."),
    Rule("optim.optimiser", lambda args: _solver(args).at_once and args.task.kind in ("ppo", "ilql"),
         "{args.optim.optimiser} takes its step while gradients are made, and {args.task.title} needs them first. "
         "Choose another optimiser."),
    Rule("optim.optimiser", lambda args: _solver(args).alone and (args.launch.shards or args.launch.everywhere > 1),
         "{args.optim.optimiser} works in one process with whole weights only. Set launch.processes to 1 and "
         "launch.strategy to ddp, or choose another optimiser."),
    Rule("optim.optimiser", lambda args: args.launch.strategy in _solver(args).whole,
         "{args.optim.optimiser} steps on whole weights alone, and {args.launch.strategy} (launch.strategy) shares "
         "them out. Set it to ddp, or optim.optimiser to adamw_torch."),
    Rule("optim.schedule",
         lambda args: args.optim.optimiser in FREE_OF_SCHEDULES
         and args.optim.schedule not in ("constant", "constant_with_warmup"),
         "{args.optim.optimiser} (optim.optimiser) averages weights instead of lowering the rate. Set optim.schedule "
         "to constant."),
    Rule("optim.schedule", lambda args: args.optim.schedule in BY_MEASURE and not _measures(args),
         "{args.optim.schedule} looks at the held-out loss, and no row is held out (data.split is {args.data.split}). "
         + MEASURE.replace("turn this off", "choose cosine")),
    Rule("optim.min_learning_rate", _least_beyond_auto,
         "{args.optim.min_learning_rate:g} may not be below the peak while that is auto (optim.learning_rate). Give "
         "the peak too."),
    Rule("optim.warmup", lambda args: args.optim.warmup > 1 and not args.optim.warmup.is_integer(),
         "{args.optim.warmup} is neither a share (below 1) nor a whole number of steps."),
    Rule("optim.warmup", lambda args: bool(args.steps.max_steps and args.optim.never_peaks(args.steps.max_steps)),
         "{args.optim.warmup:g} steps of warm-up leave none at the full learning rate: the run ends after "
         "{args.steps.max_steps} (steps.max_steps). Lower it, make it a share such as 0.05, or raise steps.max_steps."),
    # Rows
    Rule("data.packing", lambda args: args.data.packing and args.task.kind not in ("sft", "pretrain"),
         "Packing is for SFT (task.kind), not for {args.task.title}. Turn it off."),
    Rule("data.packing", lambda args: args.data.packing and args.task.kind == "pretrain",
         "Pretraining fills its sequences by itself (task.boundaries). Turn packing off."),
    Rule("method.kind", lambda args: getattr(args.task, "start", "") == "scratch" and args.method.kind != "full",
         "From scratch (task.start) every weight must learn, and {args.method.kind} (method.kind) leaves most as they "
         "are. Choose full, or set task.start to weights."),
    # Reinforcement
    Rule("method.dropout", lambda args: args.task.steady and getattr(args.method, "dropout", 0.0) > 0,
         "{args.method.dropout} would blur what {args.task.title} compares: how likely an answer is now, and was when "
         "it was written. Set it to 0, or choose another task (task.kind)."),
    Rule("record.samples", lambda args: bool(args.record.samples) and args.task.head == "score",
         "A reward model writes no answers (task.kind). Leave the sample questions empty."),
    # Pictures
    Rule("vision.language", lambda args: not (args.vision.language or args.vision.projector or args.vision.tower),
         "Nothing would be trained: leave on the language part, projector or tower."),
    Rule("vision.min_pixels", _more_least_than_most,
         "{args.vision.min_pixels} is more than vision.max_pixels ({args.vision.max_pixels}). Lower it."),
)  # fmt: skip


def broken(args: TrainArgs) -> Iterator[Problem]:
    """Every rule that `args` break, on any machine."""
    for rule in RULES:
        if rule.broken(args):
            yield Problem(rule.path, rule.text.format(args=args))
