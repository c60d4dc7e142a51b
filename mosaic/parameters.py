"""Parameters of a notebook: refused here where papermill would go on with a warning."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mosaic.errors import ConfigError


def for_each(notebooks: Sequence[Path], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """What each notebook is given: those of `parameters` that its parameters cell defines.

    Raises ConfigError for a name that no notebook has, and for one value where a list belongs (it
    would be read letter by letter).
    """
    import papermill

    defined = [papermill.inspect_notebook(str(path)) for path in notebooks]
    known = {name: cell for cells in defined for name, cell in cells.items()}
    for name, value in parameters.items():
        if name not in known:
            raise ConfigError(
                f"No parameter {name!r} in {[path.stem for path in notebooks]}; there are "
                f"{sorted(known)}."
            )
        if isinstance(_literal(known[name]["default"]), list) and not isinstance(value, list):
            raise ConfigError(
                f"Parameter {name!r} is a list; write -p '{name}=[{value}]' to give one entry."
            )
    return [{k: v for k, v in parameters.items() if k in cells} for cells in defined]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
