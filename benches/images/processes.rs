//! Fresh calls, each with an instance of its own, by several processes.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flowcell_benches::peers::Result;

use crate::setup::{Setup, call};

/// The argument with which this program is one of the processes.
pub(crate) const ARGUMENT: &str = "--fresh-calls";
const TIME: Duration = Duration::from_secs(4);

/// Makes fresh calls for a while, and prints how many there were.
pub(crate) fn be_one() -> Result<()> {
    let setup = Setup::new()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let calls = runtime.block_on(async {
        let flow = setup.flow(0)?;
        let image = flow.build().await?.image;
        image.spread(setup.folder(), &flow.owner)?;
        // Whoever started this waits for all to be ready.
        println!("ready");
        std::io::stdin().read_line(&mut String::new())?;
        let until = Instant::now() + TIME;
        let mut calls = 0_u64;
        while Instant::now() < until {
            call(&mut flow.start(&image).await?).await?;
            calls += 1;
        }
        Ok::<_, Box<dyn std::error::Error>>(calls)
    })?;
    println!("{calls}");
    Ok(())
}

/// Prints the fresh calls of a second for 1, 2 and 4 processes.
pub(crate) fn measure() -> Result<()> {
    println!("\nfresh calls of a second (start, call, drop), in processes of one thread");
    let mut of_one = 0.0;
    for processes in [1, 2, 4] {
        let program = std::env::current_exe()?;
        let children = (0..processes).map(|_| {
            Command::new(&program)
                .arg(ARGUMENT)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
        });
        let mut children = children.collect::<std::io::Result<Vec<_>>>()?;
        let mut outputs = Vec::new();
        for child in &mut children {
            use std::io::BufRead as _;
            let stdout = child.stdout.take().ok_or("no output")?;
            let mut lines = std::io::BufReader::new(stdout).lines();
            lines.next().ok_or("a process did not get ready")??;
            outputs.push(lines);
        }
        for child in &mut children {
            // Closing it is the sign.
            drop(child.stdin.take());
        }
        let mut calls = 0_u64;
        for mut lines in outputs {
            calls += lines
                .next()
                .ok_or("a process gave no figure")??
                .parse::<u64>()?;
        }
        for mut child in children {
            child.wait()?;
        }
        let rate = calls as f64 / TIME.as_secs_f64();
        if processes == 1 {
            of_one = rate;
        }
        println!("  {processes}: {rate:.0} ({:.2}x)", rate / of_one);
    }
    Ok(())
}
