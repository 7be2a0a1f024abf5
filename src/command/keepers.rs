//! Which stream keeps a trim from freeing anything: segments are freed from the oldest on, so one stream with older
//! messages keeps all that lies behind them.

use super::connect::connect;
use super::note;
use crate::cli::Globals;
use crate::client::blocking::Client;
use crate::client::{Publisher, StartFrom, StreamDescription};
use crate::clock::Clock;
use crate::ids::StreamId;
use crate::port::AnyPort;
use crate::report::{count_of, thousands};

/// So long a stream's oldest message is waited for: it may be trimmed or damaged meanwhile.
const WAIT_NS: u64 = 2_000_000_000;

/// What was seen of a stream before it is trimmed.
pub(super) struct Before {
    /// A session of its own: what it meets, damage for one, is nothing to the trim.
    client: Client<AnyPort>,
    trimmed: StreamId,
    oldest_ns: u64,
}

impl Before {
    /// Looks when the oldest message that a stream keeps was received; `None` where it has none, or that cannot be had.
    pub(super) fn trim(globals: &Globals, stream: &StreamDescription) -> Option<Self> {
        let mut client = connect(globals, Publisher::No).ok()?;
        // On the shard of the stream.
        client.describe_stream(&stream.name).ok()?;
        let oldest_ns = oldest_ns(&mut client, stream)?;
        Some(Self { client, trimmed: stream.id, oldest_ns })
    }

    /// Says which stream keeps older messages: as long as it does, nothing of what was trimmed is freed.
    pub(super) fn tell_of_older(mut self) {
        let Ok(streams) = self.client.list_streams() else { return };
        // One that was made later has nothing older.
        let may_be = |stream: &StreamDescription| {
            stream.id != self.trimmed && stream.created_ns < self.oldest_ns
        };
        let mut older = Vec::new();
        for stream in streams.into_iter().filter(may_be) {
            let oldest_ns = oldest_ns(&mut self.client, &stream);
            older.extend(oldest_ns.filter(|ns| *ns < self.oldest_ns).map(|ns| (ns, stream)));
        }
        self.client.close();
        older.sort_by_key(|(ns, _)| *ns);
        let Some((_, first)) = older.first() else { return };
        let more = match older.len() {
            1 => String::new(),
            count => format!("; so do {} more", count_of(count as u64 - 1, "stream")),
        };
        note(&format!(
            "no room is freed yet: stream {} keeps message {}, which is older than all that was removed, and segments \
             are freed from the oldest on{more}",
            first.name,
            thousands(first.log_start)
        ));
    }
}

fn oldest_ns(client: &mut Client<AnyPort>, stream: &StreamDescription) -> Option<u64> {
    if stream.log_start >= stream.durable_next {
        return None;
    }
    let begin_ns = client.polled().clock().now_ns();
    client.polled().subscribe(stream.id, StartFrom::Start, 1);
    let mut found = None;
    while found.is_none() && client.polled().clock().now_ns() - begin_ns < WAIT_NS {
        let Ok(message) = client.try_message() else { break };
        found = message.filter(|message| message.stream == stream.id);
    }
    client.polled().unsubscribe(stream.id);
    found.map(|message| message.received_ns)
}
