//! helm on the chart: what it renders from each set of values, as text and as JSON.

use super::tools::fetched;
use crate::harness::binary::workspace;
use anyhow::{Context, Result, bail, ensure};
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The sets of values in the chart's folder `ci`.
pub const SETS: [&str; 7] = ["trial", "production", "keda", "hpa", "external", "pools", "tls"];
/// The newest version of Kubernetes that the chart is checked with.
pub const KUBERNETES_NEWEST: &str = "1.36.0";

/// Where the chart is.
pub fn chart() -> PathBuf {
    workspace().join("helm/orchestr8")
}

/// helm, or none: the test `what` says so.
pub fn helm(what: &str) -> Option<Helm> {
    fetched("bin/helm", what).map(|program| Helm { program })
}

/// The program.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
}

impl Helm {
    /// Everything that would be installed, as YAML; rendered once in a run of the tests.
    pub fn template(&self, set: &str, kubernetes: &str) -> Result<String> {
        static RENDERED: Mutex<BTreeMap<(String, String), String>> = Mutex::new(BTreeMap::new());
        let mut rendered = RENDERED.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (set.to_owned(), kubernetes.to_owned());
        if !rendered.contains_key(&key) {
            let manifests = self.render(set, kubernetes)?;
            rendered.insert(key.clone(), manifests);
        }
        Ok(rendered[&key].clone())
    }

    fn render(&self, set: &str, kubernetes: &str) -> Result<String> {
        self.run(&["template", "orchestr8", ".", "--namespace", "work", "--kube-version", kubernetes, "--values", &values_of(set)])
    }

    /// The same, each object by itself.
    pub fn objects(&self, set: &str, kubernetes: &str) -> Result<Vec<Value>> {
        let objects = documents(&self.template(set, kubernetes)?)?;
        ensure!(objects.len() > 5, "{set}: only {} objects", objects.len());
        Ok(objects)
    }

    /// What helm says about these words; an error is what it complains of.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let output = Command::new(&self.program).args(words).current_dir(chart()).output().context("helm")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "helm {}: {said}{}", words.join(" "), String::from_utf8_lossy(&output.stdout));
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// The file of a set.
pub fn values_of(set: &str) -> String {
    format!("ci/{set}.yaml")
}

/// What a file says, as JSON.
pub fn read(file: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    documents(&text)?.pop().with_context(|| format!("{} is empty", file.display()))
}

/// The documents of a text in YAML that say something.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let documents = Yaml::load_from_str(text)?;
    let values = documents.iter().map(json).collect::<Result<Vec<_>>>()?;
    Ok(values.into_iter().filter(|value| !value.is_null()).collect())
}

fn json(node: &Yaml<'_>) -> Result<Value> {
    Ok(match node {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(truth)) => Value::Bool(*truth),
        Yaml::Value(Scalar::Integer(number)) => Value::Number((*number).into()),
        Yaml::Value(Scalar::FloatingPoint(number)) => Value::Number(Number::from_f64(number.into_inner()).context("a finite number")?),
        Yaml::Value(Scalar::String(text)) => Value::String(text.to_string()),
        Yaml::Sequence(items) => Value::Array(items.iter().map(json).collect::<Result<_>>()?),
        Yaml::Mapping(pairs) => {
            let pair = |(key, value): (&Yaml<'_>, &Yaml<'_>)| Ok((key.as_str().context("a key is text")?.to_owned(), json(value)?));
            Value::Object(pairs.iter().map(pair).collect::<Result<Map<_, _>>>()?)
        }
        other => bail!("{other:?} has no place in a manifest"),
    })
}

/// `Deployment/orchestr8-coordinator`.
pub fn name_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

/// The specification of its pods, where it makes any.
pub fn pod_of(object: &Value) -> Option<&Value> {
    match object["kind"].as_str()? {
        "Pod" => Some(&object["spec"]),
        "Deployment" | "StatefulSet" | "Job" | "DaemonSet" => Some(&object["spec"]["template"]["spec"]),
        _ => None,
    }
}

/// The containers of a pod.
pub fn containers_of(pod: &Value) -> Vec<&Value> {
    ["containers", "initContainers"].iter().filter_map(|key| pod[key].as_array()).flatten().collect()
}

/// The texts of a list.
pub fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
