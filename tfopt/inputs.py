"""What turns raw samples into model inputs: `tfopt.inputs.Text()`."""

from tfopt.data.sound import Sound
from tfopt.data.sound_augmentation import SoundAugmentation
from tfopt.data.table import Table
from tfopt.data.text import Text

__all__ = ["Sound", "SoundAugmentation", "Table", "Text"]
