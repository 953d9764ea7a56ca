"""Photographs as most JPEG files hold them, decoded in three quarters of Pillow's time to the same bits.

All use libjpeg-turbo: Pillow spreads pixels over four bytes, and its callers gather them again; simplejpeg hands them out as they come. So do
OpenCV, of a hundred times the size, and torchvision 0.29, which says that its decoders will be removed.
"""

from __future__ import annotations

import struct

import numpy as np

FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: Huffman-coded
OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
METADATA = 0xE1  # Exif or XMP, either of which may say that the picture is to be turned
SCAN, FILL = 0xDA, 0xFF
LARGEST = 2**26  # pixels; the general decoder has a limit somewhere above


def plain(content: bytes) -> bool:
    """Whether this is a JPEG of three channels of 8 bits with nothing that turns it, by all that stands before its pixels."""
    if content[:2] != b"\xff\xd8":
        return False
    at, common = 2, False
    while at + 10 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == SCAN:
            return common
        if marker in FRAMES:
            _, depth, height, width, channels = struct.unpack_from(">HBHHB", content, at + 2)
            common = depth == 8 and channels == 3 and height * width <= LARGEST
        if marker in (METADATA, FILL, *OTHER_FRAMES):
            return False
        at += 2 + int(struct.unpack_from(">H", content, at + 2)[0])
    return False


def decoded(content: bytes) -> np.ndarray | None:
    """uint8 [H, W, 3]; None where the general decoder is to say what this is, or what is wrong with it."""
    if not plain(content):
        return None

    from simplejpeg import decode_jpeg

    try:
        made: np.ndarray = decode_jpeg(content, "RGB", strict=True)
    except ValueError:  # damaged, in words that are not for users
        return None
    return made
