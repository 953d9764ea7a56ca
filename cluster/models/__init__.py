"""Trained networks by any name: of runs, published folders and files from elsewhere.

Comes in: a name and, for a file, its network. Goes out: a network in eval mode with the sha256 of its weights; cards.
Called by training for the weights to start from, by evaluation, pretraining and the commands.
"""

__all__ = [
    "card",
    "elsewhere",
    "examples",
    "given",
    "hub",
    "initial",
    "origins",
    "resolve",
    "target",
    "teachers",
    "trained",
]
