//! `make bench-report`: the figures of `target/bench/latest.json` as bars, and the ratios that the next run is compared with.

use super::last;
use crate::harness::binary::workspace;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What is shown, in which words, and which way is better.
const SHOWN: [(&str, &str, &str); 7] = [
    ("w1_single_tasks_per_s", "tasks per second, one request each", "more is better"),
    ("w1_batch_tasks_per_s", "tasks per second, 1,000 in a request", "more is better"),
    ("w2_steps_per_s", "steps per second, 200 chains of 10", "more is better"),
    ("one_task_p50_ms", "one task, median, ms", "less is better"),
    ("one_task_p99_ms", "one task, 99th percentile, ms", "less is better"),
    ("w2_step_p50_ms", "one step of a chain, median, ms", "less is better"),
    ("w3_total_ms", "1 → 1,000 → 1, ms", "less is better"),
];
const WIDTH: f64 = 860.0;
/// Left of the bars, for names; right of them, for values.
const NAMES_WIDTH: f64 = 110.0;
const VALUES_WIDTH: f64 = 200.0;
const BAR: f64 = 16.0;
const LINE: f64 = 22.0;
const TITLE: f64 = 30.0;
const OURS: &str = "#2563eb";
const FLOOR: &str = "#94a3b8";
const PEER: &str = "#d97706";

const TEXT: &str = "writing to text does not fail";

/// One bar, with the smallest and the largest of the runs.
struct Bar<'a> {
    label: &'a str,
    color: &'static str,
    median: f64,
    min: f64,
    max: f64,
}

/// Writes `docs/bench/report.svg` and `docs/bench/last.json`; their paths.
///
/// # Errors
/// When nothing was measured yet, or a file cannot be written.
pub fn write() -> Result<[PathBuf; 2]> {
    let measured = workspace().join("target/bench/latest.json");
    let text = std::fs::read_to_string(&measured).with_context(|| format!("{}: run `make bench` first", measured.display()))?;
    let latest: Value = serde_json::from_str(&text).with_context(|| measured.display().to_string())?;
    let plot = workspace().join("docs/bench/report.svg");
    let kept = last::file();
    put(&plot, &svg(&latest)?)?;
    put(&kept, &format!("{:#}\n", last::kept(&latest)))?;
    Ok([plot, kept])
}

fn put(file: &Path, text: &str) -> Result<()> {
    let folder = file.parent().context("a file lies in a folder")?;
    std::fs::create_dir_all(folder).and_then(|()| std::fs::write(file, text)).with_context(|| file.display().to_string())
}

/// A picture that reads on light and dark pages: it has a ground of its own.
///
/// # Errors
/// When it has none of the figures.
pub fn svg(latest: &Value) -> Result<String> {
    let panels: Vec<(&str, &str, Vec<Bar<'_>>)> =
        SHOWN.iter().map(|(name, words, better)| (*words, *better, bars(latest, name))).filter(|(_, _, bars)| !bars.is_empty()).collect();
    ensure!(!panels.is_empty(), "there is none of {:?} in it", SHOWN.map(|(name, _, _)| name));
    let mut body = String::new();
    let mut y = TITLE + LINE;
    for (words, better, bars) in &panels {
        writeln!(
            body,
            r##"<text x="16" y="{y:.0}" font-weight="600">{words} <tspan fill="#64748b" font-weight="400">({better})</tspan></text>"##
        )
        .expect(TEXT);
        let largest = bars.iter().map(|bar| bar.max).fold(f64::MIN_POSITIVE, f64::max);
        for bar in bars {
            y += LINE;
            draw(&mut body, bar, (y, largest));
        }
        y += LINE + TITLE / 2.0;
    }
    let conditions = conditions(&latest["conditions"]);
    Ok(format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0} {y:.0}" font-family="system-ui, sans-serif" font-size="13" fill="#0f172a">
<rect width="100%" height="100%" rx="8" fill="#f8fafc"/>
<text x="16" y="26" font-size="15" font-weight="700">orchestr8 beside the smallest program of its shape{conditions}</text>
{body}</svg>
"##
    ))
}

fn bars<'a>(latest: &'a Value, name: &str) -> Vec<Bar<'a>> {
    let bar = |label, color, figures: &Value| {
        let [median, min, max] = ["median", "min", "max"].map(|key| figures[name][key].as_f64());
        Some(Bar { label, color, median: median?, min: min?, max: max? })
    };
    let own = [bar("orchestr8", OURS, latest), bar("floor", FLOOR, &latest["floor"])];
    let named = latest["peers"].as_object().into_iter().flatten().map(|(peer, figures)| bar(peer.as_str(), PEER, figures));
    own.into_iter().chain(named).flatten().collect()
}

fn draw(body: &mut String, bar: &Bar<'_>, (y, largest): (f64, f64)) {
    let room = WIDTH - NAMES_WIDTH - VALUES_WIDTH;
    let at = |value: f64| NAMES_WIDTH + room * value / largest;
    let (top, middle) = (y - BAR + 3.0, y - BAR / 2.0 + 3.0);
    let Bar { label, color, median, min, max } = bar;
    writeln!(body, r#"<text x="{:.0}" y="{y:.0}" text-anchor="end">{}</text>"#, NAMES_WIDTH - 8.0, escaped(label)).expect(TEXT);
    let long = at(*median) - NAMES_WIDTH;
    writeln!(body, r#"<rect x="{NAMES_WIDTH:.0}" y="{top:.1}" width="{long:.1}" height="{BAR:.0}" rx="2" fill="{color}"/>"#).expect(TEXT);
    let (from, to) = (at(*min), at(*max));
    writeln!(body, r##"<line x1="{from:.1}" x2="{to:.1}" y1="{middle:.1}" y2="{middle:.1}" stroke="#0f172a" stroke-width="1.5"/>"##)
        .expect(TEXT);
    let value = short(*median);
    let spread = if (max - min).abs() > f64::EPSILON { format!(" ({} .. {})", short(*min), short(*max)) } else { String::new() };
    writeln!(body, r##"<text x="{:.0}" y="{y:.0}">{value}<tspan fill="#64748b">{spread}</tspan></text>"##, at(*max) + 8.0).expect(TEXT);
}

fn conditions(conditions: &Value) -> String {
    match (conditions["cores"].as_u64(), conditions["runs"].as_u64()) {
        (Some(cores), Some(runs)) => format!(", on {cores} cores, median of {runs} runs"),
        _ => String::new(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn short(value: f64) -> String {
    let digits = format!("{value:.0}");
    match digits.len() {
        0..=2 => format!("{value:.2}"),
        3 => digits,
        long => format!("{},{}", &digits[..long - 3], &digits[long - 3..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spread(median: f64) -> Value {
        json!({"median": median, "min": median / 2.0, "max": median * 2.0})
    }

    #[test]
    fn every_figure_that_was_measured_is_a_bar() {
        let latest = json!({"w1_single_tasks_per_s": spread(4_428.0), "one_task_p50_ms": spread(2.65), "floor": {"one_task_p50_ms": spread(1.5)},
            "peers": {"bull<mq": {"one_task_p50_ms": spread(2.14)}}, "conditions": {"cores": 2, "runs": 3}});
        let svg = svg(&latest).expect("figures");
        assert_eq!(svg.matches("<rect x=").count(), 4, "{svg}");
        assert!(svg.contains("4,428") && svg.contains("on 2 cores, median of 3 runs") && svg.contains("bull&lt;mq"), "{svg}");
        assert!(!svg.contains("chains of 10"), "what was not measured has no panel: {svg}");
        assert!(super::svg(&json!({})).is_err());
    }

    #[test]
    fn no_bar_and_no_text_leaves_the_picture() {
        let svg = svg(&json!({"w3_total_ms": spread(83.0), "floor": {"w3_total_ms": spread(50.0)}})).expect("figures");
        let numbers = svg.split("x=\"").skip(1).filter_map(|rest| rest.split('"').next()?.parse::<f64>().ok());
        assert!(numbers.into_iter().all(|x| (0.0..=WIDTH - VALUES_WIDTH / 2.0).contains(&x) || x.abs() < f64::EPSILON), "{svg}");
    }
}
