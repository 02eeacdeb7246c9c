"""Pictures inside of a page, which loads nothing from elsewhere."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

GAP = 4  # pixels between pictures
_QUALITY = 82  # of JPEG


def data_url(picture: Image.Image, *, quality: int | None = None, **animation: Any) -> str:
    """Return a picture as a data URL.

    Args:
        picture: In RGB.
        quality: Of a JPEG, up to 95; None: a PNG, which keeps every pixel.
        **animation: What Pillow takes for an animated PNG, whose first frame the picture is.
    """
    buffer = io.BytesIO()
    kind, options = ("png", {}) if quality is None else ("jpeg", {"quality": quality})
    picture.save(buffer, format=kind, **options, **animation)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def side_by_side(pictures: np.ndarray) -> np.ndarray:
    """Return pictures [N, H, W, 3] side by side with white between them, uint8 [H, width, 3]."""
    gap = np.full((pictures.shape[1], GAP, 3), 255, dtype=np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis=1)


def strip_url(pictures: np.ndarray) -> str:
    """Return pictures [N, H, W, 3] side by side as the data URL of a JPEG."""
    return data_url(Image.fromarray(side_by_side(pictures)), quality=_QUALITY)
