"""What the shell offers when Tab is pressed. Importing torch would take longer than people wait."""

import ast
import importlib.util
from pathlib import Path

from corrnet_train.config import recipes


def recipe_names(incomplete: str) -> list[str]:
    """Recipes that ship with the package, also after a `+`; where none begins so, the shell offers files."""
    *before, last = incomplete.split("+")
    names = [name for name in recipes.recipe_names() if name.startswith(last)]
    return ["+".join([*before, name]) for name in names]


def model_names(incomplete: str) -> list[str]:
    """Names of the registered models, read from the source of the zoo, which is not imported."""
    spec = importlib.util.find_spec("corrnet_models")
    assert spec is not None and spec.origin is not None
    zoo = ast.parse(Path(spec.origin).with_name("_zoo.py").read_text(encoding="utf-8"))
    functions = (node for node in zoo.body if isinstance(node, ast.FunctionDef))
    names = (node.name for node in functions if any(map(_registers, node.decorator_list)))
    return sorted(name for name in names if name.startswith(incomplete))


def _registers(decorator: ast.expr) -> bool:
    return ast.unparse(decorator).startswith("register_model(")
