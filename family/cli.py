"""The command line: `build-family --budgets FILE`, and init, doctor, report, verify, schema, worker, calibrate.

Exit codes: 0 done; 1 a failure of ours; 2 mistakes in the input; 3 finished, but a budget is missed or
skipped; 130 stopped by the user. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from family.errors import Mistakes, RunFailed, RunInUse
from family.suggest import did_you_mean

if TYPE_CHECKING:
    from family.build import Outcome
    from family.spec import Spec

Show = Callable[[str], None]
LOG = "build-family.log"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises, whatever goes wrong."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = COMMANDS.get(arguments[0], build_command) if arguments else build_command
    try:
        return command(arguments[1:] if command is not build_command else arguments)
    except SystemExit as left:  # argparse: 0 after --help, 2 for a wrong argument
        return left.code if isinstance(left.code, int) else 2
    except KeyboardInterrupt:
        again = "; the same command goes on" if command in (build_command, worker_command) else ""
        say(f"stopped{again}")
        return 130
    except Mistakes as problem:
        say("\n".join(f"{m.where} {m.message}".strip() for m in problem.mistakes))
        return 2
    except RunInUse as problem:
        say(str(problem))
        return 2
    except RunFailed as problem:
        say(str(problem))
        return 1
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as problem:  # noqa: BLE001  the last resort: one line for the user, a log for us
        say(explain_failure(problem, Path.cwd()))
        return 1


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def explain_failure(problem: Exception, folder: Path) -> str:
    """One line for the user; the whole traceback goes into a log file."""
    reason = (str(problem).splitlines() or [""])[0]
    log = keep_traceback(problem, folder)
    details = f" Details: {log}" if log else ""
    return f"Failed: {type(problem).__name__}: {reason.rstrip('.')}.{details}"


def keep_traceback(problem: Exception, folder: Path) -> Path | None:
    """Write the log into the run folder, else the working folder, else where temporary files go."""
    text = "".join(traceback.format_exception(problem))
    for place in (folder, Path.cwd(), Path(tempfile.gettempdir())):
        try:
            (place / LOG).write_text(text, encoding="utf-8")
        except OSError:
            continue
        return place / LOG
    return None


def build_command(arguments: Sequence[str]) -> int:
    if not arguments:
        say(FIRST_STEPS)
        return 2
    if not arguments[0].startswith("-"):
        return explain_command(arguments[0])
    options = build_parser().parse_args(arguments)
    run: Path | None = options.run
    try:
        from family.spec import read_spec

        spec = read_spec(options.budgets)
        search = {k: v for k in ("workers", "storage") if (v := getattr(options, k)) is not None}
        spec = spec.model_copy(update={"search": spec.search.model_copy(update=search)})
        run = run or Path("runs") / spec.name
        outcome = build_and_show(spec, options)
    except Mistakes as problem:
        return tell_mistakes(problem, options.budgets, options.json)
    except (RunInUse, RunFailed, BrokenPipeError):
        raise
    except Exception as problem:  # noqa: BLE001  as in main, but the log belongs into the run folder
        say(explain_failure(problem, run or Path.cwd()))
        return 1
    print(json.dumps(dict(outcome.family), indent=1) if options.json else outcome.table, flush=True)
    return outcome.exit_code


def build_and_show(spec: Spec, options: argparse.Namespace) -> Outcome:
    """The main job's outcome; says how it goes on, unless asked to be quiet."""
    from family.build import build

    if options.quiet:
        return build(spec, run=options.run, dry_run=options.dry_run, show=keep_quiet)
    from family.progress import Progress

    with Progress(sys.stderr) as show:
        return build(spec, run=options.run, dry_run=options.dry_run, show=show, watch=show.watch)


def keep_quiet(line: str) -> None:
    """Warnings are said even so."""
    if line.startswith("warning"):
        say(line)


def tell_mistakes(mistakes: Mistakes, path: Path, as_json: bool) -> int:
    from family.yaml_lines import explain_mistakes, format_mistakes

    say(format_mistakes(mistakes, path))
    if as_json:
        print(json.dumps({"mistakes": explain_mistakes(mistakes, path)}, indent=1))
    return 2


def explain_command(name: str) -> int:
    if Path(name).suffix in (".yaml", ".yml"):
        say(f"Say build-family --budgets {name}")
    else:
        known = ", ".join(COMMANDS)
        say(
            f"There is no command '{name}'. Commands: {known}; without one: --budgets FILE."
            + did_you_mean(name, COMMANDS)
        )
    return 2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build-family",
        usage="build-family --budgets FILE [options]\n       build-family COMMAND [-h] ...",
        description="One teacher in, a Pareto family of small ONNX students out.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"other commands (build-family COMMAND --help):\n{list_commands()}\n\n{EXIT_CODES}",
    )
    parser.add_argument("--budgets", type=Path, required=True, metavar="FILE", help="the file that says what to build")
    parser.add_argument("--run", type=Path, metavar="DIR", help="where the run lives (default: runs/<name>)")
    parser.add_argument("--dry-run", action="store_true", help="check everything, forecast the time, train nothing")
    parser.add_argument(
        "--workers", type=read_count, metavar="N", help="workers of the search, instead of search.workers"
    )
    parser.add_argument("--storage", metavar="URL", help="database of the search, instead of search.storage")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    parser.add_argument("--quiet", action="store_true", help="only warnings and mistakes on stderr")
    parser.add_argument("--version", action="version", version=f"student-family {version('student-family')}")
    return parser


def list_commands() -> str:
    return "\n".join(f"  {name:10}{(command.__doc__ or '').strip()}" for name, command in COMMANDS.items())


FIRST_STEPS = (
    "Nothing to do yet. With a budgets.yaml:  build-family --budgets budgets.yaml --dry-run\n"
    "Without one:                             build-family init PATH-OF-YOUR-DATA --teacher YOUR-MODEL\n"
    "Everything else:                         build-family --help"
)
EXIT_CODES = (
    "exit codes: 0 every budget has a student, 1 a failure of ours, 2 mistakes in the input,\n"
    "3 a budget is missed or skipped, 130 stopped by you (the same command goes on)"
)


def read_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1. Got {text!r}")
    return int(text)


def describe_command(command: Callable[[Sequence[str]], int]) -> argparse.ArgumentParser:
    """A parser named and described as its command is."""
    name = next(each for each, known in COMMANDS.items() if known is command)
    return argparse.ArgumentParser(prog=f"build-family {name}", description=command.__doc__)


def worker_command(arguments: Sequence[str]) -> int:
    """join the search of a main command that runs elsewhere, through search.storage"""
    parser = describe_command(worker_command)
    parser.add_argument(
        "--budgets", type=Path, required=True, metavar="FILE", help="the same file as the main command's"
    )
    parser.add_argument("--storage", metavar="URL", help="where the search is, instead of search.storage")
    parser.add_argument(
        "--run", type=Path, metavar="DIR", help="this worker's own folder (default: runs/<name>-worker)"
    )
    parser.add_argument(
        "--wait", type=read_count, default=600, metavar="SECONDS", help="for the main command to begin (default: 600)"
    )
    options = parser.parse_args(arguments)
    from family.spec import read_spec
    from family.workers import join

    try:
        spec = read_spec(options.budgets)
        if options.storage is not None:
            spec = spec.model_copy(update={"search": spec.search.model_copy(update={"storage": options.storage})})
        run = (options.run or Path("runs") / f"{spec.name}-worker").absolute()
        done = join(spec, run, say, wait_s=options.wait)
    except Mistakes as problem:
        return tell_mistakes(problem, options.budgets, as_json=False)
    say(f"the search is over; this worker judged {done} candidates")
    return 0


def init_command(arguments: Sequence[str]) -> int:
    """write a commented budgets.yaml for your data"""
    from family.init import init

    return init(arguments)


def doctor_command(arguments: Sequence[str]) -> int:
    """what this machine can do: each target usable or not, why not, what to install"""
    from family.doctor import doctor

    return doctor(arguments)


def report_command(arguments: Sequence[str]) -> int:
    """draw the report again from a run's tables alone"""
    parser = describe_command(report_command)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, such as runs/<name>")
    run = parser.parse_args(arguments).run
    missing = [name for name in ("family.json", "records.parquet") if not (run / name).is_file()]
    if missing:
        say(f"{run} holds no {' and no '.join(missing)}, so it is no finished run.{list_runs(run)}")
        return 2
    from reports import draw_report

    print(draw_report(run))
    return 0


def list_runs(run: Path) -> str:
    found = sorted(str(p.parent) for home in (run, run.parent, Path("runs")) for p in home.glob("*/family.json"))
    return f" Finished runs: {', '.join(dict.fromkeys(found))}." if found else ""


def verify_command(arguments: Sequence[str]) -> int:
    """run a student folder's golden pair through onnxruntime and check its hashes"""
    parser = describe_command(verify_command)
    parser.add_argument("student", type=Path, metavar="STUDENT", help="a folder such as runs/<name>/students/<budget>")
    folder = parser.parse_args(arguments).student
    if not folder.is_dir():
        say(f"There is no folder {folder} (looked for {folder.resolve()}).")
        return 2
    if not (folder / "manifest.json").is_file():
        say(f"{folder} holds no manifest.json, so it is no student.{list_students(folder)}")
        return 2
    from export.verify import list_untried, verify

    problems = verify(folder)
    for problem in problems:
        say(problem)
    if not problems:
        print("; ".join([f"{folder}: good", *list_untried(folder)]))
    return 2 if problems else 0


def list_students(folder: Path) -> str:
    found = sorted(str(p.parent) for part in ("*", "students/*") for p in folder.glob(f"{part}/manifest.json"))
    return f" Students here: {', '.join(found)}." if found else ""


def schema_command(arguments: Sequence[str]) -> int:
    """write the JSON schema of budgets.yaml, for editors"""
    parser = describe_command(schema_command)
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: print it")
    out = parser.parse_args(arguments).out
    from family.spec import schema

    text = json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"
    if out is None:
        print(text, end="")
        return 0
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as problem:
        say(f"{out} cannot be written: {problem.strerror}.")
        return 2
    return 0


def calibrate_command(arguments: Sequence[str]) -> int:
    """measure a spread of students on a device once: a profile that estimates its milliseconds from then on"""
    parser = describe_command(calibrate_command)
    parser.add_argument("--budgets", type=Path, required=True, metavar="FILE", help="whose students are spread")
    parser.add_argument("--target", required=True, metavar="NAME", help="the device: a name in its targets")
    parser.add_argument("--core", required=True, metavar="CORE", help="the emulated core it is nearest to")
    parser.add_argument("--out", type=Path, required=True, metavar="PROFILE", help="the .json to write")
    parser.add_argument("--students", type=read_count, default=14, metavar="N", help="to measure (default: 14)")
    parser.add_argument("--run", type=Path, metavar="DIR", help="working folder (default: runs/<name>-calibrate)")
    options = parser.parse_args(arguments)
    from family.calibrate import calibrate_device
    from family.spec import read_spec

    try:
        spec = read_spec(options.budgets)
        run = (options.run or Path("runs") / f"{spec.name}-calibrate").absolute()
        made = calibrate_device(spec, options.target, options.core, options.students, run, options.out, say)
    except Mistakes as problem:
        return tell_mistakes(problem, options.budgets, as_json=False)
    print(
        f"{options.out}: profile {made.id} of {made.students} students in {len(made.errors)} files; "
        f"{100 * made.error:.1f} % off on average where it had not seen them, 95 % within a factor of {made.reach:.2f}"
    )
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "init": init_command,
    "doctor": doctor_command,
    "report": report_command,
    "verify": verify_command,
    "schema": schema_command,
    "worker": worker_command,
    "calibrate": calibrate_command,
}
