"""torchrun whose processes are forked from this one, which has imported what takes each of them seconds."""

import sys
from pathlib import Path

from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, get_args_parser

sys.path.insert(0, str(Path(__file__).parents[2] / "processes"))

import forks

if __name__ == "__main__":
    options = get_args_parser().parse_args()
    config, _, _ = config_from_args(options)
    config.start_method = "fork"
    elastic_launch(config, forks.run_rank)(None, options.training_script_args)
