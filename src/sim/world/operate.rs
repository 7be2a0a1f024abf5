//! The operator of a run: trims streams, and looks at what comes of it.

use super::World;
use crate::client::{Event, Publisher, Request, StartFrom};
use crate::clock::Clock;
use crate::ids::StreamId;
use crate::sim::oracle::{Oracle, Violation};
use crate::sim::plan::log_uniform;

/// So many streams it looks at, at most: fewer than a session may subscribe to where limits are not small.
const LOOKS_AT: usize = 8;

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
        if self.others.operator.is_none() {
            let gear = self.others.operator_gear;
            self.others.operator = Some(self.client(Publisher::No, &gear));
        }
        self.oracle.trim_asked(id, first);
        self.server.hits.client.trims += 1;
        self.trace.note("trim", u64::from(id.0), first);
        if let Some(operator) = &mut self.others.operator {
            operator.request(Request::TrimStream(id, first));
            operator.request(Request::DescribeStream("stream-0".to_owned()));
            operator.request(Request::ListStreams);
            operator
                .request(Request::CreateStream(format!("more-{}", self.server.hits.client.trims)));
        }
        self.look();
    }

    /// The operator looks at a stream: from its start, from its end, or from a moment ago.
    fn look(&mut self) {
        let Some(shard) = &self.server.shard else { return };
        let streams = shard.log().streams().map(|facts| facts.id);
        let streams: Vec<StreamId> = streams.take(LOOKS_AT).collect();
        let nth = usize::try_from(self.random.below(streams.len() as u64)).expect("few streams");
        let from = match self.random.below(3) {
            0 => StartFrom::Start,
            1 => StartFrom::End,
            _ => {
                let ago_ns = log_uniform(&mut self.random, 1_000, 10_000_000_000);
                StartFrom::Time(self.clock.unix_ns().saturating_sub(ago_ns))
            }
        };
        if let Some(operator) = &mut self.others.operator {
            operator.subscribe(streams[nth], from, 16);
        }
    }

    pub(super) fn poll_operator(&mut self) -> Result<(), Violation> {
        let injected = self.injected_with(&self.others.operator_gear);
        let Some(operator) = &mut self.others.operator else { return Ok(()) };
        let oracle = &mut self.oracle;
        let mut broken = Ok(());
        let polled = operator.poll(&mut |record| {
            let stream = StreamId(record.header.stream.get());
            if broken.is_ok() {
                broken = oracle.delivered(stream, record.header.sequence.get(), record);
            }
        });
        broken?;
        while let Some(event) = operator.next_event() {
            match event {
                Event::Stream { info, .. } => {
                    self.oracle.told_begin(info.id, info.log_start)?;
                    self.oracle.told_stream(info.id, &info.name);
                }
                Event::Subscribed { stream, start, durable_next } => {
                    Oracle::begins_by(stream, start, durable_next)?;
                }
                Event::Refused { code, .. } => {
                    injected.allows_refusal("the operator", code)?;
                }
                Event::Connected { .. }
                | Event::ListEnd { .. }
                | Event::Redirected { .. }
                | Event::Trimmed { .. }
                | Event::TooLarge { .. }
                | Event::DataLoss { .. } => {}
            }
        }
        if let Err(error) = polled {
            injected.allows_end("the operator", &error)?;
            self.others.operator = None;
        }
        Ok(())
    }
}
