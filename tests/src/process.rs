//! Runs the binary under test.

use std::ffi::OsStr;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A process that is still there after this time will never end; no test waits for it in the ordinary case.
const STUCK: Duration = Duration::from_secs(300);

/// How a process ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output; bytes that are not UTF-8 fail the test, as they would fail whoever reads it.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The most memory that it had resident, in bytes.
    pub peak_memory: u64,
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        folder.parent().unwrap_or(folder).to_owned()
    });
    &ROOT
}

/// The binary under test.
///
/// # Panics
/// When it has not been built.
pub fn binary() -> &'static Path {
    static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = std::env::var_os("FLOWCELL_BIN").map_or_else(beside_the_test, PathBuf::from);
        assert!(path.is_file(), "there is no {}; {BUILD}", path.display());
        path
    });
    &BINARY
}

/// The folder with the bundles that the tests use.
///
/// # Panics
/// When the base bundle is not in it.
pub fn home() -> &'static Path {
    static HOME: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = std::env::var_os("FLOWCELL_HOME")
            .map_or_else(|| repository().join("target/flowcell-home"), PathBuf::from);
        assert!(
            path.join("bundles/promptflow").is_dir(),
            "the base bundle is not in {}; {BUILD}",
            path.display()
        );
        path
    });
    &HOME
}

const BUILD: &str =
    "run `./test.sh` once, which builds the binary and the base bundle and runs all tests";

/// `<target>/<profile>/flowcell`, seen from the test in `<target>/<profile>/deps`.
fn beside_the_test() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let profile = test.ancestors().nth(2).unwrap_or(Path::new("."));
    profile.join(format!("flowcell{}", std::env::consts::EXE_SUFFIX))
}

/// Runs `flowcell` with these arguments, in an environment that holds nothing but what it needs (and a secret that no
/// flow may ever see).
pub fn flowcell<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(arguments: I) -> Finished {
    flowcell_at(repository(), arguments)
}

/// The same, in this working directory.
///
/// # Panics
/// When the process cannot be started, or does not end.
pub fn flowcell_at<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
    folder: &Path,
    arguments: I,
) -> Finished {
    flowcell_with(folder, &[], arguments)
}

/// The same, with these variables in its environment.
///
/// # Panics
/// When the process cannot be started, or does not end.
pub fn flowcell_with<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
    folder: &Path,
    environment: &[(&str, &str)],
    arguments: I,
) -> Finished {
    run(folder, environment, None, arguments)
}

/// `flowcell` with this text on its standard input.
///
/// # Panics
/// When the process cannot be started, or does not end.
pub fn flowcell_reading<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
    text: &str,
    arguments: I,
) -> Finished {
    run(repository(), &[], Some(text), arguments)
}

fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
    folder: &Path,
    environment: &[(&str, &str)],
    text: Option<&str>,
    arguments: I,
) -> Finished {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(folder).env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
        .env("FLOWCELL_HOME", home())
        .env("FLOWCELL_TEST_SECRET", "hunter2-of-the-host")
        .env("HOME", "/nonexistent")
        .envs(environment.iter().copied())
        .stdin(text.map_or_else(Stdio::null, |_| Stdio::piped()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    match finish(command, text) {
        Ok(finished) => finished,
        #[expect(clippy::panic, reason = "a test that cannot run has failed")]
        Err(error) => panic!("{}: {error}", binary().display()),
    }
}

fn finish(mut command: Command, text: Option<&str>) -> std::io::Result<Finished> {
    let mut child = command.spawn()?;
    if let (Some(mut stdin), Some(text)) = (child.stdin.take(), text.map(str::to_owned)) {
        // A program that ends before it has read all of it is no error here.
        thread::spawn(move || stdin.write_all(text.as_bytes()));
    }
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let id = child.id();
    let (ended, end) = mpsc::channel();
    // Not `Child::wait`: the memory that the child used is known to `wait4` only.
    thread::spawn(move || ended.send(wait(id)));
    let (status, peak_memory) = match end.recv_timeout(STUCK) {
        Ok(ended) => ended?,
        Err(_) => {
            child.kill()?;
            return Err(std::io::Error::other(format!(
                "still running after {STUCK:?}"
            )));
        }
    };
    let text = |bytes: Vec<u8>, stream: &str| {
        String::from_utf8(bytes)
            .map_err(|error| std::io::Error::other(format!("{stream} is not UTF-8: {error}")))
    };
    Ok(Finished {
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        stdout: text(stdout.join().unwrap_or_default(), "stdout")?,
        stderr: text(stderr.join().unwrap_or_default(), "stderr")?,
        peak_memory,
    })
}

fn collect(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

#[expect(
    unsafe_code,
    reason = "the standard library does not tell what a child used"
)]
fn wait(id: u32) -> std::io::Result<(i32, u64)> {
    let id = i32::try_from(id).map_err(std::io::Error::other)?;
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid one, and both pointers are to live variables of the right types.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::wait4(id, &raw mut status, 0, &raw mut usage) != id {
            return Err(std::io::Error::last_os_error());
        }
        usage
    };
    // Linux counts in KiB.
    Ok((status, u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024))
}
