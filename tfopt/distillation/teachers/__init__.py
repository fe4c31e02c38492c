"""Teachers: whatever can answer for a student's inputs, alone or together, and the answers that are kept."""

from tfopt.distillation.teachers.answering import Answering
from tfopt.distillation.teachers.answers import Answers, array_about, require_deterministic
from tfopt.distillation.teachers.ensemble import Ensemble
from tfopt.distillation.teachers.load import load_teacher
from tfopt.distillation.teachers.precomputed import Precomputed
from tfopt.distillation.teachers.teacher import Teacher, as_teacher

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
