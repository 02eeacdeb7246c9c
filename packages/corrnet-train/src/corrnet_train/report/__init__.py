"""The report of a comparison of models: its data (`Results`), one HTML page, one terminal table.

Example:
    >>> results = Results.model_validate_json(Path("results.json").read_text())  # doctest: +SKIP
    >>> write_report(results, Path("report.html"))  # doctest: +SKIP
"""

from corrnet_train.report.filters import filter_figure
from corrnet_train.report.page import write_report
from corrnet_train.report.results import CurvePoint, DatasetSummary, EvalPoint, ModelResult, Results
from corrnet_train.report.samples import SampleView
from corrnet_train.report.stats import wilson_interval
from corrnet_train.report.table import results_table

__all__ = [
    "CurvePoint",
    "DatasetSummary",
    "EvalPoint",
    "ModelResult",
    "Results",
    "SampleView",
    "filter_figure",
    "results_table",
    "wilson_interval",
    "write_report",
]
