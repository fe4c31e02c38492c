"""Teachers as the command line specifies them: one or several files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfopt.base.renamed import renamed_arguments
from tfopt.errors import DataError, RecipeError
from tfopt.teachers.ensemble import Ensemble
from tfopt.teachers.teacher import Teacher


@renamed_arguments(preprocess="preprocessing")
def load_teacher(
    paths: Sequence[str | Path],
    classes: Sequence[Path] = (),
    preprocessing: str | None = None,
    student_classes: Sequence[str] | None = None,
    *,
    allow_unsafe: bool = False,
) -> Any:
    """Return the `Teacher` in a file, or the `Ensemble` of several, for a student of `student_classes`.

    `classes` are text files with the class names of each teacher, one per line, or empty for all; `preprocessing` is
    the name of their preprocessing; `allow_unsafe` lets the files run Python code.

    Raises:
        RecipeError: the numbers of class files and teachers differ.
        ModelError: as for `Teacher`.
    """
    if classes and len(classes) != len(paths):
        raise RecipeError(
            f"Expected --teacher-classes for each --teacher, in the same order; got {len(classes)} for {len(paths)}."
        )
    names: list[tuple[str, ...] | None] = [_lines(path) for path in classes] or [None] * len(paths)
    teachers = [
        Teacher(path, preprocessing=preprocessing, class_names=known, allow_unsafe=allow_unsafe)
        for path, known in zip(paths, names, strict=True)
    ]
    if len(teachers) == 1:
        return teachers[0]
    return Ensemble(teachers, class_names=student_classes if any(t.class_names for t in teachers) else None)


def _lines(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the class names in {path}: {error}.") from error
    return tuple(line.strip() for line in text.splitlines() if line.strip())
