"""When KEDA is part of a run, and what of its configuration is ours: `python3 -m unittest discover tests/k8s`."""

import json
import unittest

import keda
import scenario
from report import TIMES


def patches(name):
    """What is changed in a Deployment of KEDA, by path."""
    [found] = [one for one in keda.kustomization("config")["patches"] if one["target"]["name"] == name]
    return {change["path"]: change["value"] for change in json.loads(found["patch"])}


class Steps(unittest.TestCase):
    def test_keda_is_the_last_step_where_it_is_wanted(self):
        self.assertEqual(scenario.usual_steps({"KEDA": "1"})[-1], "keda")

    def test_keda_is_no_step_where_it_is_not_wanted(self):
        for environment in ({}, {"KEDA": ""}, {"KEDA": "0"}):
            self.assertEqual(scenario.usual_steps(environment), scenario.STEPS)

    def test_every_step_is_one_of_the_scenario(self):
        for step in scenario.usual_steps({"KEDA": "1"}):
            self.assertTrue(callable(getattr(scenario.Scenario, step, None)), step)

    def test_both_autoscalers_have_their_times(self):
        self.assertLessEqual({f"{scaler}_{time}" for scaler in ("hpa", "keda") for time in ("up_s", "to_zero_s")}, set(TIMES))


class Configuration(unittest.TestCase):
    def test_both_images_are_ours_and_no_registry_is_asked(self):
        found = {one["name"]: f"{one['newName']}:{one['newTag']}" for one in keda.kustomization("config")["images"]}
        self.assertEqual(found, keda.UPSTREAM)
        for name in keda.DEPLOYMENTS:
            self.assertEqual(patches(name)["/spec/template/spec/containers/0/imagePullPolicy"], "IfNotPresent")

    def test_the_operator_waits_for_no_webhooks(self):
        self.assertEqual(patches("keda-operator")["/spec/template/spec/containers/0/args/-"], "--enable-webhook-patching=false")

    def test_a_condition_holds_where_it_is_there_and_true(self):
        def found(status):
            return {"status": {"conditions": [{"type": "Ready", "status": status}]}}

        self.assertTrue(keda.holds("Ready", found("True")))
        self.assertFalse(keda.holds("Ready", found("Unknown")))
        self.assertFalse(keda.holds("Available", found("True")))
        self.assertFalse(keda.holds("Ready", {}))


if __name__ == "__main__":
    unittest.main()
