"""A .tflite file as an object: what stands in it, what it predicts, how fast it is."""

from tfopt.tflite.read.model import Latency, LiteModel
from tfopt.tflite.read.parts import Op, Port, Tensor, Weight

__all__ = ["Latency", "LiteModel", "Op", "Port", "Tensor", "Weight"]
