"""A .tflite file as an object: what stands in it, what it predicts, how fast it is."""

from tfopt.tflite.read.graph import Op, Port, Tensor, Weight
from tfopt.tflite.read.model import Latency, LiteModel

__all__ = ["Latency", "LiteModel", "Op", "Port", "Tensor", "Weight"]
