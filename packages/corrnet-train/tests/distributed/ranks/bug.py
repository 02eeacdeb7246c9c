"""The command line under torchrun; the last process has a bug when it has joined the others."""

import signal

from corrnet_train.cli import main
from corrnet_train.training import trainer


class Broken(trainer.Trainer):
    """A trainer with a bug."""

    def _train_step(self, batches, stop):
        if self.ranks.rank == self.ranks.world_size - 1:
            raise KeyError("a bug")
        return super()._train_step(batches, stop)


if __name__ == "__main__":
    # torchrun ends the others as soon as it sees that one is gone, maybe the one with the bug before its own end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    trainer.Trainer = Broken
    main()
