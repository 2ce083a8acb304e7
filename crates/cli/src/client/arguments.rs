//! Arguments that several commands share.

use std::time::Duration;

use clap::{Args, ValueEnum};
use flowcell_session::{ComputeKind, Identity, Name};

/// The name of something, with or without `--name`.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The name.
    #[arg(value_name = "NAME", required_unless_present = "name")]
    positional: Option<Name>,
    /// The name, as an option.
    #[arg(
        long = "name",
        id = "name",
        value_name = "NAME",
        conflicts_with = "positional"
    )]
    option: Option<Name>,
}

impl Named {
    pub(crate) fn name(&self) -> Option<&Name> {
        self.positional.as_ref().or(self.option.as_ref())
    }

    /// The name's text; clap has seen to it that there is one.
    pub(crate) fn text(&self) -> &str {
        self.name().map(Name::as_str).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum KindArg {
    /// Made when it is needed, deleted with its last session.
    Serverless,
    /// Made by `flowcell compute create`, kept until it is deleted.
    Instance,
}

impl From<KindArg> for ComputeKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Serverless => Self::Serverless,
            KindArg::Instance => Self::Instance,
        }
    }
}

/// How long a command may wait for what it has set going.
#[derive(Debug, Args)]
pub(crate) struct Waiting {
    /// Do not wait until it has been done.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How long to wait: seconds, or 10m.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = seconds)]
    pub(crate) timeout: u64,
}

impl Waiting {
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// A revision, plain or as an entity tag: `3`, `"3"`.
pub(crate) fn revision(text: &str) -> Result<u64, String> {
    let plain = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    plain
        .parse()
        .map_err(|_| "a revision is a number; `show` tells it".to_owned())
}

/// A time: `3600`, `90m`, `1h30m`, `2d`.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "a time is like 3600 (seconds), 90m, 1h30m or 2d".to_owned();
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let factor = match unit.chars().next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(factor);
        total = part
            .and_then(|part| total.checked_add(part))
            .ok_or_else(wrong)?;
        rest = &unit[1..];
    }
    if text.is_empty() {
        return Err(wrong());
    }
    Ok(total)
}

/// `user_identity`, `managed` or `managed:CLIENT_ID`.
pub(crate) fn identity(text: &str) -> Result<Identity, String> {
    match text.split_once(':') {
        None if text == "user_identity" => Ok(Identity::UserIdentity),
        None if text == "managed" => Ok(Identity::Managed { client_id: None }),
        Some(("managed", client_id)) if !client_id.is_empty() => Ok(Identity::Managed {
            client_id: Some(client_id.to_owned()),
        }),
        _ => Err("an identity is user_identity, managed or managed:CLIENT_ID".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, expected) in [
            ("3600", 3600),
            ("90m", 5400),
            ("1h", 3600),
            ("1h30m", 5400),
            ("2d", 172_800),
            ("5s", 5),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "h",
            "1x",
            "-1",
            "1.5h",
            "é",
            "1h30",
            "99999999999999999999d",
        ] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn revisions_and_identities_are_read() {
        assert_eq!(revision("3"), Ok(3));
        assert_eq!(revision("\"3\""), Ok(3));
        assert!(revision("\"3").is_err());
        assert_eq!(identity("user_identity"), Ok(Identity::UserIdentity));
        assert_eq!(
            identity("managed:a:b"),
            Ok(Identity::Managed {
                client_id: Some("a:b".to_owned())
            })
        );
        assert!(identity("managed:").is_err() && identity("me").is_err());
    }
}
