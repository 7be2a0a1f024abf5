//! The publishers of a run: what they publish, and what they are told of it.

use super::{SimClient, World};
use crate::client::{Event, OfferError, Publisher};
use crate::clock::Clock;
use crate::random::Random;
use crate::sim::allowed::Injected;
use crate::sim::oracle::{Oracle, Violation};
use crate::sim::plan::{Feature, Gear, log_uniform};

/// One publisher.
pub(super) struct Publishing {
    pub(super) client: Option<SimClient>,
    pub(super) journal: usize,
    pub(super) gear: Gear,
    /// The times of its last receipt.
    pub(super) times: (u32, u32),
    /// It had an instance before this one, whose last words may be late.
    pub(super) succeeds: bool,
    /// The client has said what of the journal is durable.
    pub(super) resumed: bool,
    /// When a killed one comes back.
    pub(super) back_ns: u64,
    /// It will not return, and says so: its place is for a new producer.
    pub(super) retires: bool,
}

impl Publishing {
    pub(super) fn new(client: SimClient, journal: usize, gear: Gear) -> Self {
        let client = Some(client);
        Self {
            client,
            journal,
            gear,
            times: (0, 0),
            succeeds: false,
            resumed: false,
            back_ns: 0,
            retires: false,
        }
    }
}

impl World {
    pub(super) fn poll_publisher(&mut self, index: usize, now_ns: u64) -> Result<(), Violation> {
        let publisher = &mut self.publishers[index];
        let (journal, gear) = (publisher.journal, publisher.gear);
        let Some(client) = &mut publisher.client else {
            if now_ns >= publisher.back_ns {
                let who = match self.oracle.journals[journal].producer {
                    Some(producer) => Publisher::Known(producer),
                    None => Publisher::New,
                };
                let client = self.client(who, &gear);
                let publisher = &mut self.publishers[index];
                publisher.client = Some(client);
                (publisher.succeeds, publisher.resumed) = (true, false);
            }
            return Ok(());
        };
        if publisher.retires {
            if client.retire() {
                publisher.client = None;
                self.begin_anew(index);
            }
            return Ok(());
        }
        let polled = client.poll(&mut |_| {});
        while let Some(event) = client.next_event() {
            if let Event::Connected { producer } = event
                && !publisher.resumed
            {
                publisher.resumed = true;
                self.oracle.resumed(journal, producer, client.next_seq() - 1)?;
            }
        }
        let now_client_ns = client.clock().now_ns();
        let granted = self.server.device.borrow().durability();
        while let Some(done) = client.next_completion() {
            let times = (done.receipt.server_ns, done.receipt.device_ns);
            // All messages of a run bear the time of its first.
            let goes_on = std::mem::replace(&mut publisher.times, times) == times;
            let since_ns = if goes_on { u64::MAX } else { now_client_ns - done.offered_ns };
            Oracle::receipt(&done.receipt, granted, since_ns)?;
            self.oracle.acknowledged(journal, done.producer_seq, &done.receipt)?;
        }
        if let Err(error) = polled {
            let who = format!("the publisher of journal {journal}");
            let stragglers = publisher.succeeds;
            let injected = Injected { stragglers, ..self.injected_with(&gear) };
            injected.allows_end(&who, &error)?;
            let publisher = &mut self.publishers[index];
            publisher.client = None;
            publisher.back_ns = now_ns + 5_000_000;
        }
        Ok(())
    }

    /// Publishers publish: what their journal holds beyond what is durable, then something new.
    ///
    /// # Errors
    /// O21 when a message that fits is refused, or one that does not is taken.
    pub(super) fn offer(&mut self) -> Result<(), Violation> {
        for publisher in &mut self.publishers {
            let Some(client) = &mut publisher.client else { continue };
            if !publisher.resumed
                || publisher.retires
                || !self.random.one_of_thousand(self.plan.load.offer)
            {
                continue;
            }
            let count = self.random.below(self.plan.load.burst) + 1;
            let messages = &mut self.oracle.journals[publisher.journal].messages;
            for _ in 0..count {
                let index = usize::try_from(client.next_seq() - 1).expect("few messages");
                let is_new = index == messages.len();
                if is_new {
                    let stream = self.random.below(self.streams.len() as u64);
                    let stream = self.streams[usize::try_from(stream).expect("few streams")];
                    let most = client.message_bytes_max() as u64;
                    let len = if self.plan.dice.is_on(Feature::Size) {
                        length(&mut self.random, most)
                    } else {
                        self.random.below(self.plan.load.payload).min(most)
                    };
                    let len = usize::try_from(len).expect("small");
                    let number = publisher.journal as u64 * 1_000_003 + index as u64;
                    let bytes = number.to_le_bytes();
                    messages.push((stream, bytes.iter().cycle().take(len).copied().collect()));
                }
                let (stream, payload) = &messages[index];
                let (len, most) = (payload.len(), client.message_bytes_max());
                let fits = len <= most;
                let offered = client.offer(*stream, payload);
                if offered.is_err() && is_new {
                    messages.pop();
                }
                match offered {
                    Ok(_) if fits => {}
                    Err(OfferError::TooLarge { .. }) if !fits && is_new => {}
                    Err(OfferError::BackPressure(_) | OfferError::NotConnected) => break,
                    Ok(_) | Err(OfferError::TooLarge { .. } | OfferError::NotAPublisher) => {
                        let what = format!("{len} bytes where {most} is the most: {offered:?}");
                        return Err(Violation { oracle: "O21", what });
                    }
                }
            }
        }
        Ok(())
    }

    /// What killed publishers had published and nobody acknowledged is published again.
    pub(super) fn offer_rest(&mut self) {
        for publisher in &mut self.publishers {
            let Some(client) = publisher.client.as_mut().filter(|_| publisher.resumed) else {
                continue;
            };
            let messages = &self.oracle.journals[publisher.journal].messages;
            loop {
                let index = usize::try_from(client.next_seq() - 1).expect("few messages");
                let Some((stream, payload)) = messages.get(index) else { break };
                if client.offer(*stream, payload).is_err() {
                    break;
                }
            }
        }
    }
}

/// A length: small as often as large, the largest often, and one more than that.
fn length(random: &mut Random, most: u64) -> u64 {
    match random.below(32) {
        0 => most + 1,
        1..4 => most,
        _ => log_uniform(random, 1, most + 1) - 1,
    }
}
