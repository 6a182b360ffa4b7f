//! Named measurements and what several runs make of them.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The measurements of one side in one run. A dot in a name makes an object in the JSON.
pub type Figures = BTreeMap<String, f64>;

/// All runs: ours, the floor's and those of peers.
#[derive(Debug, Default)]
pub struct Runs {
    ours: BTreeMap<String, Vec<f64>>,
    floor: BTreeMap<String, Vec<f64>>,
    peers: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
}

/// What several runs say of one measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Runs {
    /// Adds a run.
    pub fn push(&mut self, ours: Figures, floor: Figures) {
        for (side, figures) in [(&mut self.ours, ours), (&mut self.floor, floor)] {
            for (name, value) in figures {
                side.entry(name).or_default().push(value);
            }
        }
    }

    /// Adds a run of a peer.
    pub fn push_peer(&mut self, peer: &str, figures: Figures) {
        let side = self.peers.entry(peer.to_owned()).or_default();
        for (name, value) in figures {
            side.entry(name).or_default().push(value);
        }
    }

    /// Each of our measurements, by name.
    #[must_use]
    pub fn ours(&self) -> BTreeMap<String, Spread> {
        spreads(&self.ours)
    }

    /// Each measurement of the floor, by name.
    #[must_use]
    pub fn floor(&self) -> BTreeMap<String, Spread> {
        spreads(&self.floor)
    }

    /// Each measurement of each peer, by name.
    #[must_use]
    pub fn peers(&self) -> BTreeMap<String, BTreeMap<String, Spread>> {
        self.peers.iter().map(|(peer, side)| (peer.clone(), spreads(side))).collect()
    }
}

impl Spread {
    /// Of at least one value.
    fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let median = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { median, min, max })
    }

    /// As it stands in the JSON.
    #[must_use]
    pub fn json(self) -> Value {
        let rounded = |value: f64| (value * 1_000.0).round() / 1_000.0;
        json!({"median": rounded(self.median), "min": rounded(self.min), "max": rounded(self.max)})
    }
}

/// The value that `percent` of the samples do not exceed, in milliseconds.
///
/// # Panics
/// Without samples: a workload takes at least one.
#[must_use]
pub fn percentile_ms(samples: &mut [Duration], percent: usize) -> f64 {
    samples.sort_unstable();
    let rank = (samples.len() * percent).div_ceil(100).max(1);
    samples[rank - 1].as_secs_f64() * 1e3
}

/// So many in that time, per second.
#[must_use]
pub fn rate(count: usize, elapsed: Duration) -> f64 {
    as_f64(count) / elapsed.as_secs_f64()
}

/// Counts here are far below the 2^53 that a float holds exactly.
#[must_use]
pub fn as_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

fn spreads(side: &BTreeMap<String, Vec<f64>>) -> BTreeMap<String, Spread> {
    side.iter().filter_map(|(name, values)| Some((name.clone(), Spread::of(values)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_two() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_percentile_is_a_sample() {
        let mut samples: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert!((percentile_ms(&mut samples, 50) - 100.0).abs() < 1e-9);
        assert!((percentile_ms(&mut samples, 99) - 198.0).abs() < 1e-9);
        assert!((percentile_ms(&mut samples[..1], 99) - 1.0).abs() < 1e-9);
    }
}
