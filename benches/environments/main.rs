//! The figures of environments: how long a session takes to start whose flow requires packages, beside `python -m venv` and
//! `pip install` of the same from the same index, on this machine.
//!
//! `cargo build --release -p flowcell && cargo bench -p flowcell-benches --bench environments`. Needs the bundles that
//! `./demo.sh` makes, and python3 with pip and venv; the packages are downloaded once, into `target/`.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod cases;
mod peer;

use std::time::{Duration, Instant};

use flowcell_benches::peers::Result;
use flowcell_benches::print_machine;
use flowcell_benches::server::Server;
use flowcell_tests::index::Index;

use crate::cases::{Case, INPUTS};

/// How often each case is measured with a store of its own, and beside it with one.
const RUNS: usize = 5;
/// How long an image is waited for.
const LONGEST: Duration = Duration::from_secs(60);
/// Sessions that start together with the same requirements.
const TOGETHER: usize = 100;

/// One start of a session.
#[derive(Debug, Clone, Copy)]
struct Start {
    /// Until it runs: requirements resolved, downloaded and installed.
    runs: Duration,
    /// Until its first answer, from when it runs.
    answer: Duration,
    /// Until new instances start from an image with the flow's modules, from when it runs.
    image: Duration,
}

fn main() -> Result<()> {
    print_machine();
    let index = Index::start();
    let cases = cases::all(&index)?;
    println!(
        "\nmedians of {RUNS}, in ms; image: from when the session runs until its image is there\n"
    );
    println!(
        "{:<44} {:>9} {:>12} {:>9}",
        "session start", "runs", "first answer", "image"
    );
    for case in &cases {
        let mut starts: [Vec<Start>; 3] = Default::default();
        for _ in 0..RUNS {
            for (start, all) in starts_of(&index, case)?.into_iter().zip(&mut starts) {
                all.push(start);
            }
        }
        let kinds = [
            "nothing in the store",
            "wheels downloaded",
            "environment there",
        ];
        for (kind, starts) in kinds.into_iter().zip(&starts) {
            print(&format!("{}: {kind}", case.name), starts);
        }
        let peers: Vec<Start> = (0..RUNS)
            .map(|_| peer::start(&index, case))
            .collect::<Result<_>>()?;
        print(&format!("{}: venv and pip", case.name), &peers);
    }
    let case = cases.iter().find(|case| case.downloads > 0);
    together(&index, case.ok_or("no case downloads anything")?)
}

/// Starts over an empty store, over one with wheels only, and over one with the environment.
fn starts_of(index: &Index, case: &Case) -> Result<[Start; 3]> {
    let server = server(index)?;
    let cold = start(&server, case, "cold")?;
    for folder in ["sites", "layers", "images/sessions"] {
        let folder = server.home().join("cache").join(folder);
        // Not deleted: the disk would make new files more slowly for a while.
        if folder.exists() {
            std::fs::rename(&folder, folder.with_extension("before"))?;
        }
    }
    let warm = start(&server, case, "warm")?;
    let there = start(&server, case, "there")?;
    Ok([cold, warm, there])
}

fn server(index: &Index) -> Result<Server> {
    Server::configured(&format!(
        "[packages]\nindex_url = \"{}\"\ntrusted_hosts = [\"{}\"]\n",
        index.url(),
        index.host()
    ))
}

fn start(server: &Server, case: &Case, flow: &str) -> Result<Start> {
    server.upload_archive(flow, case.archive(flow)?)?;
    let begun = Instant::now();
    let session = server.start_session(flow)?;
    let runs = begun.elapsed();
    let begun = Instant::now();
    server.call_with(&session, INPUTS)?;
    let answer = begun.elapsed();
    loop {
        let image = server.show(&session)?["memory"]["image"].clone();
        if image["state"] == "ready" {
            break;
        }
        if begun.elapsed() > LONGEST {
            return Err(format!("there is no image: {image}").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let image = begun.elapsed();
    server.stop(&session)?;
    Ok(Start {
        runs,
        answer,
        image,
    })
}

fn print(what: &str, starts: &[Start]) {
    let median = |of: fn(&Start) -> Duration| {
        let mut times: Vec<Duration> = starts.iter().map(of).collect();
        times.sort_unstable();
        let middle = times.get(times.len() / 2).copied().unwrap_or_default();
        middle.as_secs_f64() * 1e3
    };
    println!(
        "{what:<44} {:>9.1} {:>12.1} {:>9.1}",
        median(|start| start.runs),
        median(|start| start.answer),
        median(|start| start.image)
    );
}

/// Many sessions that start together and require the same.
fn together(index: &Index, case: &Case) -> Result<()> {
    let server = server(index)?;
    for number in 0..TOGETHER {
        let flow = format!("flow-{number}");
        // Other files in each, so that only the environment is the same.
        server.upload_archive(&flow, case.archive(&flow)?)?;
    }
    let before = index.requests().len();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let starting: Vec<_> = (0..TOGETHER)
            .map(|number| {
                let server = &server;
                scope.spawn(move || {
                    let started = server.start_session(&format!("flow-{number}"));
                    started.map(drop).map_err(|error| error.to_string())
                })
            })
            .collect();
        for one in starting {
            one.join().map_err(|_| "a start panicked")??;
        }
        Ok::<(), String>(())
    })?;
    let took = begun.elapsed();
    let requests = index.requests().split_off(before);
    let downloads = requests
        .iter()
        .filter(|path| path.starts_with("/files/") && path.ends_with(".whl"))
        .count();
    let count = |folder: &str| -> Result<usize> {
        let entries = std::fs::read_dir(server.home().join("cache").join(folder))?;
        let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
        Ok(names
            .filter(|name| !name.to_string_lossy().starts_with('.'))
            .count())
    };
    println!(
        "\n{TOGETHER} sessions that start together and require {}: all run after {:.2} s; {downloads} downloads for {} packages, {} layers, {} environment",
        case.name,
        took.as_secs_f64(),
        case.downloads,
        count("layers")?,
        count("sites")?
    );
    Ok(())
}
