//! What KEDA's Prometheus trigger asks: the query that the chart renders, on a real Prometheus' engine.

use super::rendering::{documents, helm};
use crate::observe::tools::Tools;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// The query of a pool that serves these queues, or none where there is no helm: then the test `what` says so.
pub fn demand_query(queues: &[&str], selector: &str, what: &str) -> Result<Option<String>> {
    let Some(helm) = helm(what) else { return Ok(None) };
    let scaling =
        json!({"mode": "keda", "trigger": "prometheus", "prometheusAddress": "http://prometheus", "prometheusSelector": selector});
    let pools = format!("executors={}", json!({"pool": {"queues": queues, "scaling": scaling}}));
    let words = ["template", "x", ".", "--set", "postgres.enabled=true", "--set-json", &pools];
    let objects = documents(&helm.run(&words)?)?;
    let scaled = objects.iter().find(|object| object["kind"] == json!("ScaledObject")).context("a ScaledObject")?;
    let metadata = &scaled["spec"]["triggers"][0]["metadata"];
    // So that a query without an answer is an error, and the replicas stay.
    ensure!(metadata["ignoreNullValues"] == "false" && scaled["spec"]["fallback"].is_null(), "{scaled}");
    Ok(Some(metadata["query"].as_str().context("a query")?.to_owned()))
}

/// Some series, and what the query says about them; none: nothing, which KEDA takes for an error.
struct Case {
    about: &'static str,
    series: &'static [(&'static str, u32)],
    demand: Option<u32>,
}

const CASES: [Case; 6] = [
    Case {
        about: "each coordinator says the same, of two queues and others",
        series: &[
            ("orchestr8_ready{job='c',instance='1',part='database'}", 1),
            ("orchestr8_ready{job='c',instance='2',part='database'}", 1),
            ("orchestr8_queue_demand_slots{job='c',instance='1',queue='agents'}", 3),
            ("orchestr8_queue_demand_slots{job='c',instance='2',queue='agents'}", 3),
            ("orchestr8_queue_demand_slots{job='c',instance='1',queue='reviews'}", 2),
            ("orchestr8_queue_demand_slots{job='c',instance='1',queue='agents-gpu'}", 40),
            ("orchestr8_queue_demand_slots{job='another',instance='9',queue='agents'}", 70),
            ("orchestr8_ready{job='another',instance='9',part='database'}", 1),
        ],
        demand: Some(5),
    },
    Case {
        about: "nothing waits or runs, and one of two has no NATS",
        series: &[
            ("orchestr8_ready{job='c',instance='1',part='database'}", 1),
            ("orchestr8_ready{job='c',instance='1',part='nats'}", 0),
            ("orchestr8_ready{job='c',instance='2',part='database'}", 1),
        ],
        demand: Some(0),
    },
    Case {
        about: "one of two has lost its database and shows what it counted last",
        series: &[
            ("orchestr8_ready{job='c',instance='1',part='database'}", 0),
            ("orchestr8_queue_demand_slots{job='c',instance='1',queue='agents'}", 50),
            ("orchestr8_ready{job='c',instance='2',part='database'}", 1),
            ("orchestr8_queue_demand_slots{job='c',instance='2',queue='agents'}", 1),
        ],
        demand: Some(1),
    },
    Case {
        about: "a coordinator that never reached its database has counted nothing",
        series: &[
            ("orchestr8_ready{job='c',instance='1',part='database'}", 0),
            ("orchestr8_ready{job='c',instance='1',part='nats'}", 1),
            ("orchestr8_shards_owned{job='c',instance='1'}", 0),
        ],
        demand: None,
    },
    Case {
        about: "all have lost their database",
        series: &[
            ("orchestr8_ready{job='c',instance='1',part='database'}", 0),
            ("orchestr8_queue_demand_slots{job='c',instance='1',queue='agents'}", 50),
        ],
        demand: None,
    },
    Case {
        about: "no coordinator is scraped",
        series: &[("orchestr8_ready{job='another',instance='9',part='database'}", 1)],
        demand: None,
    },
];

impl Case {
    /// As promtool wants it.
    fn test(&self, query: &str) -> Value {
        let series = self.series.iter().map(|(series, value)| json!({"series": series, "values": format!("{value}x4")}));
        let expected = self.demand.map(|demand| json!({"labels": "{}", "value": demand}));
        json!({
            "name": self.about,
            "interval": "1m",
            "input_series": series.collect::<Vec<_>>(),
            "promql_expr_test": [{"expr": query, "eval_time": "2m", "exp_samples": expected.into_iter().collect::<Vec<_>>()}],
        })
    }
}

#[test]
fn the_demand_is_a_number_only_while_somebody_knows_it() -> Result<()> {
    let what = "the query of KEDA's Prometheus trigger";
    let Some(query) = demand_query(&["agents", "reviews"], "job=\"c\"", what)? else { return Ok(()) };
    let Some(tools) = Tools::find(what) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("trigger.json");
    // JSON is YAML.
    let tests: Vec<Value> = CASES.iter().map(|case| case.test(&query)).collect();
    std::fs::write(&file, json!({"tests": tests}).to_string())?;
    let said = tools.promtool(&["test", "rules", file.to_str().context("UTF-8")?], "")?;
    ensure!(said.contains("SUCCESS"), "{said}");
    Ok(())
}
