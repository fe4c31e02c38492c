"""Read a .tflite file: its contents, predictions and latency."""

from tfopt.tflite.read.model import Latency, LiteModel
from tfopt.tflite.read.parts import Op, Port, Tensor, Weight

__all__ = ["Latency", "LiteModel", "Op", "Port", "Tensor", "Weight"]
