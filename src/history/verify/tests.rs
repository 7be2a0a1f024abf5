//! What each check finds, and what none may.

use super::*;

const A: Payload = Payload { bytes: 3, xxh3: 0xa };
const B: Payload = Payload { bytes: 3, xxh3: 0xb };

/// Histories with a clock of their own: each line is a nanosecond after the one before, whatever its history.
#[derive(Default)]
struct Histories {
    histories: Vec<Vec<Entry>>,
    ns: u64,
}

impl Histories {
    fn client(&mut self, log: u32, producer: u64) -> usize {
        self.histories.push(Vec::new());
        let client = self.histories.len() - 1;
        let boot = "a boot".to_owned();
        self.note(client, Fact::Begin { history: 1, version: "0".into(), boot, pid: 1 });
        self.note(client, Fact::Session { shard: 0, log, producer });
        client
    }

    fn note(&mut self, client: usize, fact: Fact) {
        self.ns += 1;
        self.histories[client].push(Entry { ns: self.ns, fact });
    }

    fn offer(&mut self, client: usize, (producer, producer_seq): (u64, u64), payload: Payload) {
        self.note(client, Fact::Offer { stream: 1, producer, producer_seq, payload });
    }

    fn acknowledged(&mut self, client: usize, of: (u64, u64), sequence: impl Into<Option<u64>>) {
        let (stream, (producer, producer_seq), sequence) = (1, of, sequence.into());
        self.note(client, Fact::Acknowledged { stream, producer, producer_seq, sequence });
    }

    /// A subscription from `start` that is answered at once.
    fn subscribe(&mut self, client: usize, start: u64, durable_next: u64) {
        self.note(client, Fact::Subscribe { stream: 1 });
        self.note(client, Fact::Subscribed { stream: 1, start, durable_next });
    }

    fn delivered(&mut self, client: usize, sequence: u64, of: (u64, u64), payload: Payload) {
        let (stream, (producer, producer_seq)) = (1, of);
        let fact = Fact::Delivered { stream, sequence, producer, producer_seq, payload };
        self.note(client, fact);
    }

    fn end(&mut self) {
        for client in 0..self.histories.len() {
            self.note(client, Fact::End);
        }
    }

    fn found(mut self) -> Vec<(&'static str, Line)> {
        self.end();
        let verdict = verify(&self.histories);
        verdict.contradictions.into_iter().map(|found| (found.check, found.line)).collect()
    }
}

/// A publisher with two messages, acknowledged as 1 and 2, and a consumer that has read them.
fn sound() -> (Histories, usize, usize) {
    let mut written = Histories::default();
    let (publisher, consumer) = (written.client(9, 7), written.client(9, 0));
    written.offer(publisher, (7, 1), A);
    written.acknowledged(publisher, (7, 1), 1);
    written.offer(publisher, (7, 2), B);
    written.acknowledged(publisher, (7, 2), 2);
    written.subscribe(consumer, 1, 3);
    written.delivered(consumer, 1, (7, 1), A);
    written.delivered(consumer, 2, (7, 2), B);
    (written, publisher, consumer)
}

fn line(history: usize, line: usize) -> Line {
    Line { history, line }
}

#[test]
fn what_can_be_is_let_through() {
    let (mut written, publisher, consumer) = sound();
    // Offered while another is on its way: either may be first.
    written.offer(publisher, (7, 3), A);
    written.offer(publisher, (7, 4), A);
    written.acknowledged(publisher, (7, 4), 4);
    written.acknowledged(publisher, (7, 3), 3);
    // A session opened again, and the rest from it; what is trimmed is skipped.
    written.note(consumer, Fact::Session { shard: 0, log: 9, producer: 0 });
    written.note(consumer, Fact::Subscribed { stream: 1, start: 3, durable_next: 5 });
    written.delivered(consumer, 3, (7, 3), A);
    written.note(consumer, Fact::Trimmed { stream: 1, log_start: 5 });
    written.subscribe(consumer, 5, 5);
    // A receipt that was lost, of a message that nobody has read yet.
    written.offer(publisher, (7, 5), B);
    written.acknowledged(publisher, (7, 5), None);
    assert_eq!(written.found(), []);
}

#[test]
fn a_log_that_was_replaced_is_found() {
    let (mut written, _, consumer) = sound();
    written.note(consumer, Fact::Session { shard: 0, log: 8, producer: 0 });
    assert_eq!(written.found(), [("log", line(1, 7))]);
    // By its content, where the log does not say which it is.
    let (mut written, _, _) = sound();
    let other = written.client(0, 0);
    written.subscribe(other, 1, 3);
    written.delivered(other, 1, (4, 1), B);
    assert_eq!(written.found(), [("content", line(2, 5))]);
}

#[test]
fn an_older_copy_is_found() {
    let (mut written, _, _) = sound();
    let late = written.client(9, 0);
    written.subscribe(late, 1, 2);
    assert_eq!(written.found(), [("durable", line(2, 4))]);
    // One that has gone on differently.
    let (mut written, _, _) = sound();
    let other = written.client(9, 8);
    written.offer(other, (8, 1), A);
    written.acknowledged(other, (8, 1), 2);
    let found = written.found();
    assert!(found.iter().all(|(_, line)| line.history == 2), "{found:?}");
    let checks: Vec<&str> = found.iter().map(|(check, _)| *check).collect();
    assert_eq!(
        checks,
        ["order", "content"],
        "its number was given before, and so was acknowledged"
    );
}

#[test]
fn a_payload_that_was_swapped_is_found() {
    let (mut written, _, _) = sound();
    let other = written.client(9, 0);
    written.subscribe(other, 1, 3);
    written.delivered(other, 1, (7, 1), B);
    assert_eq!(written.found(), [("content", line(2, 5))]);
    // For everybody alike, so that only the publisher knows.
    let mut written = Histories::default();
    let (publisher, consumer) = (written.client(9, 7), written.client(9, 0));
    written.offer(publisher, (7, 1), A);
    written.subscribe(consumer, 1, 1);
    written.delivered(consumer, 1, (7, 1), B);
    assert_eq!(written.found(), [("content", line(1, 5))]);
}

#[test]
fn what_is_missing_or_twice_is_found() {
    for (sequences, expected) in [
        (vec![1, 3], Some(("gap", line(1, 6)))),
        (vec![1, 1], Some(("gap", line(1, 6)))),
        (vec![2], Some(("gap", line(1, 5)))),
        (vec![1, 2], None),
    ] {
        let mut written = Histories::default();
        let (_, consumer) = (written.client(9, 7), written.client(9, 0));
        written.subscribe(consumer, 1, 4);
        for sequence in sequences {
            written.delivered(consumer, sequence, (7, sequence), A);
        }
        assert_eq!(written.found(), Vec::from_iter(expected));
    }
    let (mut written, _, consumer) = sound();
    written.delivered(consumer, 3, (7, 1), A);
    assert_eq!(written.found(), [("once", line(0, 6)), ("once", line(1, 7))]);
}

#[test]
fn what_was_acknowledged_without_a_number_has_to_be_read() {
    let mut written = Histories::default();
    let (publisher, consumer) = (written.client(9, 7), written.client(9, 0));
    written.offer(publisher, (7, 1), A);
    written.acknowledged(publisher, (7, 1), None);
    written.subscribe(consumer, 1, 1);
    assert_eq!(written.found(), [("lost", line(1, 3))]);
}

#[test]
fn what_was_acknowledged_before_an_offer_is_before_it() {
    let mut written = Histories::default();
    let (one, two) = (written.client(9, 7), written.client(9, 8));
    written.offer(one, (7, 1), A);
    written.acknowledged(one, (7, 1), 5);
    written.offer(two, (8, 1), B);
    written.acknowledged(two, (8, 1), 4);
    assert_eq!(written.found(), [("order", line(1, 3))]);
}

#[test]
fn what_a_history_that_is_cut_off_lacks_is_not_held_against_it() {
    let (mut written, publisher, consumer) = sound();
    // The producer went on under numbers that its first process had offered: what of that was stored is not known.
    written.delivered(consumer, 3, (7, 3), A);
    written.offer(publisher, (7, 3), B);
    let verdict = verify(&written.histories);
    assert_eq!(verdict.contradictions, [], "it was killed, and may have offered more");
    assert_eq!((verdict.offered, verdict.delivered, verdict.sequences), (3, 3, 3));
}
