//! What both processes say about themselves under `/metrics`: how a metric is described, and the two text formats.

use std::fmt::Write;

/// The type that a scraper is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows; its name ends with `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets; its series end with `_bucket`, `_sum` and `_count`.
    Histogram,
}

impl MetricKind {
    /// The word in a `# TYPE` line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric, as its documentation and the checks of it need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described {
    /// As in a query, unit last: `orchestr8_commit_duration_seconds`.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// The names of its labels, each with a bounded number of values.
    pub labels: &'static [&'static str],
    /// One line for people, without a full stop.
    pub help: &'static str,
}

impl Described {
    /// A counter; its name ends with `_total`.
    #[must_use]
    pub const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: MetricKind::Counter, labels, help }
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: MetricKind::Gauge, labels, help }
    }

    /// A histogram; its name ends with its unit.
    #[must_use]
    pub const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: MetricKind::Histogram, labels, help }
    }

    /// The name of the metric family in `OpenMetrics`: that of a counter has no `_total`.
    #[must_use]
    pub fn family(&self) -> &'static str {
        match self.kind {
            MetricKind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            MetricKind::Gauge | MetricKind::Histogram => self.name,
        }
    }
}

/// A table of metrics for the documentation, in Markdown.
#[must_use]
pub fn table(metrics: &[Described]) -> String {
    let mut text = "| name | type | labels | is |\n|---|---|---|---|\n".to_owned();
    for metric in metrics {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let line = format!("| `{}` | {} | {} | {} |", metric.name, metric.kind.as_str(), labels.join(" "), metric.help);
        writeln!(text, "{line}").expect("a String takes all");
    }
    text
}

/// A text of metrics and its media type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposition {
    /// For the header `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub text: String,
}

impl Exposition {
    /// `OpenMetrics` for who asks for it, as Prometheus does, else the older text format, which every tool reads.
    #[must_use]
    pub fn negotiated(openmetrics: String, accept: Option<&str>) -> Self {
        if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
            return Self { content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8", text: openmetrics };
        }
        Self { content_type: "text/plain; version=0.0.4; charset=utf-8", text: plain_text(&openmetrics) }
    }
}

/// The same in the older format: a counter's name has its `_total` everywhere, and there is neither a unit nor an end.
fn plain_text(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help: Option<(&str, &str)> = None;
    for line in openmetrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
        } else if let Some((family, kind)) = line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' ')) {
            let suffix = if kind == MetricKind::Counter.as_str() { "_total" } else { "" };
            if let Some((_, said)) = help.take().filter(|(of, _)| *of == family) {
                writeln!(text, "# HELP {family}{suffix} {said}").expect("a String takes all");
            }
            writeln!(text, "# TYPE {family}{suffix} {kind}").expect("a String takes all");
        } else if !line.starts_with('#') {
            writeln!(text, "{line}").expect("a String takes all");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENMETRICS: &str = "# HELP a_b What it is.\n# TYPE a_b counter\na_b_total{c=\"#\"} 3\n# HELP d_seconds Time.\n\
        # TYPE d_seconds gauge\n# UNIT d_seconds seconds\nd_seconds 0.5\n# EOF\n";

    #[test]
    fn who_does_not_ask_for_openmetrics_gets_what_every_tool_reads() {
        let plain = Exposition::negotiated(OPENMETRICS.to_owned(), Some("text/plain"));
        assert_eq!(
            plain.text,
            "# HELP a_b_total What it is.\n# TYPE a_b_total counter\na_b_total{c=\"#\"} 3\n# HELP d_seconds Time.\n# TYPE d_seconds gauge\nd_seconds 0.5\n"
        );
        assert_eq!(Exposition::negotiated(OPENMETRICS.to_owned(), None), plain);
        let asked = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        assert_eq!(Exposition::negotiated(OPENMETRICS.to_owned(), Some(asked)).text, OPENMETRICS);
    }

    #[test]
    fn a_metric_is_one_line_of_the_table() {
        let metrics = [Described::counter("a_b_total", &["c", "d"], "What it is")];
        assert_eq!(table(&metrics).lines().last(), Some("| `a_b_total` | counter | `c` `d` | What it is |"));
        assert_eq!(metrics[0].family(), "a_b");
    }
}
