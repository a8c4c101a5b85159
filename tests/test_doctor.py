"""What doctor says of this machine."""

import json
import os
import subprocess
import sys

import benchmark
from family import doctor as room
from family.doctor import doctor, examine, find_missing, format_findings


def test_every_preset_is_usable_or_has_a_reason():
    targets = examine()["targets"]
    assert list(targets) == list(benchmark.PRESETS)
    for name, target in benchmark.PRESETS.items():
        why = benchmark.unavailable(target)
        assert targets[name]["why"] == why
        assert targets[name]["usable"] == (why is None)
        assert targets[name]["answers"] == sorted(benchmark.can_answer(target))
    assert targets["cpu"]["usable"]


def test_every_transport_says_what_it_needs():
    assert set(room.NEEDS) == set(benchmark.TRANSPORTS)


def test_json_is_what_examine_finds(capsys):
    assert doctor(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["cores"] == os.cpu_count()
    assert found["machine"]["memory_gib"] > 0
    assert {"torch", "onnx", "onnxruntime", "optuna"} <= set(found["packages"])
    assert found["python"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert "hf" in found["extras"]


def test_for_a_person_each_target_has_a_line(capsys):
    assert doctor([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, target in benchmark.PRESETS.items():
        said = "usable" if benchmark.unavailable(target) is None else "skipped"
        assert len([line for line in lines if line.split()[:2] == [name, said]]) == 1


def test_what_is_missing_comes_with_its_command(monkeypatch):
    monkeypatch.setattr(room.shutil, "which", lambda program: None)
    assert find_missing("node")[0] == {"needs": "node", "install": "sudo apt-get install nodejs"}
    assert find_missing("local") == []
    monkeypatch.setattr(room.shutil, "which", lambda program: f"/bin/{program}")
    assert find_missing("emulated") == []


def test_an_npm_package_is_looked_for_in_the_cache_folder(tmp_path, monkeypatch):
    package = tmp_path / "javascript" / "node_modules" / "onnxruntime-node"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"version": "1.30.0"}')
    monkeypatch.setenv("STUDENT_FAMILY_CACHE", str(tmp_path))
    assert room.is_installed("npm:onnxruntime-node")
    assert not room.is_installed("npm:onnxruntime-web")


def test_an_install_that_helps_several_targets_is_said_once():
    target = {"missing": [{"needs": "adb", "install": "sudo apt-get install adb"}]}
    lines = room.format_installs({"adb": target, "phone": target})
    assert lines == ["  adb is not installed: sudo apt-get install adb   (for adb, phone)"]


def test_an_absent_package_and_extra_are_named(monkeypatch):
    known = room.find_version
    absent = ("datasets", "optuna")
    monkeypatch.setattr(room, "find_version", lambda name: None if name in absent else known(name))
    found = examine()
    assert found["extras"]["hf"] == {
        "installed": False,
        "missing": ["datasets"],
        "install": "pip install 'student-family[hf]'",
    }
    said = format_findings(found)
    assert "lacks datasets: pip install 'student-family[hf]'" in said
    assert any(line.split() == ["optuna", "NOT", "INSTALLED"] for line in said.splitlines())


def test_a_gpu_that_torch_cannot_use_is_said():
    said = room.format_gpu({"found": ["X"], "torch": "2.8.0+cpu", "torch_for_cpu_alone": True})
    assert said == "GPU: X; torch 2.8.0+cpu is built for the CPU alone and will not use it"


def test_doctor_loads_no_torch():
    code = (
        "import sys\nfrom family.doctor import doctor\ndoctor(['--json'])\n"
        "print(sorted({'torch', 'onnx', 'optuna', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "[]\n"
