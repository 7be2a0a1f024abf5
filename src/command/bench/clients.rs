//! The clients of a load: which publishes to and consumes which streams, over as many sessions as there are
//! shards to talk to.

use std::net::SocketAddrV4;

use super::{Bench, CommandError};
use crate::cli::arguments::BenchRunArgs;
use crate::client::Publisher;
use crate::client::polled::Client;
use crate::clock::HostClock;
use crate::limits::SUBSCRIPTIONS_MAX;
use crate::measure::load::{self, Participant, Placed};
use crate::port::AnyPort;
use crate::profile::PortDriver;

type Participants = Vec<Participant<AnyPort, HostClock>>;

/// Makes the streams of run `run` and opens the clients.
pub(super) fn open(
    bench: &mut Bench,
    args: &BenchRunArgs,
    run: u32,
) -> Result<(Vec<Placed>, Participants), CommandError> {
    let one_session =
        bench.inline.is_some() || bench.profile.client.port.driver == PortDriver::Dpdk;
    if one_session && (args.load.publishers > 1 || args.load.consumers > 1) {
        return Err(CommandError::Usage(
            "over DPDK this process has one port, so one publisher and at most one consumer: use \
             --publishers 1 --consumers 1, or run several processes"
                .into(),
        ));
    }
    let count = usize::from(args.load.streams);
    if one_session && count > SUBSCRIPTIONS_MAX {
        return Err(CommandError::Usage(format!(
            "over DPDK this process has one session, which consumes {SUBSCRIPTIONS_MAX} streams at most: use \
             --streams {SUBSCRIPTIONS_MAX}"
        )));
    }
    let name = |number| match count {
        1 => format!("bench-{run}"),
        _ => format!("bench-{run}-{number}"),
    };
    let names: Vec<String> = (0..count).map(name).collect();
    let mut asking = client(bench, bench.server, Publisher::No)?;
    let streams = load::place(&mut asking, &names)?;
    bench.give_back(asking.close());
    let mut participants = Participants::new();
    for publisher in 0..usize::from(args.load.publishers) {
        for part in sessions(&streams, &own(publisher, args)) {
            let client = client(bench, streams[part[0]].server, Publisher::New)?;
            let consumes =
                if one_session && args.load.consumers > 0 { part.clone() } else { vec![] };
            participants.push(Participant { client, publishes: part, consumes });
        }
    }
    let all: Vec<usize> = (0..count).collect();
    for _ in 0..if one_session { 0 } else { args.load.consumers } {
        for part in sessions(&streams, &all) {
            let client = client(bench, streams[part[0]].server, Publisher::No)?;
            participants.push(Participant { client, publishes: vec![], consumes: part });
        }
    }
    Ok((streams, participants))
}

/// The streams of a publisher: every so many, and one at least.
fn own(publisher: usize, args: &BenchRunArgs) -> Vec<usize> {
    let (publishers, streams) = (usize::from(args.load.publishers), usize::from(args.load.streams));
    (publisher % streams..streams).step_by(publishers).collect()
}

/// `wanted` in parts that one session can have: of one shard, and not too many.
fn sessions(streams: &[Placed], wanted: &[usize]) -> Vec<Vec<usize>> {
    let mut servers: Vec<SocketAddrV4> = wanted.iter().map(|&at| streams[at].server).collect();
    servers.sort_unstable();
    servers.dedup();
    let mut parts = Vec::new();
    for server in servers {
        let here = wanted.iter().copied().filter(|&at| streams[at].server == server);
        let here: Vec<usize> = here.collect();
        parts.extend(here.chunks(SUBSCRIPTIONS_MAX).map(<[usize]>::to_vec));
    }
    parts
}

fn client(
    bench: &mut Bench,
    server: SocketAddrV4,
    publisher: Publisher,
) -> Result<Client<AnyPort, HostClock>, CommandError> {
    let port = bench.take_port()?;
    Ok(Client::new(port, bench.clock.clone(), server, bench.options(publisher)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::StreamId;

    fn placed(shards: &[u16]) -> Vec<Placed> {
        let server = |shard: &u16| SocketAddrV4::new([127, 0, 0, 1].into(), 9310 + shard);
        let placed = |shard| Placed { id: StreamId(1), server: server(shard), from: 1 };
        shards.iter().map(placed).collect()
    }

    #[test]
    fn a_session_is_with_one_shard_and_has_room_for_its_streams() {
        let streams = placed(&[0, 1, 0, 1, 1]);
        assert_eq!(sessions(&streams, &[0, 1, 2, 3, 4]), [vec![0, 2], vec![1, 3, 4]]);
        assert_eq!(sessions(&streams, &[3]), [[3]]);
        let parts = sessions(&placed(&[0; 20]), &(0..20).collect::<Vec<_>>());
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [16, 4]);
    }
}
