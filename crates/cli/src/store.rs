//! `flowcell store stats` and `gc`: what the store takes of the disk, and deleting what nobody uses.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use flowcell_bundle::{
    Collected, Collection, DEFAULT_STORE_SIZE, Kind, Removed, StoreStats, collect, stats,
};
use flowcell_executor::RunError;
use flowcell_sandbox::Sandbox;
use serde_json::json;

use crate::bundle::failed;
use crate::client::{count, size, table};
use crate::settings::Settings;
use crate::{Output, OutputArgs, terminal};

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Show what the store takes of the disk, and how much of it is in use.
    Stats(StatsArgs),
    /// Delete what no name, session or running process uses, least recently used first, until the store is small enough.
    Gc(GcArgs),
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// The size that the store may have, such as 500MiB or 20GiB; 0 deletes all that is not in use.
    #[arg(long, value_name = "SIZE", env = "FLOWCELL_STORE_SIZE", value_parser = bytes, default_value_t = DEFAULT_STORE_SIZE, hide_default_value = true)]
    size: u64,
    /// Only show what would be deleted.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// A number of bytes, with a unit or without.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => Some(0),
        "kib" | "k" => Some(10),
        "mib" | "m" => Some(20),
        "gib" | "g" => Some(30),
        "tib" | "t" => Some(40),
        _ => None,
    };
    let number: Option<u64> = digits.parse().ok();
    let bytes = number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(1 << unit));
    bytes.ok_or_else(|| "a size is a whole number with B, KiB, MiB, GiB or TiB".to_owned())
}

pub(crate) fn run(settings: &Settings, command: &StoreCommand) -> ExitCode {
    match command {
        StoreCommand::Stats(args) => show(settings, args),
        StoreCommand::Gc(args) => gc(settings, args),
    }
}

fn show(settings: &Settings, args: &StatsArgs) -> ExitCode {
    let found = engines().and_then(|engines| Ok(stats(&settings.store()?, &engines)?));
    match (found, args.output.output) {
        (Ok(found), Output::Json) => {
            terminal::raw(&stats_json(&found).to_string());
            ExitCode::SUCCESS
        }
        (Ok(found), Output::Text) => {
            terminal::line(&stats_text(&found));
            ExitCode::SUCCESS
        }
        (Err(error), output) => failed("flowcell.store.stats", &error, output),
    }
}

fn stats_json(found: &StoreStats) -> serde_json::Value {
    json!({
        "bytes": found.bytes,
        "used_bytes": used(found),
        "kinds": found.kinds,
        "other_bytes": found.other_bytes,
        "processes": found.processes,
    })
}

fn stats_text(found: &StoreStats) -> String {
    let mut rows: Vec<Vec<String>> = found
        .kinds
        .iter()
        .map(|(kind, amount)| {
            vec![
                kind.shown().to_owned(),
                amount.items.to_string(),
                size(amount.bytes),
                amount.used_items.to_string(),
                size(amount.used_bytes),
            ]
        })
        .collect();
    let other = size(found.other_bytes);
    rows.push(vec![
        "names, folders, locks".to_owned(),
        String::new(),
        other.clone(),
        String::new(),
        other,
    ]);
    rows.push(vec![
        "all".to_owned(),
        String::new(),
        size(found.bytes),
        String::new(),
        size(used(found)),
    ]);
    table(&["", "NUMBER", "SIZE", "USED", "SIZE"], &rows)
}

/// Bytes that no collection would delete.
fn used(found: &StoreStats) -> u64 {
    let kinds = found.kinds.values();
    kinds.map(|amount| amount.used_bytes).sum::<u64>() + found.other_bytes
}

fn gc(settings: &Settings, args: &GcArgs) -> ExitCode {
    let is_text = args.output.output == Output::Text;
    let mut told = |removed: &Removed| {
        if is_text {
            terminal::line(&format!("{}  {}", what(removed), size(removed.bytes)));
        }
    };
    let collected = engines().and_then(|engines| {
        let collection = Collection {
            size: args.size,
            engines,
            dry_run: args.dry_run,
        };
        Ok(collect(&settings.store()?, &collection, &mut told)?)
    });
    match (collected, args.output.output) {
        (Ok(collected), Output::Json) => {
            let mut answer = json!(collected);
            answer["limit"] = json!(args.size);
            answer["dry_run"] = json!(args.dry_run);
            terminal::raw(&answer.to_string());
            ExitCode::SUCCESS
        }
        (Ok(collected), Output::Text) => {
            tell(&collected, args);
            ExitCode::SUCCESS
        }
        (Err(error), output) => failed("flowcell.store.gc", &error, output),
    }
}

fn what(removed: &Removed) -> String {
    let kind = match removed.kind {
        Kind::Bundle => "bundle",
        Kind::Blob => "blob",
        Kind::Tree => "unpacked tree",
        Kind::Base => "unpacked memory",
        Kind::Code => "compiled code",
        Kind::Image => "session image",
        Kind::Index => "index answers",
        Kind::Wheel => "wheel",
        Kind::Component => "component package",
        Kind::Layer => "unpacked wheel",
        Kind::Site => "environment",
    };
    format!("{kind} {}", removed.name)
}

fn tell(collected: &Collected, args: &GcArgs) {
    let (would, left) = if args.dry_run {
        ("would be ", "would have")
    } else {
        ("", "has")
    };
    terminal::note(&format!(
        "{} {would}deleted; the store {left} {} instead of {}",
        count(collected.removed.len(), "thing"),
        size(collected.after),
        size(collected.before),
    ));
    if collected.leftovers > 0 {
        terminal::note(&format!(
            "{} of processes that had ended",
            count(collected.leftovers, "leftover")
        ));
    }
    if collected.after > args.size {
        terminal::note(&format!(
            "that is more than {}, and all of it is in use: by names (`flowcell bundle list`), sessions or running processes",
            size(args.size)
        ));
    }
}

/// What compiled code must be for, to be of use to this program.
fn engines() -> Result<Vec<String>, RunError> {
    Ok(Sandbox::compatibility_keys()?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1024", Some(1 << 10)),
            ("3MiB", Some(3 << 20)),
            ("20GiB", Some(20 << 30)),
            ("2t", Some(2 << 40)),
            ("", None),
            ("MiB", None),
            ("-1", None),
            ("1.5GiB", None),
            ("5 GiB", None),
            ("1XiB", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
    }
}
