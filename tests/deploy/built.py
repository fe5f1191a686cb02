"""The two packages, built once for all tests, and how commands are run."""

import atexit
import functools
import os
import pathlib
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"


def run(*command, **options) -> str:
    """What a command prints. Its stderr is in the error if it fails."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, **options)
    if done.returncode:
        raise AssertionError(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


@functools.cache
def scratch() -> pathlib.Path:
    """A directory that is gone afterwards."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="deploy-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def build(output: pathlib.Path) -> dict[str, pathlib.Path]:
    """Builds the packages: where each is, by its name."""
    paths = [pathlib.Path(line) for line in run(DEPLOY / "debian" / "build.sh", output).splitlines()]
    return {path.name.partition("_")[0]: path for path in paths}


@functools.cache
def packages() -> dict[str, pathlib.Path]:
    return build(scratch() / "packages")


def unpacked() -> dict[str, pathlib.Path]:
    """Where what each package holds lies."""
    return {name: _unpack(name) for name in packages()}


@functools.cache
def _unpack(name: str) -> pathlib.Path:
    directory = scratch() / "unpacked" / name
    directory.mkdir(parents=True)
    run("dpkg-deb", "--extract", packages()[name], directory)
    return directory


def valkey(name: str) -> pathlib.Path:
    """A program of the Valkey that the tests run."""
    return pathlib.Path(os.environ["VALKEY_BIN_DIR"]) / name
