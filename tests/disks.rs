//! What every disk promises, checked on all of them from one table. The SPDK disk is a namespace of a target
//! on this host, over vfio-user.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use buslane::disk::ram::RamDisk;
use buslane::disk::uring::{UringConfig, UringDisk};
use buslane::disk::{Completion, Disk, DiskError, DiskInfo, Io, Operation, run};
use buslane::limits::{BLOCK_BYTES, QUEUE_DEPTH_MAX};
use buslane::position::DiskOffset;

#[cfg(feature = "spdk")]
use buslane::disk::spdk::{SpdkConfig, SpdkDisk, SpdkNamespace};

#[cfg(feature = "spdk")]
mod common;
#[cfg(feature = "spdk")]
#[path = "common/target.rs"]
mod target;

const BLOCK: u64 = BLOCK_BYTES as u64;
const MEMORY_BYTES: usize = 4 << 20;
const DISK_BYTES: u64 = 64 << 20;

type Check = fn(&mut dyn Disk);

/// What is checked, one after the other on the same disk.
const CHECKS: [(&str, Check); 8] = [
    ("its facts are plausible", facts),
    ("its first and last blocks hold what is written", boundaries),
    ("the largest transfer is whole", largest_transfer),
    ("what does not fit, or is not aligned, is a bug of the caller", misuse),
    ("a full queue gives the operation back", full_queue),
    ("completions are taken as there is room", partial_completion),
    ("reads and writes in flight together do not disturb each other", together),
    ("memory is pinned while a device uses it", pins),
];

fn conforms(disk: &mut dyn Disk) {
    for (what, check) in CHECKS {
        let outcome = catch_unwind(AssertUnwindSafe(|| check(disk)));
        assert!(outcome.is_ok(), "{}: {what}", disk.info().driver);
        assert_eq!(disk.in_flight(), 0, "{}: {what}: all is taken back", disk.info().driver);
    }
}

#[test]
fn ram() {
    conforms(&mut RamDisk::new(DISK_BYTES, MEMORY_BYTES, QUEUE_DEPTH_MAX).unwrap());
}

#[test]
fn uring() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("disk");
    UringDisk::create(&path, DISK_BYTES).unwrap();
    let open = || {
        let path = path.clone();
        let config = UringConfig { path, memory_bytes: MEMORY_BYTES, read_only: false };
        UringDisk::open(&config)
    };
    conforms(&mut open().unwrap());
    reopens(open);
}

/// What becomes of the target between the attachment and the second queue pair.
#[cfg(feature = "spdk")]
#[test]
fn a_controller_that_is_lost_while_it_is_opened_is_told_as_lost() {
    let port = common::free_port().to_string();
    for (transport, signal) in [("vfio-user", "KILL"), ("tcp", "KILL"), ("tcp", "STOP")] {
        let arguments = ["--transport", transport, "--port", &port, "--size", "64", "--core", "0"];
        let Some(target) = target::Target::start("lost", &arguments) else { return };
        let namespace = SpdkNamespace::new(target.config(), 2).unwrap();
        let first = SpdkDisk::on(&namespace, MEMORY_BYTES).unwrap();
        if signal == "KILL" {
            target.kill();
        } else {
            target.signal(signal);
        }
        let error = SpdkDisk::on(&namespace, MEMORY_BYTES).unwrap_err();
        assert!(matches!(error, DiskError::Lost { .. }), "{transport} {signal}: {error}");
        drop((first, namespace));
        if signal == "STOP" {
            target.signal("CONT");
        }
    }
}

#[cfg(feature = "spdk")]
#[test]
fn spdk() {
    let Some(target) = target::Target::start("disks", &["--size", "64", "--core", "0"]) else {
        return;
    };
    let config = target.config();
    conforms(&mut SpdkDisk::open(&config, MEMORY_BYTES).unwrap());
    reopens(|| SpdkDisk::open(&config, MEMORY_BYTES));
    // What cannot be opened is named, with what to do.
    let refused = |change: &dyn Fn(&mut SpdkConfig)| {
        let mut config = config.clone();
        change(&mut config);
        SpdkDisk::open(&config, MEMORY_BYTES).unwrap_err().to_string()
    };
    let volatile = refused(&|config| config.accept_volatile = false);
    assert!(volatile.contains("power_loss_protected"), "{volatile}");
    let other = refused(&|config| config.identity = "00".repeat(16));
    assert!(other.contains("disk.spdk.identity"), "{other}");
    let namespace = refused(&|config| config.transport_id += " ns:7");
    assert!(namespace.contains("no such namespace"), "{namespace}");
    let nobody = refused(&|config| config.transport_id = "trtype:VFIOUSER traddr:/nowhere".into());
    assert!(nobody.contains("no NVMe controller answers"), "{nobody}");
    let nonsense = refused(&|config| config.transport_id = "trtype:SCSI traddr:1".into());
    assert!(nonsense.contains("is not a transport id"), "{nonsense}");
}

/// What is written is there after the disk was closed and opened again; meanwhile it has one user.
fn reopens<D: Disk>(open: impl Fn() -> Result<D, DiskError>) {
    let mut disk = open().unwrap();
    let busy = open().err().expect("a disk has one user").to_string();
    assert!(busy.contains("another Buslane process"), "{busy}");
    write(&mut disk, 5, 0xe7);
    drop(disk);
    assert_eq!(read(&mut open().unwrap(), 5), 0xe7);
}

fn facts(disk: &mut dyn Disk) {
    let DiskInfo { name, driver, bytes, transfer_bytes_max, queue_depth, .. } = disk.info().clone();
    assert!(!name.is_empty() && !driver.is_empty());
    assert!(bytes.is_multiple_of(BLOCK) && bytes >= DISK_BYTES, "{bytes}");
    assert!(transfer_bytes_max.is_multiple_of(BLOCK_BYTES) && transfer_bytes_max >= 128 << 10);
    assert!((1..=QUEUE_DEPTH_MAX).contains(&queue_depth));
    assert!(disk.memory().len() >= MEMORY_BYTES && disk.out_of_service().is_none());
}

fn boundaries(disk: &mut dyn Disk) {
    let last = disk.info().bytes / BLOCK - 1;
    for (block, fill) in [(0, 1), (1, 2), (last - 1, 3), (last, 4)] {
        write(disk, block, fill);
    }
    for (block, fill) in [(last, 4), (last - 1, 3), (1, 2), (0, 1)] {
        assert_eq!(read(disk, block), fill, "block {block}");
    }
    write(disk, 1, 9);
    assert_eq!((read(disk, 0), read(disk, 1)), (1, 9), "an overwritten block, and its neighbour");
}

fn largest_transfer(disk: &mut dyn Disk) {
    let bytes = disk.info().transfer_bytes_max.min(MEMORY_BYTES / 2);
    let pattern = |at: usize| u8::try_from((at / 7 + at / BLOCK_BYTES) % 251).unwrap();
    let expected: Vec<u8> = (0..bytes).map(pattern).collect();
    disk.memory_mut().bytes_mut(0..bytes).copy_from_slice(&expected);
    let io = Io {
        operation: Operation::Write,
        tag: 1,
        disk_offset: DiskOffset::new(3 * BLOCK),
        memory_offset: 0,
        bytes,
    };
    run(disk, io).unwrap();
    disk.memory_mut().bytes_mut(0..bytes).fill(0);
    run(disk, Io { operation: Operation::Read, ..io }).unwrap();
    assert!(disk.memory().bytes(0..bytes) == expected, "what was read is not what was written");
}

fn misuse(disk: &mut dyn Disk) {
    let end = disk.info().bytes;
    let most = disk.info().transfer_bytes_max;
    let good = operation(Operation::Write, 0, 0);
    for bad in [
        Io { disk_offset: DiskOffset::new(512), ..good },
        Io { memory_offset: 8, ..good },
        Io { bytes: 100, ..good },
        Io { bytes: 0, ..good },
        Io { bytes: most + BLOCK_BYTES, ..good },
        Io { disk_offset: DiskOffset::new(end), ..good },
        Io { disk_offset: DiskOffset::new(end - BLOCK), bytes: 2 * BLOCK_BYTES, ..good },
        Io { disk_offset: DiskOffset::new(u64::MAX - 4095), ..good },
    ] {
        let outcome = catch_unwind(AssertUnwindSafe(|| disk.submit(bad)));
        assert!(outcome.is_err(), "{bad:?} was taken");
    }
}

fn full_queue(disk: &mut dyn Disk) {
    let mut taken = Vec::new();
    let refused = (0..10_000).find_map(|tag| {
        let slot = usize::try_from(tag % 512).unwrap();
        let io = Io { tag, ..operation(Operation::Read, tag % 512, slot) };
        match disk.submit(io) {
            Ok(()) => {
                taken.push(tag);
                None
            }
            Err(back) => Some((io, back)),
        }
    });
    let (asked, back) = refused.expect("a queue has an end");
    assert_eq!(asked, back, "given back as it was");
    assert!(taken.len() >= disk.info().queue_depth, "{} taken", taken.len());
    assert_eq!(disk.in_flight(), taken.len());
    let mut seen: Vec<u64> = drain(disk, 32).into_iter().map(|done| done.io.tag).collect();
    seen.sort_unstable();
    assert_eq!(seen, taken, "each completes once");
}

fn partial_completion(disk: &mut dyn Disk) {
    for tag in 0..8 {
        let io = operation(Operation::Write, tag, usize::try_from(tag).unwrap());
        disk.submit(Io { tag, ..io }).unwrap();
    }
    let mut tags: Vec<u64> = drain(disk, 1).into_iter().map(|done| done.io.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..8).collect::<Vec<_>>());
    assert_eq!(disk.poll(&mut []), 0, "no room, nothing taken");
}

fn together(disk: &mut dyn Disk) {
    for block in 0..16 {
        write(disk, 100 + block, u8::try_from(block).unwrap());
    }
    for block in 0..16u8 {
        let slot = usize::from(block);
        let place = u64::from(block);
        disk.memory_mut()
            .bytes_mut(slot * BLOCK_BYTES..(slot + 1) * BLOCK_BYTES)
            .fill(0x80 + block);
        disk.submit(operation(Operation::Write, 200 + place, slot)).unwrap();
        disk.submit(operation(Operation::Read, 100 + place, 64 + slot)).unwrap();
    }
    for done in drain(disk, 8) {
        assert_eq!(done.result, Ok(()), "{:?}", done.io);
    }
    for block in 0..16u8 {
        let slot = 64 + usize::from(block);
        let read_back = disk.memory().bytes(slot * BLOCK_BYTES..(slot + 1) * BLOCK_BYTES);
        assert!(read_back.iter().all(|&byte| byte == block), "what block {block} held before");
        assert_eq!(read(disk, 200 + u64::from(block)), 0x80 + block);
    }
}

fn pins(disk: &mut dyn Disk) {
    disk.submit(operation(Operation::Write, 7, 0)).unwrap();
    disk.submit(operation(Operation::Read, 8, 1)).unwrap();
    let changed = catch_unwind(AssertUnwindSafe(|| disk.memory_mut().bytes_mut(0..1)[0] = 1));
    assert!(changed.is_err(), "what a device reads was changed");
    let looked =
        catch_unwind(AssertUnwindSafe(|| disk.memory().bytes(BLOCK_BYTES..2 * BLOCK_BYTES)[0]));
    assert!(looked.is_err(), "what a device writes was looked at");
    drain(disk, 2);
    disk.memory_mut().bytes_mut(0..2 * BLOCK_BYTES).fill(0);
}

fn operation(operation: Operation, block: u64, slot: usize) -> Io {
    let (disk_offset, memory_offset) = (DiskOffset::new(block * BLOCK), slot * BLOCK_BYTES);
    Io { operation, tag: 0, disk_offset, memory_offset, bytes: BLOCK_BYTES }
}

fn write(disk: &mut dyn Disk, block: u64, fill: u8) {
    disk.memory_mut().bytes_mut(0..BLOCK_BYTES).fill(fill);
    run(disk, operation(Operation::Write, block, 0)).unwrap();
}

/// The byte a block is filled with.
fn read(disk: &mut dyn Disk, block: u64) -> u8 {
    disk.memory_mut().bytes_mut(0..BLOCK_BYTES).fill(0xff);
    run(disk, operation(Operation::Read, block, 0)).unwrap();
    let bytes = disk.memory().bytes(0..BLOCK_BYTES);
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "block {block} is of one piece");
    bytes[0]
}

/// Polls until nothing is in flight, taking at most `room` completions at a time.
fn drain(disk: &mut dyn Disk, room: usize) -> Vec<Completion> {
    let nothing = Completion { io: operation(Operation::Read, 0, 0), result: Ok(()) };
    let mut done = vec![nothing; room];
    let mut all = Vec::new();
    while disk.in_flight() > 0 {
        let count = disk.poll(&mut done);
        assert!(count <= room);
        all.extend_from_slice(&done[..count]);
        assert!(disk.out_of_service().is_none());
    }
    all
}
