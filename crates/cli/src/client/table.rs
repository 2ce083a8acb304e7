//! How answers look to people: tables, and names with their values.

use std::fmt::Display;

use crate::terminal;

/// Rows below their heads, in columns. The last column is as wide as it likes.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(heads)
        .chain(
            rows.iter()
                .map(|row| row.iter().map(|cell| cell_text(cell)).collect()),
        )
        .collect();
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    aligned(&lines, &widths)
}

/// Names with their values, one below the other. What has no value is left out.
pub(super) fn pairs(rows: &[(&str, String)]) -> String {
    let lines: Vec<Vec<String>> = rows
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| vec![(*name).to_owned(), cell_text(value)])
        .collect();
    let width = lines.iter().filter_map(|line| line.first());
    let width = width.map(|name| name.chars().count()).max().unwrap_or(0);
    aligned(&lines, &[width, 0])
}

fn aligned(lines: &[Vec<String>], widths: &[usize]) -> String {
    let lines: Vec<String> = lines
        .iter()
        .map(|line| {
            let cells = line.iter().zip(widths);
            let cells: Vec<String> = cells
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

/// A text in one line, with nothing that a terminal would obey.
fn cell_text(text: &str) -> String {
    terminal::plain(&text.replace('\n', "\\n").replace('\t', "\\t"))
}

/// A point in time, to the second.
pub(super) fn time(timestamp: impl Display) -> String {
    let text = timestamp.to_string();
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

pub(super) fn maybe_time(timestamp: Option<impl Display>) -> String {
    timestamp.map(time).unwrap_or_default()
}

/// A number of seconds, as `--idle-time` takes it.
pub(super) fn duration(seconds: u64) -> String {
    let parts = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let text: String = parts
        .iter()
        .filter(|(amount, _)| *amount > 0)
        .map(|(amount, unit)| format!("{amount}{unit}"))
        .collect();
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

/// A number of bytes.
#[expect(
    clippy::cast_precision_loss,
    reason = "one digit after the point is shown"
)]
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if amount < 1024.0 {
            break;
        }
        amount /= 1024.0;
        unit = next;
    }
    format!("{amount:.1} {unit}")
}

/// Whether there is one of something, or more.
pub(crate) fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_obeys_nobody() {
        let rows = [
            vec!["a".to_owned(), "é\x1b[31m".to_owned(), "x".to_owned()],
            vec!["long".to_owned(), String::new(), "two\nlines".to_owned()],
        ];
        let text = [
            "A     B            C",
            "a     é\\u{1b}[31m  x",
            "long               two\\nlines",
        ];
        let text = text.join("\n");
        assert_eq!(table(&["A", "B", "C"], &rows), text);
    }

    #[test]
    fn amounts_are_readable() {
        let durations = [0, 59, 90, 3600, 5400, 86_461].map(duration);
        assert_eq!(durations, ["0s", "59s", "1m30s", "1h", "1h30m", "24h1m1s"]);
        let sizes = [0, 1023, 1536, 64 << 20, 3 << 40].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "64.0 MiB", "3.0 TiB"]);
        assert_eq!(time("2026-01-02T03:04:05.678Z"), "2026-01-02T03:04:05Z");
    }
}
