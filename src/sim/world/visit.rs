//! Visitors: publishers that register, and are gone before they have published anything.

use super::{SimClient, World};
use crate::client::Publisher;
use crate::clock::Clock;
use crate::sim::oracle::Violation;
use crate::sim::plan::Gear;

/// Visitors at once, at most.
const VISITORS_MAX: usize = 6;

/// One visitor.
pub(super) struct Visiting {
    client: SimClient,
    /// When it is killed.
    until_ns: u64,
}

impl World {
    /// Somebody comes who is gone again soon, some before they have heard anything.
    pub(super) fn visit(&mut self) {
        if self.others.visitors.len() < VISITORS_MAX {
            let client = self.plain_client(Publisher::New);
            let until_ns = self.clock.now_ns() + self.lasting_ns();
            self.others.visitors.push(Visiting { client, until_ns });
            self.server.hits.client.visits += 1;
        }
    }

    pub(super) fn poll_visitors(&mut self) -> Result<(), Violation> {
        let now_ns = self.clock.now_ns();
        let injected = self.injected_with(&Gear::plain(&self.plan));
        let mut index = 0;
        while let Some(visitor) = self.others.visitors.get_mut(index) {
            let polled = visitor.client.poll(&mut |_| {});
            if let Err(error) = &polled {
                injected.allows_end("a visitor", error)?;
            }
            if polled.is_err() || now_ns >= visitor.until_ns {
                drop(self.others.visitors.swap_remove(index).client.abandon());
            } else {
                index += 1;
            }
        }
        Ok(())
    }
}
