"""Names of stages, losses, transfers and tasks in JSON: "Prune", or "package>Name" for third-party classes."""

import dataclasses
import keyword
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from tfopt.errors import RecipeError

T = TypeVar("T")
C = TypeVar("C", bound=type)

_KINDS: "list[Kind[Any]]" = []


class Kind(Generic[T]):
    """All classes of one kind, by their names in JSON: a live view, in order of registration.

    Args:
        title: the name of the kind in errors, e.g. "Stage".
        words: the same inside a sentence.
        base: the base class of the kind.
        builtin: the classes of tfopt, registered under their bare names.
    """

    def __init__(self, title: str, words: str, base: Any, builtin: Iterable[type[T]]) -> None:
        self.title, self.words, self.base = title, words, base
        self._classes = {self.bare_name(cls): cls for cls in builtin}
        _KINDS.append(self)

    def __iter__(self) -> Iterator[type[T]]:
        return iter(self._classes.values())

    def __len__(self) -> int:
        return len(self._classes)

    def __contains__(self, cls: object) -> bool:
        return cls in self._classes.values()

    @property
    def builtin(self) -> tuple[type[T], ...]:
        """The classes of tfopt, without those of other packages."""
        return tuple(cls for name, cls in self._classes.items() if ">" not in name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all classes."""
        return tuple(self._classes)

    def bare_name(self, cls: type[T]) -> str:
        """Return the name of a class of tfopt."""
        return cls.__name__

    def full_name(self, package: str, cls: type[T]) -> str:
        """Return the name of a class of another package. Raise `RecipeError` if it is not a config."""
        if "__dataclass_fields__" not in vars(cls) or not dataclasses.is_dataclass(cls):
            raise RecipeError(f"{cls.__name__} is not a config yet. Put @register above @config.")
        return f"{package}>{cls.__name__}"

    def add(self, name: str, cls: type[T]) -> None:
        """Register `cls` under `name`. Raise `RecipeError` if another class has it.

        The same class defined again, by a reload or in a notebook, takes the place of the first.
        """
        known = self._classes.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise RecipeError(f"{self.title} '{name}' is already registered. Give the class another name.")
        self._classes[name] = cls

    def named(self, name: Any) -> type[T]:
        """Return the class called `name`. Raise `RecipeError`, which says what to import, if there is none."""
        if isinstance(name, str) and name in self._classes:
            return self._classes[name]
        known = ", ".join(self._classes)
        package, mark, _ = name.partition(">") if isinstance(name, str) else ("", "", "")
        if mark and package.isidentifier():
            raise RecipeError(
                f"{self.title} '{name}' is not registered; import the package '{package}' first (on the command line, "
                f"tfopt --import {package} COMMAND ...), or use one of: {known}."
            )
        raise RecipeError(f"Unknown {self.words} {name!r}. Known: {known}.")

    def name_of(self, cls: type) -> str | None:
        """Return the name that `cls` is registered under, or None."""
        return next((name for name, known in self._classes.items() if known is cls), None)


def registered_name(cls: type) -> str:
    """Return the name of `cls` in a recipe.json.

    Raises:
        RecipeError: it has none, so a recipe.json with it could not be read; the message says how to register it.
    """
    for kind in _KINDS:
        if name := kind.name_of(cls):
            return name
    title = next((kind.title for kind in _KINDS if issubclass(cls, kind.base)), "Class")
    package = cls.__module__.partition(".")[0]
    raise RecipeError(
        f"{title} '{cls.__name__}' of the module '{cls.__module__}' is not registered, so a recipe.json that names it "
        f'could not be read. Put @tfopt.extend.register("{package if package != "__main__" else "package"}") above its '
        "@config, with the name of the package to import before reading."
    )


def register(package: str) -> Callable[[C], C]:
    """Return a class decorator that registers a Stage, Loss, Transfer or Task as "package>Name", for recipe.json.

    Args:
        package: the package to import before reading a recipe.json that names the class.

    Raises:
        RecipeError: the package name is invalid, the name is taken, the class is of no known kind, a stage, loss or
            transfer is not a config, or the `kind` of a task does not begin with "package>".

    Examples:
        >>> @tfopt.extend.register("mypkg")
        ... @tfopt.extend.config
        ... class Halve(tfopt.extend.Stage):
        ...     def _wrap(self, flat_model, steps, keep):
        ...         flat_model.set_weights([weight / 2 for weight in flat_model.get_weights()])
        ...         return flat_model
        >>> tfopt.Recipe(stages=(Halve(),)).to_dict()["stages"][0]["stage"]
        'mypkg>Halve'
    """
    if not isinstance(package, str) or not package.isidentifier() or keyword.iskeyword(package) or package == "tfopt":
        raise RecipeError(f"Expected the name of an importable package, e.g. 'acme'; got {package!r}.")

    def add(cls: C) -> C:
        kind = next((kind for kind in _KINDS if isinstance(cls, type) and issubclass(cls, kind.base)), None)
        if kind is None:
            titles = ", ".join(kind.title for kind in _KINDS)
            raise RecipeError(f"Expected a class that derives from one of {titles}; got {cls!r}.")
        kind.add(kind.full_name(package, cls), cls)
        return cls

    return add
