"""Teachers: models, ensembles and stored outputs that supervise a student, and the cache of their answers."""

from tfopt.teachers.base import Answering
from tfopt.teachers.cache import Answers, array_about, require_deterministic
from tfopt.teachers.ensemble import Ensemble, as_teacher
from tfopt.teachers.load import load_teacher
from tfopt.teachers.precomputed import Precomputed
from tfopt.teachers.teacher import Teacher

__all__ = [
    "Answering",
    "Answers",
    "Ensemble",
    "Precomputed",
    "Teacher",
    "array_about",
    "as_teacher",
    "load_teacher",
    "require_deterministic",
]
