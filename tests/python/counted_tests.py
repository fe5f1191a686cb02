"""Runs a unittest.TestCase and prints "N passed, N failed", as scripts/test.sh reads it."""

import sys
import unittest


class _Result(unittest.TextTestResult):
    passed = 0

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1


def run(case: type[unittest.TestCase]) -> int:
    """Runs the tests whose names the command line gives, or all. Returns the exit code."""
    loader = unittest.defaultTestLoader
    names = sys.argv[1:]
    suite = unittest.TestSuite(case(name) for name in names) if names else loader.loadTestsFromTestCase(case)
    result = unittest.TextTestRunner(verbosity=2, resultclass=_Result, stream=sys.stdout).run(suite)
    failed = max(result.testsRun - result.passed, len(result.errors) + len(result.failures))
    print(f"{result.passed} passed, {failed} failed")
    return 0 if result.passed and not failed else 1
