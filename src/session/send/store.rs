//! Messages that wait for their acknowledgement: what they are, and their payloads.

use crate::ids::StreamId;

/// One message on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    /// Where its payload begins, counted over the life of the store.
    start: u64,
    pub(super) len: u32,
    pub(super) crc32c: u32,
    pub(super) stream: u32,
    pub(super) offered_ns: u64,
    pub(super) sent_ns: u64,
}

/// A place for each number of the window, and a ring of payloads, each in one piece.
#[derive(Debug)]
pub(super) struct Store {
    slots: Vec<Slot>,
    bytes: Vec<u8>,
    /// Bytes ever stored, and ever given back.
    stored: u64,
    released: u64,
    /// The oldest number that is not completed, and the next to give out.
    first: u64,
    next: u64,
}

impl Store {
    /// Room for `messages` (a power of two) and `bytes` of payload.
    pub(super) fn new(messages: usize, bytes: usize) -> Self {
        assert!(messages.is_power_of_two(), "found by masking");
        Self {
            slots: vec![Slot::default(); messages],
            bytes: vec![0; bytes],
            stored: 0,
            released: 0,
            first: 1,
            next: 1,
        }
    }

    /// The oldest number that is not completed.
    #[inline]
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The next number to give out.
    #[inline]
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    #[inline]
    pub(super) fn count(&self) -> u64 {
        self.next.saturating_sub(self.first)
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes.len()
    }

    /// Another life has used the numbers below.
    pub(super) fn go_on_at(&mut self, next: u64) {
        (self.first, self.next) = (next, next);
    }

    /// Stores a message under the next number; `None` where there is no room for it now.
    #[inline]
    pub(super) fn put(
        &mut self,
        stream: StreamId,
        payload: &[u8],
        now_ns: u64,
        crc32c: impl FnOnce() -> u32,
    ) -> Option<()> {
        if self.count() == self.slots.len() as u64 {
            return None;
        }
        let start = self.room_for(payload.len())?;
        let stored = start.saturating_add(payload.len() as u64);
        let at = self.position(start);
        self.bytes[at..][..payload.len()].copy_from_slice(payload);
        let len = u32::try_from(payload.len()).expect("at most a datagram");
        let (stream, crc32c, offered_ns) = (stream.0, crc32c(), now_ns);
        *self.slot_mut(self.next) = Slot { start, len, crc32c, stream, offered_ns, sent_ns: 0 };
        self.stored = stored;
        self.next = self.next.saturating_add(1);
        Some(())
    }

    /// Where a payload of this length can be stored in one piece, if it can now.
    #[inline]
    fn room_for(&mut self, len: usize) -> Option<u64> {
        let capacity = self.bytes.len();
        if self.first == self.next {
            // Nothing is stored: where the last one ended is no reason to find no room.
            (self.stored, self.released) = (0, 0);
        }
        let left = capacity.saturating_sub(self.position(self.stored));
        // Payloads stay in one piece: skip to the start of the store where this one does not fit behind.
        let skipped = if len > left { left as u64 } else { 0 };
        let start = self.stored.saturating_add(skipped);
        let used = start.saturating_add(len as u64).saturating_sub(self.released);
        (used <= capacity as u64).then_some(start)
    }

    /// The oldest is completed.
    #[inline]
    pub(super) fn release_first(&mut self) {
        let slot = self.slot(self.first);
        self.released = slot.start.saturating_add(u64::from(slot.len));
        self.first = self.first.saturating_add(1);
    }

    #[inline]
    pub(super) fn slot(&self, seq: u64) -> &Slot {
        &self.slots[index(seq, self.slots.len())]
    }

    #[inline]
    pub(super) fn slot_mut(&mut self, seq: u64) -> &mut Slot {
        let count = self.slots.len();
        &mut self.slots[index(seq, count)]
    }

    #[inline]
    pub(super) fn payload(&self, slot: &Slot) -> &[u8] {
        &self.bytes[self.position(slot.start)..][..slot.len as usize]
    }

    #[inline]
    fn position(&self, offset: u64) -> usize {
        let at = offset.checked_rem(self.bytes.len() as u64).unwrap_or(0);
        usize::try_from(at).expect("below the store's size")
    }
}

#[inline]
fn index(seq: u64, count: usize) -> usize {
    usize::try_from(seq & (count as u64).saturating_sub(1)).expect("below the number of slots")
}
