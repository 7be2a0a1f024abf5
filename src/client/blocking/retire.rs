//! The end of a producer that will not return.

use super::Client;
use crate::clock::Clock;
use crate::port::Port;

/// How long the appliance is told.
const RETIRE_NS: u64 = 1_000_000_000;

impl<P: Port> Client<P> {
    /// Ends the session of a publisher that will not return, and gives the port back: its place among the producers
    /// is free for others. An appliance that does not answer within a second is not waited for.
    pub fn retire(mut self) -> P {
        let end_ns = self.client.clock().now_ns().saturating_add(RETIRE_NS);
        while !self.client.retire() && self.client.clock().now_ns() < end_ns {
            std::thread::yield_now();
        }
        self.close()
    }
}
