"""Supervised fine-tuning with TRL alone, as a script: `python -m tests.bench.plain_trl JOB.json`.

What the engine's own run is measured against. It imports nothing of this project. The job names the model, the rows,
the settings and the journal; a row without `input_ids` is left to TRL to render and mask.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer


class Counting(SFTTrainer):
    """Counts what it trains on, so that speeds can be compared."""

    real = trained = 0

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        self.real += int(inputs["attention_mask"].sum())
        self.trained += int((inputs["labels"][:, 1:] != -100).sum())
        return super().training_step(model, inputs, *rest, **more)


class Journal(TrainerCallback):
    """One JSON line for each loss that is logged."""

    def __init__(self, path: str) -> None:
        self.file = open(path, "w", encoding="utf-8")
        self.trainer: Any = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            record = {"t": time.time(), "step": state.global_step, "loss": logs["loss"]}
            record |= {"tokens": self.trainer.real, "trained": self.trainer.trained}
            print(json.dumps(record), file=self.file, flush=True)


def main(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        job = json.load(file)
    journal = Journal(job["journal"])
    trainer = Counting(
        model=job["model"],
        args=SFTConfig(**job["trainer"]),
        train_dataset=Dataset.from_list(job["rows"]),
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **job["lora"]),
        callbacks=[journal],
    )
    journal.trainer = trainer
    trainer.train()


if __name__ == "__main__":
    main(sys.argv[1])
