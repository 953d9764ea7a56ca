"""A robust classifier without PyTorch and without Sparring: onnxruntime, numpy and Pillow alone.

sparring export models/digits-robust --to onnx --out exported
python examples/deploy_onnx.py exported image.png
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def classify(folder: Path, file: Path) -> dict[str, float]:
    """Class -> probability, most probable first."""
    about = json.loads((folder / "network.json").read_text())
    network = about["networks"][0]
    image = Image.open(file).convert("L" if network["channels"] == 1 else "RGB")
    image = image.resize((network["width"], network["height"]), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float32) / 255  # normalisation is inside the network
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    session = onnxruntime.InferenceSession(next(folder.glob("*.onnx")), providers=["CPUExecutionProvider"])
    [logits] = session.run([about["output"]], {about["input"]: pixels[None]})
    exp = np.exp(logits[0] - logits[0].max())
    probabilities = dict(zip(about["classes"], (exp / exp.sum()).tolist(), strict=True))
    return dict(sorted(probabilities.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what sparring export --to onnx or onnx-int8 has written")
    parser.add_argument("image", type=Path)
    asked = parser.parse_args()
    for name, probability in list(classify(asked.folder, asked.image).items())[:3]:
        print(f"{name}  {probability:.3f}")
