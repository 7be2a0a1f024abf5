//! A plausible order flow of our own making, as ITCH 5.0 messages.
//!
//! Orders are added around a wandering price, executed, cancelled, replaced and deleted; each message
//! about an order names one that is live and takes no more shares than it has. The flow is a function
//! of its seed and count alone. Symbols, firms and prices are invented.
#![allow(clippy::big_endian_bytes, reason = "ITCH is big-endian")]

use crate::random::Random;

/// Invented symbols; the locate code of each is its place, from 1.
const SYMBOLS: [&[u8; 8]; 8] = [
    b"LANEA   ",
    b"LANEB   ",
    b"LANEC   ",
    b"LANED   ",
    b"LANEE   ",
    b"LANEF   ",
    b"LANEG   ",
    b"LANEH   ",
];

/// Invented firms, for orders that say whose they are.
const FIRMS: [&[u8; 4]; 4] = [b"BUSA", b"BUSB", b"BUSC", b"BUSD"];

/// Live orders at most: above, orders are deleted before new ones are added.
const LIVE_MAX: usize = 4096;

/// Live orders to begin with, before most messages may be about one of them.
const LIVE_MIN: usize = 32;

/// Messages before the market opens: three events, and what is traded.
const OPENING: u64 = 3 + 2 * SYMBOLS.len() as u64;

/// Messages after it closes.
const CLOSING: u64 = 3;

const SECOND_NS: u64 = 1_000_000_000;
const START_NS: u64 = 3 * 3600 * SECOND_NS;
const OPEN_NS: u64 = 34_200 * SECOND_NS;
const CLOSE_NS: u64 = 57_600 * SECOND_NS;

/// Time between two messages in market hours, about, unless more must fit into the day.
const GAP_NS: u64 = 250_000;

/// A cent: prices have four decimals.
const TICK: u32 = 100;

/// A round lot.
const LOT: u32 = 100;

/// 0 half of the time, 1 a quarter of the time, and so on up to `most`.
fn halving(random: &mut Random, most: u32) -> u32 {
    random.next_u64().trailing_zeros().min(most)
}

/// From 0 to `bound` - 1.
fn below(random: &mut Random, bound: u32) -> u32 {
    u32::try_from(random.below(u64::from(bound))).expect("below a u32")
}

/// A live order.
#[derive(Clone, Copy, Debug)]
struct Order {
    reference: u64,
    symbol: usize,
    side: u8,
    shares: u32,
    price: u32,
}

/// The flow, message by message.
#[derive(Debug)]
pub(crate) struct OrderFlow {
    random: Random,
    count: u64,
    written: u64,
    gap_ns: u64,
    now_ns: u64,
    live: Vec<Order>,
    /// Middle of the book of each symbol.
    middle: [u32; SYMBOLS.len()],
    reference: u64,
    match_number: u64,
    message: Vec<u8>,
}

impl OrderFlow {
    /// The flow of `count` messages that `seed` names.
    #[must_use]
    pub(crate) fn new(count: u64, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let middle = [(); SYMBOLS.len()].map(|()| TICK * (1_000 + below(&mut random, 30_000)));
        Self {
            random,
            count,
            written: 0,
            gap_ns: GAP_NS.min((CLOSE_NS - OPEN_NS) / 2 / count.max(1)).max(1),
            now_ns: START_NS,
            live: Vec::with_capacity(LIVE_MAX),
            middle,
            reference: 0,
            match_number: 0,
            message: Vec::with_capacity(64),
        }
    }

    /// The next message without its length; `None` after the last.
    pub(crate) fn next_message(&mut self) -> Option<&[u8]> {
        if self.written == self.count {
            return None;
        }
        let index = self.written;
        self.written += 1;
        self.message.clear();
        if index < OPENING {
            self.opening(index);
        } else if self.count - index <= CLOSING {
            self.closing(self.count - index);
        } else {
            self.trading();
        }
        Some(&self.message)
    }

    fn opening(&mut self, index: u64) {
        self.now_ns += SECOND_NS;
        let symbols = u64::try_from(SYMBOLS.len()).expect("64-bit");
        match index {
            0 => self.event(b'O'),
            1 => self.event(b'S'),
            _ if index == OPENING - 1 => {
                self.now_ns = OPEN_NS;
                self.event(b'Q');
            }
            _ => {
                let symbol = usize::try_from((index - 2) % symbols).expect("below 8");
                if index - 2 < symbols { self.directory(symbol) } else { self.action(symbol) }
            }
        }
    }

    fn closing(&mut self, left: u64) {
        let after_close = CLOSE_NS + (CLOSING - left) * SECOND_NS;
        self.now_ns = self.now_ns.max(after_close);
        self.event(match left {
            3 => b'M',
            2 => b'E',
            _ => b'C',
        });
    }

    fn trading(&mut self) {
        // Most gaps are short and few are long: flow comes in bursts.
        let burst = self.random.next_u64() % self.gap_ns / 2;
        self.now_ns += burst << halving(&mut self.random, 5);
        let dice = below(&mut self.random, 100);
        if self.live.len() < LIVE_MIN || (dice < 46 && self.live.len() < LIVE_MAX) {
            return self.add();
        }
        let at = self.random.index(self.live.len());
        match dice {
            0..=75 => self.delete(at),
            76..=88 => self.execute(at),
            89..=93 => self.cancel(at),
            94..=98 => self.replace(at),
            _ => self.trade(),
        }
    }

    /// Type, locate code (0 is no symbol), tracking number and time.
    fn header(&mut self, kind: u8, symbol: Option<usize>) {
        let locate = symbol.map_or(0, |symbol| symbol + 1);
        let locate = u16::try_from(locate).expect("few symbols");
        self.message.push(kind);
        self.message.extend_from_slice(&locate.to_be_bytes());
        self.message.extend_from_slice(&[0; 2]);
        self.message.extend_from_slice(&self.now_ns.to_be_bytes()[2..]);
    }

    fn put_u32(&mut self, value: u32) {
        self.message.extend_from_slice(&value.to_be_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.message.extend_from_slice(&value.to_be_bytes());
    }

    fn event(&mut self, code: u8) {
        self.header(b'S', None);
        self.message.push(code);
    }

    fn directory(&mut self, symbol: usize) {
        self.header(b'R', Some(symbol));
        self.message.extend_from_slice(SYMBOLS[symbol]);
        self.message.extend_from_slice(b"QN");
        self.put_u32(LOT);
        // Not only round lots, common stock, live, no short sale threshold, no IPO, tier 1, no ETP.
        self.message.extend_from_slice(b"NCZ PNN1N");
        self.put_u32(0);
        self.message.push(b'N');
    }

    fn action(&mut self, symbol: usize) {
        self.header(b'H', Some(symbol));
        self.message.extend_from_slice(SYMBOLS[symbol]);
        self.message.extend_from_slice(b"T     ");
    }

    fn add(&mut self) {
        let symbol = self.random.index(SYMBOLS.len());
        let side = if below(&mut self.random, 2) == 0 { b'B' } else { b'S' };
        let price = self.price(symbol, side);
        let shares = LOT * (1 + halving(&mut self.random, 9));
        self.reference += 1 + u64::from(below(&mut self.random, 4));
        let order = Order { reference: self.reference, symbol, side, shares, price };
        let firm =
            (below(&mut self.random, 16) == 0).then(|| FIRMS[self.random.index(FIRMS.len())]);
        self.header(if firm.is_some() { b'F' } else { b'A' }, Some(symbol));
        self.put_u64(order.reference);
        self.message.push(side);
        self.put_u32(shares);
        self.message.extend_from_slice(SYMBOLS[symbol]);
        self.put_u32(price);
        self.message.extend_from_slice(firm.map_or(&[][..], |firm| firm));
        self.live.push(order);
    }

    /// A price on this side of the middle, which wanders by a tick now and then.
    fn price(&mut self, symbol: usize, side: u8) -> u32 {
        let middle = &mut self.middle[symbol];
        match below(&mut self.random, 16) {
            0 => *middle += TICK,
            1 if *middle > 100 * TICK => *middle -= TICK,
            _ => {}
        }
        let away = TICK * (1 + halving(&mut self.random, 12));
        if side == b'B' { *middle - away } else { *middle + away }
    }

    fn delete(&mut self, at: usize) {
        let order = self.live.swap_remove(at);
        self.header(b'D', Some(order.symbol));
        self.put_u64(order.reference);
    }

    /// Executes some or all of an order, one in eight at another price than it shows.
    fn execute(&mut self, at: usize) {
        let order = self.live[at];
        let shares = LOT * (1 + below(&mut self.random, order.shares / LOT));
        let other_price = below(&mut self.random, 8) == 0;
        self.match_number += 1;
        self.header(if other_price { b'C' } else { b'E' }, Some(order.symbol));
        self.put_u64(order.reference);
        self.put_u32(shares);
        self.put_u64(self.match_number);
        if other_price {
            self.message.push(b'Y');
            self.put_u32(order.price + TICK);
        }
        self.take(at, shares);
    }

    /// Cancels a part of an order; one of a single lot is deleted.
    fn cancel(&mut self, at: usize) {
        let order = self.live[at];
        if order.shares == LOT {
            return self.delete(at);
        }
        let shares = LOT * (1 + below(&mut self.random, order.shares / LOT - 1));
        self.header(b'X', Some(order.symbol));
        self.put_u64(order.reference);
        self.put_u32(shares);
        self.take(at, shares);
    }

    fn take(&mut self, at: usize, shares: u32) {
        assert!(shares <= self.live[at].shares, "no more than the order has");
        self.live[at].shares -= shares;
        if self.live[at].shares == 0 {
            self.live.swap_remove(at);
        }
    }

    fn replace(&mut self, at: usize) {
        let old = self.live[at];
        let price = self.price(old.symbol, old.side);
        let shares = LOT * (1 + halving(&mut self.random, 9));
        self.reference += 1;
        self.live[at] = Order { reference: self.reference, shares, price, ..old };
        self.header(b'U', Some(old.symbol));
        self.put_u64(old.reference);
        self.put_u64(self.reference);
        self.put_u32(shares);
        self.put_u32(price);
    }

    /// A trade with an order that was not shown.
    fn trade(&mut self) {
        let symbol = self.random.index(SYMBOLS.len());
        let shares = LOT * (1 + halving(&mut self.random, 9));
        self.match_number += 1;
        self.header(b'P', Some(symbol));
        self.put_u64(0);
        self.message.push(b'B');
        self.put_u32(shares);
        self.message.extend_from_slice(SYMBOLS[symbol]);
        self.put_u32(self.middle[symbol]);
        self.put_u64(self.match_number);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::itch::{message_bytes, timestamp_ns};

    fn number(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn flow(count: u64, seed: u64) -> Vec<Vec<u8>> {
        let mut flow = OrderFlow::new(count, seed);
        let mut messages = Vec::new();
        while let Some(message) = flow.next_message() {
            messages.push(message.to_vec());
        }
        messages
    }

    #[test]
    fn a_flow_has_its_count_and_is_named_by_its_seed() {
        for count in [0, 1, 5, OPENING, OPENING + 1, OPENING + CLOSING, 1000] {
            assert_eq!(u64::try_from(flow(count, 1).len()), Ok(count));
        }
        assert_eq!(flow(500, 7), flow(500, 7));
        assert_ne!(flow(500, 7), flow(500, 8));
    }

    #[test]
    fn lengths_times_and_types_are_those_of_itch() {
        let (mut kinds, mut last_ns) = (BTreeSet::new(), 0);
        for message in flow(20_000, 3) {
            assert_eq!(message_bytes(message[0]), Some(message.len()), "{}", message[0]);
            let now_ns = timestamp_ns(&message).unwrap();
            assert!(now_ns >= last_ns, "time goes forward");
            last_ns = now_ns;
            kinds.insert(message[0]);
        }
        assert!(last_ns < 86_400 * SECOND_NS);
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), b"ACDEFHPRSUX");
    }

    #[test]
    fn messages_about_an_order_name_a_live_one_and_take_what_it_has() {
        let mut live = BTreeMap::new();
        for message in flow(50_000, 11) {
            let reference = message.get(11..19).map_or(0, number);
            let shares = |at: usize| number(&message[at..at + 4]);
            match message[0] {
                b'A' | b'F' => {
                    assert_eq!(live.insert(reference, shares(20)), None, "a new reference");
                }
                b'D' => assert!(live.remove(&reference).is_some()),
                b'E' | b'C' | b'X' => {
                    let left =
                        live[&reference].checked_sub(shares(19)).expect("no more than it has");
                    if left == 0 {
                        live.remove(&reference)
                    } else {
                        live.insert(reference, left)
                    };
                }
                b'U' => {
                    live.remove(&reference).expect("the old one is live");
                    assert_eq!(live.insert(number(&message[19..27]), shares(27)), None);
                }
                _ => {}
            }
        }
        assert!(live.len() <= LIVE_MAX);
    }

    #[test]
    fn a_long_day_ends_before_midnight() {
        let mut long = OrderFlow::new(2_000_000_000, 1);
        for _ in 0..1_000_000 {
            long.next_message().unwrap();
        }
        let used_ns = long.now_ns - OPEN_NS;
        assert!(used_ns < (CLOSE_NS - OPEN_NS) / 2_000, "{used_ns} of the day is used");
    }
}
