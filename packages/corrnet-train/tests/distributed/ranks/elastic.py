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
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        # torchrun ends the others as soon as it sees that one is gone, maybe before they have said what they saw.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    trainer.Trainer = Killed
    main()
