//! Server-sent events from bytes (HTML Living Standard §9.2.6), as far as a coordinator uses them.

/// Longest line and longest event that are accepted, in bytes: far above what a coordinator sends.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SseEvent {
    /// The event's type; empty when the server named none.
    pub event: String,
    /// The `data` lines, joined by line ends.
    pub data: String,
    /// The last id seen: where a new stream resumes.
    pub id: String,
}

/// An event beyond [`EVENT_BYTES_MAX`]: this is not a coordinator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {EVENT_BYTES_MAX} bytes")]
pub struct EventTooLarge;

/// Cuts a byte stream into events, however the bytes arrive.
#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    after_carriage_return: bool,
    current: SseEvent,
    has_content: bool,
}

impl SseParser {
    /// Takes the next bytes and returns the events that they complete.
    ///
    /// # Errors
    /// [`EventTooLarge`]; the stream is then of no use.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, EventTooLarge> {
        let mut events = Vec::new();
        for &byte in bytes {
            let completes_line_end = std::mem::replace(&mut self.after_carriage_return, byte == b'\r') && byte == b'\n';
            match byte {
                b'\n' if completes_line_end => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => self.line.push(byte),
            }
            if self.line.len() + self.current.data.len() > EVENT_BYTES_MAX {
                return Err(EventTooLarge);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<SseEvent> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            return self.end_event();
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.current.event),
            "data" => {
                if self.has_content {
                    self.current.data.push('\n');
                }
                self.current.data.push_str(value);
                self.has_content = true;
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.current.id),
            // Comments keep the connection alive; `retry` and unknown fields mean nothing here.
            _ => {}
        }
        None
    }

    fn end_event(&mut self) -> Option<SseEvent> {
        let id = self.current.id.clone();
        let event = std::mem::replace(&mut self.current, SseEvent { id, ..SseEvent::default() });
        std::mem::take(&mut self.has_content).then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str =
        ": hello\n\nid: 7\nevent: task\ndata: {\"a\":1}\n\nretry: 5\ndata: one\r\ndata:two\r\n\r\nevent: empty\n\ndata\n\n";

    fn event(id: &str, event: &str, data: &str) -> SseEvent {
        SseEvent { id: id.into(), event: event.into(), data: data.into() }
    }

    fn expected() -> Vec<SseEvent> {
        vec![event("7", "task", "{\"a\":1}"), event("7", "", "one\ntwo"), event("7", "", "")]
    }

    #[test]
    fn fields_comments_and_line_ends_are_understood() {
        assert_eq!(SseParser::default().push(STREAM.as_bytes()), Ok(expected()));
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = SseParser::default();
        assert_eq!(parser.push(&vec![b'x'; EVENT_BYTES_MAX + 1]), Err(EventTooLarge));
    }

    proptest! {
        #[test]
        fn the_cuts_between_chunks_do_not_matter(cuts in proptest::collection::vec(0..STREAM.len(), 0..8)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let (mut parser, mut from, mut events) = (SseParser::default(), 0, Vec::new());
            for cut in cuts.into_iter().chain([STREAM.len()]) {
                events.extend(parser.push(&STREAM.as_bytes()[from..cut]).expect("small"));
                from = cut;
            }
            prop_assert_eq!(events, expected());
        }
    }
}
