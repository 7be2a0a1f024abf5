//! The consumers of a run: what they ask for, and what they are told.

use std::collections::BTreeMap;

use super::{SimClient, World};
use crate::client::{Event, Publisher, StartFrom};
use crate::ids::StreamId;
use crate::seal::SEAL_BYTES;
use crate::sim::oracle::{Oracle, Row, Violation};
use crate::sim::plan::Gear;
use crate::wire::control::Sizes;

/// One consumer.
pub(super) struct Consuming {
    pub(super) client: SimClient,
    pub(super) gear: Gear,
    /// Per stream, the next sequence.
    pub(super) expected: BTreeMap<StreamId, u64>,
    pub(super) rows: BTreeMap<StreamId, Vec<Row>>,
    /// Per stream, what came: its sequence, and when the server had received it.
    pub(super) stamps: BTreeMap<StreamId, Vec<(u64, u64)>>,
    pub(super) subscribed: bool,
    pub(super) lossy: bool,
}

impl Consuming {
    pub(super) fn new(client: SimClient, gear: Gear, streams: &[StreamId]) -> Self {
        let expected = streams.iter().map(|stream| (*stream, 1)).collect();
        let (rows, stamps) = (BTreeMap::new(), BTreeMap::new());
        Self { client, gear, expected, rows, stamps, subscribed: false, lossy: false }
    }

    fn window(&self) -> u32 {
        u32::try_from(self.gear.window_messages).expect("a small window")
    }

    /// Asks for all streams, from where it is.
    fn subscribe(&mut self) {
        let window = self.window();
        for (stream, next) in &self.expected {
            let from = if *next == 1 { StartFrom::Start } else { StartFrom::Sequence(*next) };
            self.client.subscribe(*stream, from, window);
        }
        self.subscribed = true;
    }

    /// What it wanted is not there for it: the next that comes is `first`.
    fn goes_on_at(&mut self, stream: StreamId, first: u64) {
        let window = self.window();
        let next = self.expected.get_mut(&stream).expect("a stream it subscribed to");
        *next = first.max(*next);
        self.client.subscribe(stream, StartFrom::Sequence(first), window);
    }

    /// Takes what has come.
    ///
    /// # Errors
    /// A promise broken by it.
    fn poll(
        &mut self,
        oracle: &mut Oracle,
    ) -> Result<Result<usize, crate::client::ClientError>, Violation> {
        let (expected, rows) = (&mut self.expected, &mut self.rows);
        let stamps = &mut self.stamps;
        let mut broken = Ok(());
        let polled = self.client.poll(&mut |record| {
            let stream = StreamId(record.header.stream.get());
            let next = expected.get_mut(&stream).expect("a stream it subscribed to");
            let sequence = record.header.sequence.get();
            if *next == 1 && sequence > 1 && broken.is_ok() {
                // It asked for the start, wherever that is.
                broken = oracle.told_begin(stream, sequence);
                *next = sequence;
            }
            if broken.is_ok() {
                broken = oracle.delivered(stream, *next, record);
            }
            *next += 1;
            let row = (record.header.producer_id.get(), record.header.producer_seq.get());
            rows.entry(stream).or_default().push(row);
            stamps.entry(stream).or_default().push((sequence, record.header.received_ns.get()));
        });
        broken.map(|()| polled)
    }
}

impl World {
    pub(super) fn poll_consumer(&mut self, index: usize) -> Result<(), Violation> {
        let consumer = &mut self.consumers[index];
        if !consumer.subscribed {
            consumer.subscribe();
        }
        let polled = consumer.poll(&mut self.oracle)?;
        let gear = consumer.gear;
        if let Err(error) = &polled {
            self.injected_with(&gear).allows_end("a consumer", error)?;
        }
        let mut again = polled.is_err();
        while let Some(event) = self.consumers[index].client.next_event() {
            again |= self.on_consumer_event(index, &event)?;
        }
        if again {
            let client = self.client(Publisher::No, &gear);
            let consumer = &mut self.consumers[index];
            consumer.client = client;
            consumer.subscribed = false;
        }
        Ok(())
    }

    /// Takes what a consumer is told; whether it begins again.
    fn on_consumer_event(&mut self, index: usize, event: &Event) -> Result<bool, Violation> {
        let injected = self.injected();
        let consumer = &mut self.consumers[index];
        match *event {
            Event::DataLoss { stream, first, .. } if self.plan.may_lose() => {
                self.trace.note("data loss", u64::from(stream.0), first);
                consumer.lossy = true;
                return Ok(true);
            }
            Event::DataLoss { stream, first, .. } => {
                let what = format!("stream {stream}: {first} is lost on a faultless disk");
                return Err(Violation { oracle: "O1", what });
            }
            Event::Refused { code, .. } => {
                injected.allows_refusal("a consumer", code)?;
                return Ok(true);
            }
            Event::Trimmed { stream, log_start } => {
                self.server.hits.client.trimmed += 1;
                self.oracle.told_begin(stream, log_start)?;
                consumer.goes_on_at(stream, log_start);
            }
            Event::TooLarge { stream, sequence, needs, .. } => {
                self.server.hits.client.too_large += 1;
                let server = self.plan.datagram_bytes;
                let takes = consumer.gear.datagram_bytes.min(server);
                // What the seal takes is the same of each.
                let seal_bytes = if self.plan.sealed > 0 { SEAL_BYTES } else { 0 };
                let [needs, takes, server] = [needs, takes, server].map(|bytes| bytes - seal_bytes);
                self.oracle.too_large(stream, sequence, Sizes { needs, takes }, server)?;
                consumer.goes_on_at(stream, sequence + 1);
            }
            Event::Connected { .. }
            | Event::Subscribed { .. }
            | Event::Stream { .. }
            | Event::ListEnd { .. }
            | Event::Redirected { .. } => {}
        }
        Ok(false)
    }
}
