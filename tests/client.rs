//! The blocking client with an appliance, and with servers that are none: every call ends.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
#![allow(clippy::disallowed_methods, reason = "these tests drive real sockets in real time")]

mod common;

use std::net::{SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use buslane::client::blocking::{Client, Error};
use buslane::client::{
    BackPressure, ClientError, ClientOptions, OfferError, Publisher, SizeLimit, StartFrom,
};
use buslane::ids::StreamId;
use common::Appliance;

fn connect(appliance: &Appliance, publisher: Publisher) -> Client {
    Client::connect(appliance.address.parse().unwrap(), ClientOptions::new(publisher)).unwrap()
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
    let options = ClientOptions::new(Publisher::New);
    for options in [
        ClientOptions { window_messages: 0, ..options },
        ClientOptions { window_messages: 1_000, ..options },
        ClientOptions { window_bytes: 0, ..options },
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
    fn start(mut answer: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let address = socket.local_addr().unwrap().to_string().parse().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut room = [0; 9_000];
            while !ends.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut room) else { continue };
                let _ = socket.send_to(&answer(&room[..len]), from);
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

fn datagram(conn_id: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_le_bytes();
    let id = conn_id.to_le_bytes();
    [&[0x10, 0, 0, 0][..], &id, &[1; 8], &[kind, 0], &len, body].concat()
}

/// REGISTERED for a REGISTER, of a server with this many shards.
fn registered(asked: &[u8], shards: u8) -> Vec<u8> {
    let mut body = asked[20..28].to_vec();
    body.extend(7u32.to_le_bytes());
    body.extend(1u32.to_le_bytes());
    for number in [5u64, 3, 0, 1_000, 1 << 20] {
        body.extend(number.to_le_bytes());
    }
    body.extend(1_400u32.to_le_bytes());
    body.extend([1, 0, shards, 0]);
    body.extend(1_472u16.to_le_bytes());
    body.extend([0; 6]);
    datagram(0, 2, &body)
}

#[test]
fn a_server_that_speaks_and_never_answers_is_given_up() {
    let dead_after_ns = 300_000_000;
    let options = ClientOptions { dead_after_ns, ..ClientOptions::new(Publisher::New) };
    let heartbeat = |conn_id| datagram(conn_id, 11, &[0; 16]);
    let silent = Fake::start(move |_| heartbeat(0));
    let since = Instant::now();
    let error = Client::connect(silent.address, options).unwrap_err();
    assert!(matches!(error, Error::Client(ClientError::Unanswered { .. })), "{error}");
    let deaf = Fake::start(move |asked| match asked[16] {
        1 => registered(asked, 1),
        _ => heartbeat(7),
    });
    let client = || Client::connect(deaf.address, options).unwrap();
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
    let options = ClientOptions { dead_after_ns, ..ClientOptions::new(Publisher::New) };
    let starts = Duration::from_millis(1_500);
    let since = Instant::now();
    let server = Fake::start(move |_| {
        let starting = u64::from(since.elapsed() < starts);
        datagram(0, 20, &[&[10, 0, 0, 0, 0, 0, 0, 0], &starting.to_le_bytes()[..]].concat())
    });
    let error = Client::connect(server.address, options).unwrap_err();
    assert!(since.elapsed() > starts, "it was given up after {:?}: {error}", since.elapsed());
    assert!(error.to_string().contains("starting or stopping"), "it stops: {error}");
}

#[test]
fn numbers_of_a_hostile_server_end_the_session() {
    let options =
        ClientOptions { dead_after_ns: 2_000_000_000, ..ClientOptions::new(Publisher::New) };
    let acks = Fake::start(|asked| match asked[16] {
        1 => registered(asked, 1),
        _ => datagram(7, 4, &[[0xff; 80].as_slice(), &[1, 0, 0, 0, 0, 0, 0, 0]].concat()),
    });
    let mut client = Client::connect(acks.address, options).unwrap();
    let error = client.publish(StreamId(1), b"a message").unwrap_err();
    assert!(matches!(error, Error::Client(ClientError::Nonsense { .. })), "{error}");
    // Shard 63 of a server whose own port is the base would lie beyond the last port.
    let many = Fake::start(|asked| registered(asked, 64));
    let shards = Client::connect(many.address, options).map(|mut client| client.polled().shards());
    match shards {
        Ok(facts) => assert!((0..64).all(|shard| facts.address_of(shard).is_some())),
        Err(error) => assert!(many.address.port() > u16::MAX - 63, "{error}"),
    }
}
