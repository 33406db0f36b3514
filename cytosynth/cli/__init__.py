"""The command ``cytosynth``. Everything it does, ``cytosynth.client`` does too.

Nothing heavy is imported before a command runs, so that help is instant.
"""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Sequence
from types import FrameType


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 for a failure, with one line on stderr; 2 for wrong usage; 3 if ``classify`` refused
        some of the images; 130 after Ctrl-C.
    """
    from cytosynth.cli.app import app
    from cytosynth.cli.global_options import Caller, caller, set_caller

    args = list(sys.argv[1:] if argv is None else argv)
    set_caller(Caller())
    _print_any_file_name()
    before = signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        app(args=args, prog_name="cytosynth")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        sys.stderr.write("cytosynth: interrupted\n")
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # Whoever read our output has stopped reading; that is no failure.
        return 0
    except Exception as error:
        known = _known_failure(error)
        if known is None:
            raise
        line, fields = known
        if caller().json:
            line = json.dumps({"error": fields})
        else:
            line = f"cytosynth: {line}"
        sys.stderr.write(f"{line}\n")
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _known_failure(error: Exception) -> tuple[str, dict[str, object]] | None:
    """Line and JSON form of a failure that a user can remedy."""
    from cytosynth.client.errors import CytosynthError
    from cytosynth.extras import how_to_install
    from cytosynth.stack.certificate_files import CertificateError
    from cytosynth.stack.state import StackError

    if isinstance(error, CytosynthError):
        return str(error), error.to_dict()
    if isinstance(error, StackError | CertificateError):
        line = " ".join(str(error).split())
        return line, {"code": type(error).__name__, "message": line}
    if isinstance(error, ModuleNotFoundError):
        needed = how_to_install(error)
        return (needed, {"code": "FAILED_PRECONDITION", "message": needed}) if needed else None
    if isinstance(error, UnicodeError):
        line = f"an argument or file name is not UTF-8: {getattr(error, 'object', '')!a}"
        return line, {"code": "INVALID_ARGUMENT", "message": line}
    if isinstance(error, OSError) and error.filename:
        line = f"{error.filename}: {error.strerror}"
        return line, {"code": "FAILED_PRECONDITION", "message": line}
    return None


def _print_any_file_name() -> None:
    """Escape what the terminal's encoding cannot print, such as odd file names."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _as_interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
