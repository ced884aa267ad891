"""The study file as pydantic models: what a user may write, with defaults and what each key means.

Keys are those that users already type elsewhere: `datasets.load_dataset`'s for data, PEFT's for LoRA,
transformers' for training, lm-eval's for evaluation. `load.py` reads a file into `StudyFile`;
`expand.py` turns it into runs. The reference in docs/study-file.md is generated from the descriptions here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from babeltune.study.peft_options import lora_options
from babeltune.study.values import (
    Address,
    Bits,
    CheapestBy,
    Count,
    Dtype,
    Method,
    Metric,
    MultipleOfRank,
    Name,
    Optimizer,
    PositiveFloat,
    PositiveInt,
    RowFormat,
    Share,
    Tracker,
    Variable,
)


def _left_open(default: Any, description: str) -> Any:
    """A training key that is None where the file does not set it, and comes to `default` in the end.

    None tells a key left open, which a farther level may fill, from one set to what the default is.
    """
    return Field(default=None, description=description, json_schema_extra={"default": default})


class Entry(BaseModel):
    """Base of all sections: unknown keys are errors and values are not coerced from strings."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class Model(Entry):
    """A base model. It is also scored untouched."""

    path: str = Field(
        description="Hub id, local folder, folder of a GGUF file, or `package:NAME` for a file shipped in an "
        "installed Python package (with `gguf_file`)."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    gguf_file: str | None = Field(
        default=None, description="GGUF file inside `path`; its weights are dequantised when read."
    )
    name: Name | None = Field(
        default=None, description="Short name in runs and reports. Default: the last part of `path`."
    )
    chat_template: str | None = Field(
        default=None,
        description="A Jinja file, or `chatml`, for models that have no template of their own. "
        "Saved with every adapter.",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Passed to the template, e.g. `{enable_thinking: false}`."
    )

    license: str | None = Field(default=None, description="Printed on the cards of exported models.")

    @property
    def short_name(self) -> str:
        """The name that runs and `models:` lists use."""
        return self.name or self.path.rstrip("/").removeprefix("package:").split("/")[-1]


class Languages(Entry):
    """The languages that count. BCP-47, ISO 639-3 or FLORES codes, normalised."""

    target: list[str] = Field(min_length=1, description="The languages to improve.")
    guard: list[str] = Field(default_factory=lambda: ["en"], description="Languages that must not get worse.")


class Dataset(Entry):
    """Rows to train on, by the keys of `datasets.load_dataset`."""

    path: str = Field(
        description="Hub id, `json` / `csv` / `parquet` (with `data_files`), a local file or folder, or "
        "`package:NAME/file` for a file shipped in an installed Python package."
    )
    name: str | list[str] | None = Field(default=None, description="Configuration(s) of a hub dataset.")
    split: str = Field(default="train", description="Split of a hub dataset.")
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    data_files: str | list[str] | None = Field(
        default=None, description="Files or patterns, relative to the study file; `.gz` is read too."
    )
    data_dir: str | None = Field(default=None, description="Folder inside a hub dataset.")
    type: Literal["instruct", "text"] = Field(
        default="instruct",
        description="`instruct`: loss on answers only; `text`: raw text, loss on every token.",
    )
    format: RowFormat = Field(
        default="auto", description="How a row is laid out; `auto` recognises it by its columns."
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Our column name to the file's, where they differ: "
        "`{instruction: question, output: answer}`.",
    )
    language: str | None = Field(default=None, description="The language of all rows.")
    language_column: str | None = Field(default=None, description="Column that holds each row's language.")
    license: str | None = Field(default=None, description="Printed on the cards of exported models.")
    system: str | None = Field(default=None, description="A system message put before every example.")


class Mixture(Entry):
    """What a recipe trains on: datasets in stated proportions."""

    datasets: list[str] = Field(
        default_factory=list, description="Names from `datasets`. Default: all of them."
    )
    subset_of: str | None = Field(
        default=None,
        description="A mixture this one is a nested part of: its first `max_examples` in the same order.",
    )
    languages: list[str] | None = Field(
        default=None,
        description="Train on rows in these languages only. Default: the target languages, and whatever a "
        "dataset's own `language` says.",
    )
    sizes: dict[str, Count] = Field(default_factory=dict, description="Examples per language, exactly.")
    max_examples: Count | None = Field(default=None, description="Examples in all.")
    max_tokens: Count | None = Field(default=None, description="Tokens in all.")
    balance: Literal["proportional", "equal", "temperature"] = Field(
        default="proportional", description="How languages share `max_examples`."
    )
    temperature: PositiveFloat = Field(
        default=3.0, description="p ∝ n^(1/temperature) with `balance: temperature`."
    )
    replay: dict[str, Share] = Field(
        default_factory=dict, description="Share of examples to be kept in a language: `{en: 0.1}`."
    )
    held_out: Share = Field(
        default=0.05, description="Share of examples never trained on: for held-out loss."
    )
    clean: bool = Field(
        default=False, description="Drop exact duplicates, empty answers and rows in another language."
    )
    seed: int = Field(default=0, description="Which examples are drawn, and which are held out.")

    @model_validator(mode="after")
    def _one_origin(self) -> Mixture:
        if self.subset_of and self.model_fields_set - {"subset_of", "max_examples", "max_tokens"}:
            raise ValueError(
                "`subset_of` goes only with `max_examples` or `max_tokens`; the rest is the parent's"
            )
        if self.subset_of and not (self.max_examples or self.max_tokens):
            raise ValueError("`subset_of` needs `max_examples` or `max_tokens`")
        return self


class Training(Entry):
    """How a stage trains. Each key has transformers' or PEFT's name; `batch_size` is global."""

    method: Method | None = Field(
        default=None, description="`full`: every weight is trained; `lora`: an adapter is. Required."
    )
    data: str | None = Field(
        default=None,
        description="A mixture or a dataset. Default: the only mixture, or all datasets where there are no "
        "mixtures.",
    )
    r: PositiveInt | None = _left_open(16, "LoRA rank.")
    lora_alpha: PositiveFloat | MultipleOfRank | None = _left_open(
        "2r", "LoRA scale; the adapter's output is multiplied by `lora_alpha / r`."
    )
    target_modules: str | list[str] | None = _left_open(
        "all-linear",
        "Modules that get an adapter: `all-linear`, or a list of names such as `[q_proj, v_proj]`.",
    )
    lora_dropout: Share | None = _left_open(0.0, "Dropout on an adapter's input.")
    loraplus_lr_ratio: Annotated[float, Field(ge=1)] | None = _left_open(
        1.0,
        "LoRA+: the learning rate of B matrices, adapted embeddings and vectors as a multiple of "
        "`learning_rate`, which is that of A matrices; the paper takes 16.",
    )
    bits: Bits | None = _left_open(
        16, "Width of the frozen base; 4 is nf4, double quantised. `method: full` needs 16."
    )
    learning_rate: PositiveFloat | Literal["search"] | None = _left_open(
        "search", "`search`: found on held-out loss for each recipe, its cost charged to the recipe."
    )
    num_train_epochs: PositiveFloat | None = _left_open(3.0, "Passes over the data.")
    max_steps: PositiveInt | None = Field(
        default=None, description="Updates in all; instead of `num_train_epochs`."
    )
    batch_size: PositiveInt | None = _left_open(
        32, "Examples per update, over all devices and accumulation steps."
    )
    batch_tokens: Count | None = Field(
        default=None, description="Tokens per update; instead of `batch_size`."
    )
    max_length: PositiveInt | None = _left_open(1024, "Tokens per example; longer ones are cut.")
    packing: bool | None = _left_open(True, "Join examples into full rows, attention kept inside each.")
    warmup_ratio: Share | None = _left_open(0.03, "Share of updates with a rising learning rate.")
    warmup_steps: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Updates with a rising learning rate; instead of `warmup_ratio`."
    )
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] | None = _left_open(
        "cosine", "How the learning rate falls after the warm-up."
    )
    optim: Optimizer | None = _left_open(
        "adamw_torch_fused",
        "AdamW: torch's, or bitsandbytes' with moments of 8 bits (those of embeddings stay in 32). A paged "
        "one moves them to the host's memory when the GPU's is full.",
    )
    weight_decay: Annotated[float, Field(ge=0)] | None = _left_open(0.0, "AdamW's weight decay.")
    adam_beta1: Share | None = _left_open(0.9, "AdamW's first moment decay.")
    adam_beta2: Share | None = _left_open(0.999, "AdamW's second moment decay.")
    adam_epsilon: PositiveFloat | None = _left_open(1e-8, "AdamW's epsilon.")
    max_grad_norm: PositiveFloat | None = _left_open(1.0, "Gradients are clipped to this norm.")
    dtype: Dtype | None = _left_open(
        "bfloat16", "Compute precision. Full-parameter weights are kept in float32 beneath it."
    )
    gradient_checkpointing: bool | None = _left_open(False, "Less memory for more time.")
    torch_compile: bool | None = _left_open(
        False, "Run the model's layers through `torch.compile`, anew at the start of every training."
    )
    peft: dict[str, Any] = Field(
        default_factory=dict,
        description="Other options of `peft.LoraConfig`. They may as well stand beside `r`: "
        "`use_rslora: true`.",
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """PEFT's options may stand beside `r` (`load.py` moves them into `peft`): editors know them."""
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        for option, meaning in lora_options().items():
            schema["properties"].setdefault(option, {"description": meaning})
        return reference


class Stage(Training):
    """One stage of a staged recipe. It starts from the model that the stage before it left."""

    then: Literal["merge", "keep"] | None = Field(
        default=None,
        description="What becomes of a LoRA stage's adapter before the next stage: `merge` it in (default) "
        "or `keep` training it, for which both stages must describe the same adapter.",
    )


class Recipe(Training):
    """One way to fine-tune, or a grid of ways."""

    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Training keys with the values to try: `{r: [16, 8, 64], bits: [16, 4]}`.",
    )
    design: Literal["full", "one_at_a_time"] = Field(
        default="full", description="All combinations, or one key varied at a time around the first values."
    )
    models: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None, description="Only on these models (short names). Default: on all."
    )
    stages: Annotated[list[Stage], Field(min_length=1)] | None = Field(
        default=None,
        description="Several stages, one after another. Training keys beside it hold for every stage that "
        "does not set them.",
    )
    adapter: str | None = Field(
        default=None, description="A PEFT folder trained elsewhere; not trained here."
    )
    model: str | None = Field(default=None, description="The model that `adapter` belongs to (short name).")
    cost: dict[Literal["gpu_hours"], PositiveFloat] = Field(
        default_factory=dict, description="What `adapter` cost where it was trained."
    )
    devices: PositiveInt = Field(
        default=1,
        description="Devices that one training of this recipe is spread over, or all there are where these "
        "are fewer. More of them are faster and hold larger models; what is learned is the same.",
    )
    if_unfit: Literal["skip", "fail"] = Field(
        default="skip",
        description="When the recipe does not fit the device: leave it out and say so, or stop.",
    )


class Task(Entry):
    """An evaluation task, or the user's own file of items."""

    name: str | None = Field(
        default=None, description="One of babeltune's tasks, or lm-eval's; `lm_eval/NAME` forces lm-eval's."
    )
    path: str | None = Field(
        default=None,
        description="Own items: a JSONL file, a folder of `<language>.jsonl`, or `package:NAME/file`.",
    )
    metric: Metric | None = Field(default=None, description="How own items are scored.")
    primary: bool = Field(
        default=False, description="The recommendation rests on primary tasks. Without any, on all tasks."
    )
    num_fewshot: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Examples in the prompt. Default: `eval.num_fewshot`."
    )
    limit: PositiveInt | None = Field(
        default=None, description="First items of each language. Default: `eval.limit`."
    )
    language: str | None = Field(
        default=None, description="The language of own items that do not say theirs."
    )
    max_gen_toks: PositiveInt | None = Field(
        default=None, description="Longest answer to own items, in tokens. Default: 512 if judged, else 256."
    )

    @model_validator(mode="after")
    def _name_or_path(self) -> Task:
        if (self.name is None) == (self.path is None):
            raise ValueError("give either `name` or `path`")
        if self.path and not self.metric:
            raise ValueError("own items need a `metric`")
        return self

    @property
    def short_name(self) -> str:
        """The name in tables: the task's own, or the file's stem."""
        if self.name:
            return self.name
        assert self.path is not None
        return self.path.rstrip("/").split("/")[-1].removesuffix(".jsonl")


class BehindApi(Entry):
    """A model behind an OpenAI-compatible API: where it is, and what it costs."""

    model: str = Field(description="The name that the server knows it by.")
    base_url: Address = Field(description="Where the API is: `https://…/v1`.")
    api_key_env: Variable = Field(
        default="OPENAI_API_KEY",
        description="Environment variable with the key, where the server wants one. The key itself is never "
        "written down.",
    )
    concurrency: PositiveInt = Field(default=8, description="Requests at a time, of each worker.")
    price_per_million_input_tokens: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="In the budget's currency."
    )
    price_per_million_output_tokens: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="In the budget's currency."
    )


class Reference(BehindApi):
    """A larger model behind an OpenAI-compatible API, to compare with. Its key comes from the environment."""


class Judge(BehindApi):
    """A model behind an OpenAI-compatible API that scores the answers of tasks with `metric: judge`."""

    passes: PositiveInt = Field(
        default=1, description="How often each answer is judged; the mean counts. Several need a temperature."
    )
    temperature: Annotated[float, Field(ge=0)] = Field(default=0.0, description="Of the judge's replies.")
    max_tokens: PositiveInt = Field(default=512, description="Longest reply of the judge, in tokens.")


class Eval(Entry):
    """What every run is scored on."""

    tasks: list[str | Task] = Field(default_factory=list, description="Task names, or entries with options.")
    guard_tasks: list[str | Task] = Field(
        default_factory=list, description="Tasks for the guard languages only; `tasks` are scored there too."
    )
    num_fewshot: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Examples in the prompt. Default: none; lm-eval's tasks show as many as they say. Those "
        "that say 0 show none in any case.",
    )
    limit: PositiveInt | None = Field(default=None, description="First items of each task and language.")
    apply_chat_template: bool | Literal["both"] = Field(
        default=False,
        description="Wrap prompts in the model's chat template; the untouched model is scored in the same "
        "form.",
    )
    dtype: Dtype = Field(default="bfloat16", description="Precision of scoring, the same for every run.")
    judge: Judge | None = Field(
        default=None, description="The model that scores the answers of tasks with `metric: judge`."
    )
    references: list[Reference] = Field(default_factory=list, description="Larger models to compare with.")


class Decide(Entry):
    """When a recipe counts as good enough."""

    margin: PositiveFloat = Field(
        default=2.0, description="Points that a cheaper recipe may be worse than the best."
    )
    guard_margin: PositiveFloat = Field(default=1.0, description="Points that guards may get worse.")
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(default=0.95, description="Of every statement.")
    cheapest: CheapestBy = Field(default="gpu_hours", description="What `cheapest` means.")
    assumed_run_sd: PositiveFloat | None = Field(
        default=None,
        description="With one seed everywhere: show a second interval as if runs of one recipe varied by "
        "this standard deviation, in points (1.0 is a fair guess).",
    )


class Budget(Entry):
    """Limits and prices. No job starts that would exceed a limit."""

    gpu_hours: PositiveFloat | None = Field(
        default=None, description="Device hours in all (CPU hours where there is no GPU)."
    )
    price: PositiveFloat | None = Field(default=None, description="Money in all, by `price_per_gpu_hour`.")
    price_per_gpu_hour: PositiveFloat | None = Field(default=None, description="What a device hour costs.")
    currency: str = Field(default="USD", description="Printed beside prices.")


class StudyFile(Entry):
    """A whole study."""

    name: Name = Field(
        default="study",
        description="Names the output folder `runs/<name>`. Default: the file's own name.",
        json_schema_extra={"default": None},
    )
    models: list[Model] = Field(min_length=1, description="The base models.")
    languages: Languages = Field(description="The languages to improve, and those to guard.")
    datasets: dict[Name, Dataset] = Field(default_factory=dict, description="Data to train on, by name.")
    mixtures: dict[Name, Mixture] = Field(
        default_factory=dict, description="Datasets in proportions, by name."
    )
    defaults: Training = Field(
        default_factory=Training, description="Training keys for every recipe that does not set them."
    )
    recipes: dict[Name, Recipe] = Field(
        min_length=1, description="The ways to fine-tune that are compared, by name."
    )
    seeds: PositiveInt | Annotated[list[int], Field(min_length=1)] = Field(
        default=2, description="How many runs of each recipe, or the seeds themselves."
    )
    eval: Eval = Field(default_factory=Eval, description="What every run is scored on.")
    decide: Decide = Field(default_factory=Decide, description="When a recipe counts as good enough.")
    budget: Budget = Field(default_factory=Budget, description="Limits and prices.")
    report_to: Tracker | list[Tracker] = Field(
        default_factory=list,
        description="Trackers that follow each training while it runs, besides babeltune's own record: loss, "
        "learning rate, gradient norm and tokens per second, under the run's name.",
    )
    keep: Literal["winner", "adapters", "all"] = Field(
        default="adapters",
        description="Weights that stay on disk: the recommended recipe's, all adapters, or everything.",
    )

    @property
    def trackers(self) -> list[Tracker]:
        """What `report_to` names, each once."""
        return list(dict.fromkeys([self.report_to] if isinstance(self.report_to, str) else self.report_to))
