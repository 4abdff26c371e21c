"""Scores texts by a model: a reward run of this board, or any text classifier with a chosen label.

PPO and GRPO ask here for rewards, Export to compare. A text is scored on its own: what stands beside it in a batch
changes nothing. Knows nothing of tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data import weights
from data.encoding.mask import learnt, locate
from data.encoding.render import ChatTemplate
from data.encoding.tokens import TextTokenizer
from data.rows.conversation import Message, Row
from engine.exporting import lineage
from engine.models.loading import classifier_of
from engine.models.model import dtype_of, folder_of, tokenizer_of, with_adapter

Scored = str | list[Message]


@dataclass(frozen=True)
class Scorer:
    """`model` is a sequence classifier.   label: which of its classes, None where it has one number.

    template: how conversations are written for it, None where it reads plain text alone.   context: tokens that it
    reads; of a longer text it reads the end, where the answer is.
    """

    model: Any
    tokenizer: Any
    context: int
    label: int | None = None
    template: ChatTemplate | None = None
    marks: TextTokenizer | None = None

    @classmethod
    def of(
        cls, ref: str, workspace: Path, device: torch.device, label: str | None = None, dtype: str = "auto"
    ) -> Scorer:
        """What `ref` names (a reward run or its checkpoint, an export, an adapter, a folder), ready to score.

        label: a class by its name or number, for a classifier with several. Raises ModelError with the way out.
        """
        found = lineage.of(ref, workspace)
        adapter = found.weights.adapter
        code = found.trust_remote_code
        folder = folder_of(found.weights.base, workspace, found.revision, code=code)
        weights.check_scores(ref, adapter or folder)
        tokenizer = tokenizer_of(folder, trust_remote_code=code)
        model = classifier_of(
            folder, pad_id=tokenizer.pad_token_id, dtype=dtype_of(dtype, device), device=device,
            trust_remote_code=code, quantisation=found.weights.quantisation,
            double_quantisation=found.weights.double_quantisation, **({"num_labels": 1} if adapter else {}),
        )  # fmt: skip
        if adapter:
            model = with_adapter(model, adapter)
        template, marks = None, None
        if tokenizer.chat_template or found.template:
            template, marks = ChatTemplate.of(folder, found.template), TextTokenizer.of(folder)
        names = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]
        chosen = weights.label_of(ref, names, label or "")
        return cls(model.requires_grad_(False).eval(), tokenizer, _context(model, tokenizer), chosen, template, marks)

    @torch.no_grad()
    def scores(self, texts: Sequence[Scored], batch_size: int = 8) -> torch.Tensor:
        """(texts,) fp32 on the CPU: the model's number, or the log-odds of the chosen class against all others.

        A text is read as it is; a list of messages is written by the template, up to the end of the last answer, as
        in training.
        """
        rows = [self._ids(text)[-self.context :] for text in texts]
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))  # little padding
        found = torch.zeros(len(rows))
        for start in range(0, len(rows), batch_size):
            places = order[start : start + batch_size]
            batch = self.tokenizer.pad(
                {"input_ids": [rows[place] for place in places]}, padding_side="right", return_tensors="pt"
            )
            said = self.model(**batch.to(self.model.device)).logits.float().cpu()
            found[places] = self._number(said)
        return found

    def _number(self, logits: torch.Tensor) -> torch.Tensor:
        """(rows,) out of (rows, classes)."""
        if self.label is None:
            return logits[:, 0]
        if self.model.config.problem_type == "multi_label_classification":  # each class is a question of its own
            return logits[:, self.label]
        others = [place for place in range(logits.shape[1]) if place != self.label]
        return logits[:, self.label] - logits[:, others].logsumexp(1)

    def _ids(self, text: Scored) -> list[int]:
        if isinstance(text, str):
            return list(self.tokenizer(text).input_ids)
        if self.template is None or self.marks is None:
            said = "\n\n".join(str(message["content"]) for message in text)
            return list(self.tokenizer(said).input_ids)
        rendered = locate(Row(text, None, "", 0), self.template, "last")
        encoded = self.marks.encode(rendered.text)
        stretches, _ = learnt(rendered, encoded, self.marks)
        return encoded.ids[: stretches[-1][1]] if stretches else encoded.ids


def _context(model: Any, tokenizer: Any) -> int:
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(min(found or tokenizer.model_max_length, tokenizer.model_max_length))
