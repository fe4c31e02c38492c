"""Class names in a recipe.json, both tfopt's and those of other packages."""

import pytest

from tfopt.base.config import config
from tfopt.base.registry import Kind, register, registered_name
from tfopt.errors import RecipeError


@pytest.fixture
def things(monkeypatch):
    monkeypatch.setattr("tfopt.base.registry._KINDS", [])

    @config
    class Thing:
        size: int = 1

    @config
    class Builtin(Thing):
        pass

    return Kind("Thing", "thing", Thing, (Builtin,))


def derived(things, name):
    return config(type(name, (things.base,), {}))


def test_a_class_is_found_under_its_package_and_name(things):
    mine = register("acme")(derived(things, "Mine"))
    assert registered_name(mine) == "acme>Mine"
    assert things.named("acme>Mine") is mine
    assert mine in things and len(things) == 2 and [cls.__name__ for cls in things] == ["Builtin", "Mine"]
    assert [cls.__name__ for cls in things.builtin] == ["Builtin"]


def test_a_class_that_is_not_registered_has_no_name(things):
    mine = derived(things, "Mine")
    mine.__module__ = "acme.things"
    with pytest.raises(RecipeError) as raised:
        registered_name(mine)
    assert str(raised.value) == (
        "Thing 'Mine' of the module 'acme.things' is not registered, so a recipe.json that names it could not be read. "
        'Put @tfopt.extend.register("acme") above its @config, with the name of the package to import before reading.'
    )
    mine.__module__ = "__main__"  # nobody can import it
    with pytest.raises(RecipeError, match=r'Put @tfopt\.extend\.register\("package"\) above'):
        registered_name(mine)
    assert registered_name(register("acme")(mine)) == "acme>Mine"


def test_a_class_derived_from_a_registered_one_has_no_name_either(things):
    built_in = next(iter(things))
    with pytest.raises(RecipeError, match="Thing 'Derived' of the module"):
        registered_name(config(type("Derived", (built_in,), {})))


def test_a_missing_package_is_named(things):
    with pytest.raises(RecipeError, match="Thing 'acme>Mine' is not registered; import the package 'acme' first"):
        things.named("acme>Mine")
    with pytest.raises(RecipeError, match=r"Unknown thing 'Mine'\. Known: Builtin\."):
        things.named("Mine")


def test_names_are_taken_once(things):
    register("acme")(derived(things, "Mine"))
    with pytest.raises(RecipeError, match="'acme>Mine' is already registered"):
        other = derived(things, "Mine")
        other.__module__ = "acme.other"
        register("acme")(other)
    register("other")(derived(things, "Mine"))


@pytest.mark.parametrize("package", ["", "a>b", "1a", "a b", None])
def test_bad_packages_are_refused(package):
    with pytest.raises(RecipeError, match="Expected the name of an importable package"):
        register(package)


def test_what_is_no_config_of_a_known_kind_is_refused(things):
    with pytest.raises(RecipeError, match="derives from one of Thing"):
        register("acme")(int)
    with pytest.raises(RecipeError, match="Put @register above @config"):
        register("acme")(type("Bare", (things.base,), {}))


def test_the_same_class_defined_again_takes_the_place_of_the_first(things):
    """As by a reload of its module, or of a cell of a notebook."""
    first, second = (register("acme")(derived(things, "Mine")) for _ in range(2))
    assert things.named("acme>Mine") is second and first not in things


@pytest.mark.parametrize("package", ["class", "tfopt", "a b", ""])
def test_names_that_are_no_packages_of_others(things, package):
    with pytest.raises(RecipeError, match="Expected the name of an importable package"):
        register(package)(derived(things, "Mine"))
