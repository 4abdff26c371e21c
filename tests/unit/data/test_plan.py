"""The planner's arithmetic, against figures known from the literature and numbers counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data import models
from data.planning import activations, optimisers
from data.planning.compute import Written, per_answer, per_token, work
from data.planning.memory import Memory, memory
from data.planning.past import Measured
from data.planning.plan import Plan, planned
from data.planning.shape import Shape, Subject, begun
from engine.contract import machine, text
from engine.contract.args import TrainArgs
from engine.contract.machine import Memory as Room
from engine.contract.methods import Full
from engine.plan import made

GB = 1e9
# Llama-3-8B with a vocabulary of 128,000, and 4 rows of 8,192 tokens.
LLAMA = Shape(hidden=4096, inner=14336, layers=32, heads=32, keys=8, head=128, vocabulary=128_000)
ROWS, LENGTH = 4, 8192
B8 = Subject(LLAMA, LLAMA.tensors(), 8_028_164_096)
SMALL = Shape(hidden=576, inner=1536, layers=30, heads=9, keys=3, head=64, vocabulary=49_152, tied=True)
M135 = Subject(SMALL, SMALL.tensors(), 134_515_008)


def close(value: float) -> Any:
    return pytest.approx(value, rel=0.01)


def args(**said: Any) -> TrainArgs:
    usual = {"compute": {"checkpointing": False}, "model": {"dtype": "fp32"}, "steps": {"batch_size": ROWS}}
    return TrainArgs.model_validate({**usual, **said})


def needs(subject: Subject = M135, longest: int = 128, **said: Any) -> Memory:
    return memory(subject, args(**said), longest=longest, device="cuda")


class TestGolden:
    """The textbook's figures for Llama-3-8B, to 1 %. A GB is 1e9 bytes."""

    def test_parameters(self):
        assert Subject.configured({
            "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "vocab_size": 128_000,
        }).parameters == close(8.03e9)  # fmt: skip

    def test_weights_in_bf16(self):
        assert needs(B8, model={"dtype": "bf16"}).parts["weights"] == close(16 * GB)

    def test_weights_gradients_and_adam_states_take_sixteen_bytes_a_parameter(self):
        """fp32 weights, gradients and two moments: 4 + 4 + 4 + 4. (With bf16 weights and gradients beside an fp32 copy
        and the moments it is 2 + 2 + 4 + 4 + 4: the same.)"""
        found = needs(B8, method="full").parts
        assert found["weights"] == 0
        assert sum(found[name] for name in ("trained weights", "gradients", "optimiser")) == close(128 * GB)

    def test_naive_activations_scores_and_logits(self):
        """24 bsh a layer, one matrix of scores and the logits, each value of 2 bytes."""
        values, scores, logits = activations.naive(LLAMA, ROWS, LENGTH)
        assert values == 24 * ROWS * LENGTH * 4096 * 32 * 2
        assert scores == 2 * ROWS * 32 * LENGTH**2 * 32
        assert logits == 2 * ROWS * LENGTH * 128_000
        assert values + scores + logits == close(764 * GB)
        assert values + scores + logits + 16 * B8.parameters == close(890 * GB)

    def test_eight_bits_take_a_quarter_of_the_optimiser_s_state(self):
        assert optimisers.state("adamw_bnb_8bit") == optimisers.state("adamw_torch") / 4 == 2
        wide, narrow = optimisers.state("lion_32bit"), optimisers.state("lion_8bit")
        assert (wide, narrow) == (4, 1)

    def test_offloading_checkpoints_leaves_two_of_thirty_three(self):
        bsh = ROWS * LENGTH * 4096
        assert activations.checkpoints(LLAMA, ROWS, LENGTH, offloaded=False) == bsh * (32 + 1)
        assert activations.checkpoints(LLAMA, ROWS, LENGTH, offloaded=True) == 2 * bsh


class TestMemory:
    def test_the_parts_are_the_whole(self):
        found = needs()
        assert found.total == sum(found.parts.values())

    def test_an_adapter_leaves_the_weights_as_wide_as_they_were_loaded(self):
        trained = 4_884_480
        assert needs().parts["weights"] == 4 * M135.parameters
        assert needs(model={"dtype": "bf16"}).parts["weights"] == 2 * M135.parameters
        assert needs().parts["optimiser"] == 8 * trained and needs().parts["trained weights"] == 4 * trained
        assert needs(model={"dtype": "bf16"}).parts["trained weights"] == 6 * trained  # and autocast's copy

    def test_what_comes_and_goes_grows_with_the_batch_and_the_length(self):
        one = needs(steps={"batch_size": 1}).parts["activations"]
        assert needs(steps={"batch_size": 2}).parts["activations"] == 2 * one
        assert needs(longest=256, steps={"batch_size": 1}).parts["activations"] == 2 * one

    def test_checkpointing_keeps_the_inputs_of_layers_and_the_one_that_is_worked_on(self):
        tokens = ROWS * 128
        one = needs().parts["activations"] / 30
        found = needs(compute={"checkpointing": True}).parts["activations"]
        assert found == pytest.approx(31 * tokens * 576 * 4 + 2 * one)

    def test_what_autograd_keeps_of_a_layer_was_counted(self):
        """Bytes a token and layer that torch saved for SmolLM2, without embeddings, logits and weights (see
        tests/bench/MEASUREMENTS.md): 710,500 / 30 with LoRA in bf16, 1,344,000 / 30 for all weights in fp32."""
        lora = activations.layer(SMALL, args(model={"dtype": "bf16"}, method={"kind": "lora", "rank": 16})).total
        full = activations.layer(SMALL, args(method="full")).total
        assert lora == pytest.approx(710_500 / 30, rel=0.02)
        assert full == pytest.approx(1_344_000 / 30, rel=0.02)

    def test_eager_attention_pays_for_the_matrix_of_scores(self):
        fused, eager = (needs(longest=512, model={"dtype": "fp32", "attention": name}) for name in ("sdpa", "eager"))
        scores = eager.parts["activations"] - fused.parts["activations"]
        assert scores == 30 * ROWS * 9 * 512 * 512 * 4

    def test_pairs_are_two_conversations_and_a_reference_is_a_copy_of_what_moves(self):
        answers, pairs = needs(), needs(task="dpo")
        assert pairs.parts["activations"] == 2 * answers.parts["activations"]
        assert pairs.parts["other models"] == 0  # the base with its adapter off
        assert needs(task="dpo", method="full").parts["other models"] == 4 * M135.parameters
        before = {"kind": "dpo", "precompute_reference": True}
        assert needs(task=before, method="full").parts["other models"] == 0

    def test_answers_that_are_written_need_keys_and_values_of_every_token(self):
        steps = {"batch_size": 4, "accumulation": 4096}
        found = needs(task="grpo", longest=300, steps=steps).parts
        written = 4 * 4096 * 300 * 2 * 30 * 192 * 4  # rows, tokens, two of each layer, in fp32
        assert found["answers"] + found["activations"] + found["logits"] == written
        assert needs(task="grpo", longest=300, steps={"batch_size": 4, "accumulation": 2}).parts["answers"] == 0

    def test_a_model_that_scores_has_no_logits_of_a_vocabulary(self):
        assert needs(task="reward").parts["logits"] == 0 < needs(task="dpo").parts["logits"]
        scores, prefers = (per_token(M135, args(task=name), 1) for name in ("reward", "simpo"))
        assert prefers - scores == 4 * 576 * 49_152  # forward and back

    def test_of_frozen_layers_nothing_is_kept(self):
        two = needs(method={"kind": "freeze", "layers": 2}).parts["activations"]
        assert two == pytest.approx(needs(method={"kind": "freeze", "layers": 1}).parts["activations"] * 2)

    def test_shards_divide_what_is_divided_and_nothing_else(self):
        alone = needs(method="full")
        launch = {"processes": 4, "strategy": "zero2"}
        stage2 = needs(method="full", launch=launch)
        stage3 = needs(method="full", launch={**launch, "strategy": "zero3"})
        for part in ("gradients", "optimiser"):
            assert stage2.parts[part] == stage3.parts[part] == alone.parts[part] / 4
        assert stage2.parts["trained weights"] == alone.parts["trained weights"]
        assert stage3.parts["trained weights"] == alone.parts["trained weights"] / 4
        assert needs(method="full", launch={"processes": 4}).total == alone.total  # ddp: a whole model in each

    def test_a_frozen_table_that_the_output_layer_does_not_share_is_offloaded_with_activations(self):
        there, away = (needs(B8, compute={"checkpointing": True, "offload": on}) for on in (False, True))
        table = 4 * 128_000 * 4096
        assert away.parts["weights"] == there.parts["weights"] - table and away.host > table
        kept = {"checkpointing": True, "offload": True}
        tied, taught = needs(compute=kept), needs(B8, compute=kept, method={"extra_modules": ["embed_tokens"]})
        assert tied.parts["weights"] == 4 * M135.parameters
        assert taught.parts["weights"] == 4 * B8.parameters

    def test_an_8b_learns_in_four_bits_from_two_thousand_tokens_in_less_than_six_and_a_half_gigabytes(self):
        found = needs(
            B8, longest=2048, steps={"batch_size": 1}, model={"dtype": "bf16", "quantisation": "nf4"},
            method={"kind": "lora", "rank": 16}, compute={"checkpointing": True, "loss": "chunked", "offload": True},
            optim={"optimiser": "adamw_bnb_8bit"},
        )  # fmt: skip
        assert found.total - found.parts["program"] < 6.5 * GB

    def test_what_is_offloaded_is_in_main_memory(self):
        launch = {"processes": 2, "strategy": "zero2"}
        there, away = (needs(method="full", launch={**launch, "offload": on}) for on in (False, True))
        moved = there.parts["gradients"] + there.parts["optimiser"]
        assert away.parts["gradients"] == away.parts["optimiser"] == 0
        assert (away.host, there.host) == (moved, 0) and away.total == there.total - moved

    @pytest.mark.parametrize(
        ("name", "octets"),
        [("adamw_torch_fused", 8), ("paged_adamw_8bit", 2), ("sgd", 0), ("lion_8bit", 1), ("ademamix", 12),
         ("lomo", 0), ("adafactor", 0.04), ("schedule_free_adamw", 8), ("adamw_torch_4bit", 1), ("never_heard", 8)],
    )  # fmt: skip
    def test_optimisers_by_name(self, name: str, octets: float) -> None:
        assert optimisers.state(name) == octets


def test_processes_on_a_processor_share_its_memory(tmp_path: Path) -> None:
    now = Room(total=20 * 10**9, free=16 * 10**9)
    here = {"compute": {"checkpointing": False, "device": "cpu"}, "launch": {"processes": 4}}
    found = planned(args(**here), M135, tmp_path, now=now)
    assert (found.free, found.total) == (4 * 10**9, 5 * 10**9)
    each = planned(
        args(compute={"checkpointing": False, "device": "cuda"}, launch={"processes": 4}), M135, tmp_path, now=now
    )
    assert each.free == now.free


def test_rows_at_once_are_chosen_by_the_memory_that_each_process_has(tmp_path: Path) -> None:
    said = {"compute": {"checkpointing": False, "device": "cpu", "auto_batch": True}, "launch": {"processes": 4}}
    share = 1.1 * memory(M135, args(**said), longest=512).total
    found = planned(args(**said), M135, tmp_path, now=Room(total=10**12, free=round(4 * share)))
    assert found.args.steps.batch_size == ROWS and found.fits


def test_a_run_on_the_processor_of_a_machine_with_an_accelerator_has_main_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "machine", lambda: machine.Machine("cuda", "some GPU", 8, True))
    monkeypatch.setattr(machine, "_nvidia", lambda *_: ["100, 50"])
    found = planned(args(compute={"checkpointing": False, "device": "cpu"}), M135, tmp_path)
    assert found.total == machine.main_memory().total


class TestShapes:
    def test_a_model_that_is_only_known_by_its_size_is_near_one_that_is_known(self):
        guessed = Subject.sized(8_028_164_096)
        assert guessed.parameters == close(B8.parameters) and guessed.known == "size"
        known, rough = (needs(one, longest=2048).total for one in (B8, guessed))
        assert rough == pytest.approx(known, rel=0.2)

    def test_experts_weigh_all_and_work_a_few(self):
        config = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                  "vocab_size": 100}  # fmt: skip
        plain = Subject.configured(config)
        mixed = Subject.configured({**config, "num_local_experts": 8, "num_experts_per_tok": 2})
        feed = 2 * 3 * 64 * 128
        assert mixed.parameters - plain.parameters == 7 * feed + 2 * 8 * 64
        assert mixed.working - plain.working == feed + 2 * 8 * 64

    def test_a_config_without_layers_is_refused(self):
        with pytest.raises(ValueError, match="no layers"):
            Subject.configured({"model_type": "unheard"})


class TestWork:
    def test_training_takes_six_operations_a_weight_and_frozen_ones_four(self):
        full, lora = (per_token(B8, args(method=name), 1) / B8.working for name in ("full", "lora"))
        assert full == pytest.approx(6, rel=0.01) and lora == pytest.approx(4, rel=0.05)

    def test_checkpointing_computes_the_layers_again(self):
        plain, again = (per_token(B8, args(method="full", compute={"checkpointing": on}), 1) for on in (False, True))
        layers = B8.working - 128_000 * 4096
        assert again - plain == pytest.approx(2 * layers, rel=1e-3)

    def test_attention_grows_with_the_length(self):
        short, long = (per_token(B8, args(method="full"), length) for length in (1, 8193))
        assert long - short == 6 * 4096 * 8192 * 32  # of 12, half: no token looks ahead

    def test_the_time_is_told_by_what_is_nearest(self):
        known = {"steps": 10, "tokens": 1000.0, "length": 100.0}
        told = work(M135, args(), **known, measured=10, earlier=20, rate=1e9)
        assert (told.seconds, told.basis) == (100, "measured")
        assert work(M135, args(), **known, earlier=20, rate=1e9).basis == "earlier"
        rate = work(M135, args(), **known, rate=1e9)
        assert rate.basis == "rate" and rate.seconds == pytest.approx(rate.operations / 0.3e9)
        assert work(M135, args(), **known).seconds is None

    @pytest.mark.parametrize(
        ("task", "looks", "lessons"),
        [
            ({"kind": "ppo", "passes": 3}, 2, 3), ({"kind": "grpo"}, 1, 1), ({"kind": "grpo", "beta": 0}, 0, 1),
            ({"kind": "grpo", "iterations": 2}, 2, 2), ({"kind": "rloo"}, 2, 1), ({"kind": "rloo", "beta": 0}, 1, 1),
        ],
    )  # fmt: skip
    def test_an_answer_is_written_read_and_learnt_from_as_often_as_its_task_does(
        self, task: dict[str, Any], looks: int, lessons: int
    ) -> None:
        """Counted by hand: 2 operations a weight to write or read a token, 6 to learn from it; logits at answers."""
        said = args(task=task, method="full")
        head, attention = 128_000 * 4096, 2 * 4096 * 300 * 32
        layers = B8.working - head
        forward = 300 * (2 * layers + attention) + 200 * 2 * head
        learnt = 300 * (4 * layers + 3 * attention + 2 * B8.working) + 200 * 4 * head
        answers = Written(many=10, prompt=100, longest=200, at_once=4, judge=7.0)
        found = per_answer(B8, said, answers)
        assert found == pytest.approx((1 + looks) * forward + lessons * learnt + 7 * 300, rel=1e-9)
        told = work(B8, said, steps=5, tokens=1, length=100, answers=answers, rate=1e12)
        assert (told.steps, told.tokens, told.written) == (5, 3000, 2000)
        assert told.operations == 10 * found and told.seconds == pytest.approx(10 * found / 0.3e12)

    def test_what_is_written_waits_for_the_weights_to_be_read(self):
        answers = Written(many=8, prompt=10, longest=20, at_once=4)
        said = args(task="grpo", model={"dtype": "bf16"})
        known = {"steps": 1, "tokens": 0, "length": 10, "answers": answers, "rate": 1e12}
        quick, slow = (work(M135, said, **known, reading=reading).seconds for reading in (0, 1e9))
        assert slow - quick == pytest.approx(2 * 20 * 2 * M135.parameters / 1e9)  # two lots of 20 tokens, in 16 bits

    def test_heads_that_say_what_tokens_are_worth_are_counted_where_tokens_are_trained(self):
        head = 576 * 577 + 49_152 * 577
        known = {"steps": 1, "tokens": 1000.0, "length": 100.0}
        plain, learnt = (work(M135, args(task="ilql"), **known, trained=many).operations for many in (0, 300))
        assert learnt - plain == pytest.approx(300 * (2 * 8 * head + 6 * 576 * 577))
        assert needs(task="ilql").parts["other models"] == 2 * 20 * head + 16 * 576 * 577


class TestPlan:
    def plan(self, **more: Any) -> Plan:
        return Plan(args(), M135, 1, 128, Memory({"weights": 100}), **{"free": 200, "total": 400, **more})

    def test_what_was_measured_is_believed_first(self):
        plan = self.plan(measured=Measured(peak=250), earlier=150.0)
        assert (plan.basis, plan.needed, plan.fits) == ("measured", 250, False)
        assert (self.plan(earlier=150.0).needed, self.plan().needed) == (150, 100)

    def test_out_of_memory_is_a_result_too(self):
        plan = self.plan(measured=Measured(out_of_memory=True), free=10**12)
        assert not plan.fits


class TestWhatIsTrained:
    """Where the run begins with another model than the one that is named, that one is counted."""

    def test_a_model_from_scratch_counts_in_its_own_size(self, workspace: Path):
        from transformers import AutoConfig, AutoModelForCausalLM

        size = {"layers": 3, "hidden": 48, "heads": 4, "key_value_heads": 2, "feed_forward": 96}
        begins = {"kind": "pretrain", "start": "scratch", "size": size, "vocabulary": 400}
        found = begun(args(model="tiny", task=begins, method="full"), tiny_card(workspace))
        config = AutoConfig.from_pretrained(workspace / "models" / "tiny")
        config.update({
            "num_hidden_layers": 3, "hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
            "intermediate_size": 96, "vocab_size": 400, "head_dim": 12, "layer_types": None,
        })  # fmt: skip
        drawn = AutoModelForCausalLM.from_config(config)
        assert found and found.parameters == found.trained(Full()) == drawn.num_parameters()

    def test_new_tokens_count_as_weights_and_are_learnt_beside_an_adapter(self, workspace: Path):
        wanted = args(model={"path": "tiny", "new_tokens": ["What", "<step>"]})
        plain, found = Subject.of(tiny_card(workspace)), begun(wanted, tiny_card(workspace))
        assert found and found.shape.tied and found.parameters == plain.parameters + 2 * plain.shape.hidden
        assert found.trained(wanted.method) == plain.trained(wanted.method) + 2 * plain.shape.hidden
        assert found.trained(Full()) == found.parameters
        apart = Subject(LLAMA, LLAMA.tensors(), 8_028_164_096).grown(2)  # whose output layer is its own
        assert apart.trained(wanted.method) == B8.trained(wanted.method) + 2 * 2 * 4096

    def test_rows_are_counted_with_the_new_tokens(self, workspace: Path):
        said = ["model=tiny", "data=sums.jsonl", "data.split=100/0/0", "data.max_length=128"]
        plain, grown = (
            made(text.parse({}, [*said, *more], kind="train"), workspace).work
            for more in ([], ["model.new_tokens=[What]"])
        )
        assert plain and grown and grown.tokens < plain.tokens


def tiny_card(workspace: Path) -> models.Card:
    return models.card(workspace / "models" / "tiny")
