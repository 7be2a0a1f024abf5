//! Golden vectors: `tests/vectors/session-v1.json` is what this code makes of fixed keys, for whoever writes a client.
//!
//! The file is compared, not made: what it says, others have built on. Where the wire changes on purpose,
//! `BUSLANE_WRITE_VECTORS=1 cargo test --lib vectors` writes it anew. `tests/vectors.rs` has it checked by an implementation
//! that shares nothing with this one.

use std::fs;

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use zerocopy::{FromZeros, IntoBytes};

use super::control::{ErrorCode, HEARTBEAT_ANSWER, Heartbeat};
use super::datagram::{
    Accept, DatagramHeader, Hello, INIT_MESSAGE_BYTES, Init, PACKET_NO_MAX, Reset, Resp, Retry,
    SUITE_AES_GCM, SUITE_PLAIN, VERSION, Versions,
};
use super::frame_vectors_tests::{all_frames, other_frames};
use super::mac::MacKey;
use super::{DATAGRAM_HEADER_BYTES, DatagramWriter, Kind, parse};
use crate::access::key::{PublicKey, SecretKey};
use crate::ids::ConnId;
use crate::seal::SEAL_BYTES;
use crate::seal::generation::{Chain, Derived, Generation};
use crate::seal::noise::{Answering, Asking, End, Secrets};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/session-v1.json");

/// Who numbers the session how.
const CLIENT_ID: ConnId = ConnId(0x1122_3344_5566_7788);
const SERVER_ID: ConnId = ConnId(0x99aa_bbcc_ddee_ff01);
const COOKIE: [u8; 16] = *b"a cookie of some";
const TOKEN: [u8; 16] = *b"a token of RESET";
const UNIX_NS: u64 = 1_800_000_000_123_456_789;

/// Keys, by their bytes, all the same.
struct Keys {
    server: SecretKey,
    client: SecretKey,
    client_ephemeral: SecretKey,
    server_ephemeral: SecretKey,
    refusing_ephemeral: SecretKey,
    psk: SecretKey,
}

fn keys() -> Keys {
    let key = |byte| SecretKey::from_bytes([byte; 32]);
    Keys {
        server: key(0x51),
        client: key(0xc1),
        client_ephemeral: key(0xce),
        server_ephemeral: key(0x5e),
        refusing_ephemeral: key(0x5f),
        psk: key(0x95),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

fn hello(suites: u16) -> Hello {
    let instance = u128::from_le_bytes(*b"always the same!");
    let mut hello = Hello::new(UNIX_NS, 1472, instance).offering(suites);
    hello.agent = 7.into();
    hello
}

fn accept(suite: u16) -> Accept {
    let mut accept = Accept::new_zeroed();
    accept.suite = suite.into();
    accept.datagram_bytes = 8972.into();
    accept.version_max = VERSION.into();
    accept.server_id = SERVER_ID.0.into();
    (accept.reset_token, accept.cookie) = (TOKEN, COOKIE);
    accept.unix_ns = (UNIX_NS + 1_000_000).into();
    (accept.shard, accept.shards) = (1.into(), 2.into());
    accept
}

fn refusal() -> Accept {
    accept(SUITE_AES_GCM).refused(ErrorCode::NotAuthorized)
}

/// What both ends say before a session, and the secrets that follow.
struct Handshake {
    init: Init,
    resp: Resp,
    refused: Resp,
    secrets: Secrets,
}

fn handshake(keys: &Keys, psk: Option<&SecretKey>) -> Handshake {
    let mut init = Init::sealed(CLIENT_ID, [0; 16]);
    let beginning = *init.beginning();
    let end = |secret, ephemeral| End { secret, ephemeral, beginning: &beginning };
    let asks = end(&keys.client, &keys.client_ephemeral);
    let (of, says) = (keys.server.public(), zerocopy::transmute!(hello(SUITE_AES_GCM)));
    let begin = |message: &mut [u8; INIT_MESSAGE_BYTES]| {
        Asking::begin(&asks, &of, psk, &says, message).expect("a good key")
    };
    begin(init.message_mut());
    let answer = |ephemeral, accept: Accept| {
        let (answering, who, heard) =
            Answering::read(&end(&keys.server, ephemeral), init.message()).expect("it is asked");
        assert_eq!((who, heard), (keys.client.public(), says));
        let answer = answering.answer(psk, zerocopy::transmute_ref!(&accept));
        let (message, secrets) = answer.expect("it answers");
        let mut asked_again = [0; INIT_MESSAGE_BYTES];
        let (heard, asked) = begin(&mut asked_again).read(&message).expect("it is the answer");
        assert_eq!((asked_again, heard.as_slice()), (*init.message(), accept.as_bytes()));
        assert_eq!(asked.of_asking(), secrets.of_asking());
        assert_eq!(asked.of_answering(), secrets.of_answering());
        (Resp::sealed(CLIENT_ID, &message), secrets)
    };
    let (refused, _) = answer(&keys.refusing_ephemeral, refusal());
    let (resp, secrets) = answer(&keys.server_ephemeral, accept(SUITE_AES_GCM));
    Handshake { init, resp, refused, secrets }
}

/// The three datagrams that ask: without a cookie, what is answered, and with it.
fn asked(init: Init, key: &MacKey) -> Value {
    let retry = Retry::new(CLIENT_ID, COOKIE).with_mac(key);
    let mut again = init;
    again.cookie = COOKIE;
    json!({
        "init": hex(init.with_mac(key).as_bytes()),
        "retry": hex(retry.as_bytes()),
        "init_with_cookie": hex(again.with_mac(key).as_bytes()),
    })
}

fn generations(secret: &[u8; 32]) -> Vec<(Chain, Box<Generation>)> {
    let mut made: Vec<(Chain, Box<Generation>)> = Vec::new();
    for _ in 0..3 {
        let chain =
            made.last().map_or_else(|| Chain::begin(secret), |(_, before)| before.after().clone());
        let generation = Generation::of(&chain);
        made.push((chain, generation));
    }
    made
}

fn generation(chain: &Chain) -> Value {
    let Derived { secret, key, iv } = chain.derived();
    json!({"secret": hex(&secret), "key": hex(&key), "iv": hex(&iv)})
}

/// A datagram with a HEARTBEAT.
fn datagram(conn_id: ConnId, packet_no: u64, generation: Option<&Generation>) -> Vec<u8> {
    let mut bytes = vec![0; DATAGRAM_HEADER_BYTES + 20 + SEAL_BYTES];
    let mut writer = DatagramWriter::sealed(&mut bytes, conn_id, packet_no, generation);
    assert!(writer.frame(Kind::Heartbeat, heartbeat().as_bytes(), &[]));
    let len = writer.finish();
    bytes.truncate(len);
    bytes
}

fn heartbeat() -> Heartbeat {
    Heartbeat { sub: 0.into(), flags: HEARTBEAT_ANSWER.into(), durable_next: 0.into() }
}

fn sealed(keys: &Keys, psk: Option<&SecretKey>) -> Value {
    let Handshake { init, resp, refused, secrets } = handshake(keys, psk);
    let key = MacKey::of_server(&keys.server.public().0);
    let mut datagrams = Vec::new();
    let ways =
        [("client", SERVER_ID, secrets.of_asking()), ("server", CLIENT_ID, secrets.of_answering())];
    let mut of_ways = serde_json::Map::new();
    for (from, conn_id, secret) in ways {
        let made = generations(secret);
        of_ways.insert(from.into(), made.iter().map(|(chain, _)| generation(chain)).collect());
        for (packet_no, (_, generation)) in [1, 0x0102_0304_0506, PACKET_NO_MAX].iter().zip(&made) {
            datagrams.push(json!({
                "from": from,
                "phase": generation.phase(),
                "packet_no": packet_no,
                "conn_id": hex(conn_id.0.as_bytes()),
                "frames": hex(&[&[Kind::Heartbeat as u8, 0, 16, 0], heartbeat().as_bytes()].concat()),
                "datagram": hex(&datagram(conn_id, *packet_no, Some(generation))),
            }));
        }
    }
    json!({
        "psk": psk.map(|psk| hex(psk.bytes())),
        "asked": asked(init, &key),
        "resp": hex(resp.as_bytes()),
        "resp_refused": hex(refused.as_bytes()),
        "generations": of_ways,
        "sealed": datagrams,
    })
}

fn plain() -> Value {
    let init = Init::plain(CLIENT_ID, [0; 16], hello(SUITE_PLAIN));
    json!({
        "hello": hex(hello(SUITE_PLAIN).as_bytes()),
        "accept": hex(accept(SUITE_PLAIN).as_bytes()),
        "asked": asked(init, &MacKey::of_server(&[0; 32])),
        "resp": hex(Resp::plain(CLIENT_ID, accept(SUITE_PLAIN)).as_bytes()),
        "resp_refused": hex(Resp::plain(CLIENT_ID, refusal()).as_bytes()),
        "datagram": hex(&datagram(SERVER_ID, 1, None)),
    })
}

fn key_texts(keys: &Keys) -> Value {
    let (secret, public) = (keys.client.to_text(), keys.client.public().to_string());
    let text = |prefix: &str, text: &str, key: &[u8]| json!({"prefix": prefix, "text": text, "key": hex(key)});
    let public_key = keys.client.public().0;
    let mut bad: Vec<(&str, String)> = Vec::new();
    // A letter that is another one, two that changed places, a letter too few, the other kind, and no letter of a key.
    let mistyped =
        public.replacen(&public[20..=20], if &public[20..=20] == "a" { "b" } else { "a" }, 1);
    bad.push(("blp1", mistyped));
    let at = (4..58).find(|&at| public.as_bytes()[at] != public.as_bytes()[at + 1]);
    let at = at.expect("not all the same");
    let mut swapped = public.clone().into_bytes();
    swapped.swap(at, at + 1);
    bad.push(("blp1", String::from_utf8(swapped).expect("letters")));
    bad.push(("blp1", public[..58].to_owned()));
    bad.push(("blp1", secret.to_string()));
    bad.push(("blp1", format!("blp1{}", &secret[4..])));
    bad.push(("blp1", format!("{}1", &public[..58])));
    bad.push(("bls1", public.clone()));
    for (_, wrong) in bad.iter().filter(|(prefix, _)| *prefix == "blp1") {
        assert!(wrong.parse::<PublicKey>().is_err(), "{wrong}");
    }
    let mut texts = vec![
        text("blp1", &public, &public_key),
        text("blp1", &format!("blp1{}", public[4..].to_uppercase()), &public_key),
        text("bls1", &secret, keys.client.bytes()),
    ];
    texts.extend(
        bad.iter().map(|(prefix, text)| json!({"prefix": prefix, "text": text, "key": null})),
    );
    texts.into()
}

/// Datagrams, and whether they are looked at: the rest of one that is sealed is seen when it is opened.
fn versions() -> Versions {
    Versions::new(CLIENT_ID.0).with_mac(&MacKey::of_server(&[0; 32]))
}

fn datagrams(keys: &Keys) -> Value {
    let secrets = handshake(keys, None).secrets;
    let generation = Generation::of(&Chain::begin(secrets.of_asking()));
    let sealed = datagram(SERVER_ID, 1, Some(&generation));
    let plain = datagram(SERVER_ID, 1, None);
    let changed = |of: &[u8], at: usize, value: u8| {
        let mut changed = of.to_vec();
        changed[at] = value;
        changed
    };
    let nobody = |of: &[u8]| [&of[..8], &[0; 8], &of[16..]].concat();
    let unnumbered = |of: &[u8]| [&of[..2], &[0; 6], &of[8..]].concat();
    let header = DatagramHeader::sealed(SERVER_ID, PACKET_NO_MAX, 3);
    let init = handshake(keys, None).init;
    let (init, opened) = (init.as_bytes(), Resp::plain(CLIENT_ID, accept(SUITE_PLAIN)));
    let (reset, versions) = (Reset::new(SERVER_ID, TOKEN), versions());
    let (opened, reset, versions) = (opened.as_bytes(), reset.as_bytes(), versions.as_bytes());
    let all = [
        ("SEALED of the least length", [header.as_bytes(), &[0; 20]].concat()),
        ("SEALED that is shorter", [header.as_bytes(), &[0; 19]].concat()),
        ("SEALED, phase 4", changed(&sealed, 1, 4)),
        ("SEALED of no session", nobody(&sealed)),
        ("SEALED without a number", unnumbered(&sealed)),
        ("PLAIN without a frame", plain[..16].to_vec()),
        ("PLAIN that is shorter", plain[..15].to_vec()),
        ("PLAIN, phase 1", changed(&plain, 1, 1)),
        ("PLAIN of no session", nobody(&plain)),
        ("PLAIN without a number", unnumbered(&plain)),
        ("INIT", init.to_vec()),
        ("INIT that is shorter", init[..255].to_vec()),
        ("INIT that is longer", [init, &[0]].concat()),
        ("INIT, byte 1", changed(init, 1, 1)),
        ("INIT, byte 4", changed(init, 4, 1)),
        ("INIT, byte 239", changed(init, 239, 1)),
        ("INIT that offers GMAC only", changed(init, 2, 2)),
        ("INIT of no client", nobody(init)),
        ("INIT of another version", changed(init, 0, 0x21)),
        ("INIT of the version before", changed(init, 0, 0x01)),
        ("RESP", opened.to_vec()),
        ("RESP, shard 2 of 2", changed(opened, 128, 2)),
        ("RESP with and without a session", changed(opened, 48, 10)),
        ("RESP, byte 143", changed(opened, 143, 1)),
        ("RESET", reset.to_vec()),
        ("RESET, byte 1", changed(reset, 1, 1)),
        ("RESET of no session", nobody(reset)),
        ("VERSIONS", versions.to_vec()),
        ("VERSIONS, lowest 2, highest 1", changed(versions, 16, 2)),
        ("VERSIONS, byte 31", changed(versions, 31, 1)),
        ("of type 15", changed(&plain, 0, 0x15)),
        ("of type 10", changed(&plain, 0, 0x10)),
        ("nothing", Vec::new()),
    ];
    let takes = |(what, bytes): &(&str, Vec<u8>)| json!({"what": what, "takes": parse(bytes).is_ok(), "datagram": hex(bytes)});
    all.iter().map(takes).collect()
}

fn all() -> Value {
    let keys = keys();
    let public = |secret: &SecretKey| hex(&secret.public().0);
    json!({
        "about": "Buslane, session protocol v1: docs/protocol.md. Bytes are hexadecimal. See src/wire/vectors_tests.rs.",
        "keys": {
            "server_secret": hex(keys.server.bytes()),
            "server_public": public(&keys.server),
            "client_secret": hex(keys.client.bytes()),
            "client_public": public(&keys.client),
            "client_ephemeral": hex(keys.client_ephemeral.bytes()),
            "server_ephemeral": hex(keys.server_ephemeral.bytes()),
            "refusing_ephemeral": hex(keys.refusing_ephemeral.bytes()),
        },
        "k1": hex(&MacKey::of_server(&keys.server.public().0).for_tests()),
        "k1_plain": hex(&MacKey::of_server(&[0; 32]).for_tests()),
        "key_texts": key_texts(&keys),
        "hello": hex(hello(SUITE_AES_GCM).as_bytes()),
        "accept": hex(accept(SUITE_AES_GCM).as_bytes()),
        "refusal": hex(refusal().as_bytes()),
        "handshakes": [sealed(&keys, None), sealed(&keys, Some(&keys.psk))],
        "plain": plain(),
        "reset": {
            "conn_id": hex(SERVER_ID.0.as_bytes()),
            "token": hex(&TOKEN),
            "datagram": hex(Reset::new(SERVER_ID, TOKEN).as_bytes()),
        },
        "versions": hex(versions().as_bytes()),
        "datagrams": datagrams(&keys),
        "frames": all_frames(),
        "other_frames": other_frames(),
    })
}

#[test]
fn the_vectors_are_what_this_code_makes_of_their_keys() {
    let made = serde_json::to_string_pretty(&all()).expect("it is JSON") + "\n";
    if std::env::var_os("BUSLANE_WRITE_VECTORS").is_some() {
        fs::write(FILE, &made).expect("the file is written");
    }
    let kept = fs::read_to_string(FILE).unwrap_or_default();
    assert!(made.len() < 200 << 10, "{} bytes", made.len());
    let differs = made.lines().zip(kept.lines()).position(|(made, kept)| made != kept);
    let differs = differs.or_else(|| (made.len() != kept.len()).then(|| made.lines().count()));
    assert_eq!(differs, None, "{FILE}: from this line on it says something else");
}

#[test]
fn the_bytes_that_the_page_shows_are_those_of_the_vectors() {
    let page = include_str!("../../docs/protocol.md");
    let vectors = all().to_string();
    let is_hex =
        |word: &&str| word.len() >= 24 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words: Vec<&str> = page.split_whitespace().filter(is_hex).collect();
    assert!(words.len() > 30, "only {} words", words.len());
    for word in words {
        assert!(vectors.contains(word), "docs/protocol.md: {word} is in no vector");
    }
}
