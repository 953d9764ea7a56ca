"""How files of weights from elsewhere name their tensors: published layouts, and what one's own says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """How a file names its tensors, and what its network expects.

    Args:
        keys: pairs of a regular expression and its replacement, each applied to every name in turn.
        drop: names that match are left out.
        mean, std: per channel, of pixels in [0, 1], which the network subtracts and divides by; None: what the file says,
            else 0 and 1.
        option: appended to the network's name, where its arithmetic differs from ours.
    """

    keys: tuple[tuple[str, str], ...] = ()
    drop: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    option: str | None = None


PLAIN = Layout(
    drop=r"sub_block1\.|num_batches_tracked$"
)  # also TRADES': sub_block1 exists in its file and is never used
DEEPMIND = Layout(
    keys=(
        (r"^init_conv\.", "conv1."),
        (r"^layer\.0\.block\.", "block1.layer."),
        (r"^layer\.1\.block\.", "block2.layer."),
        (r"^layer\.2\.block\.", "block3.layer."),
        (r"\.batchnorm_0\.", ".bn1."),
        (r"\.batchnorm_1\.", ".bn2."),
        (r"\.conv_0\.", ".conv1."),
        (r"\.conv_1\.", ".conv2."),
        (r"\.shortcut\.", ".convShortcut."),
        (r"^batchnorm\.", "bn1."),
        (r"^logits\.", "fc."),
    ),
    drop=r"num_batches_tracked$|^mean$|^std$",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2471, 0.2435, 0.2616),
    option="same=True",
)
