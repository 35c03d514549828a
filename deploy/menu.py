"""What makes Invoke's tasks an operator's menu.

``@command`` is Invoke's ``@task`` with what all our commands share: the options ``--platform``, ``--echo`` and ``--dry``; one
line and a stable exit code for each error; and, where a command asks for it, words without an option's name, as in
``invoke call add 2 3`` (Invoke by itself takes each word after the last required one for the name of another task).
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from invoke import Context, Exit, ParseError, Task, task
from invoke.parser import Parser
from invoke.parser.parser import ParseMachine

from deploy.errors import ExitCode, WarrenError
from deploy.run import Runner
from deploy.session import Session

__all__ = ["command", "one_of", "whole_number"]

# Stands for the dash of a negative number on its way through Invoke's parser, which reads `-12` as the options -1 and -2.
DASH = "\x00"

# Stands before each word that follows `--`, which is neither an option nor a command whatever it looks like.
PLAIN = "\x01"

SHARED = {
    "platform": "compose, local or kubernetes (default: where the stack is up; else compose, if an engine answers)",
    "echo": "show each underlying command before it runs",
    "dry": "show what would be done, and change nothing",
}


class Command(Task):  # type: ignore[type-arg]
    """A task whose argument ``rest`` takes all words that belong to no other argument."""

    rest: str | None = None

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Any]:
        arguments = super().get_arguments(ignore_unknown_help=ignore_unknown_help)
        for argument in arguments:
            if argument.name == "dry":
                # `up -d` means something else to everybody who knows Compose.
                argument.names = ("dry",)
            # Help, for everybody.
            argument.names = tuple(name for name in argument.names if name != "h")
        return arguments


def command(*, rest: str | None = None, help: dict[str, str] | None = None, **options: Any) -> Callable[[Any], Command]:
    """A command of the menu: its function gets a Session, and its own arguments.

    ``help`` has a line for each argument; ``rest`` names the list that takes further words.
    """

    def decorate(body: Callable[..., None]) -> Command:
        signature = inspect.signature(body)
        own = list(signature.parameters.values())[1:]

        @functools.wraps(body)
        def run(context: Context, **values: Any) -> None:
            values = {name: restored(value) for name, value in values.items()}
            runner = Runner(
                echo=bool(values.pop("echo") or context.config.run.echo),
                dry=bool(values.pop("dry") or context.config.run.dry),
            )
            session = Session(runner, values.pop("platform"), context.config.get("platform"))
            with_exit_codes(functools.partial(body, session, **values))

        # Invoke reads a task's options off its signature.
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None if name == "platform" else False)
            for name in SHARED
        ]
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*signature.parameters.values(), *shared]
        )
        made: Command = task(
            help={**(help or {}), **SHARED},
            iterable=[rest] if rest else [],
            positional=[one.name for one in own if one.default is inspect.Parameter.empty and one.name != rest],
            klass=Command,
            **options,
        )(run)
        made.rest = rest
        COMMANDS[(options.get("name") or run.__name__).replace("_", "-")] = rest
        return made

    return decorate


def with_exit_codes(body: Callable[[], None]) -> None:
    try:
        body()
        sys.stdout.flush()
    except WarrenError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)  # noqa: T201
        raise SystemExit(error.code) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        raise SystemExit(ExitCode.INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of our output has enough (`| head`). Python would say so once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def whole_number(text: str, name: str, least: int, example: str, most: int = 1_000_000) -> int:
    """``text`` as a number from ``least`` to ``most``.

    Raises:
        WarrenError: it is none (exit code 2).
    """
    if not re.fullmatch(r"[+-]?\d{1,18}", text.strip()) or int(text) < least:
        raise WarrenError(
            f"{name} is a whole number of at least {least}, not {text!r}; for example {example}", ExitCode.USAGE
        )
    if int(text) > most:
        raise WarrenError(f"{name} is at most {most}, not {text}; for example {example}", ExitCode.USAGE)
    return int(text)


def one_of(name: str, yes: bool, no: bool) -> bool | None:
    """What the options ``--name`` and ``--no-name`` say together; None where neither is given.

    Raises:
        WarrenError: both are (exit code 2).
    """
    if yes and no:
        raise WarrenError(f"--{name} and --no-{name} contradict each other; choose one", ExitCode.USAGE)
    return yes or (False if no else None)


# --- words without an option's name

# Our commands as they are typed, each with the argument that takes further words.
COMMANDS: dict[str, str | None] = {}

parse_argv = Parser.parse_argv
handle = ParseMachine.handle


def parse_argv_with_words(parser: Parser, argv: list[str]) -> Any:
    if "--" in sys.argv and "--" not in argv:
        # Invoke took the words after it away when it looked for its own options, before it had loaded these lines.
        before, after = sys.argv[: sys.argv.index("--")], sys.argv[sys.argv.index("--") :]
        argv = [*argv, *after] if argv and before[-len(argv) :] == argv else argv
    end = argv.index("--") if "--" in argv else len(argv)
    if not COMMANDS.keys() & argv[:end]:
        return parse_argv(parser, argv)  # `invoke --complete -- ...`, as shells ask
    words = [re.sub(r"^-(?=\.?\d)", DASH, word) for word in argv[:end]]
    return parse_argv(parser, words + [PLAIN + word for word in argv[end + 1 :]])


def handle_word(machine: ParseMachine, word: str) -> None:
    """Takes ``word`` where Invoke would mistake it: options for arguments, and further words for other commands."""
    context = machine.context
    ours = context and context.name in COMMANDS and machine.current_state != "unknown"
    if not ours or machine.waiting_for_flag_value or word in context.flags or word in context.inverse_flags:
        handle(machine, word)
    elif word in {"-h", "--help"}:
        machine.initial.flags["--help"].value = context.name
        for argument in context.missing_positional_args:
            argument.value = ""  # nothing is missing from a question for help
    elif word.startswith("-") and word != "-" and word not in machine.initial.flags:
        print(f"error: {context.name} has no option {word}; see `invoke {context.name} --help`", file=sys.stderr)  # noqa: T201
        raise SystemExit(ExitCode.USAGE)
    elif (
        (rest := COMMANDS[context.name or ""])
        and not context.missing_positional_args
        and word not in machine.initial.flags
    ):
        context.args[rest].value = word
    else:
        handle(machine, word)


class Misuse(ParseError, Exit):
    """What Invoke can't parse: a line as all errors have it, and our exit code for it (Invoke's own would be 1)."""

    code = ExitCode.USAGE

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.args = (line,)
        self.message = None  # Invoke prints both


def refuse(machine: ParseMachine, message: str) -> None:
    for mark, text in ((DASH, "-"), (PLAIN, "")):
        message = message.replace(repr(mark)[1:-1], text)
    message = re.sub(
        r"Flag <Argument: ([\w-]+).*?> needed value and was not given one!", r"--\1 needs a value", message
    )
    command = machine.context.name if machine.context else None
    early = re.search(r"No idea what '--(\w+)\S*' is", message)
    # Before the command Invoke takes its own options.
    if early and early[1] in {*SHARED, "json", "yes"}:
        raise Misuse(f"error: --{early[1]} belongs behind the command: invoke COMMAND --{early[1]}")
    raise Misuse(f"error: {message.rstrip('!')}; see `invoke {f'{command} --help' if command else '--list'}`")


def restored(value: Any) -> Any:
    if isinstance(value, list):
        return [restored(one) for one in value]
    return value.replace(DASH, "-").removeprefix(PLAIN) if isinstance(value, str) else value


Parser.parse_argv = parse_argv_with_words  # type: ignore[method-assign, assignment]
ParseMachine.handle = handle_word  # type: ignore[method-assign, assignment]
ParseMachine.error = refuse  # type: ignore[method-assign, assignment]
