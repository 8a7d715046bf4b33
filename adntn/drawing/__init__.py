"""Pictures of networks, of what they cost, of weights and of trainings; painted by matplotlib, SVG or PNG."""

from adntn.drawing.drawing import Drawing, costs, curves, network, weight

__all__ = ["Drawing", "costs", "curves", "network", "weight"]
