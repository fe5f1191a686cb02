"""Runs unittest.TestCases and prints "N passed, N failed", as scripts/test.sh reads it."""

import sys
import unittest


class _Result(unittest.TextTestResult):
    passed = 0

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1


def run(*cases: type[unittest.TestCase]) -> int:
    """Runs the tests whose names the command line gives, or all. Returns the exit code."""
    loader = unittest.defaultTestLoader
    wanted = sys.argv[1:]
    names = [(case, name) for case in cases for name in loader.getTestCaseNames(case)]
    known = [name for _, name in names]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"no such test: {', '.join(unknown)}")
    suite = unittest.TestSuite(case(name) for case, name in names if not wanted or name in wanted)
    result = unittest.TextTestRunner(verbosity=2, resultclass=_Result, stream=sys.stdout).run(suite)
    failed = max(result.testsRun - result.passed, len(result.errors) + len(result.failures))
    print(f"{result.passed} passed, {failed} failed")
    return 0 if result.passed and not failed else 1
