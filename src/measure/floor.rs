//! The floor: what the bare port and the bare disk take, with nothing of the engine in between, at the
//! pace of the run they are compared with.

use std::hint::spin_loop;
use std::net::SocketAddrV4;

use crate::clock::Clock;
use crate::disk::{Disk, DiskFault, Io, Operation, run};
use crate::limits::BLOCK_BYTES;
use crate::metrics::latency::LatencyHistogram;
use crate::port::Port;

use super::Schedule;

/// An echo that takes longer is lost.
const ECHO_TIMEOUT_NS: u64 = 1_000_000_000;

/// How long the other end may take until it answers for the first time.
const START_TIMEOUT_NS: u64 = 20_000_000_000;

/// Sends every datagram back to where it came from, until `stop` says so. What the port has no room
/// for is dropped: a ping is repeated.
pub fn echo<P: Port>(port: &mut P, mut stop: impl FnMut() -> bool) {
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
pub fn echo_turn<P: Port>(port: &mut P, copy: &mut [u8]) {
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

/// Round trips of `bytes`-byte datagrams to an [`echo`] at `server`: `count` of them on a schedule of
/// `rate` a second, one at a time. The first answer may take a while: the other end may be starting.
///
/// # Errors
/// When the other end does not answer; the text says which address.
pub fn port_round_trips<P: Port, C: Clock>(
    port: &mut P,
    clock: &C,
    server: SocketAddrV4,
    bytes: usize,
    (rate, count): (f64, u64),
    histogram: &mut LatencyHistogram,
) -> Result<(), String> {
    let begin = clock.now_ns();
    let mut number = 0;
    while ping(port, clock, server, bytes, number, 2_000_000).is_none() {
        number += 1;
        if clock.now_ns() - begin > START_TIMEOUT_NS {
            return Err(format!("{server} does not echo: is its end of the port up?"));
        }
    }
    let schedule = Schedule::new(clock.now_ns(), Some(rate), 1);
    for index in 0..count {
        let intended = schedule.intended_ns(index).expect("the schedule has a rate");
        while clock.now_ns() < intended {
            port.receive();
            spin_loop();
        }
        number += 1;
        let took = ping(port, clock, server, bytes, number, ECHO_TIMEOUT_NS)
            .ok_or_else(|| format!("{server} stopped echoing"))?;
        histogram.record(took);
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

/// Writes of one block at queue depth 1, one block after the other over the disk, `count` of them on a
/// schedule of `rate` a second. The disk's contents are overwritten.
///
/// # Errors
/// What the device said.
pub fn disk_writes<D: Disk, C: Clock>(
    disk: &mut D,
    clock: &C,
    (rate, count): (f64, u64),
    histogram: &mut LatencyHistogram,
) -> Result<(), DiskFault> {
    let blocks = disk.info().bytes / BLOCK_BYTES as u64;
    disk.memory_mut().bytes_mut(0..BLOCK_BYTES).fill(0x5a);
    let schedule = Schedule::new(clock.now_ns(), Some(rate), 1);
    for index in 0..count {
        let intended = schedule.intended_ns(index).expect("the schedule has a rate");
        while clock.now_ns() < intended {
            spin_loop();
        }
        let start = clock.now_ns();
        let disk_offset = index % blocks * BLOCK_BYTES as u64;
        let operation = Operation::Write;
        run(disk, Io { operation, tag: 0, disk_offset, memory_offset: 0, bytes: BLOCK_BYTES })?;
        histogram.record(clock.now_ns() - start);
    }
    Ok(())
}
