//! The end of a producer that will not return.

use zerocopy::IntoBytes;

use super::{Client, Phase};
use crate::client::Publisher;
use crate::clock::Clock;
use crate::fired::Timer;
use crate::port::Port;
use crate::wire::control::Retire;
use crate::wire::frame::Kind;

/// After so long without an answer, the server is told again.
const RETIRE_NS: u64 = 50_000_000;

impl<P: Port, C: Clock> Client<P, C> {
    /// Ends the session and its producer, which will not return, when everything it published is durable: its place
    /// is free for another at once. `true` when the server has said so, or there is no session; ask again until
    /// then, or give up: a place that is not given back so is kept for a week.
    pub fn retire(&mut self) -> bool {
        let Self { port: Some(port), link } = self else { return true };
        let publishes = link.options.publisher != Publisher::No;
        if link.phase != Phase::Open || !publishes || link.sender.outstanding() > 0 {
            return true;
        }
        let received = port.receive();
        link.now_ns = link.clock.now_ns();
        for index in 0..received {
            let (peer, bytes) = port.datagram(index);
            link.on_datagram(peer, bytes, &mut |_| {});
        }
        if link.is_over {
            return true;
        }
        if link.retired_ns == 0 || link.now_ns.saturating_sub(link.retired_ns) >= RETIRE_NS {
            if link.retired_ns > 0 {
                Timer::RetireAgain.fired();
            }
            link.retired_ns = link.now_ns;
            let body = Retire {
                producer_id: link.producer.0.0.into(),
                durable_to: link.sender.next_seq().saturating_sub(1).into(),
            };
            link.send(port, |writer| {
                let _ = writer.frame(Kind::Retire, body.as_bytes(), &[]);
            });
            port.flush();
        }
        false
    }
}
