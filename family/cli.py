"""The command line: build-family --budgets FILE, and init, doctor, report, verify, schema."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from family.errors import Mistakes, RunFailed, RunInUse

COMMANDS = ("init", "doctor", "report", "verify", "schema")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; exit codes: 0 done, 1 our failure, 2 mistakes in the input, 3 a budget missed, 130 stopped."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in COMMANDS:
            return HANDLERS[arguments[0]](arguments[1:])
        return build_command(arguments)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it was", file=sys.stderr)
        return 130
    except (RunInUse, Mistakes) as problem:
        print(problem, file=sys.stderr)
        return 2
    except RunFailed as problem:
        print(problem, file=sys.stderr)
        return 1


def build_command(arguments: Sequence[str]) -> int:
    options = build_parser().parse_args(arguments)
    show: Callable[[str], None] = (lambda _: None) if options.quiet else (lambda line: print(line, file=sys.stderr, flush=True))
    try:
        from family.spec import read_spec

        spec = read_spec(options.budgets)
        from family.build import build

        outcome = build(spec, options.run, options.dry_run, show)
    except Mistakes as problem:
        from family.spec import format_mistakes

        print(format_mistakes(problem, options.budgets), file=sys.stderr)
        return 2
    except (RunInUse, RunFailed):
        raise
    except Exception as problem:  # the last resort: one line for the user, the whole for us
        log = keep_traceback(options.run or Path("runs"))
        print(f"a failure of ours: {type(problem).__name__}: {problem} (details in {log})", file=sys.stderr)
        return 1
    print(json.dumps(outcome.family, indent=1) if options.json else outcome.table)
    return outcome.exit_code


def keep_traceback(folder: Path) -> Path:
    for place in (folder, Path.cwd(), Path("/tmp")):
        try:
            place.mkdir(parents=True, exist_ok=True)
            log = place / "build-family.log"
            log.write_text(traceback.format_exc())
            return log
        except OSError:
            continue
    return Path("nowhere: no folder could be written")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build-family",
        description="One teacher in, a Pareto family of small ONNX students out.",
        epilog=f"Other commands: {', '.join(COMMANDS)} (build-family COMMAND --help).",
    )
    parser.add_argument("--budgets", type=Path, required=True, metavar="FILE", help="the YAML file that says what to build")
    parser.add_argument("--run", type=Path, metavar="DIR", help="where the run lives (default: runs/<name>)")
    parser.add_argument("--dry-run", action="store_true", help="check everything, measure three students, train nothing")
    parser.add_argument("--json", action="store_true", help="print family.json on stdout")
    parser.add_argument("--quiet", action="store_true", help="less on stderr")
    parser.add_argument("--version", action="version", version=version("student-family"))
    return parser


def report_command(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="build-family report", description="Draw the report again from a run's tables.")
    parser.add_argument("run", type=Path)
    run = parser.parse_args(arguments).run
    from reports import draw_report

    if not (run / "family.json").exists():
        print(f"{run} holds no family.json: no finished run. Allowed: a run folder such as runs/<name>.", file=sys.stderr)
        return 2
    print(draw_report(run))
    return 0


def verify_command(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="build-family verify", description="Check a student folder's hashes and golden pair.")
    parser.add_argument("student", type=Path)
    folder = parser.parse_args(arguments).student
    from export.verify import verify

    problems = verify(folder)
    print("\n".join(problems) if problems else f"{folder}: good", file=sys.stderr if problems else sys.stdout)
    return 2 if problems else 0


def init_command(arguments: Sequence[str]) -> int:
    from family.init import init

    return init(arguments)


def doctor_command(arguments: Sequence[str]) -> int:
    from family.doctor import doctor

    return doctor(arguments)


def schema_command(arguments: Sequence[str]) -> int:
    argparse.ArgumentParser(prog="build-family schema", description="Print the JSON schema of budgets.yaml.").parse_args(arguments)
    from family.spec import schema

    print(json.dumps(schema(), indent=1))
    return 0


HANDLERS = {
    "init": init_command,
    "doctor": doctor_command,
    "report": report_command,
    "verify": verify_command,
    "schema": schema_command,
}
