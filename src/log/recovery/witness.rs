//! What a log that was open has to hold when its disk comes back.

use super::{OpenError, Read};
use crate::disk::Disk;
use crate::limits::BLOCK_BYTES;
use crate::log::scan::walk;
use crate::log::segment::End;
use crate::position::BatchSeq;

/// What is remembered of a log whose disk is lost. The chain value is a hash over all batches up to that one, so
/// that another history cannot be taken for this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Identity of this copy of the log.
    pub leg: [u8; 16],
    /// The epoch it was open under.
    pub epoch: u64,
    /// The last batch with records that was durable.
    pub batch_seq: BatchSeq,
    /// Chain value after it.
    pub chain: u64,
}

impl Witness {
    /// Whether what was read is the log that was lost, with all that was durable.
    pub(super) fn check(&self, disk: &mut dyn Disk, read: &Read) -> Result<(), OpenError> {
        let name = disk.info().name.clone();
        let differs = |why: String| Err(OpenError::NotTheSame { name: name.clone(), why });
        if read.superblock.leg != self.leg {
            return differs("it holds another log".into());
        }
        let (found, wanted) = (read.superblock.last_epoch.get(), self.epoch);
        if found < wanted {
            return differs(format!("it is a copy from epoch {found}, and this is {wanted}"));
        }
        if self.batch_seq == BatchSeq::NONE {
            return Ok(());
        }
        let wanted = self.batch_seq;
        let end_of = |read: &Read, at: usize| read.found[at].closing.as_ref().map(|(end, _)| *end);
        let last = read.found.iter().rposition(|found| found.header.base().batch_seq < wanted);
        let end = last.and_then(|at| end_of(read, at));
        let (Some(at), Some(end)) = (last, end) else {
            return differs(format!("batch {wanted}, which was durable, is not there"));
        };
        if end.base.batch_seq < wanted {
            return differs(format!(
                "it is an older copy: it ends with batch {}, and batch {wanted} was durable and acknowledged",
                end.base.batch_seq
            ));
        }
        let mut chain = (end.base.batch_seq == wanted).then_some(end.base.chain);
        if chain.is_none() {
            let header = &read.found[at].header;
            let start = End { off: BLOCK_BYTES as u64, base: header.base() };
            walk(disk, &read.superblock, header, start, &mut |batch| {
                if batch.batch_seq() == wanted {
                    chain = Some(batch.chain_after());
                }
            })
            .map_err(|fault| OpenError::Device { name: name.clone(), fault })?;
        }
        if chain == Some(self.chain) {
            return Ok(());
        }
        differs(format!("batch {wanted} is not the one that was durable"))
    }
}
