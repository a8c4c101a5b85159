"""What pydantic found wrong, in the words and places of the user's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from family.errors import Mistake
from family.suggest import did_you_mean, list_names
from family.yaml_lines import join

Place = tuple[str | int, ...]


def translate_errors(problem: ValidationError, raw: Mapping[str, Any], model: type[BaseModel]) -> list[Mistake]:
    """One mistake per place; what the branches of a union allow there is said together."""
    places: dict[Place, list[Any]] = {}
    for error in problem.errors():
        places.setdefault(find_place(error, raw), []).append(error)
    return [explain(place, errors, model) for place, errors in places.items()]


def find_place(error: Any, raw: Any) -> Place:
    """The keys of pydantic's location that are in the file, without the names of a union's branches."""
    place: list[str | int] = []
    node = raw
    *_, last = error["loc"]
    for part in error["loc"]:
        if isinstance(node, Mapping):
            key = next((k for k in node if k == part or str(k) == str(part)), None)
            if key is not None:
                place.append(str(key))
                node = node[key]
            elif part is last and error["type"] == "missing":
                place.append(str(part))
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            place.append(part)
            node = node[part]
    return tuple(place)


def explain(place: Place, errors: list[Any], model: type[BaseModel]) -> Mistake:
    where = ""
    for part in place:
        where = join(where, part)
    first = errors[0]
    if first["type"] == "extra_forbidden":
        return Mistake(where, explain_unknown_key(place, model))
    if first["type"] == "missing":
        return Mistake(where, explain_missing(place, model))
    if first["type"] == "value_error":
        said = str(first["ctx"]["error"])
        return Mistake(where, said if said.endswith("?") else f"{said}.")
    if first["type"] == "string_pattern_mismatch":
        said = "names a folder: it must begin with a letter, digit or '_' and hold letters, digits, - _ . only."
        return Mistake(where, f"{said} Got {first['input']!r}.")
    return Mistake(where, explain_value(errors))


def explain_value(errors: list[Any]) -> str:
    """ "must be above 0 or 'auto'. Got -5." """
    given = errors[0]["input"]
    number = isinstance(given, int | float) and not isinstance(given, bool)
    bounds = [e for e in errors if number and e["type"] in BOUNDS]
    others = [e for e in errors if e["type"] == "literal_error"]
    shown = [*bounds, *others] if bounds else errors
    allowed = list(dict.fromkeys(say_allowed(error) for error in shown))
    names = [name for error in others for name in list_literals(error)]
    near = did_you_mean(given, names) if isinstance(given, str) else ""
    return f"must be {list_names(allowed)}. Got {show(given)}.{near or say_hint(given, errors)}"


BOUNDS = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "finite_number": "a finite number",
}
KINDS = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
}


def say_allowed(error: Any) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in BOUNDS:
        return BOUNDS[kind].format(**context)
    if kind in KINDS:
        return KINDS[kind]
    if kind == "literal_error":
        return list_names(list_literals(error))
    if kind in ("too_short", "too_long"):
        what = "mapping" if isinstance(error["input"], dict) else "list"
        bound = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        counted = "one entry" if bound == "at least 1" else f"{bound.split()[-1]} entries"
        return f"a {what} of {bound.rpartition(' ')[0]} {counted}"
    return str(error["msg"]).removeprefix("Input should be ")


def list_literals(error: Any) -> list[str]:
    """The names in pydantic's "'a', 'b' or 'c'"."""
    return list(error["ctx"]["expected"].split("'")[1::2])


def say_hint(given: Any, errors: list[Any]) -> str:
    wanted = {error["type"] for error in errors}
    numeric = wanted & {"float_type", "int_type"}
    if isinstance(given, str) and numeric and given.strip()[:1].isdigit():
        bare = given.replace(".", "", 1).isdigit()
        return " Write it without quotes." if bare else " Write the number alone, without its unit."
    scalar = given is not None and not isinstance(given, str | dict | list)
    return " Put it in quotes." if scalar and wanted == {"string_type"} else ""


def show(given: Any) -> str:
    """The value as YAML would write it, shortened."""
    if given is None:
        return "nothing"
    text = str(given).lower() if isinstance(given, bool) else repr(given)
    return text if len(text) <= 60 else text[:57] + "…"


def explain_missing(place: Place, model: type[BaseModel]) -> str:
    beside = list_names(sorted_required(find_model(place[:-1], model)), "and")
    return f"is missing. Required here: {beside}."


def sorted_required(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.is_required()]


def explain_unknown_key(place: Place, model: type[BaseModel]) -> str:
    """What is allowed there, the nearest, or the part of the file where this key would belong."""
    name = str(place[-1])
    allowed = [key for key in find_model(place[:-1], model).model_fields if key != "folder"]
    homes = find_homes(name, model)
    home = "the top level" if name in model.model_fields and len(place) > 1 else homes[0] if homes else None
    near = did_you_mean(name, allowed)
    hint = f" It belongs in {home}." if home and name != "folder" else near
    return f"is no key here. Allowed: {', '.join(allowed)}.{hint}"


def find_homes(name: str, model: type[BaseModel]) -> list[str]:
    """The parts of the file, one level down, that know a key of this name."""
    parts = {key: inner_model(field.annotation) for key, field in model.model_fields.items()}
    return [key for key, part in parts.items() if part is not None and name in part.model_fields]


def find_model(place: Place, model: type[BaseModel]) -> type[BaseModel]:
    """The model that reads what stands at `place`."""
    named = False  # the next part is a name of the user's, as in budgets.<name>
    for part in place:
        if named or isinstance(part, int) or part not in model.model_fields:
            named = False
            continue
        annotation = model.model_fields[part].annotation
        named = get_origin(annotation) is dict
        model = inner_model(annotation) or model
    return model


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """The first model inside an annotation such as dict[str, Budget] or Preprocess | None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (inner_model(inner) for inner in get_args(annotation))
    return next((model for model in found if model is not None), None)
