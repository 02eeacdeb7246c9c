"""What the shell offers when Tab is pressed. Importing torch would take longer than people wait."""

import ast
import importlib.util
from pathlib import Path

from corrnet_train.recipes import list_recipes


def recipe_names(incomplete: str) -> list[str]:
    """Recipes that ship with the package; where none begins so, the shell offers files."""
    return [name for name in list_recipes() if name.startswith(incomplete)]


def model_names(incomplete: str) -> list[str]:
    """Names of the registered models, read from the source of the zoo, which is not imported."""
    spec = importlib.util.find_spec("corrnet_models")
    assert spec is not None and spec.origin is not None
    zoo = ast.parse(Path(spec.origin).with_name("zoo.py").read_text(encoding="utf-8"))
    functions = (node for node in zoo.body if isinstance(node, ast.FunctionDef))
    names = (node.name for node in functions if any(map(_registers, node.decorator_list)))
    return sorted(name for name in names if name.startswith(incomplete))


def _registers(decorator: ast.expr) -> bool:
    return ast.unparse(decorator).startswith("register_model(")
