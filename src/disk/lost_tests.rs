//! A disk that is lost at any operation of an opening: a fault by its name, never an assertion, and never the advice to
//! format where a log may be.

use super::queue::{Backend, Queue, Reaped, Refused, Start};
use super::ram::{Ram, RamDisk};
use super::share::Share;
use super::{DiskFault, Errno, Io, Operation, run};
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

impl End {
    fn fault(self) -> DiskFault {
        if let Self::Fails(fault) = self { fault } else { DiskFault::Gone }
    }
}

/// One that ends after so many operations.
struct Lost {
    ram: Ram,
    left: u32,
    end: End,
    /// Slots of what it did not carry out.
    kept: Vec<usize>,
    is_over: bool,
}

fn lost(media: &RamDisk, left: u32, end: End) -> Queue<Lost> {
    media.copy_behind(|ram| Lost { ram, left, end, kept: Vec::new(), is_over: false })
}

impl Backend for Lost {
    fn start(&mut self, start: &Start<'_>) -> Result<(), Refused> {
        if self.left > 0 {
            return self.ram.start(start);
        }
        match self.end {
            End::Refuses | End::RefusesUnseen => {
                self.is_over = true;
                Err(Refused)
            }
            End::Keeps | End::Fails(_) => {
                self.kept.push(start.slot());
                Ok(())
            }
        }
    }

    fn reap(&mut self, reaped: &mut Reaped<'_>) {
        if self.left == 0 {
            self.is_over |= self.end == End::Keeps;
        }
        let room = reaped.room();
        self.ram.reap(reaped);
        let done = u32::try_from(room - reaped.room()).unwrap();
        self.left = self.left.saturating_sub(done);
        if let End::Fails(fault) = self.end {
            for slot in self.kept.drain(..) {
                reaped.end(slot, |_, _| Err(fault));
            }
        }
    }

    fn close(&mut self, _: &mut Memory, _: usize) {}

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
    End::Fails(DiskFault::Errno(Errno(5))),
];

fn media(shards: u32) -> RamDisk {
    let mut disk = RamDisk::new(20 * MIB, Log::memory_bytes(RING), 8).unwrap();
    let options = FormatOptions { segment_bytes: MIB, force: false };
    format_shares(&mut disk, &options, shards).unwrap();
    disk
}

/// All that an opening does with a disk, as a launch and a reopening do it.
fn open(disk: &mut Queue<Lost>, share: ShareId) -> Result<(), OpenError> {
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
                let mut disk = lost(&media, left, end);
                let fault = end.fault();
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
    let mut disk = lost(&media(1), 1, End::Keeps);
    run(&mut disk, io(0)).unwrap();
    // The second one stays in flight; the third finds it there.
    assert_eq!(run(&mut disk, io(0)), Err(DiskFault::Gone));
    assert_eq!(run(&mut disk, io(0)), Err(DiskFault::Gone));
    assert!(matches!(head(&mut disk), Err(DiskFault::Gone)));
}
