"""A cluster that all tests of a class share."""

import os
import pathlib
import shutil
import tempfile
import unittest

from shards import Cluster


class ClusterTest(unittest.TestCase):
    """A class of tests says which cluster, by `make`."""

    directory: pathlib.Path
    cluster: Cluster

    @classmethod
    def make(cls, directory: pathlib.Path) -> Cluster:
        """The cluster, not started yet, in that directory."""
        raise NotImplementedError

    @classmethod
    def setUpClass(cls):
        cls.directory = pathlib.Path(tempfile.mkdtemp(prefix="cluster-"))
        cls.cluster = cls.make(cls.directory)
        try:
            cls.cluster.start()
        except BaseException:
            cls.tearDownClass()
            raise

    @classmethod
    def tearDownClass(cls):
        cls.cluster.kill()
        if "KEEP" in os.environ:
            print(f"kept: {cls.directory}")
        else:
            shutil.rmtree(cls.directory)

    def restart_what_was_killed(self) -> None:
        for node in self.cluster.nodes:
            if not node.is_running():
                node.start()
