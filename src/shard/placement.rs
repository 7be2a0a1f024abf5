//! Streams that live on another shard of the appliance: who asks here for one is sent there.

use std::sync::Arc;

use super::directory::{Directory, Placer};
use super::requests::RequestOf;
use super::{Reply, Stations};
use crate::limits::STREAMS_MAX;
use crate::wire::control::ErrorCode;

/// What a shard knows of the appliance around it; a shard that is alone knows nothing.
#[derive(Debug)]
pub struct Siblings {
    /// This shard.
    pub shard: u32,
    /// Shards of the appliance.
    pub shards: u32,
    /// Who has which stream.
    pub directory: Arc<Directory>,
    /// Decides where a new stream goes; shard 0 has it.
    pub placer: Option<Placer>,
}

impl Siblings {
    /// The shard to ask for a stream that is to be made. `None` when no shard has room for it.
    fn place(&mut self, name: &str, wanted: Option<u32>) -> Option<u32> {
        match (self.directory.find(name), &mut self.placer) {
            (Some(known), _) => Some(known),
            (None, Some(placer)) => placer.place(name, wanted),
            // Shard 0 decides; it answers with where to go.
            (None, None) => Some(0),
        }
    }
}

/// Which shard this is.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnShard {
    /// From 0.
    pub(super) number: u32,
    /// How many there are.
    pub(super) of: u32,
}

impl Stations {
    /// Which shard this is.
    pub(super) fn own_shard(&self) -> OwnShard {
        let all = self.siblings.as_ref();
        all.map_or(OwnShard { number: 0, of: 1 }, |all| OwnShard {
            number: all.shard,
            of: all.shards,
        })
    }

    /// Whether a stream that is not here is to be made, or was made, elsewhere, or cannot be; if so, that is
    /// said.
    pub(super) fn redirect_creation(
        &mut self,
        RequestOf { slot, request }: RequestOf,
        name: &str,
        wanted: Option<u32>,
    ) -> bool {
        let OwnShard { number: own, of: shards } = self.own_shard();
        let reply = if wanted.is_some_and(|wanted| wanted >= shards) {
            let (code, detail) = (ErrorCode::BadRequest, u64::from(shards));
            Reply::Error { slot, code, request, detail }
        } else {
            let placed = self.siblings.as_mut().map_or(Some(own), |all| all.place(name, wanted));
            match placed {
                Some(shard) if shard == own => return false,
                Some(shard) => Reply::Redirect { slot, request, shard },
                None => {
                    let (code, detail) = (ErrorCode::StreamsFull, STREAMS_MAX as u64);
                    Reply::Error { slot, code, request, detail }
                }
            }
        };
        self.reply(reply);
        true
    }

    /// The other shard that has a stream, if one has.
    pub(super) fn found_elsewhere(&self, name: &str) -> Option<u32> {
        let all = self.siblings.as_ref()?;
        all.directory.find(name).filter(|&shard| shard != all.shard)
    }
}

#[cfg(test)]
mod tests {
    use crate::client::{Event, Publisher, Request, StartFrom};
    use crate::clock::Clock;
    use crate::ids::ProducerId;
    use crate::port::memory::Faults;
    use crate::testing::rig::{BASE_PORT, Rig, address};
    use crate::wire::control::ErrorCode;

    /// The shard a stream is on, and its number there.
    fn found(rig: &mut Rig, client: usize, request: Request) -> (u32, u32) {
        let answer = rig.ask(client, request);
        let Event::Stream { info, .. } = answer else { panic!("{answer:?}") };
        (info.shard, info.id.0)
    }

    fn create(name: &str) -> Request {
        Request::CreateStream(name.into())
    }

    fn describe(name: &str) -> Request {
        Request::DescribeStream(name.into())
    }

    #[test]
    fn streams_go_where_the_fewest_are_and_are_found_from_everywhere() {
        for loss in [0, 200] {
            let faults = Faults { loss, duplication: loss, delay_ns: 20_000, ..Faults::default() };
            let mut rig = Rig::of_shards(3, 7, faults);
            let maker = rig.client_at(Publisher::No, 0);
            for number in 0..7 {
                let placed = found(&mut rig, maker, create(&format!("s{number}")));
                assert_eq!(placed, (number % 3, number / 3 + 1));
            }
            assert_eq!(found(&mut rig, maker, create("s4")).0, 1, "it is there already");
            let on = |shard| Request::CreateStreamOn("mine".into(), shard);
            assert_eq!(found(&mut rig, maker, on(2)), (2, 3));
            assert_eq!(found(&mut rig, maker, on(0)), (2, 3), "it stays where it is");
            for shard in 0..3 {
                let client = rig.client_at(Publisher::No, shard);
                assert_eq!(found(&mut rig, client, describe("s5")), (2, 2));
                assert_eq!(rig.clients[client].server(), address(BASE_PORT + 2));
                assert_eq!(rig.clients[client].shards().shards, 3);
            }
            // Whoever asks at another shard for one that is new is sent to the first.
            let elsewhere = rig.client_at(Publisher::No, 2);
            assert_eq!(found(&mut rig, elsewhere, create("new")), (1, 3));
        }
    }

    #[test]
    fn what_no_shard_can_do_is_refused() {
        let mut rig = Rig::of_shards(2, 7, Faults::default());
        let client = rig.client_at(Publisher::No, 1);
        let refused = |event| {
            let Event::Refused { code, detail, .. } = event else { panic!("{event:?}") };
            (code, detail)
        };
        let missing = rig.ask(client, describe("none"));
        assert_eq!(refused(missing), (ErrorCode::UnknownStream, 0));
        let too_far = rig.ask(client, Request::CreateStreamOn("x".into(), 2));
        assert_eq!(refused(too_far), (ErrorCode::BadRequest, 2));
    }

    #[test]
    fn a_client_that_died_before_its_stream_was_made_blocks_nobody() {
        let mut rig = Rig::of_shards(2, 7, Faults::default());
        let maker = rig.client_at(Publisher::No, 0);
        assert_eq!(found(&mut rig, maker, create("first")).0, 0);
        // Placed on shard 1 and never made there: the one who asked is gone.
        let mut siblings = rig.shards[0].take_siblings().unwrap();
        assert_eq!(siblings.place("second", None), Some(1));
        rig.shards[0].join(siblings);
        let late = rig.client_at(Publisher::No, 1);
        let unknown = rig.ask(late, describe("second"));
        assert!(matches!(unknown, Event::Refused { code: ErrorCode::UnknownStream, .. }));
        let other = rig.client_at(Publisher::No, 0);
        assert_eq!(found(&mut rig, other, create("second")), (1, 1));
    }

    #[test]
    fn a_session_with_work_stays_and_is_told_where_to_go() {
        let mut rig = Rig::of_shards(2, 7, Faults::default());
        let maker = rig.client_at(Publisher::No, 0);
        let (_, here) = found(&mut rig, maker, create("here"));
        assert_eq!(found(&mut rig, maker, create("there")), (1, 1));
        let told = |event| {
            let Event::Redirected { shard, server, .. } = event else { panic!("{event:?}") };
            (shard, server)
        };
        let publisher = rig.client_at(Publisher::New, 0);
        let (_, id) = found(&mut rig, publisher, describe("here"));
        assert_eq!(id, here);
        rig.clients[publisher].offer(crate::ids::StreamId(id), b"a").unwrap();
        let event = rig.ask(publisher, describe("there"));
        assert_eq!(told(event), (1, address(BASE_PORT + 1)));
        assert_eq!(rig.clients[publisher].server(), address(BASE_PORT), "it stayed");
        let consumer = rig.client_at(Publisher::No, 0);
        rig.clients[consumer].subscribe(crate::ids::StreamId(id), StartFrom::Start, 16);
        let event = rig.ask(consumer, describe("there"));
        assert_eq!(told(event).0, 1);
        // A producer belongs to its shard: another shard would know somebody else by its number.
        let known = rig.clients[publisher].producer().0;
        rig.clients_end = true;
        let again = rig.client_at(Publisher::Known(known), 0);
        let event = rig.ask(again, describe("there"));
        assert_eq!(told(event).0, 1);
    }

    #[test]
    fn a_publisher_that_moves_on_publishes_as_a_producer_of_the_other_shard() {
        let mut rig = Rig::of_shards(2, 7, Faults::default());
        let maker = rig.client_at(Publisher::No, 0);
        found(&mut rig, maker, create("here"));
        found(&mut rig, maker, create("there"));
        // The first producer of shard 0, and then of shard 1.
        let publisher = rig.client_at(Publisher::New, 0);
        let (shard, id) = found(&mut rig, publisher, describe("there"));
        assert_eq!((shard, rig.clients[publisher].producer().0), (1, ProducerId(1)));
        let stream = crate::ids::StreamId(id);
        rig.clients[publisher].offer(stream, b"message").unwrap();
        let mut receipt = None;
        while receipt.is_none() {
            rig.turn();
            receipt = rig.clients[publisher].next_completion();
        }
        assert_eq!(receipt.unwrap().receipt.sequence.unwrap().get(), 1);
        for _ in 0..1_000 {
            rig.turn();
        }
        assert_eq!(rig.shards[0].sessions(), 0, "it said goodbye to the other");
        assert!(rig.clock.now_ns() < 5_000_000_000);
    }
}
