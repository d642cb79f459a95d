"""What every module needs of a Trainer: checkpoints, guards, hyperparameters, the optimizer."""
