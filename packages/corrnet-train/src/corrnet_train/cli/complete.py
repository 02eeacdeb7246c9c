"""What the shell offers when Tab is pressed. Importing torch would take longer than people wait."""

import importlib.util
import re
from pathlib import Path

from corrnet_train.config import recipes

_REGISTERED = re.compile(r"^@register_model\(.*\)\ndef (\w+)", re.MULTILINE)


def recipe_names(incomplete: str) -> list[str]:
    """Recipes that ship with the package, also after a `+`; where none begins so, the shell offers files."""
    *before, last = incomplete.split("+")
    names = [name for name in recipes.recipe_names() if name.startswith(last)]
    return ["+".join([*before, name]) for name in names]


def model_names(incomplete: str) -> list[str]:
    """Names of the registered models, read from the source of their package, which is not imported."""
    spec = importlib.util.find_spec("corrnet_models")
    assert spec is not None and spec.origin is not None
    sources = (path.read_text(encoding="utf-8") for path in Path(spec.origin).parent.glob("*.py"))
    names = (name for source in sources for name in _REGISTERED.findall(source))
    return sorted(name for name in names if name.startswith(incomplete))
