"""Templates of CloudFormation in YAML, as people write them, and as the CDK CLI passes small ones."""

from __future__ import annotations

from typing import Any

import yaml

_NAMES = {"Ref": "Ref", "Condition": "Condition"}  # all other functions are called Fn::…
_TIMESTAMP = "tag:yaml.org,2002:timestamp"  # to CloudFormation, 2012-10-17 is a string


class _TemplateLoader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 - as its base declares it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _function(loader: _TemplateLoader, name: str, node: yaml.Node) -> dict[str, Any]:
    """Return the long form of a function, such as ``{"Fn::GetAtt": ["Queue", "Arn"]}`` of ``!GetAtt Queue.Arn``."""
    argument: Any
    if isinstance(node, yaml.MappingNode):
        argument = loader.construct_mapping(node, deep=True)
    elif isinstance(node, yaml.SequenceNode):
        argument = loader.construct_sequence(node, deep=True)
    else:
        argument = loader.construct_scalar(node)  # type: ignore[arg-type]
        if name == "GetAtt":
            argument = argument.split(".", 1)
    return {_NAMES.get(name, f"Fn::{name}"): argument}


_TemplateLoader.add_multi_constructor("!", _function)


def read_yaml(body: str) -> dict[str, Any]:
    """Return a template in YAML as it would be in JSON.

    Parameters
    ----------
    body
        The template. Its functions may have their short form, such as ``!Sub``.
    """
    return dict(yaml.load(body, _TemplateLoader))  # noqa: S506 - a subclass of SafeLoader
