"""Where the numbers of a run go besides its own files: TensorBoard, CSV, Weights & Biases, MLflow.

Comes in: figures by name, step by step, under the same names everywhere. Goes out: nothing; training never waits for a tracker.
Called by ``training/``, and by ``search/`` for what trials belong to.
"""

__all__ = ["installed", "trackers"]
