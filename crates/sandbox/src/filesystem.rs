//! `wasi:filesystem` with a disk quota: wasmtime-wasi's implementation, asked only after the quota agreed.
//!
//! Reading, paths and permissions are wasmtime-wasi's business (over cap-std, so nothing leaves a mounted directory).
//! This module adds three things to it: growth is charged before it happens, files that are open in a writable
//! directory are known to the quota, and a refusal is the error that programs expect of a full disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::{preopens, types};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, FsError, FsResult, InputStream, OutputStream, Pollable,
    StreamError, StreamResult,
};

use crate::quota::{FileIdentity, OpenFile, Quota, QuotaExceeded};

/// Entries of a guest's table of resources that files and folders leave to the streams that read and write them.
const SPARE_FOR_STREAMS: usize = 64;
/// Entries that those leave to everything else, such as what is waited for.
const SPARE: usize = 16;

/// Selects [`QuotaFilesystem`] as the implementation to link.
pub(crate) struct HasQuotaFilesystem;

impl HasData for HasQuotaFilesystem {
    type Data<'a> = QuotaFilesystem<'a>;
}

/// The descriptors of one instance that lead into a writable directory, by number. Regular files carry the guard that
/// tells the quota they are open.
#[derive(Debug)]
pub(crate) struct WritableDescriptors {
    quota: Arc<Quota>,
    /// For each mount, in order, whether it is writable.
    mounts: Vec<bool>,
    descriptors: HashMap<u32, Option<Arc<OpenFile>>>,
    /// Whether the quota has said no. Guests report that as errors of many kinds.
    refused: Arc<AtomicBool>,
    has_written: bool,
    /// Whether something could not be opened since too much is open already.
    too_many: bool,
}

impl WritableDescriptors {
    pub(crate) fn new(quota: Arc<Quota>, mounts: Vec<bool>) -> Self {
        Self {
            quota,
            mounts,
            descriptors: HashMap::new(),
            refused: Arc::default(),
            has_written: false,
            too_many: false,
        }
    }

    /// Whether the quota refused anything since the last time this was asked.
    pub(crate) fn take_refused(&self) -> bool {
        self.refused.swap(false, Ordering::Relaxed)
    }

    /// Whether anything could not be opened, since too much was open, since the last time this was asked.
    pub(crate) fn take_too_many(&mut self) -> bool {
        std::mem::take(&mut self.too_many)
    }

    /// How many directories the guest was given.
    pub(crate) fn preopens(&self) -> usize {
        self.mounts.len()
    }

    /// Whether the guest has changed any file or folder, or opened one in order to.
    pub(crate) fn has_written(&self) -> bool {
        self.has_written
    }

    fn charge_file(&self) -> Result<(), QuotaExceeded> {
        let charged = self.quota.charge_file();
        self.refused.fetch_or(charged.is_err(), Ordering::Relaxed);
        charged
    }

    fn charge_bytes(
        &self,
        bytes: u64,
        identity: Option<FileIdentity>,
    ) -> Result<(), QuotaExceeded> {
        let charged = self.quota.charge_bytes(bytes, identity);
        self.refused.fetch_or(charged.is_err(), Ordering::Relaxed);
        charged
    }

    fn file(&self, rep: u32) -> Option<Arc<OpenFile>> {
        self.descriptors.get(&rep).cloned().flatten()
    }
}

pub(crate) struct QuotaFilesystem<'a> {
    pub(crate) inner: WasiFilesystemCtxView<'a>,
    pub(crate) writable: &'a mut WritableDescriptors,
}

impl From<QuotaExceeded> for FsError {
    fn from(_: QuotaExceeded) -> Self {
        types::ErrorCode::InsufficientSpace.into()
    }
}

fn again(rep: u32) -> Resource<Descriptor> {
    Resource::new_borrow(rep)
}

impl QuotaFilesystem<'_> {
    fn is_writable(&self, rep: u32) -> bool {
        self.writable.descriptors.contains_key(&rep)
    }

    /// Whether one more thing can be opened while `spare` others can be still: a full table would be the guest's end, where
    /// this is an error that it can handle. WASI's file system knows none for too many open files; this one comes closest.
    fn room(&mut self, spare: usize) -> FsResult<()> {
        let most = self.inner.table.max_capacity();
        let held = self.inner.table.iter_mut().count();
        if held.saturating_add(spare.min(most / 4)) >= most {
            self.writable.too_many = true;
            return Err(types::ErrorCode::InsufficientMemory.into());
        }
        Ok(())
    }

    async fn size(&mut self, rep: u32) -> FsResult<u64> {
        Ok(types::HostDescriptor::stat(&mut self.inner, again(rep))
            .await?
            .size)
    }

    /// Whether nothing is at `path`, so that opening it with `CREATE` would make a file.
    async fn is_free(&mut self, rep: u32, flags: types::PathFlags, path: &str) -> bool {
        types::HostDescriptor::stat_at(&mut self.inner, again(rep), flags, path.to_owned())
            .await
            .is_err()
    }

    /// Called before the name at `path` goes away.
    async fn losing_name(&mut self, rep: u32, path: &str) {
        let none = types::PathFlags::empty();
        let stat =
            types::HostDescriptor::stat_at(&mut self.inner, again(rep), none, path.to_owned())
                .await;
        let Ok(stat) = stat else { return };
        if stat.type_ != types::DescriptorType::RegularFile || stat.link_count > 1 {
            return;
        }
        let hash = types::HostDescriptor::metadata_hash_at(
            &mut self.inner,
            again(rep),
            none,
            path.to_owned(),
        )
        .await;
        if let Ok(hash) = hash {
            self.writable
                .quota
                .unlinked((hash.lower, hash.upper), stat.size);
        }
    }

    fn guard_output(
        &mut self,
        stream: Resource<DynOutputStream>,
        file: Option<Arc<OpenFile>>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let inner = self.inner.table.delete(stream)?;
        let guarded: DynOutputStream = Box::new(ChargedOutput {
            inner,
            quota: Arc::clone(&self.writable.quota),
            file,
            refused: Arc::clone(&self.writable.refused),
        });
        Ok(self.inner.table.push(guarded)?)
    }
}

impl preopens::Host for QuotaFilesystem<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let directories = preopens::Host::get_directories(&mut self.inner)?;
        for ((descriptor, _), writable) in directories.iter().zip(&self.writable.mounts) {
            if *writable {
                self.writable.descriptors.insert(descriptor.rep(), None);
            }
        }
        Ok(directories)
    }
}

impl types::Host for QuotaFilesystem<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<types::ErrorCode> {
        types::Host::convert_error_code(&mut self.inner, error)
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<types::ErrorCode>> {
        if self.inner.table.get(&error)?.is::<DiskFull>() {
            return Ok(Some(types::ErrorCode::InsufficientSpace));
        }
        types::Host::filesystem_error_code(&mut self.inner, error)
    }
}

impl types::HostDescriptor for QuotaFilesystem<'_> {
    async fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: types::PathFlags,
        path: String,
        open_flags: types::OpenFlags,
        flags: types::DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        self.room(SPARE_FOR_STREAMS)?;
        let rep = fd.rep();
        if !self.is_writable(rep) {
            return self
                .inner
                .open_at(fd, path_flags, path, open_flags, flags)
                .await;
        }
        let writes = types::DescriptorFlags::WRITE | types::DescriptorFlags::MUTATE_DIRECTORY;
        let makes = types::OpenFlags::CREATE | types::OpenFlags::TRUNCATE;
        let is_file = !open_flags.contains(types::OpenFlags::DIRECTORY);
        if is_file && (flags.intersects(writes) || open_flags.intersects(makes)) {
            self.writable.has_written = true;
        }
        if open_flags.contains(types::OpenFlags::CREATE)
            && self.is_free(rep, path_flags, &path).await
        {
            self.writable.charge_file()?;
        }
        let opened = self
            .inner
            .open_at(fd, path_flags, path, open_flags, flags)
            .await?;
        let opened_rep = opened.rep();
        let kind = self.inner.get_type(again(opened_rep)).await?;
        let file = if kind == types::DescriptorType::RegularFile {
            let hash = self.inner.metadata_hash(again(opened_rep)).await?;
            let guard = self.writable.quota.opened((hash.lower, hash.upper));
            Some(Arc::new(guard))
        } else {
            None
        };
        self.writable.descriptors.insert(opened_rep, file);
        Ok(opened)
    }

    async fn set_size(&mut self, fd: Resource<Descriptor>, size: u64) -> FsResult<()> {
        let rep = fd.rep();
        let growth = size.saturating_sub(self.size(rep).await?);
        let identity = self.writable.file(rep).map(|file| file.identity());
        self.writable.charge_bytes(growth, identity)?;
        self.inner.set_size(fd, size).await
    }

    async fn write(
        &mut self,
        fd: Resource<Descriptor>,
        buffer: Vec<u8>,
        offset: u64,
    ) -> FsResult<u64> {
        // A write far past the end makes a hole, which `measure` counts in full, as it does for `set_size`.
        let rep = fd.rep();
        let growth = offset
            .saturating_add(buffer.len() as u64)
            .saturating_sub(self.size(rep).await?);
        let identity = self.writable.file(rep).map(|file| file.identity());
        self.writable.charge_bytes(growth, identity)?;
        self.inner.write(fd, buffer, offset).await
    }

    fn write_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: u64,
    ) -> FsResult<Resource<DynOutputStream>> {
        self.room(SPARE)?;
        let file = self.writable.file(fd.rep());
        let stream = self.inner.write_via_stream(fd, offset)?;
        self.guard_output(stream, file)
    }

    fn append_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<Resource<DynOutputStream>> {
        self.room(SPARE)?;
        let file = self.writable.file(fd.rep());
        let stream = self.inner.append_via_stream(fd)?;
        self.guard_output(stream, file)
    }

    fn read_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: u64,
    ) -> FsResult<Resource<DynInputStream>> {
        self.room(SPARE)?;
        let file = self.writable.file(fd.rep());
        let stream = self.inner.read_via_stream(fd, offset)?;
        let Some(file) = file else { return Ok(stream) };
        let inner = self.inner.table.delete(stream)?;
        let held: DynInputStream = Box::new(HeldInput { inner, _file: file });
        Ok(self.inner.table.push(held)?)
    }

    async fn create_directory_at(
        &mut self,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FsResult<()> {
        self.writable.has_written = true;
        self.writable.charge_file()?;
        self.inner.create_directory_at(fd, path).await
    }

    async fn symlink_at(
        &mut self,
        fd: Resource<Descriptor>,
        source: String,
        destination: String,
    ) -> FsResult<()> {
        self.writable.has_written = true;
        self.writable.charge_file()?;
        self.inner.symlink_at(fd, source, destination).await
    }

    async fn link_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_flags: types::PathFlags,
        old_path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.writable.has_written = true;
        self.writable.charge_file()?;
        self.inner
            .link_at(fd, old_flags, old_path, new_fd, new_path)
            .await
    }

    async fn unlink_file_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.writable.has_written = true;
        if self.is_writable(fd.rep()) {
            self.losing_name(fd.rep(), &path).await;
        }
        self.inner.unlink_file_at(fd, path).await
    }

    async fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.writable.has_written = true;
        if self.is_writable(new_fd.rep()) {
            self.losing_name(new_fd.rep(), &new_path).await;
        }
        self.inner.rename_at(fd, old_path, new_fd, new_path).await
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.writable.descriptors.remove(&fd.rep());
        types::HostDescriptor::drop(&mut self.inner, fd)
    }

    // The rest neither grows files nor opens or removes them.

    async fn advise(
        &mut self,
        fd: Resource<Descriptor>,
        offset: u64,
        length: u64,
        advice: types::Advice,
    ) -> FsResult<()> {
        self.inner.advise(fd, offset, length, advice).await
    }

    async fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.inner.sync_data(fd).await
    }

    async fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<types::DescriptorFlags> {
        self.inner.get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<types::DescriptorType> {
        self.inner.get_type(fd).await
    }

    async fn set_times(
        &mut self,
        fd: Resource<Descriptor>,
        accessed: types::NewTimestamp,
        modified: types::NewTimestamp,
    ) -> FsResult<()> {
        self.inner.set_times(fd, accessed, modified).await
    }

    async fn read(
        &mut self,
        fd: Resource<Descriptor>,
        length: u64,
        offset: u64,
    ) -> FsResult<(Vec<u8>, bool)> {
        self.inner.read(fd, length, offset).await
    }

    async fn read_directory(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<Resource<types::DirectoryEntryStream>> {
        self.room(SPARE)?;
        self.inner.read_directory(fd).await
    }

    async fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.inner.sync(fd).await
    }

    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<types::DescriptorStat> {
        self.inner.stat(fd).await
    }

    async fn stat_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: types::PathFlags,
        path: String,
    ) -> FsResult<types::DescriptorStat> {
        self.inner.stat_at(fd, flags, path).await
    }

    async fn set_times_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: types::PathFlags,
        path: String,
        accessed: types::NewTimestamp,
        modified: types::NewTimestamp,
    ) -> FsResult<()> {
        self.inner
            .set_times_at(fd, flags, path, accessed, modified)
            .await
    }

    async fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        self.inner.readlink_at(fd, path).await
    }

    async fn remove_directory_at(
        &mut self,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FsResult<()> {
        self.inner.remove_directory_at(fd, path).await
    }

    async fn is_same_object(
        &mut self,
        a: Resource<Descriptor>,
        b: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        self.inner.is_same_object(a, b).await
    }

    async fn metadata_hash(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<types::MetadataHashValue> {
        self.inner.metadata_hash(fd).await
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: types::PathFlags,
        path: String,
    ) -> FsResult<types::MetadataHashValue> {
        self.inner.metadata_hash_at(fd, flags, path).await
    }
}

impl types::HostDirectoryEntryStream for QuotaFilesystem<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<types::DirectoryEntryStream>,
    ) -> FsResult<Option<types::DirectoryEntry>> {
        self.inner.read_directory_entry(stream).await
    }

    fn drop(&mut self, stream: Resource<types::DirectoryEntryStream>) -> wasmtime::Result<()> {
        types::HostDirectoryEntryStream::drop(&mut self.inner, stream)
    }
}

/// What a guest's write to a full quota fails with.
#[derive(Debug, thiserror::Error)]
#[error("the session's disk quota is used up")]
struct DiskFull;

/// A file being written: every byte is charged.
struct ChargedOutput {
    inner: DynOutputStream,
    quota: Arc<Quota>,
    file: Option<Arc<OpenFile>>,
    refused: Arc<AtomicBool>,
}

#[wasmtime_wasi::async_trait]
impl Pollable for ChargedOutput {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for ChargedOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let identity = self.file.as_ref().map(|file| file.identity());
        self.quota
            .charge_bytes(bytes.len() as u64, identity)
            .map_err(|_| {
                self.refused.store(true, Ordering::Relaxed);
                StreamError::LastOperationFailed(DiskFull.into())
            })?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

/// A file being read, which counts as open for as long as the stream lives.
struct HeldInput {
    inner: DynInputStream,
    _file: Arc<OpenFile>,
}

#[wasmtime_wasi::async_trait]
impl Pollable for HeldInput {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl InputStream for HeldInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.inner.read(size)
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}
