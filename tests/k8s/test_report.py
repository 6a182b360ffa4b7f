"""What a run leaves behind has the names that others read it by: `python3 -m unittest discover tests/k8s`."""

import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import report
from verdict import Verdict

# Read by whoever compares runs: none may vanish or be renamed.
TIMES = """cluster_ready_s install_s first_workflow_s scale_up_s scale_down_s hpa_up_s hpa_to_zero_s keda_up_s keda_to_zero_s
rolling_upgrade_s drain_s partition_recovery_s""".split()
COUNTS = "accepted ended lost counted_twice stuck".split()
REST = "complaints messages passed".split()


def written(made):
    """The file of this report, as JSON."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(report, "FILE", Path(folder) / "k8s" / "latest.json"):
        made.write()
        return json.loads(report.FILE.read_text())


def good():
    """A report of a run in which every promise was kept."""
    made = report.Report()
    made.verdict = Verdict()
    made.verdict.accepted = made.verdict.ended = 3
    return made


class Figures(unittest.TestCase):
    def test_every_figure_is_there_under_its_name(self):
        self.assertEqual(list(written(good())), [*TIMES, *COUNTS, *REST])
        self.assertEqual(list(written(report.Report())), [*TIMES, *COUNTS, *REST])

    def test_a_run_that_kept_its_promises_says_so(self):
        made = good()
        with mock.patch("builtins.print"):
            made.time("drain_s", 6.04)
        found = written(made)
        self.assertEqual((found["drain_s"], found["scale_up_s"]), (6.0, None))
        self.assertEqual([found[name] for name in COUNTS], [3, 3, 0, 0, 0])
        self.assertTrue(found["passed"])

    def test_what_was_lost_is_counted_and_told(self):
        made = good()
        made.verdict.lost.append("execution w is unknown")
        found = written(made)
        self.assertEqual((found["lost"], found["passed"]), (1, False))
        self.assertEqual(found["complaints"], ["lost: execution w is unknown"])

    def test_a_run_that_broke_off_is_no_success(self):
        made = report.Report()
        made.broken.append("no node was ready")
        found = written(made)
        self.assertEqual((found["passed"], found["accepted"], found["complaints"]), (False, None, ["no node was ready"]))


if __name__ == "__main__":
    unittest.main()
