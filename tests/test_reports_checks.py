"""The section on static checks, and the mark of a budget whose student falls back."""

import pandas as pd
import pytest

from reports.blocks import Items, Table
from reports.checks import mark_fall_back, show_checks
from reports.run_tables import Run

WHOLE = {"nodes": 9, "taken": 9, "parts": 1, "needs_fixed_shapes": True, "falls_back": False}
SPLIT = {"nodes": 9, "taken": 5, "parts": 3, "needs_fixed_shapes": False, "falls_back": True, "reason": "5 of 9; why"}
LISTED = {"nodes": 8, "taken": 2, "parts": None, "needs_fixed_shapes": False, "falls_back": True, "reason": "2 of 8"}


def make_budget(nnapi, network, program, id="a", **more):
    accelerators = {"nnapi": nnapi, "coreml-neuralnetwork": network, "coreml-mlprogram": program, "xnnpack": LISTED}
    targets = {"cpu": {"runs": True, "falls_back": False}, "pi": {"runs": None, "falls_back": None, "reason": "off"}}
    checks = {"targets": targets, "accelerators": accelerators, "files": [], **more}
    return {"status": "kept", "id": id, "precision": "int8", "checks": checks}


def show(**budgets):
    nothing = pd.DataFrame()
    return show_checks(Run({"budgets": budgets}, nothing, nothing, nothing, {}))


def test_a_line_for_each_file_says_where_it_ran_and_what_is_taken():
    good = make_budget(WHOLE, SPLIT, WHOLE, **{"model.ort": {"largest_difference": 2e-6}})
    section = show(good=good, same=good, other=make_budget(WHOLE, WHOLE, WHOLE, id="b"))
    table = section.blocks[0]
    assert isinstance(table, Table)
    first, second = table.frame.to_dict("records")
    assert first["Student"] == "good, same\nint8"
    assert first["Ran on"] == "cpu\nnot tried: pi"
    assert first["NNAPI"] == "all 9 nodes\nfixed shapes"
    assert first["Core ML NeuralNetwork"] == "◐ 5 of 9 nodes\nin 3 pieces"
    assert first["XNNPACK"] == "2 of 8"
    assert first["model.ort"] == "within 2e-06"
    assert second["Core ML NeuralNetwork"] == "all 9 nodes\nfixed shapes"
    assert "nothing ran on a phone" in table.caption
    assert "was not measured" in table.caption


def test_reasons_are_told_below_with_files_that_could_not_be_made():
    section = show(good=make_budget(SPLIT, WHOLE, WHOLE, **{"model.ort": {"reason": "its outputs are off"}}))
    items = section.blocks[1]
    assert isinstance(items, Items)
    assert items.items == ("good: NNAPI takes 5 of 9; why.", "good: no model.ort, its outputs are off.")


@pytest.mark.parametrize(
    ("shares", "mark"),
    [
        ((WHOLE, WHOLE, WHOLE), ""),
        ((WHOLE, WHOLE, SPLIT), ""),  # an app picks the format
        ((WHOLE, SPLIT, SPLIT), "◐ phones: falls back on Core ML"),
        ((SPLIT, SPLIT, WHOLE), "◐ phones: falls back on NNAPI"),
        ((SPLIT, SPLIT, SPLIT), "◐ phones: falls back on NNAPI and Core ML"),
    ],
)
def test_a_budget_is_marked_where_phones_would_fall_back(shares, mark):
    assert mark_fall_back(make_budget(*shares)) == mark


def test_runs_of_before_have_neither_section_nor_mark():
    assert show(good={"status": "kept", "id": "a", "precision": "fp32"}) is None
    assert mark_fall_back({"status": "missed"}) == ""
