"""DPO against references written by hand: every loss, its gradient, and what the model is held to."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.recipes import dpo
from engine.report import Stop, Stopped
from tests.e2e.preferring import LORA, PAIRS, PROMPT, ROWS, answer_logps, compare, shake, trainer
from tests.e2e.training import losses, train, weights

BETA, SMOOTHING = 0.3, 0.2


def base(workspace: Path) -> Any:
    from engine.models.model import model_of

    return model_of(workspace / "models" / "tiny", dtype=torch.float32, device=torch.device("cpu"))


def said(model: Any, before: Any) -> list[list[tuple[Tensor, Tensor]]]:
    """For each pair and side the log-probabilities of the answer's tokens, now and before."""
    found = []
    for row in PAIRS:
        with torch.no_grad():
            then = [answer_logps(before, PROMPT + answer) for answer in row]
        found.append([(answer_logps(model, PROMPT + answer), old) for answer, old in zip(row, then, strict=True)])
    return found


def log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log1p(torch.exp(-x))


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def of_pair(loss: str, chosen: Tensor, rejected: Tensor, means: Tensor, smoothing: float) -> Tensor:
    """The loss of one pair as its paper writes it, out of the log ratios of both answers."""
    lead, won, lost = BETA * (chosen - rejected), BETA * chosen, BETA * rejected
    kept, turned = -log_sigmoid(lead), -log_sigmoid(-lead)
    if loss == "sigmoid":
        return (1 - smoothing) * kept + smoothing * turned
    if loss == "hinge":
        return torch.clamp(1 - lead, min=0)
    if loss == "ipo":
        return (means - 1 / (2 * BETA)) ** 2
    if loss == "robust":
        return ((1 - smoothing) * kept - smoothing * turned) / (1 - 2 * smoothing)
    if loss == "exo_pair":
        own = torch.stack([sigmoid(lead), sigmoid(-lead)])
        labelled = torch.tensor([1 - smoothing, smoothing])
        return (own * (own / labelled).log()).sum()
    if loss == "nca_pair":
        return -log_sigmoid(won) - 0.5 * (log_sigmoid(-won) + log_sigmoid(-lost))
    if loss == "bco_pair":
        return -log_sigmoid(won) - log_sigmoid(-lost)
    if loss == "sppo_hard":
        return (chosen - 1 / (2 * BETA)) ** 2 + (rejected + 1 / (2 * BETA)) ** 2
    if loss == "apo_zero":
        return 1 - sigmoid(won) + sigmoid(lost)
    if loss == "apo_down":
        return sigmoid(won) + 1 - sigmoid(lead)
    assert loss == "discopop"
    share = sigmoid(lead / 0.05)
    return (1 - share) * kept + share * torch.exp(-lead)


def reference(model: Any, before: Any, loss: str, smoothing: float) -> Tensor:
    """The mean loss over PAIRS."""
    sides = said(model, before)
    ratios = [[now.sum() - then.sum() for now, then in row] for row in sides]
    if loss == "aot":  # the sorted leads of the model against the sorted leads of the reference
        now, then = (torch.stack([row[0][at].sum() - row[1][at].sum() for row in sides]) for at in (0, 1))
        leads = BETA * (now.sort().values - then.sort().values)
    elif loss == "aot_unpaired":
        leads = BETA * (torch.stack([row[0] for row in ratios]).sort().values
                        - torch.stack([row[1] for row in ratios]).sort().values)  # fmt: skip
    else:
        means = [[(now - then).mean() for now, then in row] for row in sides]
        return torch.stack(
            [of_pair(loss, *row, mean[0] - mean[1], smoothing) for row, mean in zip(ratios, means, strict=True)]
        ).mean()
    return (-(1 - smoothing) * log_sigmoid(leads) - smoothing * log_sigmoid(-leads)).mean()


def prepared(workspace: Path, *overrides: str) -> Any:
    made = trainer(workspace, "dpo", ROWS, f"task.beta={BETA}", *overrides)
    made.model.eval()
    shake(made.model)
    return made


@pytest.mark.parametrize(
    ("loss", "smoothing"),
    [
        ("sigmoid", 0.0), ("sigmoid", SMOOTHING), ("hinge", 0.0), ("ipo", 0.0), ("robust", SMOOTHING),
        ("exo_pair", SMOOTHING), ("nca_pair", 0.0), ("bco_pair", 0.0), ("sppo_hard", 0.0), ("aot", SMOOTHING),
        ("aot_unpaired", SMOOTHING), ("apo_zero", 0.0), ("apo_down", 0.0), ("discopop", 0.0),
    ],
)  # fmt: skip
def test_every_loss_and_its_gradient_equal_the_formula(workspace: Path, loss: str, smoothing: float) -> None:
    made = prepared(workspace, *LORA, f"task.loss={loss}", f"task.label_smoothing={smoothing}")
    compare(made, ROWS, reference(made.model, base(workspace), loss, smoothing))


@pytest.mark.parametrize("loss", list(dpo.LOSSES))
@pytest.mark.parametrize("ratio", [-400.0, 400.0])
def test_no_loss_and_no_gradient_is_ruined_by_answers_far_from_the_reference(loss: str, ratio: float) -> None:
    far = torch.tensor([ratio, ratio / 2], requires_grad=True)
    near = torch.zeros(2)
    value = dpo.LOSSES[loss](dpo.Scores(far, -far, 2 * far, near, far), 0.5, 0.1).sum()
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(far.grad).all()  # type: ignore[arg-type]


def test_every_loss_that_is_offered_has_its_formula_in_the_recipe() -> None:
    from engine.contract.args import TrainArgs
    from engine.contract.fields import walk
    from engine.recipes.dpo import LOSSES

    offered = next(spec for spec in walk(TrainArgs) if (spec.path, spec.variant) == ("task.loss", "dpo"))
    assert set(offered.choices) == set(LOSSES)


@pytest.mark.parametrize("method", [["method=full"], ["method=freeze", "method.layers=1"]], ids=["full", "freeze"])
def test_the_reference_is_the_model_at_its_start_whatever_moves(workspace: Path, method: list[str]) -> None:
    made = prepared(workspace, *method)
    compare(made, ROWS, reference(made.model, base(workspace), "sigmoid", 0.0))


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_adapter_that_takes_weights_over_is_held_to_the_base_all_the_same(workspace: Path, init: str) -> None:
    made = prepared(workspace, *LORA, f"method.init={init}")
    compare(made, ROWS, reference(made.model, base(workspace), "sigmoid", 0.0))


def test_an_adapter_that_goes_on_is_held_to_where_it_began(workspace: Path) -> None:
    from engine.feedback.anchor import as_it_is

    made = prepared(workspace, *LORA)
    start = copy.deepcopy(made.model)  # shaken: its adapter changes what the base says
    ask = as_it_is(made.model)
    batch = made.data_collator(ROWS)
    shake(made.model)
    wanted = torch.stack([answer_logps(start, PROMPT + row[side]).sum() for side in (0, 1) for row in PAIRS])
    with torch.no_grad():
        torch.testing.assert_close(ask(batch).sum(1), wanted.detach(), atol=1e-5, rtol=1e-5)


def test_the_mean_per_token_takes_the_length_out(workspace: Path) -> None:
    made = prepared(workspace, *LORA, "task.per_token=true")
    means = [[(now - then).mean() for now, then in row] for row in said(made.model, base(workspace))]
    compare(made, ROWS, torch.stack([-log_sigmoid(BETA * (row[0] - row[1])) for row in means]).mean())


def test_the_sft_term_is_the_chosen_answers_mean_per_token(workspace: Path) -> None:
    made = prepared(workspace, *LORA, "task.sft_weight=0.5")
    learnt = torch.stack([-answer_logps(made.model, PROMPT + chosen).mean() for chosen, _ in PAIRS]).mean()
    compare(made, ROWS, reference(made.model, base(workspace), "sigmoid", 0.0) + 0.5 * learnt)


def test_what_one_answer_is_longer_by_counts_as_much_as_is_said(workspace: Path) -> None:
    made = prepared(workspace, *LORA, "task.tail_weight=0.25")
    found = []
    for row in said(made.model, base(workspace)):
        shared = min(len(now) for now, _ in row)
        weighed = [[one[:shared].sum() + 0.25 * one[shared:].sum() for one in side] for side in row]
        found.append(-log_sigmoid(BETA * ((weighed[0][0] - weighed[0][1]) - (weighed[1][0] - weighed[1][1]))))
    compare(made, ROWS, torch.stack(found).mean())


@pytest.mark.parametrize("divergence", ["forward_kl", "js", "alpha"])
def test_other_divergences_score_by_their_derivative(workspace: Path, divergence: str) -> None:
    made = prepared(workspace, *LORA, f"task.divergence={divergence}", "task.alpha=0.4")
    scored = {
        "forward_kl": lambda t: -1 / t + 1,
        "js": lambda t: torch.log(2 * t / (1 + t)),
        "alpha": lambda t: (1 - t ** (0.4 - 1)) / (1 - 0.4),
    }[divergence]
    found = []
    for row in said(made.model, base(workspace)):
        chosen, rejected = (scored(torch.exp(now.sum() - then.sum())) for now, then in row)
        found.append(-log_sigmoid(BETA * (chosen - rejected)))
    compare(made, ROWS, torch.stack(found).mean())


@pytest.mark.parametrize("method", [LORA, ["method=full"]], ids=["lora", "full"])
def test_a_reference_asked_beforehand_trains_the_same(workspace: Path, method: list[str]) -> None:
    runs = [trainer(workspace, "dpo", ROWS, *method, f"task.precompute_reference={said}") for said in ("no", "yes")]
    for made in runs:
        made.train()
    assert runs[1].anchor is None
    for name in ("train/loss", "eval/loss", "eval/margin"):
        assert losses(runs[0].run, name) == pytest.approx(losses(runs[1].run, name), abs=1e-6)


def test_another_model_can_be_the_reference(workspace: Path) -> None:
    from tests import tiny

    tiny.model_folder(workspace / "models" / "other", seed=9)
    made = prepared(workspace, *LORA, "task.reference_model=other", "task.precompute_reference=yes")
    from engine.models.model import model_of

    other = model_of(workspace / "models" / "other", dtype=torch.float32, device=torch.device("cpu"))
    rows = [made.train_dataset[place] for place in range(len(ROWS))]
    compare(made, rows, reference(made.model, other, "sigmoid", 0.0))


def test_a_reference_that_reads_other_tokens_is_refused(workspace: Path) -> None:
    import json

    from engine.contract.errors import ArgsError
    from tests import tiny

    folder = tiny.model_folder(workspace / "models" / "foreign")
    told = json.loads((folder / "tokenizer.json").read_text())
    known = told["model"]["vocab"]
    known["a"], known["b"] = known["b"], known["a"]
    (folder / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(ArgsError, match="foreign reads text as other tokens"):
        trainer(workspace, "dpo", ROWS, "task.reference_model=foreign")


@pytest.mark.parametrize(
    "method", [["method=full"], LORA, ["method=freeze", "method.layers=1"]], ids=["full", "lora", "freeze"]
)
def test_training_starts_from_no_margin_and_widens_it(workspace: Path, method: list[str]) -> None:
    made = trainer(workspace, "dpo", ROWS, *method)
    before = copy.deepcopy(made.model.state_dict())
    made.train()
    assert losses(made.run)[0] == pytest.approx(0.693147, abs=1e-5)
    assert losses(made.run, "eval/margin")[0] == pytest.approx(0, abs=1e-6)
    assert losses(made.run, "eval/margin")[-1] > 0.01
    assert losses(made.run, "eval/preferred")[-1] == 1.0
    moved = {name for name, weights in made.model.state_dict().items() if not torch.equal(weights, before[name])}
    free = {name for name, one in made.model.named_parameters(remove_duplicate=False) if one.requires_grad}
    assert moved == free


@pytest.mark.parametrize("method", [LORA, ["method=full"]], ids=["lora", "full"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(workspace: Path, method: list[str]) -> None:
    judged = [
        {"prompt": f"What is {number}?", "chosen": f"It is {number}.", "rejected": "No" * (1 + number % 3)}
        for number in range(12)
    ]
    (workspace / "datasets" / "pairs.json").write_text(json.dumps(judged))
    common = ["task=dpo", "data=pairs.json", *method, "steps.max_steps=6", "record.save_every=2", "record.keep=9",
              "data.split=80/20/0"]  # fmt: skip
    whole = train(workspace, *common)
    stop = Stop()
    stop.asked = True
    with pytest.raises(Stopped):
        train(workspace, *common, stop=stop)
    [stopped] = {path.name for path in (workspace / "runs").iterdir()} - {whole.id}
    expected = weights(whole.model_path)
    for parent, done in ((whole.id, 4), (stopped, 1)):
        resumed = train(workspace, *common, f"resume.run={parent}", f"resume.checkpoint=step-{done}")
        assert losses(resumed) == losses(whole)[done:]
        found = weights(resumed.model_path)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_figures_of_evaluation_do_not_move_with_the_batch_size(workspace: Path) -> None:
    found = []
    for size in ("1", "2", "4"):
        made = trainer(workspace, "dpo", ROWS, *LORA, f"steps.batch_size={size}", "task.sft_weight=0.1")
        shake(made.model)
        made.evaluate()
        found.append([losses(made.run, f"eval/{name}")[-1] for name in ("loss", "margin", "chosen_logp", "preferred")])
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert found[0] == pytest.approx(found[2], abs=1e-5)


def test_checkpointing_changes_no_gradient(workspace: Path) -> None:
    runs = [trainer(workspace, "dpo", ROWS, *LORA, f"compute.checkpointing={said}") for said in ("false", "true")]
    for made in runs:
        made.train()
    assert losses(runs[0].run, "train/grad_norm") == pytest.approx(losses(runs[1].run, "train/grad_norm"), rel=1e-4)
    assert losses(runs[0].run) == pytest.approx(losses(runs[1].run), abs=1e-5)
