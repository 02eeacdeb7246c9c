"""`corrnet recipe`."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from corrnet_train.cli.common import escape, out, reports_errors
from corrnet_train.cli.complete import recipe_names
from corrnet_train.utils.errors import InputError

if TYPE_CHECKING:
    from corrnet_train.config.schema import RunConfig

recipe_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Look at recipes: what there is, what they set, how they differ, what could be set.\n\n"
    "Recipes are joined with +, and what comes later wins: corrnet train kinetics400+corrnet50+l16.",
)
RECIPE_HELP = "A YAML file, a name of `corrnet recipe list`, or several joined with +."
Recipe = Annotated[str, typer.Argument(help=RECIPE_HELP, autocompletion=recipe_names)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes: section.key=value ...", metavar="KEY=VALUE")
]


@recipe_app.command("list")
@reports_errors
def list_command() -> None:
    """List the recipes that ship with corrnet."""
    from corrnet_train.config.recipes import list_recipes

    for title, parts in (("recipes", False), ("parts, to be added with +", True)):
        table = Table(title, "", box=None, pad_edge=False, header_style="bold")
        for recipe in list_recipes():
            if recipe.is_part == parts:
                table.add_row(recipe.name, escape(recipe.summary.removeprefix("Part: ")))
        out.print(table)


@recipe_app.command()
@reports_errors
def show(recipe: Recipe, overrides: Overrides = None) -> None:
    """Print a recipe with all that it extends and with every default, as YAML.

    [bold]Examples[/]

    corrnet recipe show kinetics400+corrnet50

    corrnet recipe show something_v1 optim.batch_size=64 > mine.yaml
    """
    import yaml

    from corrnet_train.config.load import recipe_text

    found = _settings(recipe, overrides)
    text = yaml.safe_dump(found, sort_keys=False) if isinstance(found, dict) else recipe_text(found)
    typer.echo(text, nl=False)


@recipe_app.command()
@reports_errors
def diff(first: Recipe, second: Recipe) -> None:
    """Print the settings in which two recipes differ, or two runs by their config.yaml.

    [bold]Examples[/]

    corrnet recipe diff kinetics400 something_v1

    corrnet recipe diff runs/a/config.yaml runs/b/config.yaml
    """
    from corrnet_train.config.load import config_to_dict
    from corrnet_train.config.recipes import flatten

    found = (_settings(first), _settings(second))
    a, b = (flatten(part if isinstance(part, dict) else config_to_dict(part)) for part in found)
    table = Table("setting", escape(first), escape(second), box=None, pad_edge=False, header_style="bold")
    for key in dict.fromkeys([*a, *b]):
        values = [escape(json.dumps(tree[key])) if key in tree else "-" for tree in (a, b)]
        if values[0] != values[1]:
            table.add_row(key, *values)
    out.print(table if table.row_count else "no setting differs")


@recipe_app.command()
@reports_errors
def options(
    section: Annotated[str, typer.Argument(help="Only this section, like optim or data.clip.")] = "",
) -> None:
    """List every setting of a recipe with its default and its meaning."""
    from corrnet_train.config.load import settings
    from corrnet_train.config.schema import RunConfig

    table = Table("setting", "default", "meaning", box=None, pad_edge=False, header_style="bold")
    for key, field in settings().items():
        if not section or key.startswith(section.rstrip(".") + "."):
            default = _plain(field.get_default(call_default_factory=True))
            row = (key, "required" if field.is_required() else default, field.description or "")
            table.add_row(*map(escape, row))
    if not table.row_count:
        raise InputError(f"no section {section}; allowed: {', '.join(RunConfig.model_fields)}, data.clip")
    out.print(table)


@recipe_app.command()
@reports_errors
def schema() -> None:
    """Print the JSON schema of recipes, with which editors complete and check them.

    [bold]Example[/]

    corrnet recipe schema > corrnet.schema.json

    and as first line of a recipe:

    # yaml-language-server: $schema=corrnet.schema.json
    """
    from corrnet_train.config.load import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))


def _settings(recipe: str, overrides: list[str] | None = None) -> "RunConfig | dict[str, Any]":
    """All settings of a recipe; of a part, those that it sets."""
    from corrnet_train.config.load import load_config, text_keys
    from corrnet_train.config.recipes import check_given_once, is_part, read_recipe

    texts = text_keys()
    check_given_once(overrides or [], text_keys=texts)
    tree = read_recipe(recipe, text_keys=texts)
    return tree if is_part(tree) and not overrides else load_config(recipe, overrides)


def _plain(value: object) -> str:
    return json.dumps(value, default=str).strip('"')
