//! A disk that is lost at any operation of an opening: a fault by its name, never an assertion, and never the advice to
//! format where a log may be.

use super::ram::RamDisk;
use super::share::Share;
use super::{Completion, Disk, DiskFault, DiskInfo, Io, Operation, run};
use crate::limits::BLOCK_BYTES;
use crate::log::Log;
use crate::log::create::FormatOptions;
use crate::log::recovery::{OpenError, OpenOptions};
use crate::log::shares::{find, format_shares, head};
use crate::log::superblock::{Identities, ShareId};
use crate::memory::Memory;

const MIB: u64 = 1 << 20;
const RING: usize = 2 << 20;

/// How a disk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Between two operations, which the next one is told.
    Refuses,
    /// Between two operations, and nobody has looked yet.
    RefusesUnseen,
    /// With an operation in flight that never completes.
    Keeps,
    /// The operation completes with that it is gone.
    Fails(DiskFault),
}

/// One that ends after so many operations.
struct Lost {
    disk: RamDisk,
    left: u32,
    end: End,
    kept: usize,
    is_over: bool,
}

impl Lost {
    fn fault(&self) -> DiskFault {
        if let End::Fails(fault) = self.end { fault } else { DiskFault::Gone }
    }
}

impl Disk for Lost {
    fn info(&self) -> &DiskInfo {
        self.disk.info()
    }

    fn memory(&self) -> &Memory {
        self.disk.memory()
    }

    fn memory_mut(&mut self) -> &mut Memory {
        self.disk.memory_mut()
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        if self.left > 0 {
            return self.disk.submit(io);
        }
        match self.end {
            End::Refuses | End::RefusesUnseen => {
                self.is_over = true;
                return Err(io);
            }
            End::Keeps if self.is_over => return Err(io),
            End::Keeps => self.kept += 1,
            End::Fails(_) => self.disk.submit(io)?,
        }
        Ok(())
    }

    fn poll(&mut self, done: &mut [Completion]) -> usize {
        if self.left == 0 && self.end == End::Keeps {
            self.is_over = true;
            return 0;
        }
        let count = self.disk.poll(done);
        for completion in &mut done[..count] {
            if self.left == 0 {
                completion.result = Err(self.fault());
            }
            self.left = self.left.saturating_sub(1);
        }
        count
    }

    fn in_flight(&self) -> usize {
        self.disk.in_flight() + self.kept
    }

    fn out_of_service(&self) -> Option<DiskFault> {
        let seen = match self.end {
            End::Refuses => self.left == 0,
            End::RefusesUnseen | End::Keeps => self.is_over,
            End::Fails(_) => false,
        };
        seen.then_some(DiskFault::Gone)
    }
}

const ENDS: [End; 6] = [
    End::Refuses,
    End::RefusesUnseen,
    End::Keeps,
    End::Fails(DiskFault::Gone),
    End::Fails(DiskFault::TimedOut),
    End::Fails(DiskFault::Errno(5)),
];

fn media(shards: u32) -> RamDisk {
    let mut disk = RamDisk::new(20 * MIB, Log::memory_bytes(RING), 8).unwrap();
    let options = FormatOptions { segment_bytes: MIB, force: false };
    format_shares(&mut disk, &options, shards).unwrap();
    disk
}

/// All that an opening does with a disk, as a launch and a reopening do it.
fn open(disk: &mut Lost, share: ShareId) -> Result<(), OpenError> {
    let (start, bytes) = find(disk, share)?;
    let mut part = Share::new(disk, start, bytes);
    // What it cannot tell is told by the opening.
    let _ = Identities::read(&mut part);
    let options = OpenOptions { queue_depth: 4, ring_bytes: RING, unix_ns: 1 };
    Log::open(&mut part, &options, &mut |_| {}).map(|_| ())
}

#[test]
fn an_opening_that_loses_its_disk_at_any_operation_says_that_and_advises_no_format() {
    for shards in [1, 2] {
        let share = ShareId { index: shards - 1, count: shards };
        let media = media(shards);
        for end in ENDS {
            let mut tried = 0;
            for left in 0.. {
                let disk = media.copy();
                let mut disk = Lost { disk, left, end, kept: 0, is_over: false };
                let fault = disk.fault();
                let Err(error) = open(&mut disk, share) else { break };
                let said = error.to_string();
                assert!(!said.contains("format"), "{end:?} after {left}: {said}");
                let told = if let OpenError::Device { fault, .. } = &error {
                    *fault
                } else if let OpenError::Write { fault, .. } = &error {
                    fault.fault
                } else {
                    panic!("{end:?} after {left}: {said}")
                };
                assert_eq!(told, fault, "{end:?} after {left}: {said}");
                tried += 1;
            }
            // Four superblocks, the headers of all segments, and what is written.
            assert!(tried > 20, "{end:?}: {tried}");
        }
    }
}

#[test]
fn an_operation_beside_one_that_never_completes_is_a_fault_and_no_assertion() {
    let io = |disk_offset| Io {
        operation: Operation::Read,
        tag: 0,
        disk_offset,
        memory_offset: 0,
        bytes: BLOCK_BYTES,
    };
    let disk = media(1);
    let mut disk = Lost { disk, left: 1, end: End::Keeps, kept: 0, is_over: false };
    run(&mut disk, io(0)).unwrap();
    // The second one stays in flight; the third finds it there.
    assert_eq!(run(&mut disk, io(0)), Err(DiskFault::Gone));
    assert_eq!(run(&mut disk, io(0)), Err(DiskFault::Gone));
    assert!(matches!(head(&mut disk), Err(DiskFault::Gone)));
}
