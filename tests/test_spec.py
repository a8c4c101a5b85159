"""Every mistake in budgets.yaml: its place, its line, what was found, what is allowed."""

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from family.errors import Mistakes
from family.spec import format_mistakes, read_spec, schema
from family.suggest import hint_target

ROOT = Path(__file__).parents[1]
GOOD = """\
data: digits
teacher: digits
students: {space: conv}
budgets:
  tiny: {target: cpu, size_kb: 6}
"""
PRESETS = "cpu, cortex-a53, cortex-a72, cortex-a76, neoverse-n1, armv9, old-x86, browser, browser-slow, node, ssh, adb"
TOP = "name, seed, task, score, data, teacher, students, budgets, targets, distill, search, export, device"
NAMES_FOLDER = "names a folder: it must begin with a letter, digit or '_' and hold letters, digits, - _ . only."


def complain(folder: Path, text: str) -> str:
    """What is printed for a file that holds `text`."""
    file = folder / "b.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(Mistakes) as caught:
        read_spec(file)
    return format_mistakes(caught.value, file)


def swap(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_the_four_keys_are_enough(tmp_path):
    (tmp_path / "b.yaml").write_text(GOOD)
    spec = read_spec(tmp_path / "b.yaml")
    assert spec.name == tmp_path.name
    assert spec.data.path == "digits"
    assert [t.path for t in spec.teacher] == ["digits"]
    assert spec.budgets["tiny"].size_kb == 6
    assert spec.search.trials == 60


def test_no_file_names_what_lies_beside_it(tmp_path):
    (tmp_path / "budgets.yaml").write_text(GOOD)
    with pytest.raises(Mistakes) as caught:
        read_spec(tmp_path / "b.yml")
    said = format_mistakes(caught.value, tmp_path / "b.yml")
    assert said == (
        f"There is no file {tmp_path}/b.yml (looked for {tmp_path.resolve()}/b.yml). There is budgets.yaml "
        f"in {tmp_path.resolve()}. `build-family init` writes one."
    )


def test_no_file_names_the_one_that_is_meant(tmp_path):
    for name in ("budgets.yaml", "other.yml"):
        (tmp_path / name).write_text(GOOD)
    with pytest.raises(Mistakes) as caught:
        read_spec(tmp_path / "budget.yaml")
    said = format_mistakes(caught.value, tmp_path / "budget.yaml")
    file = f"{tmp_path}/budget.yaml (looked for {tmp_path.resolve()}/budget.yaml)"
    assert said == f"There is no file {file}. Did you mean 'budgets.yaml'?"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("raspberry-pi", "transport: ssh"),
        ("pi4", "cortex-a72 (Pi 4)"),
        ("android", "use adb"),
        ("ios", "No target reaches iOS"),
        ("iPhone 15", "No target reaches iOS"),
        ("wasm", "use browser"),
        ("cortex-a35", "Did you mean 'cortex-a53'?"),
        ("zzz", ""),
    ],
)
def test_a_device_by_its_usual_name_is_told_its_target(name, meant):
    said = hint_target(name, PRESETS.split(", "))
    assert meant in said
    assert bool(said) == bool(meant)


def test_folder(tmp_path):
    with pytest.raises(Mistakes) as caught:
        read_spec(tmp_path)
    assert format_mistakes(caught.value, tmp_path) == f"{tmp_path} is a folder; --budgets takes a YAML file."


def test_not_utf8(tmp_path):
    (tmp_path / "b.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(Mistakes, match=r"b\.yaml is not YAML: it is not UTF-8 text \(byte 6\)"):
        read_spec(tmp_path / "b.yaml")


WANTED = "it must be a mapping with data, teacher, students and budgets."
WHOLE_FILE = {
    "empty": ("", f"b.yaml is empty; {WANTED} `build-family init` writes one."),
    "comments": ("# nothing\n", f"b.yaml is empty; {WANTED} `build-family init` writes one."),
    "list": ("- a\n", f"b.yaml holds a list; {WANTED}"),
    "text": ("hello\n", f"b.yaml holds only 'hello'; {WANTED}"),
    "no yaml": ("a: [1\nb: 2\n", "b.yaml is not YAML: expected ',' or ']', but got ':' (line 2, column 2)."),
    "tab": (
        "a: 1\n\tb: 2\n",
        "b.yaml is not YAML: found character '\\t' that cannot start any token (line 2, column 1).",
    ),
    "tag": (
        GOOD + "seed: !!python/object:os.system 1\n",
        "b.yaml is not YAML: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object:os.system' (line 6, column 7).",
    ),
}


@pytest.mark.parametrize("name", WHOLE_FILE)
def test_the_whole_file_is_wrong(tmp_path, name):
    text, said = WHOLE_FILE[name]
    assert complain(tmp_path, text) == said


# what is wrong → the file's text, and the whole message without "(b.yaml, line N)", and N
MISTAKES = {
    "twice": (GOOD + "seed: 1\nseed: 2\n", "seed is there twice (lines 6 and 7); keep one", 7),
    "key": (GOOD + "sed: 1\n", f"sed is no key here. Allowed: {TOP}. Did you mean 'seed'?", 6),
    "key of a budget": (
        swap("size_kb", "size_bk"),
        "budgets.tiny.size_bk is no key here. Allowed: target, latency_ms, latency_p95_ms, ms_per_token, "
        "first_token_ms, size_kb, memory_mb, instructions_m, score, cheapest_by. Did you mean 'size_kb'?",
        5,
    ),
    "key of the students": (
        swap("{space: conv}", "{space: conv, inputs: 8}"),
        "students.inputs is no key here. Allowed: space, input, prompt_tokens, tokenizer, dims. Did you mean 'input'?",
        3,
    ),
    "key of a range": (
        swap("{space: conv}", "{space: conv, dims: {width: {low: 1, hihg: 3, high: 4}}}"),
        "students.dims.width.hihg is no key here. Allowed: low, high, step, log, choices. Did you mean 'high'?",
        3,
    ),
    "key in the wrong part": (
        GOOD + "trials: 3\n",
        f"trials is no key here. Allowed: {TOP}. It belongs in search",
        6,
    ),
    "key with a number": (GOOD + "12: x\n", f"12 is no key here. Allowed: {TOP}", 6),
    "folder": (GOOD + "folder: x\n", "folder is no key of this file", 6),
    "no students": (
        swap("students: {space: conv}\n", ""),
        "students is missing. Required here: data, teacher, students and budgets",
        None,
    ),
    "no space": (swap("{space: conv}", "{}"), "students.space is missing. Required here: space", 3),
    "no target": (
        swap("target: cpu, ", ""),
        "budgets.tiny.target is missing. Required here: target",
        5,
    ),
    "students as text": (
        swap("{space: conv}", "conv"),
        "students must be a mapping, such as {space: conv}. Got 'conv'",
        3,
    ),
    "space": (
        swap("conv", "konv"),
        "students.space must be mlp, conv, encoder, static, decoder or path/file.py:function. Got 'konv'. Did you mean 'conv'?",
        3,
    ),
    "time per token of images": (
        swap("size_kb: 6", "ms_per_token: 1"),
        "budgets.tiny.ms_per_token is not for students that give one answer, which latency_ms and latency_p95_ms time",
        5,
    ),
    "cheapest by time per token of images": (
        swap("size_kb: 6", "cheapest_by: first_token_ms"),
        "budgets.tiny.cheapest_by first_token_ms is not for students that give one answer, which latency_ms and "
        "latency_p95_ms time",
        5,
    ),
    "cheapest by the answer of a language model": (
        swap("size_kb: 6", "cheapest_by: latency_ms") + "task: lm\n",
        "budgets.tiny.cheapest_by latency_ms is not for task: lm, which ms_per_token and first_token_ms time",
        5,
    ),
    "space without a function": (
        swap("conv", "mine.py"),
        "students.space must name a function: mine.py:function. Got 'mine.py'",
        3,
    ),
    "no budgets": (
        swap("budgets:\n  tiny: {target: cpu, size_kb: 6}\n", "budgets: {}\n"),
        "budgets must be a mapping of at least one entry. Got {}",
        4,
    ),
    "nothing in budgets": (
        swap("budgets:\n  tiny: {target: cpu, size_kb: 6}\n", "budgets:\n"),
        "budgets must be a mapping. Got nothing",
        4,
    ),
    "budget's name": (swap("tiny:", "../x:"), f"budgets.../x {NAMES_FOLDER} Got '../x'", 5),
    "budget's hidden name": (swap("tiny:", ".x:"), f"budgets..x {NAMES_FOLDER} Got '.x'", 5),
    "budget's number": (swap("tiny:", "1:"), "budgets.1 must be text. Got 1. Put it in quotes", 5),
    "budgets alike": (
        GOOD + "  Tiny: {target: cpu}\n",
        "budgets.Tiny differs from 'tiny' by upper and lower case alone, and both name a folder",
        6,
    ),
    "run's name": (GOOD + "name: a/b\n", f"name {NAMES_FOLDER} Got 'a/b'", 6),
    "target": (
        swap("cpu", "cpuu"),
        f"budgets.tiny.target must be a preset or a name in targets: {PRESETS}. Got 'cpuu'. Did you mean 'cpu'?",
        5,
    ),
    "a limit that the target cannot answer": (
        swap("cpu, size_kb", "cortex-a53, latency_ms"),
        "budgets.tiny.latency_ms cannot be answered by target 'cortex-a53', which answers size_kb and instructions_m",
        5,
    ),
    "cheapest by what the target cannot answer": (
        swap("size_kb: 6", "cheapest_by: instructions_m"),
        "budgets.tiny.cheapest_by instructions_m cannot be answered by target 'cpu', which answers "
        "latency_ms, latency_p95_ms, size_kb and memory_mb",
        5,
    ),
    "unit": (
        swap("size_kb: 6", "latency_ms: 4 ms"),
        "budgets.tiny.latency_ms must be a number. Got '4 ms'. Write the number alone, without its unit",
        5,
    ),
    "quotes": (
        swap("size_kb: 6", "latency_ms: '4'"),
        "budgets.tiny.latency_ms must be a number. Got '4'. Write it without quotes",
        5,
    ),
    "yes": (swap("size_kb: 6", "size_kb: yes"), "budgets.tiny.size_kb must be a number. Got 'yes'", 5),
    "true": (swap("size_kb: 6", "size_kb: true"), "budgets.tiny.size_kb must be a number. Got true", 5),
    "negative": (swap("size_kb: 6", "size_kb: -3"), "budgets.tiny.size_kb must be above 0. Got -3", 5),
    "zero": (swap("size_kb: 6", "size_kb: 0"), "budgets.tiny.size_kb must be above 0. Got 0", 5),
    "infinite": (
        swap("size_kb: 6", "size_kb: .inf"),
        "budgets.tiny.size_kb must be a finite number. Got inf",
        5,
    ),
    "percent": (
        "score: accuracy\n" + swap("size_kb: 6", "score: 97"),
        "budgets.tiny.score must lie within 0 and 1, as accuracy does. Got 97. Did you mean 0.97?",
        6,
    ),
    "teacher of the wrong type": (
        swap("teacher: digits", "teacher: 5"),
        "teacher must be a path, a mapping with path, or a list of those. Got 5",
        2,
    ),
    "no teacher in the list": (
        swap("teacher: digits", "teacher: []"),
        "teacher must be a list of at least one entry. Got []",
        2,
    ),
    "second teacher": (
        swap("teacher: digits", "teacher: [digits, 7]"),
        "teacher[1] must be a path, or a mapping with path. Got 7",
        2,
    ),
    "teacher gives": (
        swap("teacher: digits", "teacher: {path: digits, gives: logit}"),
        "teacher.gives must be auto, logits or probabilities. Got 'logit'. Did you mean 'logits'?",
        2,
    ),
    "mean": (
        swap("teacher: digits", "teacher: {path: digits, preprocess: {mean: 0.5}}"),
        "teacher.preprocess.mean must be a list. Got 0.5",
        2,
    ),
    "one class": (
        swap("teacher: digits", "teacher: {path: digits, classes: [cat]}"),
        "teacher.classes must be a list of at least 2 entries. Got ['cat']",
        2,
    ),
    "a class that is no name": (
        swap("teacher: digits", "teacher: {path: digits, classes: [cat, true]}"),
        "teacher.classes[1] must be text. Got true. Put it in quotes",
        2,
    ),
    "an endpoint": (
        swap("teacher: digits", "task: lm\nteacher: https://example.com/v1"),
        "teacher returns only text: say in `asks` what it is asked, at least prompt and model",
        3,
    ),
    "data of the wrong type": (
        swap("data: digits", "data: [a]"),
        "data must be a path, or a mapping with path. Got ['a']",
        1,
    ),
    "label": (
        swap("data: digits", "data: {path: digits, label: 3}"),
        "data.label must be text. Got 3. Put it in quotes",
        1,
    ),
    "shares": (
        swap("data: digits", "data: {path: digits, split: {val: 0.6, test: 0.5}}"),
        "data.split must leave rows to train: val and test must sum to less than 1. Got 1.1",
        1,
    ),
    "one share": (
        swap("data: digits", "data: {path: digits, split: {val: 1.5}}"),
        "data.split.val must be below 1. Got 1.5",
        1,
    ),
    "a share and a name": (
        swap("data: digits", "data: {path: digits, split: {val: 0.2, test: held}}"),
        "data.split must hold either shares of val and test, or names of ready-made splits, not both",
        1,
    ),
    "share of train": (
        swap("data: digits", "data: {path: digits, split: {train: 0.7}}"),
        "data.split.train must be the name of a ready-made split; of shares, train gets the rest. Got 0.7",
        1,
    ),
    "kept labels": (
        swap("data: digits", "data: {path: digits, keep_labels: some}"),
        "data.keep_labels must be a whole number or all. Got 'some'",
        1,
    ),
    "low above high": (
        swap("{space: conv}", "{space: conv, dims: {width: [9, 3]}}"),
        "students.dims.width low must not be above high. Got low 9, high 3",
        3,
    ),
    "half a range": (
        swap("{space: conv}", "{space: conv, dims: {width: [9]}}"),
        "students.dims.width must be a value, [low, high], {low, high, step, log} or {choices: […]}. Got [9]",
        3,
    ),
    "log from zero": (
        swap("{space: conv}", "{space: conv, dims: {width: {low: 0, high: 3, log: true}}}"),
        "students.dims.width low must be above 0 where log is true. Got 0",
        3,
    ),
    "input": (
        swap("{space: conv}", "{space: conv, input: large}"),
        "students.input must be a whole number. Got 'large'",
        3,
    ),
    "input as a list": (
        swap("{space: conv}", "{space: conv, input: [64, 128]}"),
        "students.input must be one number, the side of a square, or {height: …, width: …}; a list would search the "
        "size, which this version does not. Got [64, 128]",
        3,
    ),
    "half an input": (
        swap("{space: conv}", "{space: conv, input: {height: 64}}"),
        "students.input.width is missing. Required here: height and width",
        3,
    ),
    "layout": (
        swap("data: digits", "data: {path: digits, layout: nchw}"),
        "data.layout must be hwc or chw. Got 'nchw'. Did you mean 'chw'?",
        1,
    ),
    "seed": (GOOD + "seed: 1.5\n", "seed must be a whole number. Got 1.5", 6),
    "date": (GOOD + "seed: 2020-01-01\n", "seed must be a whole number. Got datetime.date(2020, 1, 1)", 6),
    "task": (
        GOOD + "task: image\n",
        "task must be images, table, series, text, lm or path/file.py:function. Got 'image'. Did you mean 'images'?",
        6,
    ),
    "detection": (
        GOOD + "task: detection\n",
        "task 'detection' is not supported: students give one answer per example, no boxes or masks",
        6,
    ),
    "score": (
        GOOD + "score: acuracy\n",
        "score must be accuracy, exact_match, macro_f1, auroc, rmse, mae, r2, cosine, bits_per_byte or path/file.py:function. "
        "Got 'acuracy'. Did you mean 'accuracy'?",
        6,
    ),
    "device": (
        GOOD + "device: gpu\n",
        "device must be auto, cpu, cuda or mps. Got 'gpu'. Did you mean 'cuda'?",
        6,
    ),
    "trials": (GOOD + "search: {trials: many}\n", "search.trials must be a whole number. Got 'many'", 6),
    "workers": (GOOD + "search: {workers: 0}\n", "search.workers must be above 0 or auto. Got 0", 6),
    "empty part": (GOOD + "search:\n", "search must be a mapping. Got nothing", 6),
    "precision": (
        GOOD + "export:\n  precisions:\n  - fp32\n  - int3\n",
        "export.precisions[1] must be fp32, int8, int8-dynamic, int4, int8-weights or fp16-weights. Got 'int3'. Did you mean 'int8'?",
        9,
    ),
    "no precision": (
        GOOD + "export: {precisions: []}\n",
        "export.precisions must name at least one of fp32, int8, int8-dynamic, int4, int8-weights and fp16-weights",
        6,
    ),
    "a target without transport": (
        GOOD + "targets: {mine: {host: a}}\n",
        f"targets.mine must have a transport, as its name is no preset ({PRESETS})",
        6,
    ),
    "a device without transport": (
        GOOD + "targets: {pi: {host: a}}\n",
        f"targets.pi must have a transport, as its name is no preset ({PRESETS}). For a Raspberry Pi itself write "
        "{transport: ssh, host: pi@…} under targets; for its instructions, cortex-a53 (Pi 3), cortex-a72 (Pi 4) or "
        "cortex-a76 (Pi 5)",
        6,
    ),
    "a device as target": (
        swap("target: cpu", "target: gpu"),
        f"budgets.tiny.target must be a preset or a name in targets: {PRESETS}. Got 'gpu'. Students are measured on "
        "processors, such as cpu; what trains is set by device, at the top level",
        5,
    ),
    "guard": (
        GOOD + "export: {guard: on}\n",
        "export.guard must be true or false or auto. Got 'on'",
        6,
    ),
    "one's own target nearly": (
        swap("target: cpu", "target: my-pi") + "targets: {my-pie: {transport: ssh, host: a}}\n",
        f"budgets.tiny.target must be a preset or a name in targets: my-pie, {PRESETS}. Got 'my-pi'. "
        "Did you mean 'my-pie'?",
        5,
    ),
    "transport": (
        GOOD + "targets: {pi: {transport: shh}}\n",
        "targets.pi cannot be used: unknown transport of target 'pi': 'shh'. Did you mean 'ssh'? "
        "Valid: local, emulated, browser, node, ssh, adb, profile",
        6,
    ),
    "threads": (
        GOOD + "targets: {cpu: {threads: 0}}\n",
        "targets.cpu.threads must be above 0. Got 0",
        6,
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_one_mistake(tmp_path, name):
    text, said, line = MISTAKES[name]
    at = f"(b.yaml, line {line})" if line else "(b.yaml)"
    assert complain(tmp_path, text) == (f"{said} {at}" if said.endswith("?") else f"{said} {at}.")


@pytest.mark.parametrize(
    ("text", "where", "named", "line"),
    [
        (swap("data: digits", "data: phots"), "data", "phots", 1),
        (swap("teacher: digits", "teacher: [digits, techer.onnx]"), "teacher[1]", "techer.onnx", 2),
        (swap("conv", "mine.py:space"), "students.space", "mine.py", 3),
        (swap("digits\nt", "{path: digits, transfer: more}\nt"), "data.transfer", "more", 1),
    ],
)
def test_missing_files_name_the_nearest(tmp_path, text, where, named, line):
    (tmp_path / "photos").mkdir()
    (tmp_path / "teacher.onnx").touch()
    near = {"phots": " Did you mean 'photos'?", "techer.onnx": " Did you mean 'teacher.onnx'?"}.get(named, "")
    end = f" (b.yaml, line {line})" + ("" if near else ".")
    looked = f"names {named}, which is not there (looked for {tmp_path.resolve()}/{named})"
    assert complain(tmp_path, text) == f"{where} {looked}{'.' + near if near else ''}{end}"


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path):
    text = """\
data: nope.csv
techer: digits
students: {space: konv}
budgets:
  tiny: {target: cpuu, size_kb: -6}
  fast: {target: cortex-a53, latency_ms: 1}
sed: 1
"""
    lines = complain(tmp_path, text).splitlines()
    told = [line.split()[0] for line in lines]
    assert sorted(told) == sorted(
        [
            "teacher",
            "data",
            "techer",
            "students.space",
            "budgets.tiny.target",
            "budgets.tiny.size_kb",
            "budgets.fast.latency_ms",
            "sed",
        ]
    )
    numbers = [int(line.rsplit("line ", 1)[1].rstrip(").")) for line in lines if "line " in line]
    assert numbers == sorted(numbers)
    assert len(numbers) == 7  # a missing key has no line


def test_the_published_schema_is_the_current_one():
    published = json.loads((ROOT / "family" / "budgets.schema.json").read_text(encoding="utf-8"))
    assert published == schema()


@pytest.mark.parametrize("name", ["digits", "diamonds", "emoji", "vowels"])
def test_examples_fit_the_schema(name):
    text = (ROOT / "examples" / name / "budgets.yaml").read_text(encoding="utf-8")
    jsonschema.validate(YAML(typ="safe").load(text), schema(), jsonschema.Draft202012Validator)


@pytest.mark.parametrize("wrong", ["sed: 1", "device: gpu", "search: {trials: many}", "score: 3"])
def test_the_schema_finds_mistakes(wrong):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(YAML(typ="safe").load(GOOD + wrong), schema())


ODD = [
    "",
    "[",
    "{",
    "}",
    ":",
    "-",
    "null",
    "yes",
    "-1",
    ".nan",
    "1e999",
    "*a",
    "&a",
    "!!set",
    "'",
    "\t",
    "\n",
]
ODD += ["? ", "é", "\0", "0x1F", "2020-01-01", "digits", "cpu", "<<", "{a: 1}", "[1, 2, 3]", "~", "|", "%"]
FULL = GOOD + (
    "seed: 0\ntask: images\nscore: accuracy\ntargets: {cpu: {threads: 1}}\ndevice: auto\n"
    "search: {trials: 3, minutes: 2}\nexport: {precisions: [fp32, int8]}\ndistill: {loss: kd, views: 2}\n"
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(FULL)), st.integers(0, 12), st.sampled_from(ODD)), max_size=3))
def test_no_mutation_of_the_text_ends_in_a_traceback(tmp_path, edits):
    text = FULL
    for at, cut, put in edits:
        text = text[:at] + put + text[at + cut :]
    read_or_explain(tmp_path, text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "cpu", "a.py:f", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["path", "low", "a"]), inner),
    max_leaves=4,
)
KEYS = [*TOP.split(", "), "folder", "x"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4), st.sampled_from(["", "budgets", "targets"]))
def test_no_value_of_the_wrong_kind_ends_in_a_traceback(tmp_path, given, inside):
    base = YAML(typ="safe").load(FULL)
    changed = base | ({inside: {"cpu": given}} if inside else given)
    read_or_explain(tmp_path, json.dumps(changed))


def read_or_explain(folder: Path, text: str) -> None:
    file = folder / "b.yaml"
    file.write_text(text, encoding="utf-8")
    said = None
    try:
        read_spec(file)
    except Mistakes as mistakes:
        said = format_mistakes(mistakes, file)
    assert said is None or said.strip()
