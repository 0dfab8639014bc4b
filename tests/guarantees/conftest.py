"""What several guarantees compare with."""
import functools

from guarantees.harness import child, children, finished
import pytest


@pytest.fixture(scope="session")
def never_stopped(tmp_path_factory):
    """Return the workdir of a task's run that was never stopped, in a process of one device."""
    @functools.cache
    def workdir(name):
        folder = tmp_path_factory.mktemp(f"never_stopped_{name}")
        finished(child(name, folder, "--devices=1"))
        return folder
    return workdir


@pytest.fixture(scope="session")
def by_two(tmp_path_factory):
    """Return the workdir of a task's run by two processes of one device, never stopped."""
    @functools.cache
    def workdir(name):
        folder = tmp_path_factory.mktemp(f"by_two_{name}")
        for process in children(name, folder, 2):
            finished(process)
        return folder
    return workdir
