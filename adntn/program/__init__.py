"""Contraction programs: what is computed, its adjoint, what it costs, and how it runs."""
