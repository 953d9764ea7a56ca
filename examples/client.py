"""A client of a Sparring service, with the standard library alone.

python examples/client.py image.png --model digits-robust [--url http://127.0.0.1:8000] [--token-file FILE]
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ATTEMPTS = 5


class Client:
    """Asks a service; waits and asks again where it says that it is busy."""

    def __init__(self, url: str = "http://127.0.0.1:8000", token: str | None = None) -> None:
        self._url, self._headers = url.rstrip("/"), {"authorization": f"Bearer {token}"} if token else {}

    def models(self) -> list[dict[str, Any]]:
        """Served models, their versions and how robust they were found to be."""
        return list(self._ask("/v1/models")["models"])

    def classify(self, model: str, content: bytes, *, top: int = 5) -> dict[str, Any]:
        """Most probable classes of a PNG or JPEG file."""
        return self._ask(f"/v1/models/{model}:classify?top={top}", content, "application/octet-stream")

    def infer(self, model: str, images: list[Any], shape: list[int]) -> list[list[float]]:
        """Probabilities of images with pixels in [0, 1], by the Open Inference Protocol v2."""
        tensor = {"name": "images", "datatype": "FP32", "shape": shape, "data": images}
        asked = {"inputs": [tensor], "outputs": [{"name": "probabilities"}]}
        [output] = self._ask(f"/v2/models/{model}/infer", json.dumps(asked).encode(), "application/json")["outputs"]
        classes = output["shape"][1]
        return [output["data"][i : i + classes] for i in range(0, len(output["data"]), classes)]

    def _ask(self, path: str, body: bytes | None = None, kind: str | None = None) -> dict[str, Any]:
        headers = {**self._headers, **({"content-type": kind} if kind else {})}
        for attempt in range(ATTEMPTS):
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(self._url + path, body, headers), timeout=60
                ) as response:
                    return dict(json.load(response))
            except urllib.error.HTTPError as error:
                if error.code == 503 and attempt < ATTEMPTS - 1:
                    time.sleep(float(error.headers.get("retry-after", 1)))
                    continue
                raise SystemExit(f"{path}: {error.code} {json.load(error)['error']}") from None
        raise AssertionError("unreachable")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--token-file", type=Path)
    args = parser.parse_args()
    client = Client(args.url, args.token_file.read_text().strip() if args.token_file else None)
    for line in client.classify(args.model, args.image.read_bytes())["top"]:
        print(f"{line['class']:20} {100 * line['probability']:5.1f} %")


if __name__ == "__main__":
    main()
