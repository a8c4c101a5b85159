"""Static checks of a file: operators and opset that a runtime lacks, what accelerators take, the files of mobile builds."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from test_export_students import build

from export import (
    Runner,
    check_model,
    find_refusal,
    make_up_inputs,
    merge_front,
    quantise,
    say_refusal,
    say_share,
    to_onnx,
    write_mobile,
)
from export.__main__ import main
from export.accelerators import NAMES, XNNPACK, check_accelerators, fix_batch
from export.checks import list_lacking
from export.mobile import FIXED, OPERATORS, ORT


def save(path, nodes, opset=18, kind=TensorProto.FLOAT, domains=(), initializers=()):
    ends = [helper.make_tensor_value_info(name, kind, ["batch", 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], list(initializers))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


def chain(*operators):
    """Nodes x → … → y, one value between each and the next; `domain:Operator` outside the standard domain."""
    values = ["x", *(f"v{i}" for i in range(len(operators) - 1)), "y"]
    parts = [name.rpartition(":") for name in operators]
    return [
        helper.make_node(name, [before], [after], domain=domain)
        for (domain, _, name), before, after in zip(parts, values[:-1], values[1:], strict=True)
    ]


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """name → file with its front: a CNN whose images vary in size, an MLP over a table in fp32 and int8, an encoder."""
    folder, found = tmp_path_factory.mktemp("students"), {}
    for name in ("cnn", "mlp", "encoder"):
        module, front, signature = build(name)
        to_onnx(module, signature, folder / f"{name}-body.onnx")
        found[name] = merge_front(folder / f"{name}-body.onnx", front, folder / f"{name}.onnx").path
        if name == "mlp":
            feeds = make_up_inputs(folder / "mlp-body.onnx")
            quantise(folder / "mlp-body.onnx", folder / "mlp-int8-body.onnx", "int8", feeds)
            found["mlp-int8"] = merge_front(folder / "mlp-int8-body.onnx", front, folder / "mlp-int8.onnx").path
    return found


def test_all_operators_that_a_runtime_lacks_are_named_in_one_line(tmp_path):
    path = save(tmp_path / "own.onnx", chain("Relu", "my.own:Magic", "Sigmoid", "Wonder"), domains=["my.own"])
    version = onnxruntime.__version__
    assert list_lacking(onnx.load(path)) == ("Wonder", "my.own:Magic")
    assert find_refusal(path) == f"onnxruntime {version} does not run it: it has no operator Wonder, my.own:Magic"
    with pytest.raises(ValueError, match=r"own\.onnx: onnxruntime .* has no operator"):
        check_model(path)


def test_an_opset_that_is_too_new_is_told_with_the_newest(tmp_path):
    said = find_refusal(save(tmp_path / "new.onnx", chain("Relu"), opset=99))
    assert said.startswith(f"onnxruntime {onnxruntime.__version__} does not run it: its opset 99 is newer than ")
    newest = int(said.rsplit("than ")[1].split(",")[0])
    assert find_refusal(save(tmp_path / "newest.onnx", chain("Relu"), opset=newest)) is None
    assert find_refusal(save(tmp_path / "next.onnx", chain("Relu"), opset=newest + 1)) is not None


def test_types_without_a_kernel_are_told(tmp_path):
    said = find_refusal(save(tmp_path / "bf16.onnx", chain("Sigmoid"), kind=TensorProto.BFLOAT16))
    assert said.endswith("it has no kernel of Sigmoid (13) for these types")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Fatal error: my.own:Magic(-1) is not a registered function/op", "it has no operator my.own:Magic"),
        (
            "Unsupported model IR version: 11, max supported IR version: 10",
            "its IR 11 is newer than 10",
        ),
        ("Something\nelse  went wrong", "Something else went wrong"),
    ],
)
def test_what_other_runtimes_say_is_told_in_plain_words(text, said):
    assert say_refusal(f"[ONNXRuntimeError] : 1 : FAIL : {text}" if "else" not in text else text) == said


def test_functions_of_the_file_itself_are_not_lacking(tmp_path):
    path = save(tmp_path / "own.onnx", chain("my.own:Twice"), domains=["my.own"])
    model = onnx.load(path)
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    opsets = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("my.own", "Twice", ["a"], ["b"], body, opsets))
    onnx.save(model, path)
    assert find_refusal(path) is None
    assert check_model(path)["nnapi"]["nodes"] == 1


def test_a_plain_student_is_taken_whole_once_its_batch_is_fixed(students):
    found = check_model(students["mlp-int8"])["nnapi"]
    table = check_accelerators(students["mlp"])
    assert found["taken_as_it_is"] < found["taken"]
    assert found["needs_fixed_shapes"]
    assert table["nnapi"].as_it_is.dynamic > 0 == table["nnapi"].fixed.dynamic


def test_a_student_that_falls_back_is_marked_with_the_reason(students):
    found = check_model(students["mlp-int8"])["coreml-neuralnetwork"]
    assert found["falls_back"]
    assert found["taken"] < found["nodes"]
    assert found["parts"] > 1
    assert "not listed: " in found["reason"]
    assert "DequantizeLinear" in found["reason"]
    assert say_share(found).startswith(f"falls back, takes {found['taken']} of {found['nodes']} nodes")


def test_sides_that_vary_beside_the_batch_keep_nodes_on_the_cpu(students):
    found = check_model(students["cnn"])["nnapi"]
    assert found["falls_back"]
    assert not found["needs_fixed_shapes"]
    assert "of shapes that are not fixed" in found["reason"]


def test_a_whole_take_is_told_as_one(tmp_path):
    found = check_model(save(tmp_path / "plain.onnx", chain("Relu", "Sigmoid", "Tanh")))
    for name in ("nnapi", "coreml-neuralnetwork", "coreml-mlprogram"):
        assert found[name] == {
            "nodes": 3,
            "taken": 3,
            "taken_as_it_is": 0,
            "parts": 1,
            "needs_fixed_shapes": True,
            "falls_back": False,
        }
        assert say_share(found[name]) == "takes all 3 nodes once shapes are fixed"


def test_an_operator_in_the_middle_parts_what_is_taken(tmp_path):
    found = check_model(save(tmp_path / "split.onnx", chain("Relu", "Softsign", "Tanh")))["nnapi"]
    assert found["reason"] == "2 of 3 nodes in 2 pieces; not listed: Softsign"


def test_xnnpack_counts_what_its_page_lists_and_ranks_that_its_notes_ask_for(students, tmp_path):
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["v"]), helper.make_node("Relu", ["v"], ["y"])]
    found = check_model(save(tmp_path / "flat.onnx", nodes, initializers=[weight]))["xnnpack"]
    assert (found["taken"], found["nodes"]) == (1, 2)
    assert found["reason"] == "1 of 2 nodes; not listed: Relu"
    encoder = onnx.load(students["encoder"])
    convolutions = [node for node in encoder.graph.node if node.op_type == "Conv"]
    assert convolutions, "a Conv over time has three dimensions, and only those over images are listed"
    assert "Conv" in check_accelerators(students["encoder"])["xnnpack"].best.lacking
    assert "Conv" not in check_accelerators(students["cnn"])["xnnpack"].best.lacking
    assert "Gemm" in check_accelerators(students["mlp-int8"])["xnnpack"].best.lacking, (
        "its quantised form is not listed"
    )
    assert "QLinearGemm" not in XNNPACK


@pytest.mark.parametrize("name", ["cnn", "mlp", "mlp-int8", "encoder"])
def test_mobile_files_give_what_the_model_gives(students, name, tmp_path):
    feeds = make_up_inputs(students[name])[0]
    found = write_mobile(students[name], tmp_path / "out", feeds, 1e-4)
    wanted = Runner(students[name]).all_outputs(feeds)
    for got, expected in zip(Runner(tmp_path / "out" / ORT).all_outputs(feeds), wanted, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)
    assert 0 <= found[ORT]["largest_difference"] <= 1e-4
    assert sorted(found["files"]) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert (FIXED in found["files"]) == (name != "cnn")
    json.dumps(found, allow_nan=False)


def test_the_fixed_copy_takes_one_row(students, tmp_path):
    feeds = make_up_inputs(students["mlp"])[0]
    write_mobile(students["mlp"], tmp_path, feeds, 1e-4)
    model = onnx.load(tmp_path / FIXED)
    sides = [dim for end in (*model.graph.input, *model.graph.output) for dim in end.type.tensor_type.shape.dim]
    assert all(dim.dim_value > 0 for dim in sides)
    one = {name: array[:1] for name, array in feeds.items()}
    np.testing.assert_allclose(Runner(tmp_path / FIXED)(one), Runner(students["mlp"])(one), atol=1e-6)


def test_fixing_leaves_the_model_itself_alone(students):
    model = onnx.load(students["mlp"])
    before = model.SerializeToString(deterministic=True)
    fix_batch(model)
    assert model.SerializeToString(deterministic=True) == before


def test_required_operators_are_those_of_the_file_and_tell_no_path(students, tmp_path):
    write_mobile(students["mlp-int8"], tmp_path, make_up_inputs(students["mlp-int8"])[0], 1.0)
    text = (tmp_path / OPERATORS).read_text()
    assert str(tmp_path) not in text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert {line.split(";")[0] for line in lines if line} == {"ai.onnx", "com.microsoft"}
    assert "QGemm" in text, "the fused operator of int8, which model.onnx itself does not have"


def test_a_file_that_gives_other_outputs_is_not_kept(students, tmp_path):
    found = write_mobile(students["mlp"], tmp_path, make_up_inputs(students["mlp"])[0], -1.0)
    assert found["files"] == []
    assert list(tmp_path.iterdir()) == []
    assert "its outputs are off by" in found[ORT]["reason"]
    assert "its outputs are off by" in found[FIXED]["reason"]


def test_what_an_earlier_call_left_does_not_stay(students, tmp_path):
    write_mobile(students["mlp"], tmp_path, make_up_inputs(students["mlp"])[0], 1e-4)
    found = write_mobile(students["cnn"], tmp_path, make_up_inputs(students["cnn"])[0], 1e-4)
    assert FIXED not in found["files"]
    assert not (tmp_path / FIXED).exists()


def test_command_check(students, tmp_path, capsys):
    assert main(["check", str(students["mlp-int8"]), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert all(f"{name}: " in said for name in NAMES.values())
    assert f"{tmp_path / 'out' / ORT}: outputs within" in said
    lacking = save(tmp_path / "own.onnx", chain("my.own:Magic"), domains=["my.own"])
    (tmp_path / "no.onnx").write_text("no")
    wrong = {
        lacking: "it has no operator my.own:Magic",
        tmp_path / "no.onnx": "is not an ONNX file",
        tmp_path / "absent.onnx": "there is no file",
        tmp_path: "Is a directory",
    }
    for path, message in wrong.items():
        assert main(["check", str(path)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_checking_prints_and_logs_nothing_of_its_own(students, tmp_path):
    code = (
        "import numpy as np; from pathlib import Path; from export import make_up_inputs, write_mobile; "
        f"path = Path({str(students['mlp'])!r}); write_mobile(path, Path({str(tmp_path)!r}), make_up_inputs(path)[0], 1e-4)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
