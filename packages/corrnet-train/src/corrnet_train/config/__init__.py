"""The settings of a run: their schema, and the recipes that fill it."""
