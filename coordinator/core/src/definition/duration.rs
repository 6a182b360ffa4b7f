//! Durations as people write them.

use std::time::Duration;

/// The longest duration anywhere: ten years.
pub const DURATION_MAX: Duration = Duration::from_hours(3650 * 24);

/// Units from large to small, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not of the form.
    #[error("`{0}` is not a duration: write it as 90s, 2h, 1h30m, 500ms or 3d (units d, h, m, s, ms from large to small)")]
    Form(String),
    /// Longer than [`DURATION_MAX`].
    #[error("`{0}` is too long: the limit is 3650d")]
    TooLong(String),
}

/// Reads `90s`, `2h`, `1h30m`, `500ms`, `3d`; digits alone are seconds. Zero is a duration: whether it makes sense is for the caller.
///
/// # Errors
/// [`DurationError`] names the text and the form.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let form = || DurationError::Form(text.chars().take(40).collect());
    let too_long = || DurationError::TooLong(text.chars().take(40).collect());
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs).filter(|duration| *duration <= DURATION_MAX).ok_or_else(too_long);
    }
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total_ms = 0u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_lowercase).count();
        let (number, unit) = (&rest[..digits], &rest[digits..digits + letters]);
        let (_, unit_ms) = units.find(|(name, _)| *name == unit).filter(|_| digits > 0).ok_or_else(form)?;
        let part_ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*unit_ms)).ok_or_else(too_long)?;
        total_ms = total_ms.checked_add(part_ms).ok_or_else(too_long)?;
        rest = &rest[digits + letters..];
    }
    let duration = Duration::from_millis(total_ms);
    match text {
        "" => Err(form()),
        _ if duration > DURATION_MAX => Err(too_long()),
        _ => Ok(duration),
    }
}

/// The shortest text that [`parse_duration`] reads as this duration; parts of a millisecond are left out.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut left_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, unit_ms) in UNITS {
        if left_ms >= unit_ms {
            text.extend([(left_ms / unit_ms).to_string().as_str(), unit]);
            left_ms %= unit_ms;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}
