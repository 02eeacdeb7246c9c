"""HTML pages that load nothing from elsewhere, from the templates beside this folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from corrnet_train.report.table import format_duration, format_percent


def render_page(template: str, *, folders: Sequence[Path] = (), **values: Any) -> str:
    """Return a page from a template of `folders` or `report/templates`; all text in `values` is escaped."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        loader=FileSystemLoader([*folders, Path(__file__).parents[1] / "templates"], encoding="utf-8"),
    )
    environment.filters |= {"percent": format_percent, "duration": format_duration}
    return environment.get_template(template).render(**values)
