"""Records what one clip costs in each model in bench/results/models.json and prints it as a table.

    python bench/models/update.py

Full-size models are counted at 16 and 32 frames of 224x224, tiny ones at 8 frames of 32x32.
"""

import json
from pathlib import Path
from typing import Any

from corrnet_models import Complexity, complexity_table, list_models, markdown_table, model_info

RESULTS = Path(__file__).parents[1] / "results" / "models.json"


def count(name: str) -> list[Complexity]:
    lengths = (16, 32) if model_info(name).resolution == 224 else None
    return complexity_table([name], num_frames=lengths)


def entry(row: Complexity) -> dict[str, Any]:
    """The record of one row; counts are whole numbers, so that any change shows."""
    return {
        "num_frames": row.num_frames,
        "resolution": row.resolution,
        "num_parameters": row.num_parameters,
        "macs": round(row.gmacs * 1e9),
        "macs_fvcore": None if row.gmacs_fvcore is None else round(row.gmacs_fvcore * 1e9),
        "paper_gmacs": row.paper_gmacs,
        "difference_gmacs": None if row.difference is None else round(row.difference, 3),
    }


def main() -> None:
    table = {name: count(name) for name in list_models()}
    results = {name: [entry(row) for row in rows] for name, rows in table.items()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(markdown_table([row for rows in table.values() for row in rows]))


if __name__ == "__main__":
    main()
