//! The end of a run: no more faults, everything arrives, and what the disk holds is looked at whole.

use super::World;
use crate::client::{Event, Publisher, StartFrom};
use crate::clock::Clock;
use crate::ids::Epoch;
use crate::port::memory::Faults;
use crate::shard::Condition;
use crate::sim::End;
use crate::sim::disk::Crash;
use crate::sim::oracle::{Oracle, Violation};
use crate::sim::plan::Gear;

/// How long after the last fault everything has to be acknowledged and consumed.
const SETTLE_NS: u64 = 60_000_000_000;

/// So much longer for each message that is too large for its consumer, which then asks for the next.
const TOO_LARGE_NS: u64 = 100_000_000;

impl World {
    /// Faults have ended: everything published becomes durable and is consumed, and is all there.
    pub(super) fn settle(&mut self) -> Result<End, Violation> {
        self.trace.note("faults end", 0, 0);
        self.phase.settles = true;
        let publishing =
            self.publishers.iter_mut().filter_map(|publisher| publisher.client.as_mut());
        let consuming = self.consumers.iter_mut().map(|consumer| &mut consumer.client);
        publishing.chain(consuming).for_each(|client| client.set_dead_after_ns(u64::MAX));
        self.net.set_faults(Faults { delay_ns: self.plan.net.delay_ns, ..Faults::default() });
        for (address, _) in std::mem::take(&mut self.outage.cut) {
            self.net.set_cut(address, false);
        }
        self.server.heal();
        self.others.overtaken.clear();
        self.others.visitors.clear();
        self.others.operator = None;
        self.outage.paused_until = 0;
        self.outage.down_until = 0;
        for publisher in &mut self.publishers {
            publisher.back_ns = 0;
        }
        if self.random.one_of_thousand(500) {
            self.server.crash(Crash::PowerCut);
        }
        let mut end = End::Whole;
        let mut trimmed_in = None;
        let mut from_ns = self.clock.now_ns();
        let too_large = self.server.hits.client.too_large;
        loop {
            self.pass_time(from_ns)?;
            self.turn()?;
            if self.phase.halted || self.consumers.iter().any(|consumer| consumer.lossy) {
                return Ok(End::Halted);
            }
            self.offer_rest();
            let full = self.server.shard.as_ref().is_some_and(|s| s.condition() == Condition::Full);
            let (unacknowledged, unconsumed) = (self.unacknowledged(), self.unconsumed());
            if self.server.shard.is_some() && unacknowledged == 0 && unconsumed == 0 {
                self.check_all()?;
                return Ok(end);
            }
            if full && end == End::Whole && unconsumed == 0 {
                // Full is no end: what was acknowledged is read, all of it is trimmed, and the rest is accepted.
                end = End::Full;
                self.check_full()?;
                if self.phase.halted || self.consumers.iter().any(|consumer| consumer.lossy) {
                    return Ok(End::Halted);
                }
                from_ns = self.clock.now_ns();
                trimmed_in = self.opening();
            } else if full && end == End::Full && trimmed_in != self.opening() {
                // Found damage meanwhile, refused to trim, and was restarted: its operator asks again.
                self.trim_all();
                trimmed_in = self.opening();
            }
            let skipped = self.server.hits.client.too_large - too_large;
            if self.clock.now_ns() - from_ns > SETTLE_NS + skipped * TOO_LARGE_NS {
                // All was trimmed where the log was full: then it has to take messages.
                let oracle = if end == End::Full { "O16" } else { "O7" };
                let serving = u64::from(!self.server.serves());
                Oracle::settled(oracle, "servers that do not serve", serving)?;
                Oracle::settled(oracle, "messages not acknowledged", unacknowledged)?;
                Oracle::settled(oracle, "messages not consumed", unconsumed)?;
            }
        }
    }

    /// Small steps while much goes on; the longer it takes, the larger, since then timers are waited for.
    fn pass_time(&mut self, from_ns: u64) -> Result<(), Violation> {
        let quiet = self.net.is_quiet_for(1_000_000) && self.server.device.borrow().is_quiet();
        let step_ns = match self.clock.now_ns() - from_ns {
            0..1_000_000_000 if !quiet => 20_000,
            0..5_000_000_000 => 500_000,
            _ => 5_000_000,
        };
        self.clock.advance_ns(step_ns);
        // A real server turns thousands of times meanwhile.
        for _ in 0..step_ns / 500_000 {
            self.server.turn(&mut self.oracle)?;
        }
        Ok(())
    }

    /// Which opening of the log runs.
    fn opening(&self) -> Option<Epoch> {
        self.server.shard.as_ref().map(|shard| shard.log().epoch())
    }

    fn unacknowledged(&self) -> u64 {
        let journals = self.oracle.journals.iter();
        journals.map(|journal| journal.messages.len() as u64 - journal.acked_to).sum()
    }

    fn unconsumed(&self) -> u64 {
        let Some(shard) = &self.server.shard else { return 1 };
        let mut count = 0;
        for stream in shard.log().streams() {
            for consumer in &self.consumers {
                let next = consumer.expected.get(&stream.id).copied().unwrap_or(1);
                count += stream.durable_next.saturating_sub(next.max(stream.first_sequence));
            }
        }
        count
    }

    /// The log is full: reads what there is, trims all of it, and lets the publishers come back.
    fn check_full(&mut self) -> Result<(), Violation> {
        self.check_all()?;
        self.trim_all();
        let now_ns = self.clock.now_ns();
        for publisher in &mut self.publishers {
            publisher.back_ns = now_ns;
        }
        Ok(())
    }

    /// A last consumer reads the whole log, after a last restart.
    fn check_all(&mut self) -> Result<(), Violation> {
        if self.random.one_of_thousand(500) {
            self.server.stop(&mut self.oracle)?;
        } else {
            self.server.crash(Crash::PowerCut);
        }
        self.start_server()?;
        for index in 0..self.publishers.len() {
            if self.publishers[index].retires {
                self.begin_anew(index);
            }
            let publisher = &mut self.publishers[index];
            (publisher.client, publisher.back_ns) = (None, u64::MAX);
        }
        let reader = self.consumer(Gear::plain(&self.plan));
        self.consumers = vec![reader];
        let from_ns = self.clock.now_ns();
        while self.server.shard.is_none() || self.unconsumed() > 0 {
            self.pass_time(from_ns)?;
            self.turn()?;
            if self.phase.halted || self.consumers[0].lossy {
                return Ok(());
            }
            let late = u64::from(self.clock.now_ns() - from_ns > SETTLE_NS);
            Oracle::settled("O7", "readers of the whole log not done", late)?;
        }
        self.oracle.finished(&self.consumers[0].rows)?;
        self.seek()
    }

    /// Of a time that a message bears, a subscription from it begins with the first that is not older.
    fn seek(&mut self) -> Result<(), Violation> {
        let stamps: Vec<_> = std::mem::take(&mut self.consumers[0].stamps).into_iter().collect();
        if stamps.is_empty() {
            return Ok(());
        }
        let (stream, stamps) = &stamps[self.below(stamps.len())];
        let (_, sought_ns) = stamps[self.below(stamps.len())];
        let wanted = stamps.iter().find(|(_, stamp_ns)| *stamp_ns >= sought_ns);
        let wanted = wanted.map_or(0, |(sequence, _)| *sequence);
        let mut seeker = self.plain_client(Publisher::No);
        seeker.subscribe(*stream, StartFrom::Time(sought_ns), 4);
        let from_ns = self.clock.now_ns();
        loop {
            self.pass_time(from_ns)?;
            self.turn()?;
            let polled = seeker.poll(&mut |_| {});
            if let Err(error) = polled {
                self.injected().allows_end("a consumer from a time", &error)?;
                return Ok(());
            }
            while let Some(event) = seeker.next_event() {
                if let Event::Subscribed { start, .. } = event {
                    return Oracle::sought(*stream, sought_ns, wanted, start);
                }
                if let Event::Refused { code, .. } = event {
                    return self.injected().allows_refusal("a consumer from a time", code);
                }
            }
            if self.phase.halted || self.consumers[0].lossy {
                return Ok(());
            }
            let late = u64::from(self.clock.now_ns() - from_ns > SETTLE_NS);
            Oracle::settled("O26", "subscriptions from a time that do not stand", late)?;
        }
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.random.below(end as u64)).expect("below a usize")
    }
}
