"""A plug-in for pytest: one line for each test, its name and what became of it, in the file that CONFORMANCE_OUTCOMES names."""

import os

_out = open(os.environ["CONFORMANCE_OUTCOMES"], "a", buffering=1)
_seen = {}


def _write(test, outcome):
    print(test.replace("\t", " ").replace("\n", " "), outcome.replace("\t", " ").replace("\n", " "), sep="\t", file=_out)


def pytest_runtest_logreport(report):
    if report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _seen[report.nodeid] = "skipped: " + reason
    elif hasattr(report, "wasxfail"):
        _seen[report.nodeid] = "xfailed" if report.outcome == "skipped" else "xpassed"
    elif report.outcome == "failed":
        _seen[report.nodeid] = "failed" if report.when == "call" else "error in " + report.when
    elif report.when == "call":
        _seen.setdefault(report.nodeid, "passed")
    if report.when == "teardown":
        _write(report.nodeid, _seen.pop(report.nodeid, "nothing"))


def pytest_collectreport(report):
    if report.outcome == "failed":
        _write(report.nodeid, "cannot be collected")
    elif report.outcome == "skipped":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _write(report.nodeid, "skipped: " + reason)
