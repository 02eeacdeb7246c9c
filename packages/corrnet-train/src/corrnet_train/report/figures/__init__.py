"""Figures: drawings of results, as SVG, PNG or video."""
