//! The end of a producer that will not return.

use zerocopy::IntoBytes;

use super::Client;
use super::transmit::CLOSE;
use crate::clock::Clock;
use crate::port::Port;
use crate::wire::Kind;
use crate::wire::control::{CLOSE_FORGET, Close};
use crate::wire::datagram::RESET_CAUSE_BYTES;

impl<P: Port, C: Clock> Client<P, C> {
    /// Ends the session and its producer, which will not return, when everything it published is durable: its place
    /// is free for another at once. `true` when the server has said so, or there is no session; ask again until
    /// then, or give up: a place that is not given back so is kept for a week.
    pub fn retire(&mut self) -> bool {
        let Self { port: Some(port), link } = self else { return true };
        let outstanding = link.publishing.sender().outstanding();
        if !link.session.is_open() || !link.publishing.publishes() || outstanding > 0 {
            return true;
        }
        let received = port.receive();
        link.now_ns = link.clock.now_ns();
        for index in 0..received {
            let (peer, bytes) = port.datagram(index);
            link.on_datagram(peer, bytes, &mut |_| {});
        }
        if link.publishing.is_over() {
            return true;
        }
        if link.publishing.retire(link.now_ns) {
            let body = Close { flags: CLOSE_FORGET.into(), ..CLOSE };
            link.send(port, |writer| {
                let _ = writer.frame(Kind::Close, body.as_bytes(), &[]);
                // Long enough to be answered where the session is gone: that is how we learn it.
                writer.pad_to(RESET_CAUSE_BYTES);
            });
            port.flush();
        }
        false
    }
}
