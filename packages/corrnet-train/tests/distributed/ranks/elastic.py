"""The command line under torchrun; at its first start the last process is killed in step 3."""

import os
import signal
from pathlib import Path

from corrnet_train.cli import main
from corrnet_train.training import trainer


class Killed(trainer.Trainer):
    """A trainer that is killed."""

    def _train_step(self, batches, stop):
        ranks = self.ranks
        if self.step == 2 and ranks.rank == ranks.world_size - 1 and not ranks.restarts:
            Path("killed").write_text(f"rank {ranks.rank} in step {self.step + 1}")
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._train_step(batches, stop)


if __name__ == "__main__":
    trainer.Trainer = Killed
    main()
