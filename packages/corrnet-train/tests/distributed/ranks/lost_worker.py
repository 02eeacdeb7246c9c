"""The command line under torchrun; the worker of the last process dies in step 3, or hangs at its ninth clip."""

import os
import signal
import time
from itertools import count

from video_data.loading import train as loading

is_last = os.environ["RANK"] == "1"
note, number = loading.working_on, count(1)


def hang(index):
    """Note the clip, as workers do, and go on with all but one."""
    note(index)
    if next(number) == 9:
        time.sleep(1000)


if __name__ == "__main__":  # workers import this file too, and need no trainer
    from corrnet_train.cli import main
    from corrnet_train.training import trainer

    class Disturbed(trainer.Trainer):
        """A trainer that loses its worker."""

        def _train_step(self, batches, stop):
            if self.step == 2 and is_last:
                (worker,) = self._loader._loader._workers.processes
                os.kill(worker.pid, signal.SIGKILL)
            return super()._train_step(batches, stop)

    if os.environ["LOST_BY"] == "death":
        trainer.Trainer = Disturbed
    main()
elif is_last and os.environ["LOST_BY"] == "hang":  # in a worker
    loading.working_on = hang
