"""The same work for many tasks, here or in forked processes, with the same results in order."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from coterie.errors import CoterieError, InputError

Task = TypeVar("Task")
Result = TypeVar("Result")

ONE_THREAD = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
_work: Callable[[Any], Any]  # what a forked process does, set there


def run(
    work: Callable[[Task], Result], tasks: Iterable[Task], jobs: int = 1
) -> Generator[tuple[Task, Result], None, None]:
    """Every task with what ``work`` makes of it, in order.

    Linear algebra runs on one thread a process, so sums round alike on every machine and with any
    number of ``jobs``. With one job tasks are taken one by one, as results are asked for. Forked
    processes hold what the parent held; only tasks and results are pickled. Raises InputError for a
    number of jobs that cannot be had, CoterieError where a process dies.
    """
    from threadpoolctl import threadpool_limits

    if not isinstance(jobs, int) or jobs < 1:
        raise InputError(f"expected a whole number of at least 1, got {jobs!r}", field="jobs")
    if jobs > 1:
        yield from _forked(work, list(tasks), jobs)
        return
    for task in tasks:
        with threadpool_limits(1, "blas"):
            result = work(task)
        yield task, result


def _forked(
    work: Callable[[Task], Result], tasks: list[Task], jobs: int
) -> Generator[tuple[Task, Result], None, None]:
    daemon = multiprocessing.current_process().daemon
    if daemon or "fork" not in multiprocessing.get_all_start_methods():
        raise InputError(f"expected 1, as nothing can be forked here, got {jobs}", field="jobs")
    fork = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(jobs, fork, initializer=_settle, initargs=(work,))
    try:
        with warnings.catch_warnings():  # the parent's threads are idle: BLAS, tokenizers
            warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
            results = pool.map(_call, tasks)
        yield from zip(tasks, results, strict=True)
    except BrokenProcessPool:
        message = "a process of the panel died, perhaps for want of memory; use fewer jobs"
        raise CoterieError(message) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _settle(work: Callable[[Any], Any]) -> None:
    """In a forked process: what to do, on one thread."""
    global _work
    from threadpoolctl import threadpool_limits

    os.environ |= ONE_THREAD  # for libraries that are loaded later
    threadpool_limits(1)
    _work = work


def _call(task: Any) -> Any:
    return _work(task)
