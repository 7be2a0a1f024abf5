//! The operator of a run: trims streams, and looks at what comes of it.

use super::World;
use crate::client::{Event, Publisher, Request};
use crate::ids::StreamId;
use crate::sim::oracle::Violation;

impl World {
    /// Trims a stream somewhere up to its durable end.
    pub(super) fn trim(&mut self) {
        let Some(shard) = &self.server.shard else { return };
        let streams = shard.log().streams().count() as u64;
        if streams == 0 {
            return;
        }
        let nth = usize::try_from(self.random.below(streams)).expect("few streams");
        let facts = shard.log().streams().nth(nth).expect("counted above");
        let (id, first, next) = (facts.id, facts.first_sequence, facts.durable_next);
        let first = match self.random.below(4) {
            0 => next,
            _ => first + self.random.below(next - first + 1),
        };
        self.ask_to_trim(id, first);
    }

    /// Trims all streams up to their durable ends.
    pub(super) fn trim_all(&mut self) {
        let Some(shard) = &self.server.shard else { return };
        let ends: Vec<_> =
            shard.log().streams().map(|facts| (facts.id, facts.durable_next)).collect();
        for (id, durable_next) in ends {
            self.ask_to_trim(id, durable_next);
        }
    }

    fn ask_to_trim(&mut self, id: StreamId, first: u64) {
        if self.operator.is_none() {
            self.operator = Some(self.client(Publisher::No));
        }
        self.oracle.trim_asked(id, first);
        self.server.hits.trims += 1;
        self.trace.note("trim", u64::from(id.0), first);
        if let Some(operator) = &mut self.operator {
            operator.request(Request::TrimStream(id, first));
            operator.request(Request::DescribeStream("stream-0".to_owned()));
            operator.request(Request::ListStreams);
            operator.request(Request::CreateStream(format!("more-{}", self.server.hits.trims)));
        }
    }

    pub(super) fn poll_operator(&mut self) -> Result<(), Violation> {
        let injected = self.injected();
        let Some(operator) = &mut self.operator else { return Ok(()) };
        let polled = operator.poll(&mut |_| {});
        while let Some(event) = operator.next_event() {
            match event {
                Event::Stream { info, .. } => self.oracle.told_begin(info.id, info.log_start)?,
                Event::Refused { code, .. } => {
                    injected.allows_refusal("the operator", code)?;
                }
                Event::Connected { .. }
                | Event::Subscribed { .. }
                | Event::ListEnd { .. }
                | Event::Redirected { .. }
                | Event::Trimmed { .. }
                | Event::TooLarge { .. }
                | Event::DataLoss { .. } => {}
            }
        }
        if let Err(error) = polled {
            injected.allows_end("the operator", &error)?;
            self.operator = None;
        }
        Ok(())
    }
}
