//! A disk that is lost at any operation of an opening: a fault by its name, never an assertion, and never the advice to
//! format where a log may be.

use super::share::Share;
use super::{DiskFault, Errno, Io, Operation, run};
use crate::ids::Lineage;
use crate::limits::BLOCK_BYTES;
use crate::log::Log;
use crate::log::create::FormatOptions;
use crate::log::recovery::{OpenError, OpenOptions};
use crate::log::shares::{find, format_shares, head};
use crate::log::superblock::{Identities, ShareId};
use crate::position::DiskOffset;
use crate::testing::disk::{End, RING, TestDisk};

fn lost(media: &TestDisk, left: usize, end: End) -> TestDisk {
    let mut disk = media.copy();
    disk.lose_after(left, end);
    disk
}

const ENDS: [End; 6] = [
    End::Refuses,
    End::RefusesUnseen,
    End::Keeps,
    End::Fails(DiskFault::Gone),
    End::Fails(DiskFault::TimedOut),
    End::Fails(DiskFault::Errno(Errno(5))),
];

fn media(shards: u32) -> TestDisk {
    let mut disk = TestDisk::formatted(20 << 20);
    let options = FormatOptions { segment_bytes: 1 << 20, force: true };
    format_shares(&mut disk, &options, shards).unwrap();
    disk
}

/// All that an opening does with a disk, as a launch and a reopening do it.
fn open(disk: &mut TestDisk, share: ShareId) -> Result<(), OpenError> {
    let part = find(disk, share)?;
    let mut part = Share::new(disk, part);
    // What it cannot tell is told by the opening.
    let _ = Identities::read(&mut part);
    let options = OpenOptions { queue_depth: 4, ring_bytes: RING, unix_ns: 1, lineage: Lineage(9) };
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
    let io = Io {
        operation: Operation::Read,
        tag: 0,
        disk_offset: DiskOffset::START,
        memory_offset: 0,
        bytes: BLOCK_BYTES,
    };
    let mut disk = lost(&media(1), 1, End::Keeps);
    run(&mut disk, io).unwrap();
    // The second one stays in flight; the third finds it there.
    assert_eq!(run(&mut disk, io), Err(DiskFault::Gone));
    assert_eq!(run(&mut disk, io), Err(DiskFault::Gone));
    assert!(matches!(head(&mut disk), Err(DiskFault::Gone)));
}
