//! Server-sent events, out of the bytes that come in.

/// Longest event, in bytes; hosts send far shorter ones.
const MAX_EVENT: usize = 4 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// Its identifier, or that of the last event that had one.
    pub(super) id: Option<String>,
    /// What it says.
    pub(super) data: String,
}

/// Reads events, however their bytes are cut.
#[derive(Debug, Default)]
pub(super) struct Reader {
    bytes: Vec<u8>,
    id: Option<String>,
    data: Vec<String>,
    size: usize,
}

/// An event without an end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Reader {
    /// Takes bytes in and gives the events that are whole.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        self.bytes.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(length) = self.bytes[from..].iter().position(|byte| *byte == b'\n') {
            let line = &self.bytes[from..from + length];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let line = String::from_utf8_lossy(line).into_owned();
            from += length + 1;
            events.extend(self.line(&line));
        }
        self.bytes.drain(..from);
        if self.bytes.len() + self.size > MAX_EVENT {
            return Err(TooLong);
        }
        Ok(events)
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            self.size = 0;
            let data = std::mem::take(&mut self.data);
            return (!data.is_empty()).then(|| Event {
                id: self.id.clone(),
                data: data.join("\n"),
            });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                self.size += value.len() + 1;
                self.data.push(value.to_owned());
            }
            "id" => self.id = Some(value.to_owned()),
            // A comment, which keeps the connection alive, or a field that says nothing here.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text = ": hello\n\nid: 7-1\ndata: {\"a\":\ndata: 1}\n\nid:7-2\r\ndata:x\r\n\r\nretry: 3\n\ndata: é\n\n";
        let event = |id: &str, data: &str| Event {
            id: Some(id.to_owned()),
            data: data.to_owned(),
        };
        let expected = [
            event("7-1", "{\"a\":\n1}"),
            event("7-2", "x"),
            event("7-2", "é"),
        ];
        for size in 1..=text.len() {
            let mut reader = Reader::default();
            let chunks = text.as_bytes().chunks(size);
            let events: Vec<Event> = chunks
                .flat_map(|chunk| reader.read(chunk).unwrap())
                .collect();
            assert_eq!(events, expected, "{size}");
        }
    }

    #[test]
    fn an_event_without_an_end_is_refused() {
        let mut reader = Reader::default();
        let chunk = vec![b'x'; MAX_EVENT / 2 + 1];
        assert_eq!(reader.read(&chunk), Ok(Vec::new()));
        assert_eq!(reader.read(&chunk), Err(TooLong));
    }
}
