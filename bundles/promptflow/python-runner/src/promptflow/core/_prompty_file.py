"""Files of prompties: a front matter in YAML and a template, and what they refer to."""

import functools
import json
import os
import re
import sys
from pathlib import Path

from promptflow.core._errors import InvalidSampleError
from promptflow.exceptions import UserErrorException

_FILE = re.compile(r"-{3,}\n(.*)-{3,}\n(.*)", re.DOTALL)
_REFERENCE = re.compile(r"\$\{(\w+):(.*)\}")


def read(path):
    """The front matter and the template of a file."""
    parts = _FILE.search(Path(path).read_text(encoding="utf-8"))
    settings = parts and load_yaml(parts[1])
    if not isinstance(settings, dict):
        raise UserErrorException(
            "Illegal formatting of prompty. The prompt file is in markdown format and can be divided into two "
            "parts, the first part is in YAML format and contains connection and model information. The second "
            "part is the prompt template."
        )
    return settings, parts[2]


def resolved(value, folder):
    """The value with `${env:NAME}` and `${file:PATH}` replaced."""
    if isinstance(value, str):
        return _referred(value, folder)
    if isinstance(value, list):
        return [resolved(item, folder) for item in value]
    if isinstance(value, dict):
        return {key: resolved(item, folder) for key, item in value.items()}
    return value


def _referred(text, folder):
    reference = _REFERENCE.match(text)
    if reference is None:
        return text
    kind, target = reference.groups()
    if kind == "env":
        return os.environ.get(target, text)
    if kind != "file":
        print(f"Unknown reference type {kind}, return original value {text}.", file=sys.stderr)
        return text
    path = Path(folder) / target
    if not path.exists():
        raise UserErrorException(f"Cannot find the reference file {target}.")
    content = path.read_text(encoding="utf-8")
    if path.suffix.lower() == ".json":
        return json.loads(content)
    return load_yaml(content) if path.suffix.lower() in (".yml", ".yaml") else content


def merged(below, above):
    """Both, and what is above where they differ, object by object."""
    values = dict(below) if isinstance(below, dict) else {}
    for key, value in above.items():
        values[key] = merged(values.get(key), value) if isinstance(value, dict) else value
    return values


def sample_inputs(sample):
    """The inputs that a sample stands for: themselves, or a file of JSON."""
    if isinstance(sample, dict):
        return sample
    if not (isinstance(sample, (str, Path)) and str(sample).endswith(".json")):
        raise InvalidSampleError("Only dict and json file are supported as sample in prompty.")
    path = str(sample).removeprefix("file:")
    if not os.path.exists(path):
        raise InvalidSampleError(f"Cannot find sample file {path}.")
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def load_yaml(text):
    import yaml  # of the bundle's packages

    return yaml.load(text, _loader())


@functools.cache
def _loader():
    """PyYAML's safe loader, with the scalars of YAML 1.2 as promptflow reads them: `on` is a text, `017` is 17."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("bool", "int", "float")]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    digits = list("-+0123456789")
    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$"), digits)
    number = r"^(?:[-+]?(?:[0-9][0-9_]*\.?[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9_]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))$"
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(number), [*digits, "."])
    Loader.add_constructor("tag:yaml.org,2002:int", _integer)
    return Loader


def _integer(loader, node):
    text = loader.construct_scalar(node).replace("_", "")
    return int(text, 0 if text.lstrip("-+")[:2] in ("0b", "0o", "0x") else 10)
