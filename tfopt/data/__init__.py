"""Data from any source as one `Dataset`: train, validation, test. TensorFlow is imported only when needed."""

from tfopt.data.augmentation import Augmentation
from tfopt.data.check import fit_to_model, fit_to_ports, has_one_input_and_output, require_one_input_and_output
from tfopt.data.dataset import Dataset
from tfopt.data.front_end import FrontEnd
from tfopt.data.load import load_data
from tfopt.data.preprocessing import Preprocessing
from tfopt.data.samples import Split
from tfopt.data.text import Text
from tfopt.data.windows import load_series

__all__ = [
    "Augmentation",
    "Dataset",
    "FrontEnd",
    "Preprocessing",
    "Split",
    "Text",
    "fit_to_model",
    "fit_to_ports",
    "has_one_input_and_output",
    "load_data",
    "load_series",
    "require_one_input_and_output",
]
