//! Producers that will not return, and say so.

use super::World;
use crate::sim::oracle::Journal;

impl World {
    /// A publisher whose messages are all durable begins to tell the server that its producer will not return.
    pub(super) fn begin_to_retire(&mut self) {
        let index = self.random.below(self.publishers.len() as u64);
        let index = usize::try_from(index).expect("few publishers");
        let publisher = &mut self.publishers[index];
        let journal = &self.oracle.journals[publisher.journal];
        let is_done = journal.acked_to == journal.messages.len() as u64;
        let idle = |client: &super::SimClient| client.is_connected() && client.outstanding() == 0;
        if publisher.resumed && is_done && publisher.client.as_ref().is_some_and(idle) {
            publisher.retires = true;
            self.trace.note("retires", index as u64, 0);
        }
    }

    /// The producer is no more; the next one of this publisher is new, and has a journal of its own.
    pub(super) fn begin_anew(&mut self, index: usize) {
        let publisher = &mut self.publishers[index];
        publisher.journal = self.oracle.journals.len();
        (publisher.succeeds, publisher.resumed, publisher.retires) = (false, false, false);
        self.oracle.journals.push(Journal::default());
        self.server.hits.client.retired += 1;
    }
}
