"""A .tflite file as an object: what stands in it, what it predicts, how fast it is."""

from tfopt.litert.graph import Op, Port, Tensor, Weight
from tfopt.litert.model import Latency, LiteModel

__all__ = ["Latency", "LiteModel", "Op", "Port", "Tensor", "Weight"]
