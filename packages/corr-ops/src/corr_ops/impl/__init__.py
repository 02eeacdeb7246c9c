"""Implementations of the operator, one module each; they share one signature and never import each other.

Every implementation offers ``unavailable``, ``forward`` and ``backward`` as `corr_ops.impl.reference` does, and stands
in the table of `corr_ops._backends`. `corr_ops.ops` calls them with validated arguments: base and search
[N, C, L, H, W], weight [L or 1, C, Ky, Kx] or None.
"""
