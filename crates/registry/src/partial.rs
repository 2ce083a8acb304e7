//! Files that are on their way.
//!
//! Beside a target `name` lies `.partial-name` while its content comes. Whoever writes it holds its lock, so there is one at
//! a time among all processes; who waited looks whether the target has come meanwhile. It is renamed once it is whole,
//! checked and on the disk, and otherwise stays for the next try to go on from.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use crate::digest::Digest;
use crate::error::{IoContext as _, RegistryError};

/// How often it is looked whether another process is done. A blocked wait for the lock could not be given up.
const LOOK: Duration = Duration::from_millis(100);

/// A file that is on its way, and this is who writes it.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    target: PathBuf,
    // Its lock is given up when it is closed.
    file: tokio::fs::File,
    hasher: Sha256,
    length: u64,
}

impl Partial {
    /// Waits until nobody else writes it, and takes over what is there of it. `None` if the target is there.
    pub(crate) async fn open(target: &Path, size: u64) -> Result<Option<Self>, RegistryError> {
        let path = path(target)?;
        let file = loop {
            if is_there(target, size) {
                return Ok(None);
            }
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .io("write", &path)?;
            loop {
                match file.try_lock() {
                    Ok(()) => break,
                    Err(TryLockError::WouldBlock) => tokio::time::sleep(LOOK).await,
                    Err(TryLockError::Error(error)) => return Err(error).io("lock", &path),
                }
            }
            // Who held the lock may have renamed or deleted the file.
            if is_same(&file, &path) && !is_there(target, size) {
                break file;
            }
        };
        let (file, hasher, length) = tokio::task::spawn_blocking(move || take_over(file, size))
            .await
            .map_err(io::Error::other)
            .and_then(|taken| taken)
            .io("read", &path)?;
        Ok(Some(Self {
            path,
            target: target.to_owned(),
            file: tokio::fs::File::from_std(file),
            hasher,
            length,
        }))
    }

    /// Bytes that are there.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// The digest of what is there.
    pub(crate) fn digest(&self) -> Digest {
        Digest::finish(self.hasher.clone())
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), RegistryError> {
        self.file.write_all(bytes).await.io("write", &self.path)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Waits until what was written is in the file.
    pub(crate) async fn flush(&mut self) -> Result<(), RegistryError> {
        self.file.flush().await.io("write", &self.path)
    }

    /// Begins with nothing.
    pub(crate) async fn restart(&mut self) -> Result<(), RegistryError> {
        self.flush().await?;
        self.file.set_len(0).await.io("write", &self.path)?;
        self.file.rewind().await.io("write", &self.path)?;
        self.hasher = Sha256::new();
        self.length = 0;
        Ok(())
    }

    /// Deletes it.
    pub(crate) fn delete(self) -> Result<(), RegistryError> {
        fs::remove_file(&self.path).io("delete", &self.path)
    }

    /// Gives it its name, on the disk.
    pub(crate) async fn finish(mut self) -> Result<(), RegistryError> {
        self.flush().await?;
        self.file.sync_all().await.io("write", &self.path)?;
        let folder = folder(&self.target).to_owned();
        fs::rename(&self.path, &self.target).io("write", &self.target)?;
        let synced = tokio::task::spawn_blocking({
            let folder = folder.clone();
            move || File::open(folder).and_then(|folder| folder.sync_all())
        });
        synced
            .await
            .map_err(io::Error::other)
            .and_then(|synced| synced)
            .io("write in", &folder)
    }
}

/// Reads what is there. A file that is longer than it can be is of something else.
fn take_over(mut file: File, size: u64) -> io::Result<(File, Sha256, u64)> {
    let mut hasher = Sha256::new();
    let mut length = file.metadata()?.len();
    if length > size {
        file.set_len(0)?;
        length = 0;
    }
    let mut buffer = vec![0; 256 << 10];
    let mut left = length;
    file.seek(SeekFrom::Start(0))?;
    while left > 0 {
        let most = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = file.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&buffer[..read]);
        left -= read as u64;
    }
    Ok((file, hasher, length))
}

fn is_there(target: &Path, size: u64) -> bool {
    fs::metadata(target).is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
}

fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

fn folder(target: &Path) -> &Path {
    match target.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => Path::new("."),
    }
}

fn path(target: &Path) -> Result<PathBuf, RegistryError> {
    let no_name = || io::Error::from(io::ErrorKind::InvalidInput);
    let name = target.file_name().ok_or_else(no_name).io("write", target)?;
    let mut partial = OsString::from(".partial-");
    partial.push(name);
    Ok(target.with_file_name(partial))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    async fn is_pending(mut future: std::pin::Pin<&mut impl Future>) -> bool {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(future.as_mut().poll(context).is_pending())
        })
        .await
    }

    #[tokio::test]
    async fn it_goes_on_from_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("name");
        let mut partial = Partial::open(&target, 6).await.unwrap().unwrap();
        partial.write(b"abc").await.unwrap();
        partial.flush().await.unwrap();
        drop(partial);
        assert!(!target.exists());

        let mut partial = Partial::open(&target, 6).await.unwrap().unwrap();
        assert_eq!(partial.length(), 3);
        partial.write(b"def").await.unwrap();
        assert_eq!(partial.digest(), Digest::of(b"abcdef"));
        partial.finish().await.unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"abcdef");
        assert!(Partial::open(&target, 6).await.unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn what_is_too_long_is_of_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("name");
        fs::write(folder.path().join(".partial-name"), "too long").unwrap();
        let mut partial = Partial::open(&target, 3).await.unwrap().unwrap();
        assert_eq!(partial.length(), 0);
        partial.write(b"abc").await.unwrap();
        partial.restart().await.unwrap();
        partial.write(b"ab").await.unwrap();
        assert_eq!(partial.digest(), Digest::of(b"ab"));
        partial.flush().await.unwrap();
        assert_eq!(
            fs::read(folder.path().join(".partial-name")).unwrap(),
            b"ab"
        );
    }

    #[tokio::test]
    async fn one_at_a_time_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("name");
        let mut first = Partial::open(&target, 1).await.unwrap().unwrap();
        let mut second = Box::pin(Partial::open(&target, 1));
        assert!(is_pending(second.as_mut()).await);
        first.write(b"a").await.unwrap();
        first.finish().await.unwrap();
        assert!(second.await.unwrap().is_none());
    }

    #[tokio::test]
    async fn who_waits_for_what_is_deleted_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("name");
        let first = Partial::open(&target, 1).await.unwrap().unwrap();
        let mut second = Box::pin(Partial::open(&target, 1));
        assert!(is_pending(second.as_mut()).await);
        first.delete().unwrap();
        let mut second = second.await.unwrap().unwrap();
        second.write(b"a").await.unwrap();
        second.finish().await.unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"a");
    }
}
