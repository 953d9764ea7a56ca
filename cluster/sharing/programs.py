"""A network as a program that needs neither Sparring nor its code: ONNX, ONNX with 8-bit integers, torch.export.

network in eval mode, float32, normalisation inside -> torch.export, any number of images -> one file, the same bytes anywhere

What torch writes beside the computation, the folders and lines of source code from which it was traced, is left out: with it the same
weights give other bytes in every checkout (torch 2.15). TorchScript is not offered: PyTorch has ended its development in favour of
torch.export, and a file of it holds Python source that its reader runs.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from sparring.cluster.errors import UsageError

Kind = Literal["onnx", "onnx-int8", "torchexport"]
Shape: TypeAlias = tuple[int, int, int]  # channels, height, width
Runs: TypeAlias = Callable[[np.ndarray], np.ndarray]  # images [B, C, H, W] float32 in [0, 1] -> logits [B, K] float32

FILES: Mapping[str, str] = {"onnx": "model.onnx", "onnx-int8": "model.int8.onnx", "torchexport": "model.pt2"}
INPUT, OUTPUT = "images", "logits"
OPSET = 20  # that torch 2.15 writes; fixed, since another one is another file
TRACED = (
    "stack_trace",
    "nn_module_stack",
    "source_fn_stack",
    "from_node",
    "torch_fn",
    "custom",
)  # of a node: where it comes from


def program(kind: Kind, model: nn.Module, shape: Shape, calibration: np.ndarray | None = None) -> bytes:
    """The file.

    Args:
        model: images [B, C, H, W] in [0, 1] -> logits [B, K], on the CPU, in eval mode.
        calibration: for ``onnx-int8``, images [N, C, H, W] in [0, 1] from whose activations the ranges of the integers are taken.

    Raises:
        UsageError: a package is missing, or torch.export cannot follow the network.
    """
    if kind == "torchexport":
        return _saved(_exported(model, shape))
    whole = _onnx(_exported(model, shape))
    if kind == "onnx":
        return whole
    assert calibration is not None
    return _int8(whole, calibration)


def runner(kind: Kind, content: bytes) -> Runs:
    """The program in the runtime that it is for: onnxruntime on the CPU, or torch."""
    if kind == "torchexport":
        module = torch.export.load(io.BytesIO(content)).module()

        def by_torch(x: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return np.asarray(module(torch.from_numpy(x)))

        return by_torch
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run([OUTPUT], {INPUT: x})[0])


def check_installed(kind: Kind) -> None:
    """Refuse what needs a package that is not there, before anything takes long.

    Raises:
        UsageError: says what to install.
    """
    if kind == "torchexport":
        return
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"--to {kind} needs {error.name}; run: pip install 'sparring[onnx]'") from error


def _exported(model: nn.Module, shape: Shape) -> torch.export.ExportedProgram:
    images = torch.zeros(2, *shape)  # of one torch would make a constant
    try:
        with torch.no_grad():
            return torch.export.export(model.eval(), (images,), dynamic_shapes=[{0: torch.export.Dim("batch")}])
    except Exception as error:  # whatever a user's forward does that cannot be followed
        why = str(error).strip().splitlines()
        raise UsageError(
            f"torch.export cannot follow this network: {type(error).__name__}: {why[0] if why else ''}. "
            "Its weights can be exported: --to safetensors"
        ) from error


def _saved(exported: torch.export.ExportedProgram) -> bytes:
    for node in exported.graph.nodes:
        for key in TRACED:
            node.meta.pop(key, None)
    exported._example_inputs = None  # else their pixels are part of the file
    file = io.BytesIO()
    torch.export.save(exported, file)
    return file.getvalue()


def _onnx(exported: torch.export.ExportedProgram) -> bytes:
    with _quietly():
        made = torch.onnx.export(
            exported,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,  # one file: of two the second could be another model's, and is taken without a word
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert made is not None
    model = made.model_proto
    model.producer_version = torch.__version__.partition("+")[0]  # the same for builds for GPUs and without
    _strip(model)
    for function in model.functions:
        _strip(function)
    return bytes(model.SerializeToString(deterministic=True))


def _strip(message: Any) -> None:
    """Take out of a message of ONNX, and of those inside it, where it comes from."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None and field.name not in ("raw_data", "dims"):
            for part in value if field.is_repeated else [value]:
                _strip(part)


def _int8(whole: bytes, images: np.ndarray) -> bytes:
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter([{INPUT: images}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    with tempfile.TemporaryDirectory() as folder, _quietly():
        to = Path(folder) / "model.onnx"
        quantization.quantize_static(onnx.load_from_string(whole), to, Reader(), per_channel=True)
        made = onnx.load(to)
    _strip(made)
    return bytes(made.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what these libraries say of themselves: notes on deprecation, advice on preparing a model."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
