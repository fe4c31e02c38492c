"""Tell mkdocstrings that a class under `@config` is a dataclass whose fields are arguments by name."""

from typing import Any

import griffe

CONFIG = "tfopt.base.config.config"
DATACLASS = griffe.ExprCall(griffe.ExprName("dataclasses.dataclass"), [griffe.ExprKeyword("kw_only", "True")])


class Configs(griffe.Extension):
    """Give each config the signature that it has at run time."""

    def on_class_instance(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Add the decorator that Griffe knows, before it looks for dataclasses."""
        if any(decorator.callable_path == CONFIG for decorator in cls.decorators):
            cls.decorators.append(griffe.Decorator(DATACLASS, lineno=cls.lineno, endlineno=cls.lineno))

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Replace pydantic's `Field(default=...)` by the default."""
        if isinstance(attr.value, griffe.ExprCall) and attr.value.canonical_path.endswith(".Field"):
            arguments = [each for each in attr.value.arguments if isinstance(each, griffe.ExprKeyword)]
            attr.value = next((each.value for each in arguments if each.name == "default"), attr.value)
