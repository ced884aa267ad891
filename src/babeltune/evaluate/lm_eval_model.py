"""What lm-eval's own users need: our scorer as the model `babeltune`, and the rows of our tasks.

lm-eval knows its own models and those that were imported. Importing this module makes
`lm_eval.simple_evaluate("babeltune", …)` work; for the command line see `babeltune.evaluate.lm_eval`. YAML
files of our tasks import it, so a task given by its file brings the model along.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from lm_eval.api.registry import register_model

from babeltune.evaluate.scorer import Scorer
from babeltune.evaluate.tasks import as_datasets, built_in_documents

if TYPE_CHECKING:
    import datasets


# Arguments of `hf` that change its numbers and that `Scorer` has nothing for.
NOT_HERE: Final = ("softmax_dtype", "mixed_precision_dtype", "think_end_token", "parallelize", "tp_plan")


@register_model("babeltune")
class BabeltuneLM(Scorer):
    """The model that lm-eval's `hf` backend loads from the same arguments, scored by `Scorer`.

    There is no batch size to choose: batches are filled by their tokens.

    Raises:
        ValueError: an argument of `hf` that is not known here.
    """

    def __init__(self, pretrained: str, batch_size: object = None, max_batch_size: object = None, **hf: Any):
        from lm_eval.models import huggingface

        refused = [name for name in NOT_HERE if hf.get(name)]
        if refused:
            raise ValueError(f"the model `babeltune` takes no {', '.join(refused)}: use `--model hf`")
        # Its class is decorated in a way that hides its parameters from type checkers.
        loaded = cast("Any", huggingface.HFLM)(pretrained=pretrained, **hf)
        super().__init__(
            loaded.model,
            loaded.tokenizer,
            bos=loaded.add_bos_token,
            template_kwargs=loaded.chat_template_args,
        )
        self.max_length = int(loaded.max_length)
        self._prefix_token_id = int(loaded.prefix_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context, as `hf` has it."""
        return self._prefix_token_id


def dataset(
    task: str, language: str, data_root: str | Path | None = None, **_: object
) -> datasets.DatasetDict:
    """lm-eval's `custom_dataset` hook: documents of a task of ours as a datasets object."""
    return as_datasets(built_in_documents(task, language, Path(data_root) if data_root else None))
