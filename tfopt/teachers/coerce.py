"""A teacher of anything that one can be made of."""

from typing import Any

import numpy as np

from tfopt.teachers.base import Answering
from tfopt.teachers.teacher import Teacher


def as_teacher(what: Any) -> Answering:
    """`what` itself where it is a teacher; a `Teacher` of anything that one can be made of.

    A list or tuple becomes an `Ensemble`, a NumPy array `Precomputed` outputs.
    """
    if isinstance(what, Answering):
        return what
    if isinstance(what, np.ndarray):
        from tfopt.teachers.precomputed import Precomputed

        return Precomputed(what)
    if isinstance(what, list | tuple):
        from tfopt.teachers.ensemble import Ensemble

        return Ensemble(what)
    return Teacher(what)
