"""The front door: every command's arguments and help. What commands do lives in `babeltune.commands`.

Heavy libraries are imported by the commands that need them, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from babeltune import __version__
from babeltune.errors import BabeltuneError

app = typer.Typer(
    name="babeltune",
    help="Which way of fine-tuning a language model pays, in your languages, for your budget.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _ReportGroup(TyperGroup):
    """`report STUDY` is `report page STUDY`: the page is what most people want."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["page", *args]
        return super().parse_args(ctx, args)


report_app = typer.Typer(cls=_ReportGroup, no_args_is_help=True)
app.add_typer(
    report_app, name="report", help="Tables and page again; `report table` and `report figure` for papers."
)

StudyOrFolder = Annotated[
    Path, typer.Argument(help="The study file, or the folder of its results.", metavar="STUDY")
]
StudyPath = Annotated[Path, typer.Argument(help="The study file.", metavar="STUDY.yaml")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Folder of results. Default: `runs/<study name>`.", metavar="DIR"),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        help="A local mirror of hub datasets, laid out as `hub/<org>/<name>/<config>/<split>.jsonl`.",
        metavar="DIR",
        envvar="BABELTUNE_DATA_ROOT",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", help="Worker processes. Default: one a device.", min=1, metavar="N"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

# How models are scored outside a study: what `eval` and `compare` share.
OwnMetric = Annotated[str | None, typer.Option(help="Metric of own items.")]
NumFewshot = Annotated[
    int | None,
    typer.Option(min=0, help="Examples in the prompt. Default: none, or what lm-eval's task says."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="First items of each task and language.")]
Chat = Annotated[bool, typer.Option("--apply-chat-template", help="Wrap prompts in the chat template.")]
DtypeName = Annotated[str, typer.Option(help="bfloat16, float16 or float32.")]


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more while working.")] = False,
) -> None:
    if version:
        print(f"babeltune {__version__}")
        raise typer.Exit
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")
    if not verbose:
        _quiet_libraries()


@app.command()
def demo(out: Out = None, workers: Workers = None) -> None:
    """Run the quickstart study on the small embedded model: five languages, minutes on two CPU cores."""
    from babeltune.commands.demo import demo

    demo(out=out, workers=workers)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write the study file.")] = Path("study.yaml"),
    model: Annotated[str | None, typer.Option(help="Hub id or folder of the base model.")] = None,
    languages: Annotated[str | None, typer.Option(help="Target languages, comma-separated: `sw,ha`.")] = None,
    data: Annotated[str | None, typer.Option(help="Hub id or file of the training data.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take the defaults, ask nothing.")] = False,
) -> None:
    """Write a commented study file."""
    from babeltune.commands.init import init

    init(path, model=model, languages=languages, data=data, ask=not yes)


@app.command()
def check(study: StudyPath, out: Out = None, data_root: DataRoot = None, as_json: AsJson = False) -> None:
    """Look for everything that would waste money: the file, the rows, the masks, the tokens."""
    from babeltune.commands.check import check

    check(study, out=out, data_root=data_root, as_json=as_json)


@app.command()
def plan(
    study: StudyPath,
    out: Out = None,
    data_root: DataRoot = None,
    probe: Annotated[bool, typer.Option(help="Measure this device for the time estimate.")] = True,
    as_json: AsJson = False,
) -> None:
    """Say what `run` would do: runs and jobs, time, memory, disk, price, and what the study can show."""
    from babeltune.commands.plan import plan

    plan(study, out=out, data_root=data_root, probe=probe, as_json=as_json)


@app.command()
def run(
    study: StudyPath,
    out: Out = None,
    data_root: DataRoot = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Train, score, compare. The same command again continues where it was."""
    from babeltune.commands.run import run

    run(study, out=out, data_root=data_root, workers=workers, as_json=as_json)


@app.command()
def status(study: StudyPath, out: Out = None, as_json: AsJson = False) -> None:
    """Say how far a study is: jobs done, running, failed, and what they cost."""
    from babeltune.commands.status import status

    status(study, out=out, as_json=as_json)


@report_app.command(name="page")
def report_page(
    study: StudyOrFolder,
    out: Out = None,
    data_root: DataRoot = None,
    share: Annotated[
        bool, typer.Option("--share", help="Leave out every item's text and every path; into `shared/`.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Rewrite the tables and the page from what is finished. `report STUDY` does the same."""
    from babeltune.commands.report import report

    report(study, out=out, data_root=data_root, share=share, as_json=as_json)


@report_app.command(name="table")
def report_table(
    study: StudyOrFolder,
    rows: Annotated[
        str, typer.Option(help="`recipe`, `language`, `task`, `class`, `script`, or a setting: `r`, `bits` …")
    ] = "recipe",
    cols: Annotated[str, typer.Option(help="As `--rows`.")] = "language",
    where: Annotated[
        list[str] | None,
        typer.Option(help="`key=value,value`: a task, a language or a setting. May be given again."),
    ] = None,
    of: Annotated[str, typer.Option(help="`score`, or `change` against the untouched model.")] = "score",
    form: Annotated[str, typer.Option("--format", help="`latex`, `md` or `csv`.")] = "md",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
) -> None:
    """Print a table for a paper, with intervals."""
    from babeltune.commands.paper import table

    table(study, rows=rows, columns=cols, where=where or [], of=of, form=form, out=output)


@report_app.command(name="figure")
def report_figure(
    study: StudyOrFolder,
    name: Annotated[str, typer.Argument(help="`cost`, `map`, `effects`, `curves` or `search`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File ending in .svg, .pdf or .png.")],
) -> None:
    """Write a figure for a paper."""
    from babeltune.commands.paper import draw

    draw(study, name, out=output)


@app.command(name="eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="Hub id, folder, or `package:NAME` of the model.")],
    tasks: Annotated[str, typer.Option(help="Comma-separated task names, or a JSONL file of own items.")],
    languages: Annotated[str, typer.Option(help="Comma-separated language codes.")],
    adapter: Annotated[Path | None, typer.Option(help="A PEFT adapter folder.")] = None,
    gguf_file: Annotated[str | None, typer.Option(help="GGUF file inside the model's folder.")] = None,
    metric: OwnMetric = None,
    num_fewshot: NumFewshot = None,
    limit: Limit = None,
    chat: Chat = False,
    bits: Annotated[int, typer.Option(help="16, 8 or 4.")] = 16,
    dtype: DtypeName = "bfloat16",
    out: Annotated[Path | None, typer.Option(help="Write the item scores here (Parquet).")] = None,
    backend: Annotated[
        str, typer.Option(help="`babeltune`, or lm-eval's `vllm` or `api`; an API is asked in chats.")
    ] = "babeltune",
    base_url: Annotated[
        str | None,
        typer.Option(help="The address of the API. Its key comes from OPENAI_API_KEY.", metavar="URL"),
    ] = None,
    max_gen_toks: Annotated[
        int | None, typer.Option(min=1, help="Longest answer to own items, in tokens.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="For `--metric judge`: `{model: NAME, base_url: URL}`, with the keys of `eval.judge`.",
            metavar="YAML",
        ),
    ] = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Score one model or adapter, without a study."""
    from babeltune.commands.evaluate import evaluate
    from babeltune.commands.scoring import Scoring, read_judge

    scoring = Scoring(
        tasks=_names(tasks),
        languages=_names(languages),
        metric=metric,
        num_fewshot=num_fewshot,
        limit=limit,
        chat=chat,
        bits=bits,
        dtype=dtype,
        data_root=data_root,
        max_gen_toks=max_gen_toks,
        judge=read_judge(judge) if judge else None,
        backend=backend,
        base_url=base_url,
    )
    evaluate(model, adapter=adapter, gguf_file=gguf_file, scoring=scoring, out=out, as_json=as_json)


@app.command()
def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            help="Folders of lm-eval's `--log_samples` output, finished studies (`runs/NAME`) or single runs "
            "of theirs (`runs/NAME/models/RUN`), model ids or folders, adapter folders.",
            metavar="A B …",
        ),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="What the others are compared with. Default: the first.", metavar="A")
    ] = None,
    margin: Annotated[float, typer.Option(min=0.01, help="“No worse” means at most so many points.")] = 2.0,
    assumed_run_sd: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Show a second interval as if runs of one recipe varied by so many points."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for page and tables.", metavar="DIR")] = None,
    tasks: Annotated[str, typer.Option(help="For models without scores: task names.")] = "",
    languages: Annotated[str, typer.Option(help="For models without scores: language codes.")] = "",
    metric: OwnMetric = None,
    num_fewshot: NumFewshot = None,
    limit: Limit = None,
    chat: Chat = False,
    dtype: DtypeName = "bfloat16",
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Say whether one model is better than another: with lm-eval's logged samples, or of any models."""
    from babeltune.commands.compare import compare
    from babeltune.commands.scoring import Scoring

    scoring = Scoring(
        tasks=_names(tasks),
        languages=_names(languages),
        metric=metric,
        num_fewshot=num_fewshot,
        limit=limit,
        chat=chat,
        dtype=dtype,
        data_root=data_root,
    )
    compare(
        what,
        baseline=baseline,
        margin=margin,
        assumed_run_sd=assumed_run_sd,
        scoring=scoring,
        out=out,
        as_json=as_json,
    )


@app.command()
def export(
    study: StudyPath,
    run_name: Annotated[str | None, typer.Option("--run", help="Default: the recommended one.")] = None,
    to: Annotated[Path, typer.Option("--to", help="Folder to write.")] = Path("exported"),
    form: Annotated[str, typer.Option(help="`adapter` or `merged`.")] = "merged",
    verify: Annotated[
        bool, typer.Option("--verify", help="Score items in the exported form and compare.")
    ] = False,
    out: Out = None,
    data_root: DataRoot = None,
) -> None:
    """Write a trained model, ready to serve, with a card that carries its evidence."""
    from babeltune.commands.export import export

    export(study, run_name=run_name, to=to, form=form, verify=verify, out=out, data_root=data_root)


@app.command()
def fetch(study: StudyPath, out: Out = None, data_root: DataRoot = None) -> None:
    """Download all that a study needs, so that compute nodes can be offline."""
    from babeltune.commands.fetch import fetch

    fetch(study, out=out, data_root=data_root)


@app.command()
def schema() -> None:
    """Print the JSON Schema of study files, for editors."""
    from babeltune.commands.schema import schema

    schema()


def _names(text: str) -> tuple[str, ...]:
    """`a, b` as names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _quiet_libraries() -> None:
    """Keep other libraries' bars and remarks off the screen; ours say what a user must know."""
    for name in ("bitsandbytes", "transformers", "datasets", "lm_eval", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)


def main() -> None:
    """Run the command line; errors of ours end with their own exit code and no traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "HF_HUB_OFFLINE" in os.environ:  # one switch for both libraries, before either is imported
        os.environ.setdefault("HF_DATASETS_OFFLINE", os.environ["HF_HUB_OFFLINE"])
    try:
        app()
    except BabeltuneError as error:
        from rich.console import Console

        console = Console(stderr=True, highlight=False, soft_wrap=True)
        for line in str(error).splitlines():
            console.print(line, markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
