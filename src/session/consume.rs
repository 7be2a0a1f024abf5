//! The consuming half of a session: one subscription, gap-free whatever happens on the way.

use crate::fired::Timer;
use crate::ids::{Lineage, StreamId};
use crate::limits::{DAMAGED_RECORDS_MAX, NUMBER_MAX};
use crate::wire::control::{FromCode, STATUS_REWIND, StartFrom, Status, Subscribe};
use crate::wire::publish::Data;
use crate::wire::record::Record;

/// The first repetition of a SUBSCRIBE; each next one waits twice as long.
const ASK_NS_MIN: u64 = 5_000_000;
/// The longest wait between repetitions.
const ASK_NS_MAX: u64 = 100_000_000;
/// A gap is not reported again before this.
const REWIND_NS: u64 = 200_000;
/// The credit is told again after so long without another reason: the last telling may be lost.
const TELL_NS: u64 = 50_000_000;

/// One subscription as the consumer sees it.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    /// Stream.
    pub stream: StreamId,
    request: u32,
    from: StartFrom,
    window: u32,
    open: bool,
    /// The next sequence wanted.
    expected: u64,
    /// The last sequence that came; 0 before any.
    delivered_to: u64,
    /// Lineage of the message before the next one; 0 where it is not known.
    lineage: Lineage,
    /// The durable end, as the server said last.
    durable_next: u64,
    /// Given to their owner, who has not looked at them: as many fewer may come.
    held_back: u64,
    /// Records in a row that came damaged.
    damaged: u32,
    asking: Asking,
    credit: Credit,
}

/// When the server is asked for it.
#[derive(Clone, Debug)]
struct Asking {
    wait_ns: u64,
    asked_ns: u64,
    /// Since when it is waited for, until it stands.
    since_ns: Option<u64>,
}

/// What the server was told of it.
#[derive(Clone, Debug)]
struct Credit {
    /// It may send up to this sequence.
    limit: u64,
    sent_ns: u64,
    rewound_ns: u64,
    /// Something was lost on the way: it is to go back.
    rewind_due: bool,
}

/// A record arrives damaged again and again: it is damaged where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged {
    /// Its sequence.
    pub sequence: u64,
}

impl Subscription {
    /// A subscription that is still to be asked for; its owner waits for it from now on.
    #[must_use]
    pub(crate) fn new(
        stream: StreamId,
        request: u32,
        from: StartFrom,
        window: u32,
        now_ns: u64,
    ) -> Self {
        Self {
            stream,
            request,
            from,
            window: window.max(2),
            open: false,
            expected: 0,
            delivered_to: 0,
            lineage: Lineage(0),
            durable_next: 0,
            held_back: 0,
            damaged: 0,
            asking: Asking { wait_ns: 0, asked_ns: 0, since_ns: Some(now_ns) },
            credit: Credit { limit: 0, sent_ns: 0, rewound_ns: 0, rewind_due: false },
        }
    }

    /// Of its SUBSCRIBE.
    #[must_use]
    pub(crate) fn request(&self) -> u32 {
        self.request
    }

    /// The next sequence wanted; 0 before the subscription stands.
    #[must_use]
    pub(crate) fn expected(&self) -> u64 {
        self.expected
    }

    /// The last sequence that came; 0 before any.
    #[must_use]
    pub(crate) fn delivered_to(&self) -> u64 {
        self.delivered_to
    }

    /// Whether there are messages, as the server said, that have not come.
    #[must_use]
    pub(crate) fn lacks(&self) -> bool {
        self.open && self.durable_next > self.expected
    }

    /// Whether the server has said that it stands.
    #[must_use]
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Says how many messages were taken from it and not looked at.
    pub(crate) fn hold_back(&mut self, messages: u64) {
        self.held_back = messages;
    }

    /// Since when it is waited for and does not stand.
    #[must_use]
    pub(crate) fn asked_since_ns(&self) -> Option<u64> {
        self.asking.since_ns
    }

    /// The session was lost: ask again, from where we are.
    pub(crate) fn restart(&mut self, request: u32) {
        if self.open {
            self.from = StartFrom::Sequence(self.expected);
        }
        self.open = false;
        self.request = request;
        self.asking.wait_ns = 0;
        self.credit.rewind_due = false;
    }

    /// The SUBSCRIBE to send now, if one is due.
    pub(crate) fn ask(&mut self, now_ns: u64) -> Option<Subscribe> {
        if self.open || now_ns.saturating_sub(self.asking.asked_ns) < self.asking.wait_ns {
            return None;
        }
        if self.asking.wait_ns > 0 {
            Timer::SubscribeAgain.fired();
        }
        self.asking.wait_ns = self.asking.wait_ns.saturating_mul(2).clamp(ASK_NS_MIN, ASK_NS_MAX);
        self.asking.asked_ns = now_ns;
        self.asking.since_ns = self.asking.since_ns.or(Some(now_ns));
        let FromCode { kind, value } = self.from.encode();
        Some(Subscribe {
            request: self.request.into(),
            stream: self.stream.0.into(),
            from_kind: kind,
            reserved: [0; 3],
            window: self.window.into(),
            from_value: value.into(),
            lineage: self.lineage.0.into(),
        })
    }

    /// The server says where delivery starts; `true` the first time.
    /// `lineage` is that of the message before.
    pub(crate) fn on_subscribed(&mut self, start: u64, lineage: Lineage) -> bool {
        if self.open {
            return false;
        }
        self.open = true;
        self.asking.since_ns = None;
        self.expected = start;
        self.lineage = lineage;
        self.credit.limit = start.saturating_add(u64::from(self.window)).min(NUMBER_MAX);
        true
    }

    /// Takes the records of a DATA frame that are next and gives them to `sink`.
    ///
    /// # Errors
    /// When the same record has come damaged several times.
    #[inline]
    pub(crate) fn on_data(
        &mut self,
        data: &Data<'_>,
        sink: &mut dyn FnMut(&Record<'_>),
    ) -> Result<u64, Damaged> {
        if !self.open {
            return Ok(0);
        }
        if data.head.first_sequence.get() > self.expected {
            self.credit.rewind_due = true;
            return Ok(0);
        }
        let before = self.expected;
        for record in data.records() {
            if record.header.sequence.get() < self.expected {
                continue;
            }
            if !record.is_intact() {
                self.credit.rewind_due = true;
                self.damaged = self.damaged.saturating_add(1);
                if self.damaged >= DAMAGED_RECORDS_MAX {
                    return Err(Damaged { sequence: self.expected });
                }
                break;
            }
            self.damaged = 0;
            sink(&record);
            self.delivered_to = self.expected;
            self.lineage = Lineage(data.head.lineage.get());
            self.expected = self.expected.saturating_add(1);
        }
        Ok(self.expected.saturating_sub(before))
    }

    /// The server says where the durable end is: what we lack below it was lost.
    pub(crate) fn on_heartbeat(&mut self, durable_next: u64) {
        self.durable_next = durable_next;
        if self.open && durable_next > self.expected && self.credit.limit > self.expected {
            self.credit.rewind_due = true;
        }
    }

    /// The STATUS to send now, if one is due.
    pub(crate) fn status(&mut self, now_ns: u64) -> Option<Status> {
        if !self.open {
            return None;
        }
        let window = u64::from(self.window);
        let rewind =
            self.credit.rewind_due && now_ns.saturating_sub(self.credit.rewound_ns) >= REWIND_NS;
        let room = window.saturating_sub(self.held_back);
        let limit = self.expected.saturating_add(room).min(NUMBER_MAX);
        let credit = limit >= self.credit.limit.saturating_add(window / 2);
        let stale = now_ns.saturating_sub(self.credit.sent_ns) >= TELL_NS;
        if !rewind && !credit && !stale {
            return None;
        }
        if stale && !rewind && !credit {
            Timer::StatusAgain.fired();
        }
        self.credit.sent_ns = now_ns;
        if rewind {
            self.credit.rewind_due = false;
            self.credit.rewound_ns = now_ns;
        }
        self.credit.limit = self.credit.limit.max(limit);
        Some(Status {
            sub: self.request.into(),
            flags: if rewind { STATUS_REWIND } else { 0 }.into(),
            position: self.expected.into(),
            limit: self.credit.limit.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnId;
    use crate::wire::samples::all;
    use crate::wire::{Datagram, FromServer, Kind, parse};

    #[test]
    fn a_record_that_comes_damaged_so_often_in_a_row_is_damaged_where_it_comes_from() {
        let sample = all(1, 1).into_iter().find(|sample| sample.kind == Kind::Data).unwrap();
        let intact = sample.datagram(ConnId(1));
        let mut damaged = intact.clone();
        // Of its payload.
        *damaged.last_mut().unwrap() ^= 1;
        let take = |subscription: &mut Subscription, bytes: &[u8]| {
            let Ok(Datagram::Session { frames, .. }) = parse(bytes) else { panic!("of a session") };
            let Some(Ok(FromServer::Data(data))) = frames.from_server().next() else {
                panic!("a DATA frame")
            };
            subscription.on_data(&data, &mut |_| {})
        };
        let mut subscription = Subscription::new(StreamId(1), 1, StartFrom::Start, 8, 0);
        assert!(subscription.on_subscribed(1, Lineage(0)));
        for _ in 1..DAMAGED_RECORDS_MAX {
            assert_eq!(take(&mut subscription, &damaged), Ok(0), "it is asked for again");
            let status = subscription.status(TELL_NS).expect("it is asked for");
            assert_eq!((status.flags.get(), status.position.get()), (STATUS_REWIND, 1));
            subscription.credit.rewound_ns = 0;
        }
        assert_eq!(take(&mut subscription.clone(), &damaged), Err(Damaged { sequence: 1 }));
        assert_eq!(take(&mut subscription, &intact), Ok(1), "the last try brings it");
        assert_eq!(subscription.damaged, 0, "and the next one has all its tries");
    }
}
