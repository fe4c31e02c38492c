"""Teachers as the command line specifies them: one or several files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfopt.base.renamed import renamed_arguments
from tfopt.data.beside import mask_values_beside
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
    mask_values: Sequence[int] | None = None,
    allow_unsafe: bool = False,
) -> Any:
    """Return the `Teacher` in a file, or the `Ensemble` of several, for a student of `student_classes`.

    `classes` are text files with the class names of each teacher, one per line, or empty for all; `preprocessing` is
    the name of their preprocessing; `mask_values` are the values of the masks, by class, that the student learns, None
    for other labels; `allow_unsafe` lets the files run Python code.

    Raises:
        RecipeError: the numbers of class files and teachers differ, or a teacher's masks had other values by class.
        ModelError: as for `Teacher`.
    """
    if classes and len(classes) != len(paths):
        raise RecipeError(
            f"Expected --teacher-classes for each --teacher, in the same order; got {len(classes)} for {len(paths)}."
        )
    for path in paths:
        _require_masks(path, mask_values)
    names: list[tuple[str, ...] | None] = [_lines(path) for path in classes] or [None] * len(paths)
    teachers = [
        Teacher(path, preprocessing=preprocessing, class_names=known, allow_unsafe=allow_unsafe)
        for path, known in zip(paths, names, strict=True)
    ]
    if len(teachers) == 1:
        return teachers[0]
    return Ensemble(teachers, class_names=student_classes if any(t.class_names for t in teachers) else None)


def _require_masks(path: str | Path, values: Sequence[int] | None) -> None:
    """Raise `RecipeError` if the `data.json` beside a teacher says that its classes are other `values` of masks."""
    own = mask_values_beside([path])
    if own and values and tuple(values) != own:
        wanted, stated = (", ".join(map(str, each)) for each in (own, values))
        raise RecipeError(
            f"Expected masks with the values {wanted} by class, as the data.json beside the teacher {path} says, got "
            f"{stated}: load them with mask_values=({wanted}) (--mask-values), or take another teacher."
        )


def _lines(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the class names in {path}: {error}.") from error
    return tuple(line.strip() for line in text.splitlines() if line.strip())
