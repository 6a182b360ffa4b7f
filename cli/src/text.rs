//! Text for people: durations, and strings from elsewhere made harmless for a terminal.

use std::time::Duration;

const SECOND_MS: u128 = 1_000;
const MINUTE_S: u64 = 60;
const HOUR_S: u64 = 60 * MINUTE_S;
const DAY_S: u64 = 24 * HOUR_S;

/// `420ms`, `3.4s`, `2m 05s`, `1h 02m`, `3d 04h`: at most two units, so that it stays short.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.as_millis() < SECOND_MS {
        format!("{}ms", duration.as_millis())
    } else if seconds < MINUTE_S {
        format!("{seconds}.{}s", duration.subsec_millis() / 100)
    } else if seconds < HOUR_S {
        format!("{}m {:02}s", seconds / MINUTE_S, seconds % MINUTE_S)
    } else if seconds < DAY_S {
        format!("{}h {:02}m", seconds / HOUR_S, seconds % HOUR_S / MINUTE_S)
    } else {
        format!("{}d {:02}h", seconds / DAY_S, seconds % DAY_S / HOUR_S)
    }
}

/// The text without escape sequences and control characters; line ends and tabs stay.
///
/// Names, outputs and errors come from other people's tasks: printed as they are they could move the cursor,
/// forge lines, or answer the terminal's questions.
#[must_use]
pub fn harmless(text: &str) -> String {
    let without_sequences = console::strip_ansi_codes(text);
    without_sequences.chars().filter(|&c| c == '\n' || c == '\t' || !is_hostile(c)).collect()
}

/// The same in one line: line ends and tabs become spaces.
#[must_use]
pub fn harmless_line(text: &str) -> String {
    harmless(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Control characters (C0, DEL, C1) and those that reorder or hide text.
fn is_hostile(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// `1 task`, `2 tasks`.
pub fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_shown_in_at_most_two_units() {
        for (milliseconds, text) in
            [(0, "0ms"), (420, "420ms"), (3_460, "3.4s"), (125_000, "2m 05s"), (3_720_000, "1h 02m"), (273_600_000, "3d 04h")]
        {
            assert_eq!(show_duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(harmless("\u{1b}[31mred\u{1b}[0m\u{7} \u{1b}]0;title\u{7}ok\r\n\tend"), "red ok\n\tend");
        assert_eq!(harmless("\u{9b}2Jsafe"), "safe");
        assert_eq!(harmless("abc\u{202e}txt.exe"), "abctxt.exe");
        assert_eq!(harmless_line("first\nsecond\tthird"), "first second third");
        assert_eq!(harmless("plain äöü ✓"), "plain äöü ✓");
    }

    proptest! {
        #[test]
        fn nothing_hostile_survives(text in ".*", prefix in "\u{1b}[\\[\\]PX^_]?[0-9;]*") {
            let shown = harmless(&format!("{prefix}{text}"));
            prop_assert!(shown.chars().all(|c| c == '\n' || c == '\t' || !is_hostile(c)));
        }
    }
}
