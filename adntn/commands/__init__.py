"""One small module for each subcommand: `add` declares it and names the function that runs it.

That function takes the parsed arguments and returns the exit code; bad input is an ImportError, OSError, TypeError or
ValueError, which `adntn.cli` turns into one line and the exit code 2.
"""

from adntn.commands import backends, bench, calibrate, completion, compress, draw, expand, report, verify

#: The subcommands, in the order in which the help shows them.
COMMANDS = (compress, expand, report, draw, verify, calibrate, bench, backends, completion)

__all__ = ["COMMANDS"]
