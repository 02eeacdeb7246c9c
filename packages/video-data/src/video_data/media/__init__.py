"""Opening, decoding, filtering and encoding single videos, within limits."""
