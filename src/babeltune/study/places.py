"""Where things lie on this machine. Nothing here is ever part of an identity."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from babeltune.errors import Unreachable, UserError

PACKAGE_PREFIX = "package:"
DATA_ROOT_PREFIX = "data-root:"


@dataclass(frozen=True)
class Places:
    """Where to look.

    `study_dir`: where relative paths of the study file start. `data_root`: a local mirror of hub datasets.
    """

    study_dir: Path
    data_root: Path | None = None


def resolve_path(text: str, places: Places) -> Path:
    """The file or folder that `text` names.

    Absolute, relative to the study file, `package:NAME/…` in an installed package, or `data-root:…` under the
    folder given as `--data-root`.

    Raises:
        UserError: the package is not installed.
        Unreachable: it lies under a data root, and no `--data-root` was given.

    Whether the file exists is the caller's to check.
    """
    if text.startswith(DATA_ROOT_PREFIX):
        if places.data_root is None:
            raise Unreachable(
                f"{text!r} lies under a data root, and none was given",
                remedy="add --data-root DIR to the command",
            )
        return _tidy(places.data_root / text.removeprefix(DATA_ROOT_PREFIX))
    if not text.startswith(PACKAGE_PREFIX):
        return _tidy(places.study_dir / Path(text).expanduser())
    package, _, inside = text.removeprefix(PACKAGE_PREFIX).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the package {package!r} of {text!r} is not installed",
            remedy=f"pip install {package.replace('_', '-')}",
        )
    return Path(spec.submodule_search_locations[0]) / inside


def _tidy(path: Path) -> Path:
    """Absolute and without `..`. Links stay: their names say a file's kind and language."""
    return Path(os.path.abspath(path))  # noqa: PTH100
