"""What is said to an operator, apart from what it is said of."""

from __future__ import annotations

from zqueue.findings import Finding, addressed


def test_commands_reach_the_daemon_that_they_are_about() -> None:
    said = (
        "zqueuectl start zqueuectl",
        "journalctl -u zqueue -n 50",
        "systemctl restart zqueue",
        "journalctl -u zqueue@orders.service -n 50",
    )
    found = [Finding("warn", "zqueue", "zqueuectl", "operator", said)]
    [made] = addressed(found, "zqueuectl --instance orders", "zqueue@orders")
    assert made.do == (
        "zqueuectl --instance orders start zqueuectl",
        "journalctl -u zqueue@orders -n 50",
        "systemctl restart zqueue@orders",
        "journalctl -u zqueue@orders.service -n 50",
    )
    assert (made.queue, made.what) == ("zqueue", "zqueuectl")
