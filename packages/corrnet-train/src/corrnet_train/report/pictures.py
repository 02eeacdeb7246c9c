"""Pictures inside of a page, which loads nothing from elsewhere."""

import base64
import io

from PIL import Image


def data_url(picture: Image.Image, *, quality: int | None = None) -> str:
    """Return a picture as a data URL.

    Args:
        picture: in RGB.
        quality: of a JPEG, up to 95; None: a PNG, which keeps every pixel.
    """
    buffer = io.BytesIO()
    kind, options = ("png", {}) if quality is None else ("jpeg", {"quality": quality})
    picture.save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
