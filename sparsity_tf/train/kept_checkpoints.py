"""Keeps copies of a run's checkpoints, so that one of several can be chosen after training (`--save_every`)."""

import os
import re
import shutil

FOLDER = "checkpoints"
_UNFINISHED = "unfinished_copy.keras"


class KeptCheckpoints:
    """The copies in the folder `checkpoints` of a run.

    The copy after epoch 12 is `epoch_12.keras`. It is a whole network with its optimizer, which `train.evaluate`,
    `train.convert` and `--load_weights` take.

    Args:
        folder: Folder of the run.
        every: Number of epochs between two copies, >= 1.
        most: How many copies to keep, the newest ones; 0 for all.
        first_epoch: Number of epochs already done. Later copies, from an epoch that was cut off, are removed.
    """

    def __init__(self, folder, every, most=0, first_epoch=0):
        self.folder = os.path.join(folder, FOLDER)
        self.every = every
        self.most = most
        for epoch, path in self.paths():
            if epoch > first_epoch:
                os.remove(path)
        if os.path.exists(os.path.join(self.folder, _UNFINISHED)):
            os.remove(os.path.join(self.folder, _UNFINISHED))

    def paths(self):
        """List of pairs (epochs done, path) of the copies, in order."""
        names = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        found = [re.fullmatch(r"epoch_(\d+)\.keras", name) for name in names]
        return sorted((int(match[1]), os.path.join(self.folder, match[0])) for match in found if match)

    def add(self, checkpoint, done):
        """Copies the file of a checkpoint if one of this number of epochs is to be kept, and removes old copies.

        The caller adds a checkpoint before it counts as the run's. If the process is killed between the two, the
        continued run repeats the epoch, and so no copy is missing in the end.
        """
        if done % self.every:
            return
        os.makedirs(self.folder, exist_ok=True)
        unfinished = os.path.join(self.folder, _UNFINISHED)
        shutil.copyfile(checkpoint, unfinished)
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, os.path.join(self.folder, f"epoch_{done}.keras"))
        for _, path in self.paths()[: -self.most] if self.most else ():
            os.remove(path)
