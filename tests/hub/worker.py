"""Runs eigenbank commands one after the other in one process, since starting a hundred costs a minute.

Reads a line of JSON for each, `{"args": [...]}`, answers with one, `{"code": 0, "out": "...", "err": "..."}`.
"""

import contextlib
import io
import json
import sys
import traceback


def main() -> None:
    from eigenbank.cli.main import run

    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = run(json.loads(line)["args"])
            except BaseException:
                # What would be a traceback and exit code 1 of a process of its own.
                code = -1
                traceback.print_exc()
        print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}), flush=True)


main()
