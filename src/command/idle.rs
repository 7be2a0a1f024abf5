//! Waiting for something to do: a command is often beside the appliance and leaves the core to others.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::client::blocking::Client;
use crate::clock::Clock;
use crate::port::AnyPort;
use crate::port::udp::wait_readable;

/// Turns without work before the thread sleeps: what comes at once costs no sleep.
const TURNS: u32 = 50;

/// The longest sleep while answers are due: the client's shortest timers are about as long.
const DUE_NS: u64 = 1_000_000;

/// The longest sleep otherwise: the client tells its position every 50 ms, and a signal is to be seen.
const QUIET_NS: u64 = 20_000_000;

/// How long there was nothing to do.
#[derive(Debug, Default)]
pub(super) struct Idle {
    turns: u32,
}

impl Idle {
    /// After a turn that did so much `work`: sleeps in the kernel when there was none for a while, until a
    /// datagram arrives, `also` is readable, or `until_ns` has come. Over a port without a socket (DPDK) it
    /// returns at once: only polling tells.
    pub(super) fn rest(
        &mut self,
        client: &mut Client<AnyPort>,
        work: usize,
        also: Option<BorrowedFd<'_>>,
        until_ns: Option<u64>,
    ) {
        self.turns = if work > 0 { 0 } else { self.turns + 1 };
        if self.turns < TURNS {
            return;
        }
        self.turns = TURNS;
        let client = client.polled();
        let is_due = client.outstanding() > 0 || !client.is_connected();
        let most_ns = if is_due { DUE_NS } else { QUIET_NS };
        let left_ns = until_ns.map_or(u64::MAX, |ns| ns.saturating_sub(client.clock().now_ns()));
        let most = Duration::from_nanos(most_ns.min(left_ns));
        let Some(socket) = client.port().socket() else { return };
        // What cannot be waited for is polled.
        let _ = match also {
            Some(also) => wait_readable(&[socket, also], most),
            None => wait_readable(&[socket], most),
        };
    }
}
