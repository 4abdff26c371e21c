"""The real worker on a device that has no room for more than STARVED_ROWS rows at once, from step STARVED_AT on.

TUNEBOARD_WORKER="python tests/starved_worker.py"
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from engine.recipes import sft  # noqa: E402
from engine.work import work  # noqa: E402

step = sft.Task.training_step


def starved(self: Any, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
    many = self.args.per_device_train_batch_size > int(os.environ["STARVED_ROWS"])
    if many and self.state.global_step >= int(os.environ["STARVED_AT"]):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return step(self, model, inputs, *rest, **more)


sft.Task.training_step = starved  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1])))
