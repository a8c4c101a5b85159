"""One HTML page from a run's tables, with its figures and tables as files beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from reports.blocks import Facts, Items, Picture, Section, Table, Text
from reports.checks import mark_fall_back
from reports.offers import picture_frontier
from reports.plots import save_figure
from reports.run_tables import Run, find_target, list_targets, load_run
from reports.sections import SECTIONS
from reports.words import name_quantity, say_budget, say_interval, say_limit

FIGURE = r"[−+\d][−+\d.,\s%×–~()]*((to|of) [−+\d.,\s]+\)?)?( points)?|–|"  # what a column of figures may hold


def draw_report(run: Path) -> Path:
    """Writes run/report/: index.html, summary.md, *.png, *.svg, *.csv. Returns the page's path.

    Raises ValueError where family.json or records.parquet is missing.
    """
    tables, folder = load_run(run), run / "report"
    folder.mkdir(exist_ok=True)
    first = next(iter(list_targets(tables)), None)
    hero = _render_block(picture_frontier(tables, first), folder) if first else None
    found = {key: show(tables) for key, show in SECTIONS.items()}
    sections = [_render_section(key, section, folder) for key, section in found.items() if section is not None]
    cards = [describe_budget(tables, name) for name in tables.budgets]
    page = _load_template().render(
        run=tables,
        style=Markup(files("reports").joinpath("page.css").read_text(encoding="utf-8")),
        lead=_say_lead(tables),
        facts=_list_facts(tables),
        cards=cards,
        hero=hero,
        sections=sections,
        warnings=len(tables.family.get("warnings") or ()),
        drawn=datetime.now(UTC).strftime("%d %B %Y"),
    )
    tables.records.to_csv(folder / "records.csv", index=False)
    if len(tables.trials):
        tables.trials.to_csv(folder / "trials.csv", index=False)
    _write(folder / "summary.md", _write_summary(tables, cards))
    _write(folder / "index.html", page)
    return folder / "index.html"


def _write(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _load_template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["bind"] = bind_units
    return environment.from_string(files("reports").joinpath("page.html").read_text(encoding="utf-8"))


def bind_units(text: str) -> str:
    """Keeps figures and their units on one line."""
    return re.sub(r"(?<=\d) (?=(?:\d{3}|%|ms|kB|MB|GB|M|points|times)\b|%)", "\u00a0", text)


def describe_budget(run: Run, name: str) -> dict[str, Any]:
    """A budget's card: its sentence, badge and how much of each limit is used."""
    budget = run.budgets[name]
    meters = [_measure_use(run, q, entry) for q, entry in (budget.get("limits") or {}).items()]
    return {
        "name": name,
        "target": find_target(run, name),
        "status": budget["status"],
        "sentence": say_budget(run, name),
        "folder": budget.get("student") if budget["status"] == "kept" else None,
        "precision": budget.get("precision"),
        "same": _find_twin(run, name),
        "phones": mark_fall_back(budget),
        "meters": [m for m in meters if m],
    }


def _find_twin(run: Run, name: str) -> str | None:
    """The first budget above that chose the same file."""

    def file_of(budget: Mapping[str, Any]) -> tuple[Any, ...]:
        return budget.get("id"), budget.get("precision"), (budget.get("guard") or {}).get("on", False)

    own = file_of(run.budgets[name])
    kept = [n for n, b in run.budgets.items() if b["status"] == "kept" and file_of(b) == own]
    return kept[0] if name in kept[1:] else None


def _measure_use(run: Run, quantity: str, entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """How much of a limit is used at the bad end, in percent of a bar that ends at 125 %."""
    if entry.get("measured") is None or entry.get("limit") is None:
        return None
    limit = float(entry["limit"])
    at_least = quantity == "score" and run.higher_is_better
    end = entry.get("low" if at_least else "high")
    bad = float(entry["measured"] if end is None else end)  # an interval of one group alone is unknown
    share = (bad / limit if limit else 0.0) if not at_least else (limit / bad if bad else 2.0)
    measured, asked = say_limit(run, quantity, entry["measured"]), say_limit(run, quantity, limit, exact=True)
    said = f"{measured} of {asked}"
    if quantity == "score":
        said = f"{measured} on validation, {'≥' if at_least else '≤'} {asked}"
    return {
        "name": name_quantity(run.score if quantity == "score" else quantity),
        "said": said,
        "width": min(share, 1.25) / 1.25 * 100,
        "over": share > 1,
    }


def _say_lead(run: Run) -> str:
    statuses = [b["status"] for b in run.budgets.values()]
    kept, total = statuses.count("kept"), len(statuses)
    text = (
        f"{kept} of {total} budgets have a student."
        if kept < total
        else (f"All {total} budgets have a student." if total > 1 else "The budget has a student.")
    )
    missed, skipped = statuses.count("missed"), statuses.count("skipped")
    if missed:
        text += f" {missed} {'is' if missed == 1 else 'are'} missed; below is what to relax, and by how much."
    return text + (f" {skipped} could not be tried here." if skipped else "")


def _list_facts(run: Run) -> dict[str, str]:
    """Facts under the title."""
    teacher = run.family.get("teacher", {})
    split = "test" if (teacher.get("test") or {}).get("value") is not None else "val"
    facts = {
        f"Teacher, {name_quantity(run.score)} on {'test' if split == 'test' else 'validation'}": say_interval(
            run.score, teacher.get(split)
        )
    }
    students = run.records[run.records["role"] == "student"] if len(run.records) else run.records
    if len(students):
        facts["Students measured"] = str(students["id"].nunique())
    if len(run.trials):
        facts["Trials"] = str(len(run.trials))
    if run.family.get("test_reads") is not None:
        facts["Test set read"] = f"{run.family['test_reads']} ×"
    return facts


def _render_section(key: str, section: Section, folder: Path) -> dict[str, Any]:
    return {"key": key, "title": section.title, "blocks": [_render_block(b, folder) for b in section.blocks]}


def _render_block(block: Any, folder: Path) -> dict[str, Any]:
    """A block as the template takes it; figures and tables are written on the way."""
    match block:
        case Text(text):
            return {"kind": "text", "text": text}
        case Facts(facts):
            return {"kind": "facts", "facts": facts}
        case Items(items):
            return {"kind": "items", "items": items}
        case Picture(name, figure, alt, caption):
            svg = Markup(save_figure(figure, folder, name))  # our own drawing; matplotlib escapes its text
            return {"kind": "picture", "svg": svg, "alt": alt, "caption": caption, "name": name}
        case Table(name, frame, caption, raw):
            (frame if raw is None else raw).to_csv(folder / f"{name}.csv", index=False)
            return {"kind": "table", "caption": caption, "name": name} | _lay_out(frame)
    raise TypeError(f"A section's block must be one of Text, Facts, Items, Picture, Table. Got {type(block)}.")


def _lay_out(frame: pd.DataFrame) -> dict[str, Any]:
    """Columns (name, whether figures, to be set flush right) and rows of cells; no empty column."""
    text = frame.fillna("").astype(str)
    text = text[[c for c in text if (~text[c].isin(["", "–"])).any()]]
    figures = [all(re.fullmatch(FIGURE, cell) for cell in text[c]) for c in text]
    rows = [[_split_interval(cell) for cell in row] for row in text.to_numpy().tolist()]
    return {"columns": list(zip(text.columns, figures, strict=True)), "rows": rows}


def _split_interval(cell: str) -> tuple[str, str]:
    """`96.1 % (95.2–96.9)` → the value, and its interval for the line below; so for what a line break parts."""
    if "\n" in cell:
        above, below = cell.split("\n", 1)
        return above, below
    found = re.fullmatch(r"([+−\d][^()]*) \(([^()]*)\)", cell)
    return (found[1], found[2]) if found else (cell, "")


def _write_summary(run: Run, cards: list[dict[str, Any]]) -> str:
    lines = [f"# {run.family.get('name', 'run')}", "", _say_lead(run), ""]
    lines += [f"- **{card['name']}** ({card['status']}): {card['sentence']}" for card in cards]
    lines += [f"- {name}: {value}" for name, value in _list_facts(run).items()]
    warnings = run.family.get("warnings") or ()
    lines += ["", "## Warnings", "", *[f"- {w}" for w in warnings]] if warnings else []
    return "\n".join([*lines, "", "The whole report is in index.html."]) + "\n"
