//! What eryx, the nearest peer, costs: starting sandboxes, warm calls, and sessions saved and restored. Every call goes
//! through `SessionExecutor`, eryx's lowest public layer, unless a row names another.
//!
//! `cargo run --release` in this folder, with a Rust that eryx supports; with `ERYX_SITE_PACKAGES` naming a folder that
//! holds jinja2 and markupsafe, there is one variant more. flowcell's figures for the same are those of the bench `images`.

mod report;
mod variant;

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eryx::{InProcessSession, PythonExecutor, Sandbox, Session, SessionExecutor};

use crate::report::{Table, memory, print_machine, print_row};
use crate::variant::Variant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const CALL: &str = "result = call()";
const WARM_UP: usize = 5;
const FRESH: usize = 200;
const SAVES: usize = 100;
const WARM_CALLS: usize = 2_000;
const LIVE: usize = 20;

fn main() -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> Result<()> {
    let program = std::env::current_exe()?;
    let variants = variant::all();
    let file = |index: usize| program.with_extension(format!("{index}.cwasm"));
    // With an argument, the process that measures one variant's memory.
    if let Some(index) = std::env::args().nth(1) {
        let index: usize = index.parse()?;
        let variant = variants.get(index).ok_or("no such variant")?;
        return measure_memory(variant, &file(index)).await;
    }
    print_machine()?;
    for (index, variant) in variants.iter().enumerate() {
        measure(variant, &file(index)).await?;
    }
    println!("\nmemory in KiB, with 0 and {LIVE} sandboxes, each after its first call");
    print_row("", &["private", "", "PSS", "", "VMAs", "", "each"]);
    for index in 0..variants.len() {
        Command::new(&program).arg(index.to_string()).status()?;
        std::fs::remove_file(file(index))?;
    }
    Ok(())
}

async fn measure(variant: &Variant, file: &Path) -> Result<()> {
    let started = Instant::now();
    variant.compile(file).await?;
    let built = started.elapsed().as_secs_f64();
    let size = std::fs::metadata(file)?.len() >> 20;
    println!("\n{}: built once in {built:.1} s, {size} MiB", variant.name);
    let executor = variant.load(file)?;
    let mut table = Table::default();
    measure_calls(variant, &executor, &mut table).await?;
    if variant.prepare.is_empty() {
        measure_high_level(&executor, file, &mut table).await?;
    }
    measure_saving(variant, &executor, &mut table).await?;
    table.print();
    Ok(())
}

async fn measure_calls(
    variant: &Variant,
    executor: &Arc<PythonExecutor>,
    table: &mut Table,
) -> Result<()> {
    for _ in 0..FRESH + WARM_UP {
        let started = Instant::now();
        let mut session = start(executor).await?;
        table.add("start a sandbox", started);
        first_call(variant, &mut session).await?;
        table.add("start, prepare the state, first call", started);
        drop(session);
        table.add("the same, and drop", started);
    }
    let mut session = start(executor).await?;
    first_call(variant, &mut session).await?;
    for number in 2..WARM_CALLS + 2 {
        let started = Instant::now();
        call(&mut session, number).await?;
        table.add("warm call", started);
    }
    Ok(())
}

/// eryx's higher layers, which most users call.
async fn measure_high_level(
    executor: &Arc<PythonExecutor>,
    file: &Path,
    table: &mut Table,
) -> Result<()> {
    let stdlib = eryx::embedded_stdlib::EmbeddedStdlib::get()?.path();
    // SAFETY: this run wrote the file.
    let mut builder =
        unsafe { Sandbox::builder().with_precompiled_file(file) }.with_python_stdlib(stdlib);
    for site in executor.python_site_packages_paths() {
        builder = builder.with_site_packages(site);
    }
    let sandbox = builder.build()?;
    let mut session = InProcessSession::new(&sandbox).await?;
    for number in 1..=WARM_CALLS {
        let started = Instant::now();
        check(session.execute(CALL).await?.result, number)?;
        table.add("warm call, InProcessSession", started);
    }
    for _ in 0..FRESH + WARM_UP {
        let started = Instant::now();
        check(sandbox.execute(CALL).await?.result, 1)?;
        table.add("fresh sandbox and call, Sandbox::execute", started);
        // Time for eryx to make the next warm instance.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn measure_saving(
    variant: &Variant,
    executor: &Arc<PythonExecutor>,
    table: &mut Table,
) -> Result<()> {
    for run in 1..=SAVES + WARM_UP {
        let mut session = start(executor).await?;
        first_call(variant, &mut session).await?;
        let started = Instant::now();
        session.snapshot_state().await?;
        table.add("save, the session's first", started);
        call(&mut session, 2).await?;
        let started = Instant::now();
        let saved = session.snapshot_state().await?;
        table.add("save, the session's second", started);
        session.execute("del call").run().await?;
        let started = Instant::now();
        let data = session.snapshot_state().await?.size();
        table.add("save, of data without functions", started);
        drop(session);

        let started = Instant::now();
        let mut session = start(executor).await?;
        let restoring = Instant::now();
        let restored = session.restore_state(&saved).await;
        if restored.is_ok() {
            table.add("restore into a fresh sandbox", restoring);
            call(&mut session, 3).await?;
            table.add("start, restore, first call", started);
        }
        if run == 1 {
            let (size, left_out) = (saved.size(), saved.skipped_globals());
            println!("  saved: {size} bytes, {data} without functions; left out: {left_out:?}");
            if let Err(error) = restored {
                println!("  cannot be restored: {error}");
            }
        }
    }
    Ok(())
}

/// Memory before and with live sandboxes. In a process of its own, so that nothing is reused.
async fn measure_memory(variant: &Variant, file: &Path) -> Result<()> {
    let executor = variant.load(file)?;
    let before = memory()?;
    let mut live = Vec::new();
    for _ in 0..LIVE {
        let mut session = start(&executor).await?;
        first_call(variant, &mut session).await?;
        live.push(session);
    }
    let with = memory()?;
    let each = with[0].saturating_sub(before[0]) / LIVE as u64;
    let pairs = std::iter::zip(before, with).flat_map(|(before, with)| [before, with]);
    let row: Vec<String> = pairs
        .chain([each])
        .map(|number| number.to_string())
        .collect();
    print_row(variant.name, &row);
    Ok(())
}

async fn start(executor: &Arc<PythonExecutor>) -> Result<SessionExecutor> {
    Ok(SessionExecutor::new(Arc::clone(executor), &[]).await?)
}

async fn first_call(variant: &Variant, session: &mut SessionExecutor) -> Result<()> {
    if !variant.prepare.is_empty() {
        session.execute(variant.prepare).run().await?;
    }
    call(session, 1).await
}

async fn call(session: &mut SessionExecutor, number: usize) -> Result<()> {
    check(session.execute(CALL).run().await?.result, number)
}

/// The answer shows that the counter and the table are those of the session.
fn check(answer: Option<String>, number: usize) -> Result<()> {
    let entry = number % 2000;
    let expected = format!("\"call {number}: value {entry} of {entry}\"");
    if answer.as_ref() == Some(&expected) {
        Ok(())
    } else {
        Err(format!("{answer:?} instead of {expected}").into())
    }
}
