"""What tests that each have a cluster of their own share."""

import os
import pathlib
import shutil
import tempfile
import unittest

from cluster import Cluster


def remove(directory: pathlib.Path) -> None:
    """Removes what a test has left, unless it is to be looked at."""
    if "KEEP" in os.environ:
        print(f"kept: {directory}")
    else:
        shutil.rmtree(directory)


class ClusterCase(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="zones-"))
        self.cluster = self.make_cluster()
        try:
            self.cluster.start()
        except BaseException:
            self.tearDown()
            raise

    def make_cluster(self) -> Cluster:
        """Not started."""
        return Cluster(self.directory)

    def tearDown(self):
        self.cluster.kill()
        remove(self.directory)
