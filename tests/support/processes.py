"""Starting a script in several processes with torchrun, and reading what its first process says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent


def torchrun(script: str, processes: int, *arguments: str, restarts: int = 0) -> Any:
    """Return the JSON that a script of this folder writes to its last argument, the path of a file that is made here.

    Raises:
        AssertionError: if a process fails; with all that they printed.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["--max-restarts", str(restarts), str(SUPPORT / script), *arguments]
    # restarted processes must not find the addresses of killed ones in the store (pytorch/pytorch#135712)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(Path(arguments[-1]).read_text())


def leave() -> None:
    """End a process of a script, all together: threads of an engine that outlive it can abort the interpreter's end."""
    import torch.distributed as dist  # noqa: PLC0415  (this module also serves where torch is not installed)

    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)
