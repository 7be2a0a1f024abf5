#![allow(unsafe_code, reason = "the kernel is handed addresses of memory it reads and writes")]
//! A disk that is a file or a block device, through io_uring.
//!
//! Direct and synchronous (`O_DIRECT | O_DSYNC`): a write completes once the kernel has seen the device's
//! cache flushed, so a completed write is on media. Memory and file are registered once; completions
//! are polled from the ring that is shared with the kernel.
//!
//! The file is initialised by writing: the first write to an unwritten extent would cost a commit of
//! the file system's journal.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};

use super::media::Media;
use super::queue::{Backend, Queue, Reaped, Refused, Start};
use super::{DiskError, DiskFault, DiskInfo, Errno, Operation};
use crate::limits::{BLOCK_BYTES, OPERATIONS_MAX, QUEUE_DEPTH_MAX, TRANSFER_BYTES_MAX};
use crate::memory::Memory;
use crate::retry::retry;

/// Bytes written at once while a file is made.
const FILL_BYTES: usize = 4 << 20;

/// How long a disk in use is tried again: the kernel takes the ring of a process that ended down after it, and its hold
/// on the disk goes with the ring.
const LOCK_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// How a disk is opened.
#[derive(Clone, Debug)]
pub struct UringConfig {
    /// File or block device.
    pub path: PathBuf,
    /// Memory to work in.
    pub memory_bytes: usize,
    /// For tools that look at a log: nothing can be written, and several may look.
    pub read_only: bool,
}

/// A file or block device, held by this process alone. Several disks may work on it, each with a queue and
/// memory of its own.
#[derive(Debug)]
pub struct UringFile {
    file: File,
    path: PathBuf,
}

impl UringFile {
    /// Opens and holds it.
    ///
    /// # Errors
    /// [`DiskError::Open`] with what, why and what to do.
    pub fn open(config: &UringConfig) -> Result<Arc<Self>, DiskError> {
        let file = open_file(config)?;
        lock(&file, config)?;
        Ok(Arc::new(Self { file, path: config.path.clone() }))
    }

    /// Creates a file of `bytes`, holds it and writes all of it, telling `progress` how far it is (done, all),
    /// which says whether to go on. What was written is on media when this returns; the file's name is not.
    ///
    /// # Errors
    /// [`DiskError::Open`]; what could not be finished is removed.
    pub fn create(
        path: &Path,
        bytes: u64,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<Self>, DiskError> {
        let bytes = bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        check_room(path, dir.unwrap_or_else(|| Path::new(".")), bytes)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(path);
        let file = file.map_err(|error| {
            if error.raw_os_error() == Some(libc::EINVAL) {
                // The name is made before direct I/O is refused.
                let _ = std::fs::remove_file(path);
            }
            open_error(path, &error)
        })?;
        let config = UringConfig { path: path.to_owned(), memory_bytes: 0, read_only: false };
        lock(&file, &config)?;
        let held = Self { file, path: path.to_owned() };
        if !held.is_at(path) {
            let why = "another Buslane process is making it".into();
            return Err(failed(path, why, "wait for that one, or name another disk.path"));
        }
        let made = fill(&held.file, path, bytes, progress)
            .and_then(|()| held.file.sync_all().map_err(|error| open_error(path, &error)));
        if let Err(error) = made {
            // What could not be finished must not be taken for a disk later.
            if held.is_at(path) {
                let _ = std::fs::remove_file(path);
            }
            return Err(error);
        }
        Ok(Arc::new(held))
    }

    /// Whether this file is what `path` leads to. Where the path cannot be followed for now, it is believed.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        let Ok(own) = self.file.metadata() else { return true };
        match std::fs::metadata(path) {
            // A device is known by its number: its node may be made anew.
            Ok(there) if own.file_type().is_block_device() => there.rdev() == own.rdev(),
            Ok(there) => (there.dev(), there.ino()) == (own.dev(), own.ino()),
            Err(error) => {
                !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP))
            }
        }
    }

    /// The name under which this process has it open, also when it has no other left.
    #[must_use]
    pub fn own_name(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Bytes of a file that have no place on the media yet, as a copy with holes leaves them.
    #[must_use]
    pub fn hole_bytes(&self) -> u64 {
        let metadata = self.file.metadata().ok().filter(std::fs::Metadata::is_file);
        metadata.map_or(0, |file| file.len().saturating_sub(file.blocks() * 512))
    }

    /// Finds a place for all of them, so that the file system cannot be full when they are written.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn fill_holes(&self) -> io::Result<()> {
        allocate(&self.file, self.file.metadata()?.len())
    }

    /// Bytes of the file or device.
    ///
    /// # Errors
    /// [`DiskError::Open`] with what the operating system said.
    pub fn bytes(&self) -> Result<u64, DiskError> {
        size_of_file(&self.file, &self.path)
    }

    /// Opens it for reading and does not hold it: another process may write it, now or later.
    ///
    /// # Errors
    /// [`DiskError::Open`] with what, why and what to do.
    pub fn open_beside(path: &Path) -> Result<Arc<Self>, DiskError> {
        let path = path.to_owned();
        let config = UringConfig { path: path.clone(), memory_bytes: 0, read_only: true };
        Ok(Arc::new(Self { file: open_file(&config)?, path }))
    }
}

impl Drop for UringFile {
    fn drop(&mut self) {
        // The kernel takes a ring down in its own time, and keeps the file until then.
        let _ = self.file.unlock();
    }
}

/// A file or block device with a queue.
pub type UringDisk = Queue<Uring>;

/// The ring that a process shares with the kernel.
pub struct Uring {
    /// Before `held`, which gives the file free.
    ring: IoUring,
    #[allow(dead_code, reason = "for its drop, which gives the file free")]
    held: Arc<UringFile>,
    /// The memory is registered as buffer 0.
    registered: bool,
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring").field("held", &self.held).finish_non_exhaustive()
    }
}

impl UringDisk {
    /// Opens a file or block device.
    ///
    /// # Errors
    /// [`DiskError::Open`] with what, why and what to do.
    pub fn open(config: &UringConfig) -> Result<Self, DiskError> {
        Self::on(UringFile::open(config)?, config.memory_bytes)
    }

    /// One more disk on a file that is open, with `memory_bytes` to work in.
    ///
    /// # Errors
    /// [`DiskError::Open`] with what, why and what to do.
    pub fn on(held: Arc<UringFile>, memory_bytes: usize) -> Result<Self, DiskError> {
        let UringFile { file, path } = &*held;
        let bytes = size_of_file(file, path)?;
        let bytes = bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let ring = new_ring().map_err(|error| uring_error(path, &error))?;
        let memory = Memory::allocate(memory_bytes).map_err(|error| {
            let why = format!("{memory_bytes} bytes of memory: {error}");
            failed(path, why, "lower disk.ring in the profile")
        })?;
        ring.submitter()
            .register_files(&[file.as_raw_fd()])
            .map_err(|error| uring_error(path, &error))?;
        let buffer =
            libc::iovec { iov_base: memory.address(0).as_ptr().cast(), iov_len: memory.len() };
        // A user's limit on locked memory may be too low for this; plain reads and writes do as well.
        // SAFETY: the buffer is the whole mapping of `memory`, which outlives the ring: a queue drops its backend first.
        let registered = unsafe { ring.submitter().register_buffers(&[buffer]) }.is_ok();
        let info = DiskInfo {
            name: path.display().to_string(),
            driver: "uring",
            bytes,
            transfer_bytes_max: TRANSFER_BYTES_MAX,
            queue_depth: QUEUE_DEPTH_MAX,
            durability: Media::default().durability(path),
            identity: [0; 16],
        };
        let uring = Uring { ring, held, registered };
        Ok(Self::over(uring, info, memory, OPERATIONS_MAX))
    }

    /// Creates a file of `bytes` and writes all of it, see [`UringFile::create`]; and its directory, if need be.
    ///
    /// # Errors
    /// [`DiskError::Open`]; what could not be finished is removed.
    pub fn create(path: &Path, bytes: u64) -> Result<(), DiskError> {
        let dir = path.parent().unwrap_or_else(|| Path::new("."));
        std::fs::create_dir_all(dir)
            .map_err(|error| failed(dir, error.to_string(), "choose another place"))?;
        UringFile::create(path, bytes, &mut |_, _| true).map(|_| ())
    }
}

impl Uring {
    fn entry(&self, start: &Start<'_>) -> squeue::Entry {
        let io = start.io();
        let address = start.address().as_ptr();
        let len = u32::try_from(io.bytes).expect("at most 1 MiB");
        let file = types::Fixed(0);
        let entry = match (io.operation, self.registered) {
            (Operation::Write, true) => {
                opcode::WriteFixed::new(file, address, len, 0).offset(io.disk_offset.get()).build()
            }
            (Operation::Write, false) => {
                opcode::Write::new(file, address, len).offset(io.disk_offset.get()).build()
            }
            (Operation::Read, true) => {
                opcode::ReadFixed::new(file, address, len, 0).offset(io.disk_offset.get()).build()
            }
            (Operation::Read, false) => {
                opcode::Read::new(file, address, len).offset(io.disk_offset.get()).build()
            }
        };
        entry.user_data(start.slot() as u64)
    }

    /// Makes the kernel look at the rings where it has completions to hand over, or entries to take.
    fn enter(&mut self) {
        let left_over = {
            let queue = self.ring.submission();
            queue.taskrun() || !queue.is_empty()
        };
        if !left_over {
            return;
        }
        // SAFETY: no argument is passed; the call only makes the kernel look at the rings.
        let _ = unsafe {
            self.ring.submitter().enter::<libc::sigset_t>(
                u32::try_from(OPERATIONS_MAX).expect("small"),
                0,
                IORING_ENTER_GETEVENTS,
                None,
            )
        };
    }
}

impl Backend for Uring {
    fn start(&mut self, start: &Start<'_>) -> Result<(), Refused> {
        let entry = self.entry(start);
        // SAFETY: a queue keeps the memory of a `Start` pinned, and in its place, until its completion is reaped or
        // `close` returns, which waits for it; the file is registered.
        unsafe { self.ring.submission().push(&entry) }.expect("as many entries as slots");
        if let Err(error) = self.ring.submit() {
            // What an interrupted or overloaded call leaves in the queue goes with the next poll.
            let passing = [libc::EINTR, libc::EAGAIN, libc::EBUSY];
            let errno = error.raw_os_error().unwrap_or(0);
            assert!(passing.contains(&errno), "io_uring takes no operation any more: {error}");
        }
        Ok(())
    }

    fn reap(&mut self, reaped: &mut Reaped<'_>) {
        if reaped.in_flight() == 0 {
            return;
        }
        self.enter();
        let room = reaped.room();
        while reaped.room() > 0 {
            let Some(entry) = self.ring.completion().next() else { break };
            let slot = usize::try_from(entry.user_data()).expect("a slot's number");
            reaped.end(slot, |io, _| match usize::try_from(entry.result()) {
                Ok(done) if done == io.bytes => Ok(()),
                Ok(done) => Err(DiskFault::Short { done, asked: io.bytes }),
                Err(_) => Err(DiskFault::Errno(Errno(-entry.result()))),
            });
        }
        if reaped.room() == room {
            // Where the device has no FUA, the kernel flushes its cache in a worker on the core that
            // took the interrupt, which may be ours: a thread that spins on would keep it waiting for
            // the rest of its time slice. Alone on its core a yield costs some 200 ns.
            std::thread::yield_now();
        }
    }

    /// The kernel must be done with the memory before it is unmapped.
    fn close(&mut self, _: &mut Memory, in_flight: usize) {
        let mut left = in_flight;
        while left > 0 {
            self.enter();
            left -= self.ring.completion().count();
            std::thread::yield_now();
        }
    }
}

/// `IORING_ENTER_GETEVENTS`.
const IORING_ENTER_GETEVENTS: u32 = 1;

fn new_ring() -> io::Result<IoUring> {
    let entries = u32::try_from(OPERATIONS_MAX.next_power_of_two()).expect("small");
    // Completions are handed over when we ask, not by interrupting the core that polls.
    IoUring::builder()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .build(entries)
        .or_else(|_| IoUring::new(entries))
}

fn failed(path: &Path, why: String, mend: &str) -> DiskError {
    DiskError::Open { name: path.display().to_string(), why, mend: mend.into() }
}

fn uring_error(path: &Path, error: &io::Error) -> DiskError {
    let mend =
        "allow io_uring (sysctl kernel.io_uring_disabled=0, or the container's seccomp profile)";
    failed(path, format!("io_uring: {error}"), mend)
}

fn open_error(path: &Path, error: &io::Error) -> DiskError {
    let mend = match error.raw_os_error() {
        Some(libc::ENOENT) => {
            "name the file of a log, or a block device; a new log is made by serve, or by buslane log format"
        }
        Some(libc::EACCES | libc::EPERM) => "give this user the right to read and write it",
        Some(libc::EROFS) => "mount the file system for writing, or choose another disk.path",
        Some(libc::EINVAL) => {
            "the file system takes no direct I/O: name a disk.path on another (ext4, XFS), or a block device"
        }
        Some(libc::EISDIR) => "name a file or a block device",
        Some(libc::EBUSY) => "it is mounted or in use: unmount it, or name another device",
        Some(libc::EEXIST) => "it is there already: use it, or remove it first",
        Some(libc::ENOSPC | libc::EDQUOT) => "make room, or lower disk.size in the profile",
        Some(libc::EFBIG) => "the file system has no file of that size: lower disk.size",
        Some(_) | None => "see the system's log",
    };
    failed(path, error.to_string(), mend)
}

fn open_file(config: &UringConfig) -> Result<File, DiskError> {
    let path = &config.path;
    let meta = std::fs::metadata(path).map_err(|error| open_error(path, &error))?;
    let is_device = meta.file_type().is_block_device();
    if !is_device && !meta.is_file() {
        return Err(failed(
            path,
            "is neither a file nor a block device".into(),
            "name one of these",
        ));
    }
    let mut flags = libc::O_DSYNC | libc::O_DIRECT;
    if is_device && !config.read_only {
        // The kernel refuses a device that is mounted.
        flags |= libc::O_EXCL;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(!config.read_only).custom_flags(flags);
    let is_busy = |error: &io::Error| error.raw_os_error() == Some(libc::EBUSY);
    retry(LOCK_PATIENCE, is_busy, || options.open(path)).map_err(|error| open_error(path, &error))
}

fn lock(file: &File, config: &UringConfig) -> Result<(), DiskError> {
    let try_lock = || if config.read_only { file.try_lock_shared() } else { file.try_lock() };
    let is_held = |error: &TryLockError| matches!(error, TryLockError::WouldBlock);
    retry(LOCK_PATIENCE, is_held, try_lock).map_err(|error| match error {
        TryLockError::WouldBlock => failed(
            &config.path,
            "another Buslane process uses it".into(),
            "stop that one first (SIGTERM), or name another disk",
        ),
        TryLockError::Error(error) => open_error(&config.path, &error),
    })
}

fn size_of_file(file: &File, path: &Path) -> Result<u64, DiskError> {
    use std::io::Seek;
    // Seeking to the end gives the size of files and block devices alike.
    let mut file = file;
    file.seek(io::SeekFrom::End(0)).map_err(|error| open_error(path, &error))
}

fn free_bytes(dir: &Path) -> Result<u64, DiskError> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(dir.as_os_str().as_bytes())
        .map_err(|_| failed(dir, "a path with a zero byte".into(), "choose another disk.path"))?;
    let mut facts = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the name is a C string and the room is that of the structure.
    let answer = unsafe { libc::statvfs(name.as_ptr(), facts.as_mut_ptr()) };
    if answer != 0 {
        return Err(open_error(dir, &io::Error::last_os_error()));
    }
    // SAFETY: the call succeeded, so it filled the structure.
    let facts = unsafe { facts.assume_init() };
    Ok(facts.f_bavail * facts.f_frsize)
}

/// Whether a file of `bytes` can be made, before any of it is.
fn check_room(path: &Path, dir: &Path, bytes: u64) -> Result<(), DiskError> {
    let free = free_bytes(dir)?;
    if free < bytes {
        return Err(failed(
            path,
            format!("{bytes} bytes are needed, the file system has {free} free"),
            "make room, or lower disk.size in the profile",
        ));
    }
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    match file_bytes_max(&limits) {
        // Beyond it a write ends the process by a signal.
        Some(limit) if limit < bytes => Err(failed(
            path,
            format!("{bytes} bytes are needed, this process may make files of {limit} bytes"),
            "raise the limit (ulimit -f, LimitFSIZE=), or lower disk.size in the profile",
        )),
        Some(_) | None => Ok(()),
    }
}

/// The limit on the size of files, in the words of `/proc/self/limits`.
fn file_bytes_max(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max file size"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let size = libc::off_t::try_from(bytes).expect("a file's size");
    // SAFETY: a valid descriptor and a range of the file.
    let allocated = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, size) };
    if allocated == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes all of a new file. Not synchronously: it is synced as a whole afterwards.
fn fill(
    file: &File,
    path: &Path,
    bytes: u64,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<(), DiskError> {
    let wrong = |error: io::Error| open_error(path, &error);
    file.set_len(bytes).map_err(wrong)?;
    match allocate(file, bytes) {
        // Some file systems have no such call: there each write finds its place.
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => {
            return Err(wrong(error));
        }
        Ok(()) | Err(_) => {}
    }
    let zeros = Memory::allocate(FILL_BYTES).map_err(wrong)?;
    let plain = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path);
    let plain = plain.map_err(wrong)?;
    let mut at = 0;
    while at < bytes {
        let step = usize::try_from((bytes - at).min(FILL_BYTES as u64)).expect("some MiB");
        plain.write_all_at(zeros.bytes(0..step), at).map_err(wrong)?;
        at += step as u64;
        if !progress(at, bytes) {
            return Err(failed(path, "told to stop".into(), "start again to make it"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, Io, run};
    use crate::position::DiskOffset;

    fn file(bytes: u64) -> (tempfile::TempDir, PathBuf) {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        std::fs::create_dir_all(&target).unwrap();
        let dir = tempfile::tempdir_in(target).unwrap();
        let path = dir.path().join("disk");
        UringDisk::create(&path, bytes).unwrap();
        (dir, path)
    }

    fn open(path: &Path, read_only: bool) -> Result<UringDisk, DiskError> {
        let path = path.to_owned();
        UringDisk::open(&UringConfig { path, memory_bytes: 1 << 20, read_only })
    }

    #[test]
    fn what_was_written_is_there_after_reopening() {
        let (_dir, path) = file(1 << 20);
        let io = |operation| Io {
            operation,
            tag: 7,
            disk_offset: DiskOffset::new(8192),
            memory_offset: 4096,
            bytes: 4096,
        };
        let mut disk = open(&path, false).unwrap();
        disk.memory_mut().bytes_mut(4096..8192).fill(0xab);
        run(&mut disk, io(Operation::Write)).unwrap();
        drop(disk);
        let mut disk = open(&path, true).unwrap();
        run(&mut disk, io(Operation::Read)).unwrap();
        assert!(disk.memory().bytes(4096..8192).iter().all(|&byte| byte == 0xab));
        assert!(run(&mut disk, io(Operation::Write)).is_err(), "a read-only disk takes no write");
    }

    #[test]
    fn what_is_in_flight_when_a_disk_is_closed_is_over_before_its_memory_goes() {
        let (_dir, path) = file(1 << 20);
        let mut disk = open(&path, false).unwrap();
        disk.memory_mut().bytes_mut(0..4096).fill(0xcd);
        let io = |operation, block: u64| Io {
            operation,
            tag: block,
            disk_offset: DiskOffset::new(block * 4096),
            memory_offset: 0,
            bytes: 4096,
        };
        for block in 0..64 {
            disk.submit(io(Operation::Write, block)).unwrap();
        }
        assert_eq!(disk.in_flight(), 64);
        drop(disk);
        // With direct I/O a write that is over is what the next read sees.
        let mut disk = open(&path, false).unwrap();
        for block in 0..64 {
            run(&mut disk, io(Operation::Read, block)).unwrap();
            assert_eq!(disk.memory().bytes(0..4096), [0xcd; 4096], "block {block}");
        }
    }

    #[test]
    fn two_processes_do_not_share_a_disk() {
        let (_dir, path) = file(1 << 20);
        let _first = open(&path, false).unwrap();
        let error = open(&path, false).unwrap_err().to_string();
        assert!(error.contains("another Buslane process"), "{error}");
    }

    #[test]
    fn two_disks_work_on_one_file_and_hold_it_until_the_last_is_gone() {
        let (_dir, path) = file(1 << 20);
        let first = open(&path, false).unwrap();
        let mut second = UringDisk::on(Arc::clone(&first.backend().held), 1 << 20).unwrap();
        drop(first);
        assert!(open(&path, false).is_err(), "the second holds it still");
        let operation = Operation::Write;
        let io = Io {
            operation,
            tag: 1,
            disk_offset: DiskOffset::new(4096),
            memory_offset: 0,
            bytes: 4096,
        };
        run(&mut second, io).unwrap();
        drop(second);
        open(&path, false).unwrap();
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let missing = open(Path::new("/nonexistent/disk"), false).unwrap_err().to_string();
        assert!(
            missing.contains("/nonexistent/disk") && missing.contains("log format"),
            "{missing}"
        );
        let directory = open(Path::new("/"), false).unwrap_err().to_string();
        assert!(directory.contains("neither a file nor a block device"), "{directory}");
        let (_dir, path) = file(1 << 20);
        let again = UringDisk::create(&path, 1 << 20).unwrap_err().to_string();
        assert!(again.contains("there already"), "{again}");
        let huge = UringDisk::create(&path.with_extension("2"), 1 << 60);
        assert!(huge.unwrap_err().to_string().contains("free"), "room is checked first");
    }

    #[test]
    fn a_file_that_is_not_finished_is_not_left() {
        let (dir, path) = file(1 << 20);
        let path = path.with_extension("2");
        let mut seen = 0;
        let stopped = UringFile::create(&path, 16 << 20, &mut |done, _| {
            seen = done;
            done < 8 << 20
        });
        assert!(stopped.unwrap_err().to_string().contains("told to stop"));
        assert_eq!((seen, path.exists()), (8 << 20, false));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_limit_on_files_is_read_where_there_is_one() {
        let limits = |size: &str| format!("Limit  Soft\nMax file size             {size}\n");
        assert_eq!(
            file_bytes_max(&limits("1048576              unlimited   bytes")),
            Some(1 << 20)
        );
        assert_eq!(file_bytes_max(&limits("unlimited            unlimited   bytes")), None);
        assert_eq!(file_bytes_max(""), None);
    }

    #[test]
    fn a_file_that_lost_its_name_is_noticed() {
        let (_dir, path) = file(1 << 20);
        let link = path.with_extension("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let held = Arc::clone(&open(&link, false).unwrap().backend().held);
        assert!(held.is_at(&link) && held.is_at(&path));
        let aside = path.with_extension("aside");
        std::fs::rename(&path, &aside).unwrap();
        assert!(!held.is_at(&link), "renamed");
        std::fs::copy(&aside, &path).unwrap();
        assert!(!held.is_at(&link), "another in its place");
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&aside, &link).unwrap();
        assert!(held.is_at(&link), "the link leads to it again");
        std::fs::remove_file(&aside).unwrap();
        assert!(!held.is_at(&link), "removed");
        assert_eq!(std::fs::read(held.own_name()).unwrap().len(), 1 << 20, "it can be saved still");
    }
}
