"""How the commands fail: one line that says what, why and what to do, and an exit status.

Shared by `helix-p2p`, `helix-peer` and `helix-bootstrap`. Always: a failure that we know of is one
line on stderr; the trace comes with `--verbose` only; the status is 1 when it could not be done, 2
when it was asked for in a way we do not understand, 130 when the person stopped it, 141 when the
reader of the output left (`| head`).
"""

import sys
import traceback
from typing import NoReturn

import click

from helix_p2p.cli.shown import harmless
from helix_p2p.errors import Cancelled, HelixError, InputError

EXIT_FAILED = 1
EXIT_MISUSED = 2
EXIT_INTERRUPTED = 130
EXIT_READER_GONE = 141


def run_command(command: click.Command, name: str) -> NoReturn:
    """Run a click command as the process's only job and exit.

    Args:
        command: Command or group.
        name: What people typed.
    """
    try:
        status = command.main(prog_name=name, standalone_mode=False)
    except BrokenPipeError:
        sys.stderr.close()  # or the interpreter complains on exit that stdout is gone
        sys.exit(EXIT_READER_GONE)
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        sys.exit(report(error, name, verbose=_verbose(sys.argv)))
    sys.exit(status if isinstance(status, int) else 0)


def report(error: BaseException, name: str, *, verbose: bool) -> int:
    """Say on stderr what went wrong.

    Args:
        error: Whatever reached the edge; of an exception group its most telling member.
        name: The command.
        verbose: Print the trace first.

    Returns:
        The exit status.
    """
    error = most_telling(error)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if verbose:
        click.echo("".join(traceback.format_exception(error)).rstrip(), err=True)
    match error:
        case click.exceptions.NoArgsIsHelpError():
            error.show()  # the help page, which is no failure's one line
            return error.exit_code
        case click.ClickException():
            context = getattr(error, "ctx", None)
            hint = f"see `{context.command_path} --help`" if context is not None else None
            status = error.exit_code
            message = error.format_message()
        case HelixError():
            message, hint = error.message, error.hint
            status = EXIT_MISUSED if isinstance(error, InputError) else EXIT_FAILED
        case _:
            message = f"{type(error).__name__}: {error}".rstrip(": ")
            hint = None if verbose else "this is a bug; --verbose shows the trace to report"
            status = EXIT_FAILED
    click.echo(f"{name}: {one_line(message)}{f' ({one_line(hint)})' if hint else ''}", err=True)
    return status


def most_telling(error: BaseException) -> BaseException:
    """The member of an exception group that explains the others; other errors are themselves."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [most_telling(member) for member in error.exceptions]

    def rank(leaf: BaseException) -> int:
        match leaf:
            case KeyboardInterrupt():
                return 0
            case Cancelled():
                return 3
            case HelixError():
                return 1
            case _:
                return 2

    return min(leaves, key=rank)


def one_line(text: str) -> str:
    """Text of a library's or another machine's error, its lines joined."""
    return " ".join(harmless(text).split())


def _verbose(arguments: list[str]) -> bool:
    before_data = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--verbose" in before_data
