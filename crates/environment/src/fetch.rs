//! Wheels, downloaded once and kept by their digest.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flowcell_bundle::{Digest, DigestError, Lease, Store, Thing, chain};
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use uv_client::RegistryClient;
use uv_redacted::DisplaySafeUrl;

use crate::error::{At as _, EnvironmentError};
use crate::index::without_secrets;
use crate::lock::Chosen;

/// Times that a download is begun.
const TRIES: u32 = 4;
/// The pause before the second try; it doubles from try to try.
const PAUSE: Duration = Duration::from_millis(300);
/// The longest pause that a server can ask for.
const MAX_PAUSE: Duration = Duration::from_secs(20);

/// A wheel on the disk.
#[derive(Debug, Clone)]
pub(crate) struct Wheel {
    pub(crate) path: PathBuf,
    /// In hexadecimal.
    pub(crate) sha256: String,
    _lease: Lease,
}

/// Why one try failed, and when the next one makes sense.
enum Failed {
    ForGood(EnvironmentError),
    Perhaps(String, Option<Duration>),
}

/// The wheel, if the store has it and it is known by its SHA-256; it stays then.
///
/// # Errors
/// When the store cannot be written to.
pub(crate) fn kept(chosen: &Chosen, store: &Store) -> Result<Option<Wheel>, EnvironmentError> {
    let sha256 = chosen.wheel.hashes.get("sha256");
    let Some(sha256) = sha256.filter(|text| is_sha256(text)) else {
        return Ok(None);
    };
    let sha256 = sha256.to_ascii_lowercase();
    let lease = lease(store, &sha256)?;
    let path = path(&wheels(store), &sha256);
    Ok(path.exists().then_some(Wheel {
        path,
        sha256,
        _lease: lease,
    }))
}

/// Downloads a wheel that is not [kept](kept).
///
/// # Errors
/// When it cannot be had, or is not what its hashes say.
pub(crate) async fn wheel(
    chosen: &Chosen,
    client: &RegistryClient,
    store: &Store,
    most: u64,
) -> Result<Wheel, EnvironmentError> {
    let what = chosen.filename.to_string();
    let url =
        DisplaySafeUrl::parse(&chosen.wheel.url).map_err(|error| EnvironmentError::Package {
            package: what.clone(),
            problem: format!("its address is none: {error}"),
        })?;
    let mut pause = PAUSE;
    let mut tried = 1;
    loop {
        match download(chosen, &url, client, store, most).await {
            Ok(wheel) => return Ok(wheel),
            Err(Failed::ForGood(error)) => return Err(error),
            Err(Failed::Perhaps(why, _)) if tried == TRIES => {
                return Err(EnvironmentError::Index(format!(
                    "{what} cannot be downloaded from {}, after {TRIES} tries: {why}",
                    without_secrets(url.as_str())
                )));
            }
            Err(Failed::Perhaps(why, asked)) => {
                tracing::info!(%what, %why, tried, "a download is tried again");
                let jitter = f64::from(tried) * std::f64::consts::E * f64::from(std::process::id());
                let spread = pause.mul_f64(0.5 + jitter.fract());
                tokio::time::sleep(asked.unwrap_or(spread).min(MAX_PAUSE)).await;
                pause *= 2;
                tried += 1;
            }
        }
    }
}

async fn download(
    chosen: &Chosen,
    url: &DisplaySafeUrl,
    client: &RegistryClient,
    store: &Store,
    most: u64,
) -> Result<Wheel, Failed> {
    let package = chosen.filename.to_string();
    let refused = |problem: String| {
        Failed::ForGood(EnvironmentError::Package {
            package: package.clone(),
            problem,
        })
    };
    let host = |error: EnvironmentError| Failed::ForGood(error);
    let request = client.uncached_client(url).get((**url).clone()).send();
    let response = request.await.map_err(|error| match &error {
        reqwest_middleware::Error::Middleware(_) => Failed::ForGood(EnvironmentError::Index(
            format!("{package}: {}", chain(&error)),
        )),
        _ => Failed::Perhaps(chain(&error), None),
    })?;
    let status = response.status();
    if !status.is_success() {
        let why = format!("the server answers {status}");
        let asked = response.headers().get(http::header::RETRY_AFTER);
        let asked = asked.and_then(|value| value.to_str().ok()?.parse().ok());
        return Err(match status.as_u16() {
            408 | 425 | 429 | 500..=599 => Failed::Perhaps(why, asked.map(Duration::from_secs)),
            _ => Failed::ForGood(EnvironmentError::Index(format!(
                "{package} cannot be downloaded from {}: {why}",
                without_secrets(url.as_str())
            ))),
        });
    }
    let wheels = made(store).map_err(host)?;
    let file = store.partial_file(&wheels);
    let mut file = file.map_err(|error| host(error.into()))?;
    let (mut sha256, mut sha384, mut sha512) = (Sha256::new(), Sha384::new(), Sha512::new());
    let mut size = 0u64;
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Failed::Perhaps(chain(&error), None))?;
        size += chunk.len() as u64;
        if size > most {
            return Err(Failed::ForGood(EnvironmentError::TooMuch {
                what: package.clone(),
                limit: most,
                unit: "bytes",
            }));
        }
        sha256.update(&chunk);
        sha384.update(&chunk);
        sha512.update(&chunk);
        file.write_all(&chunk)
            .at("write", file.path())
            .map_err(host)?;
    }
    if let Some(expected) = chosen.wheel.size
        && expected != size
    {
        return Err(refused(format!(
            "the index says that it has {expected} bytes, and it has {size}"
        )));
    }
    let found = [
        ("sha256", hex(&sha256.finalize())),
        ("sha384", hex(&sha384.finalize())),
        ("sha512", hex(&sha512.finalize())),
    ];
    let mut was_checked = chosen.wheel.hashes.is_empty();
    for (algorithm, digest) in &found {
        if let Some(expected) = chosen.wheel.hashes.get(*algorithm) {
            was_checked = true;
            if !expected.eq_ignore_ascii_case(digest) {
                return Err(refused(format!(
                    "its {algorithm} should be {expected} and is {digest}; the file at {} is not the one that was promised",
                    without_secrets(url.as_str())
                )));
            }
        }
    }
    if !was_checked {
        let names: Vec<&str> = chosen.wheel.hashes.keys().map(String::as_str).collect();
        return Err(refused(format!(
            "it can be checked by {} only; sha256, sha384 and sha512 are trusted here",
            names.join(" and ")
        )));
    }
    let [(_, sha256), ..] = found;
    let lease = lease(store, &sha256).map_err(host)?;
    let path = path(&wheels, &sha256);
    let kept = store.keep(file, &path);
    kept.map_err(|error| host(error.into()))?;
    Ok(Wheel {
        path,
        sha256,
        _lease: lease,
    })
}

/// Puts a wheel where those are that were downloaded. Whoever calls has compared it with its digest.
///
/// # Errors
/// When the disk does not take it.
pub fn keep_wheel(store: &Store, digest: &Digest, bytes: &[u8]) -> Result<(), EnvironmentError> {
    let target = path(&made(store)?, &digest.hex());
    if !target.exists() {
        store.write_whole(&target, bytes)?;
    }
    Ok(())
}

/// The folder of wheels, which is made if it is not there.
fn made(store: &Store) -> Result<PathBuf, EnvironmentError> {
    let wheels = wheels(store);
    fs::create_dir_all(&wheels).at("make the folder", &wheels)?;
    Ok(wheels)
}

fn wheels(store: &Store) -> PathBuf {
    store.cache().join("wheels")
}

fn path(wheels: &Path, sha256: &str) -> PathBuf {
    wheels.join(format!("{sha256}.whl"))
}

/// Keeps the wheel of this digest.
fn lease(store: &Store, sha256: &str) -> Result<Lease, EnvironmentError> {
    let digest = format!("sha256:{sha256}").parse();
    let digest = digest.map_err(|error: DigestError| EnvironmentError::Host(error.to_string()))?;
    Ok(store.lease(Thing::Wheel(digest))?)
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
