//! The blocking client with an appliance, and with servers that are none: every call ends.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
#![allow(clippy::disallowed_methods, reason = "these tests drive real sockets in real time")]

mod common;

use std::net::{SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use buslane::client::blocking::{Client, Error};
use buslane::client::{
    BackPressure, ClientError, ClientOptions, OfferError, Publisher, SizeLimit, StartFrom,
};
use buslane::ids::{ConnId, StreamId};
use buslane::wire::control::{ErrorCode, Registered};
use buslane::wire::datagram::{Accept, Resp, Retry, SUITE_PLAIN, VERSION, Versions};
use buslane::wire::mac::MacKey;
use buslane::wire::{Datagram, DatagramWriter, FromClient, Kind, parse};
use common::Appliance;
use zerocopy::{FromZeros, IntoBytes};

fn connect(appliance: &Appliance, publisher: Publisher) -> Client {
    let server = appliance.address.parse().unwrap();
    Client::connect(server, common::options(server, publisher)).unwrap()
}

#[test]
fn offers_in_the_plainest_loop_end_with_a_value() {
    let appliance = Appliance::start(&[]);
    let mut client = connect(&appliance, Publisher::New);
    let stream = client.create_stream("orders").unwrap().id;
    let mut offered = 0;
    let why = loop {
        match client.offer(stream, b"one of many") {
            Ok(_) => offered += 1,
            Err(why) => break why,
        }
        assert!(offered < 200_000, "nobody takes completions");
    };
    let completions = OfferError::BackPressure(BackPressure::Completions);
    assert!(matches!(why, Error::Offer(offer) if offer == completions), "{why}");
    let mut done = 0;
    client.flush(|_| done += 1).unwrap();
    assert_eq!(done, offered, "each has its completion");
    client.offer(stream, b"and again").unwrap();
}

#[test]
fn a_publish_keeps_the_completions_of_earlier_offers() {
    let appliance = Appliance::start(&[]);
    let mut client = connect(&appliance, Publisher::New);
    let stream = client.create_stream("orders").unwrap().id;
    let offered: Vec<u64> = (0..3).map(|_| client.offer(stream, b"before").unwrap()).collect();
    let receipt = client.publish(stream, b"then").unwrap();
    assert_eq!(receipt.sequence.unwrap().get(), 4);
    let mut taken = Vec::new();
    while let Some(completion) = client.next_completion() {
        taken.push(completion.producer_seq);
    }
    assert_eq!(taken, offered);
}

#[test]
fn who_subscribes_and_only_publishes_does_not_grow() {
    let appliance = Appliance::start(&[]);
    let mut client = connect(&appliance, Publisher::New);
    let stream = client.create_stream("orders").unwrap().id;
    client.subscribe(stream, StartFrom::Start).unwrap();
    for _ in 0..3 {
        for _ in 0..4_000 {
            client.offer(stream, b"read later").unwrap();
        }
        client.flush(|_| {}).unwrap();
    }
    for _ in 0..20 {
        client.publish(stream, b"read later").unwrap();
    }
    let position = client.polled().position(stream);
    assert!(position <= 2 * 4_096, "{position} of 12,020 were sent to who looks at none");
    for sequence in 1..=12_020 {
        assert_eq!(client.next_message().unwrap().sequence, sequence, "all of them come");
    }
}

#[test]
fn a_thousand_dropped_clients_leave_room_for_one_more() {
    let appliance = Appliance::start(&[]);
    for _ in 0..1_100 {
        drop(connect(&appliance, Publisher::No));
    }
}

#[test]
fn arguments_are_checked_where_they_enter() {
    let appliance = Appliance::start(&[]);
    let mut client = connect(&appliance, Publisher::New);
    for name in ["", ".hidden", "two words", "x".repeat(65).as_str(), "line\nbreak"] {
        let refused = [client.create_stream(name), client.describe_stream(name)];
        assert!(refused.iter().all(|said| matches!(said, Err(Error::Argument { .. }))), "{name}");
    }
    let stream = client.create_stream("orders").unwrap().id;
    let trimmed = client.trim_stream(stream, u64::MAX);
    assert!(matches!(trimmed, Err(Error::Argument { .. })));
    for from in [StartFrom::Sequence(u64::MAX), StartFrom::Time(u64::MAX)] {
        let said = client.subscribe(stream, from);
        assert!(matches!(said, Err(Error::Argument { .. })), "{said:?}");
    }
    assert!(client.subscribe(StreamId(99), StartFrom::Start).is_err());
    let server = appliance.address.parse().unwrap();
    let options = common::options(server, Publisher::New);
    for options in [
        ClientOptions { window_messages: 0, ..options.clone() },
        ClientOptions { window_messages: 1_000, ..options.clone() },
        ClientOptions { window_bytes: 0, ..options.clone() },
    ] {
        assert!(matches!(Client::connect(server, options), Err(Error::Argument { .. })));
    }
    let options = ClientOptions { window_bytes: 1_000, ..options };
    let mut client = Client::connect(server, options).unwrap();
    let limit = SizeLimit::Window;
    let refused = client.publish(stream, &[1; 1_001]);
    let wanted = OfferError::TooLarge { bytes: 1_001, max: 1_000, limit };
    assert!(matches!(refused, Err(Error::Offer(error)) if error == wanted));
    // Two of these never fit side by side, nor the second behind the first: each goes alone.
    for _ in 0..3 {
        client.publish(stream, &[1; 600]).unwrap();
        client.publish(stream, &[1; 1_000]).unwrap();
    }
}

/// A server that answers as it is told, until it is dropped.
struct Fake {
    address: SocketAddrV4,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    /// `answer` is given what came, and how the client that sent it numbers its newest session.
    fn start(mut answer: impl FnMut(&[u8], ConnId) -> Vec<u8> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let address = socket.local_addr().unwrap().to_string().parse().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let (mut room, mut client) = ([0; 9_000], ConnId(0));
            while !ends.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut room) else { continue };
                if let Ok(Datagram::Init(init)) = parse(&room[..len]) {
                    client = ConnId(init.client_id.get());
                }
                let _ = socket.send_to(&answer(&room[..len], client), from);
            }
        });
        Self { address, over, thread: Some(thread) }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A datagram of a client's session, each of another number.
fn datagram(client: ConnId, kind: Kind, body: &[u8]) -> Vec<u8> {
    static SAID: AtomicU64 = AtomicU64::new(1);
    let mut room = vec![0; 16 + 4 + body.len()];
    let mut writer = DatagramWriter::new(&mut room, client, SAID.fetch_add(1, Ordering::Relaxed));
    assert!(writer.frame(kind, body, &[]));
    room
}

/// A session, in an appliance with this many shards; or none, and why.
fn resp(client: ConnId, shards: u16, status: u16) -> Vec<u8> {
    let mut accept = Accept::new_zeroed();
    (accept.status, accept.version_max) = (status.into(), VERSION.into());
    if status == 0 {
        (accept.suite, accept.datagram_bytes) = (SUITE_PLAIN.into(), 1_472.into());
        (accept.server_id, accept.shards) = (7.into(), shards.into());
    }
    Resp::plain(client, accept).as_bytes().to_vec()
}

/// REGISTERED for the first REGISTER of a client.
fn registered(asked: &[u8], client: ConnId) -> Vec<u8> {
    let mut body = Registered::new_zeroed();
    let Ok(Datagram::Session { frames, .. }) = parse(asked) else { panic!("a REGISTER") };
    if let Some(Ok(FromClient::Register(register))) = frames.from_client().next() {
        body.request = register.head.request;
    }
    (body.datagram_bytes, body.log_id) = (1_472.into(), [1; 16]);
    (body.epoch, body.lineage) = (3.into(), 9.into());
    (body.producer_id, body.producer_epoch) = (5.into(), 1.into());
    body.message_bytes_max = 1_400.into();
    (body.max_seq_allowed, body.max_bytes_allowed) = (1_000.into(), (1 << 20).into());
    body.copies = 1;
    datagram(client, Kind::Registered, body.as_bytes())
}

/// What a fake says that gives a session, and then what it is told to.
fn opens(
    shards: u16,
    mut then: impl FnMut(ConnId) -> Vec<u8> + Send + 'static,
) -> impl FnMut(&[u8], ConnId) -> Vec<u8> + Send + 'static {
    move |asked, client| match parse(asked) {
        Ok(Datagram::Init(_)) => resp(client, shards, 0),
        // The kind of its first frame.
        _ if asked.get(16) == Some(&1) => registered(asked, client),
        _ => then(client),
    }
}

#[test]
fn a_server_that_speaks_and_never_answers_is_given_up() {
    let dead_after_ns = 300_000_000;
    let options = ClientOptions { dead_after_ns, ..ClientOptions::plain(Publisher::New) };
    let heartbeat = |client| datagram(client, Kind::Heartbeat, &[0; 16]);
    let since = Instant::now();
    // One that says something, one that gives sessions and registers nobody, and one that is heard of by RETRY alone.
    let key = MacKey::of_server(&[0; 32]);
    let silent = Fake::start(move |_, client| heartbeat(client));
    let gives = Fake::start(move |asked, client| match parse(asked) {
        Ok(Datagram::Init(_)) => resp(client, 1, 0),
        _ => heartbeat(client),
    });
    let circle = Fake::start(move |_, client| {
        Retry::new(client, [1; 16]).with_mac(&key).as_bytes().to_vec()
    });
    for server in [silent, gives, circle] {
        let error = Client::connect(server.address, options.clone()).unwrap_err();
        assert!(matches!(error, Error::Client(ClientError::Unanswered { .. })), "{error}");
    }
    let deaf = Fake::start(opens(1, heartbeat));
    let client = || Client::connect(deaf.address, options.clone()).unwrap();
    let errors = [
        client().create_stream("orders").map(|_| ()).unwrap_err(),
        client().list_streams().map(|_| ()).unwrap_err(),
        client().subscribe(StreamId(1), StartFrom::Start).map(|_| ()).unwrap_err(),
        client().publish(StreamId(1), b"a message").map(|_| ()).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Client(ClientError::Unanswered { .. })), "{error}");
    }
    assert!(since.elapsed() < Duration::from_secs(60));
}

/// One that starts says so for as long as it takes; one that stops, or whose disk is away, is given up.
#[test]
fn a_server_that_starts_is_waited_for_and_one_that_stops_is_not() {
    let dead_after_ns = 300_000_000;
    let options = ClientOptions { dead_after_ns, ..ClientOptions::plain(Publisher::New) };
    let starts = Duration::from_millis(1_500);
    let since = Instant::now();
    let server = Fake::start(move |_, client| {
        let is_starting = since.elapsed() < starts;
        let code = if is_starting { ErrorCode::Starting } else { ErrorCode::Draining };
        resp(client, 1, code.code())
    });
    let error = Client::connect(server.address, options.clone()).unwrap_err();
    assert!(since.elapsed() > starts, "it was given up after {:?}: {error}", since.elapsed());
    assert!(error.to_string().contains("is stopping"), "it stops: {error}");
}

#[test]
fn a_server_of_another_version_is_named_as_such() {
    let server = Fake::start(|_, client| {
        let key = MacKey::of_server(&[0; 32]);
        Versions::new(client.0).with_mac(&key).as_bytes().to_vec()
    });
    let dead_after_ns = 300_000_000;
    let options = ClientOptions { dead_after_ns, ..ClientOptions::plain(Publisher::No) };
    let error = Client::connect(server.address, options).unwrap_err();
    assert!(matches!(error, Error::Client(ClientError::OtherVersion { .. })), "{error}");
}

#[test]
fn numbers_of_a_hostile_server_end_the_session() {
    let options =
        ClientOptions { dead_after_ns: 2_000_000_000, ..ClientOptions::plain(Publisher::New) };
    let nonsense = [[0xff; 80].as_slice(), &[1, 0, 0, 0, 0, 0, 0, 0], &[0; 40]].concat();
    let acks = Fake::start(opens(1, move |client| datagram(client, Kind::Ack, &nonsense)));
    let mut client = Client::connect(acks.address, options.clone()).unwrap();
    let error = client.publish(StreamId(1), b"a message").unwrap_err();
    assert!(matches!(error, Error::Client(ClientError::Nonsense { .. })), "{error}");
    // Shard 63 of a server whose own port is the base may lie beyond the last port: there is none then.
    let many = Fake::start(opens(64, |client| datagram(client, Kind::Heartbeat, &[0; 16])));
    let mut client = Client::connect(many.address, options).unwrap();
    let facts = client.polled().shards();
    let reached = (0..64).filter(|&shard| facts.address_of(shard).is_some()).count();
    assert_eq!(reached, 64.min(usize::from(u16::MAX - many.address.port()) + 1));
}
