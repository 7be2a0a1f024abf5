//! The floor: what the bare port and the bare disk take, with nothing of the engine in between, at the
//! pace of the run they are compared with.

use std::hint::spin_loop;
use std::net::SocketAddrV4;

use crate::clock::Clock;
use crate::disk::{Disk, DiskFault, Io, Operation, run};
use crate::limits::BLOCK_BYTES;
use crate::metrics::latency::LatencyHistogram;
use crate::port::Port;
use crate::position::DiskOffset;

use super::Schedule;

/// An echo that takes longer is lost, and asked for again.
const ECHO_TIMEOUT_NS: u64 = 1_000_000_000;

/// How long the other end may take until it answers, be it for the first time: on a busy machine it may get no core for
/// seconds.
const PATIENCE_NS: u64 = 20_000_000_000;

/// Sends every datagram back to where it came from, until `stop` says so. What the port has no room
/// for is dropped: a ping is repeated.
pub(crate) fn echo<P: Port>(port: &mut P, mut stop: impl FnMut() -> bool) {
    let mut copy = vec![0; port.datagram_bytes()];
    let mut turns = 0u32;
    loop {
        echo_turn(port, &mut copy);
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(4096) && stop() {
            return;
        }
    }
}

/// One turn of [`echo`]; `copy` has room for a datagram.
pub(crate) fn echo_turn<P: Port>(port: &mut P, copy: &mut [u8]) {
    for index in 0..port.receive() {
        let (peer, bytes) = port.datagram(index);
        let len = bytes.len();
        copy[..len].copy_from_slice(bytes);
        if let Some(room) = port.reserve(peer) {
            room[..len].copy_from_slice(&copy[..len]);
            port.commit(len);
        }
    }
    port.flush();
}

/// How fast a floor is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Operations a second.
    pub rate: f64,
    /// Operations in all.
    pub count: u64,
}

/// Round trips of `bytes`-byte datagrams to an [`echo`] at `server`, one at a time. The first answer may take a while: the other end may be starting.
///
/// # Errors
/// When the other end does not answer; the text says which address.
pub(crate) fn port_round_trips<P: Port, C: Clock>(
    port: &mut P,
    clock: &C,
    server: SocketAddrV4,
    bytes: usize,
    pace: Pace,
    histogram: &mut LatencyHistogram,
) -> Result<(), String> {
    let begin = clock.now_ns();
    let mut number = 0;
    while ping(port, clock, server, bytes, number, 2_000_000).is_none() {
        number += 1;
        if clock.now_ns() - begin > PATIENCE_NS {
            return Err(format!("{server} does not echo: is its end of the port up?"));
        }
    }
    let schedule = Schedule::new(clock.now_ns(), Some(pace.rate), 1);
    for index in 0..pace.count {
        let intended = schedule.intended_ns(index).expect("the schedule has a rate");
        while clock.now_ns() < intended {
            port.receive();
            spin_loop();
        }
        let (begin, mut took) = (clock.now_ns(), None);
        while took.is_none() {
            let waited_ns = clock.now_ns() - begin;
            if waited_ns > PATIENCE_NS {
                return Err(format!("{server} stopped echoing"));
            }
            number += 1;
            let echo = ping(port, clock, server, bytes, number, ECHO_TIMEOUT_NS);
            took = echo.map(|echo_ns| waited_ns + echo_ns);
        }
        histogram.record(took.expect("it came"));
    }
    Ok(())
}

fn ping<P: Port, C: Clock>(
    port: &mut P,
    clock: &C,
    server: SocketAddrV4,
    bytes: usize,
    number: u64,
    timeout_ns: u64,
) -> Option<u64> {
    let start = clock.now_ns();
    let bytes = bytes.clamp(8, port.datagram_bytes());
    let peer = loop {
        if let Some(peer) = port.resolve(server) {
            break peer;
        }
        port.receive();
        port.flush();
        if clock.now_ns() - start > timeout_ns {
            return None;
        }
    };
    let sent = clock.now_ns();
    let room = port.reserve(peer)?;
    room[..bytes].fill(0);
    room[..8].copy_from_slice(&number.to_le_bytes());
    port.commit(bytes);
    loop {
        port.flush();
        for index in 0..port.receive() {
            let (_, answer) = port.datagram(index);
            if answer.len() == bytes && answer[..8] == number.to_le_bytes() {
                return Some(clock.now_ns() - sent);
            }
        }
        if clock.now_ns() - sent > timeout_ns {
            return None;
        }
    }
}

/// Writes of one block at queue depth 1, one block after the other over the disk, whose contents are overwritten.
///
/// # Errors
/// What the device said.
pub(crate) fn disk_writes<D: Disk, C: Clock>(
    disk: &mut D,
    clock: &C,
    pace: Pace,
    histogram: &mut LatencyHistogram,
) -> Result<(), DiskFault> {
    let blocks = disk.info().bytes / BLOCK_BYTES as u64;
    disk.memory_mut().bytes_mut(0..BLOCK_BYTES).fill(0x5a);
    let schedule = Schedule::new(clock.now_ns(), Some(pace.rate), 1);
    for index in 0..pace.count {
        let intended = schedule.intended_ns(index).expect("the schedule has a rate");
        while clock.now_ns() < intended {
            spin_loop();
        }
        let start = clock.now_ns();
        let disk_offset = DiskOffset::new(index % blocks * BLOCK_BYTES as u64);
        let operation = Operation::Write;
        run(disk, Io { operation, tag: 0, disk_offset, memory_offset: 0, bytes: BLOCK_BYTES })?;
        histogram.record(clock.now_ns() - start);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::clock::HostClock;
    use crate::port::udp::UdpPort;

    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "the other end is a thread with a socket of its own"
    )]
    fn an_echo_that_is_lost_is_asked_for_again() {
        let other = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let std::net::SocketAddr::V4(address) = other.local_addr().expect("bound") else {
            panic!("it is of IPv4")
        };
        let pause = std::time::Duration::from_millis(50);
        other.set_read_timeout(Some(pause)).expect("a timeout");
        let over = std::sync::Arc::new(AtomicBool::new(false));
        let told = std::sync::Arc::clone(&over);
        let echo = std::thread::spawn(move || {
            let (mut bytes, mut loses) = ([0; 2048], true);
            while !told.load(Ordering::Relaxed) {
                let Ok((len, from)) = other.recv_from(&mut bytes) else { continue };
                // Every other one is lost, so that one of those that are measured is.
                loses = !loses;
                if !loses {
                    other.send_to(&bytes[..len], from).expect("sent");
                }
            }
        });
        let any = "127.0.0.1:0".parse().expect("an address");
        let mut port = UdpPort::open(any, 1472).expect("a port");
        let (clock, mut histogram) = (HostClock::new(), LatencyHistogram::new());
        port_round_trips(
            &mut port,
            &clock,
            address,
            128,
            Pace { rate: 1e6, count: 4 },
            &mut histogram,
        )
        .expect("all came");
        assert_eq!(histogram.count(), 4);
        assert!(histogram.quantile(1.0) > ECHO_TIMEOUT_NS / 2, "what was lost counts as it took");
        over.store(true, Ordering::Relaxed);
        echo.join().expect("it ended");
    }
}
