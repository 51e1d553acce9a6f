"""torchrun whose exit status tells what happened: that of the first process that failed, 75 where a signal stopped all.

torchrun itself ends in a traceback and status 1 in each of these cases. Arguments are torchrun's.
"""

import signal
import sys

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

STOPPED = 75  # replicate.preempt.STATUS
NOTICES = (signal.SIGTERM, signal.SIGUSR1)  # what replicate.preempt answers with a checkpoint
SECONDS = 110  # for that checkpoint, before the processes are killed: schedulers give 120 by launch/slurm.sh
OPTIONS = ["--signals-to-handle=SIGTERM,SIGUSR1,SIGINT,SIGHUP,SIGQUIT", f"--shutdown-timeout={SECONDS}"]


def main(arguments: list[str]) -> int:
    try:
        run(parse_args(OPTIONS + arguments))
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        return status if status > 0 else 128 - status  # below zero: killed by that signal
    except SignalException as error:
        return STOPPED if error.sigval in NOTICES else 128 + error.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
