"""Implementations of the operator, one module each; they share one signature and never import each other.

Every implementation offers ``forward`` and ``backward`` as `corr_ops.impl.reference` does. They are called by
`corr_ops.ops` with validated arguments: base and search [N, C, L, H, W], weight [L or 1, C, Ky, Kx] or None.
"""
