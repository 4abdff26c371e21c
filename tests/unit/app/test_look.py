"""The place where rows are looked at offers choices, and leaves alone what was chosen meanwhile."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from app.form import Form
from app.planning import rows
from app.planning.look import RowsView
from engine.contract.args import TrainArgs


def test_new_choices_leave_what_is_chosen_alone_and_replace_only_what_is_gone(tmp_path: Path) -> None:
    with gr.Blocks():
        view = RowsView(tmp_path, [], Form(TrainArgs, "x", {}), lambda _: None)
    before = [("Something else", "gone")]
    _, kept, _ = view.offer(None, before, rows.ORDER)
    assert "value" not in kept._constructor_args[0]  # an answer on its way must not undo a newer choice
    _, replaced, _ = view.offer(None, before, "gone")
    assert replaced._constructor_args[0]["value"] == rows.ORDER
