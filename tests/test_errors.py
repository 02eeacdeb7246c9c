"""Plain errors are for bugs: what users can cause is raised as the family of a package."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
# An OSError is always of the system, or of what stands for it.
PLAIN = {"ValueError", "RuntimeError", "ImportError", "Exception", "KeyError", "TypeError"}

# Function in its file: why no user of the command can cause its error. corr_ops is a library of tensors, whose callers
# have checked what users gave.
ALLOWED = {
    "corrnet_models/_network.py:VideoModel._check_input": "clips are cut as the configuration says",
    "corrnet_models/_registry.py:register_model.register": "a name is taken by another function of the program",
    "corrnet_train/evaluation/evaluate.py:_of_all": "each video is counted once, whatever is given",
    "corrnet_train/report/figures/filters.py:filter_figure": "weights of a layer, and limits that the pages set",
    "corrnet_train/report/pages/comparison.py:write_report": "the demo draws the models that it has trained",
    "corrnet_train/report/results.py:ModelResult._confusion_counts_each_video_once": "the demo counts its own videos",
    "corrnet_train/report/results.py:Results._models_fit_the_dataset": "the demo counts its own videos",
    "corrnet_train/report/samples.py:SampleView.__post_init__": "frames that were decoded",
    "corrnet_train/report/stats.py:wilson_interval": "counts of an evaluation",
    "corrnet_train/training/metrics_log.py:_parsed": "becomes an InputError that names the line",
    "corrnet_train/utils/journal_lines.py:unsealed": "becomes an InputError that names the line",
    "video_data/loading/batches.py:normalize": "pixels that a loader has made",
    "video_data/packing/_journal.py:Journal.listed": "becomes an InputError that names the file",
}


def plain_raises(tree):
    """Places of plain errors: names of the classes and functions around."""

    def walk(node, names):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                yield from walk(child, (*names, child.name))
                continue
            made = (
                child.func
                if isinstance(child, ast.Call)
                else child.exc
                if isinstance(child, ast.Raise)
                else None
            )
            if isinstance(made, ast.Name) and made.id in PLAIN:
                yield ".".join(names)
            yield from walk(child, names)

    return set(walk(tree, ()))


def test_plain_errors_are_on_the_list():
    found = set()
    for package in ("video-data", "corrnet-models", "corrnet-train"):
        source = ROOT / "packages" / package / "src"
        for path in source.rglob("*.py"):
            places = plain_raises(ast.parse(path.read_text(encoding="utf-8")))
            found |= {f"{path.relative_to(source)}:{place}" for place in places}
    assert found == set(ALLOWED)


def test_a_plain_error_is_found():
    code = (
        "class A:\n def b(self):\n  raise mark(ValueError('x')) from None\ndef c():\n raise InputError('x')"
    )
    assert plain_raises(ast.parse(code)) == {"A.b"}
