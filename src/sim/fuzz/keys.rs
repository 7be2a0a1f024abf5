//! Targets about keys: files that people write, and handshakes of whoever comes.

use std::net::SocketAddrV4;
use std::path::Path;
use std::str::FromStr;

use zerocopy::{FromBytes, IntoBytes};

use crate::access::{Access, Credentials, PublicKey};
use crate::ids::{ConnId, Peer};
use crate::seal::entropy::Entropy;
use crate::seal::noise::{ASK_BYTES, Asking, End};
use crate::session::handshake::{Handshaker, Request};
use crate::testing::sealed::{client_key, everything, server_key};
use crate::wire::datagram::{Accept, Hello, Init, Resp, SUITE_AES_GCM};

/// `access.toml`, credentials, and a key as text.
pub(super) fn access(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let path = Path::new("access.toml");
    if let Ok(access) = Access::parse(path, &text) {
        for identity in access.identities() {
            let rights = access.rights(identity.id).expect("it is one of them");
            assert_eq!(*rights, identity.rights);
            for key in &identity.keys {
                assert!(access.knows(key, identity.id));
            }
        }
    }
    if let Ok(credentials) = Credentials::parse(path, &text) {
        assert!(!credentials.identity.is_empty());
    }
    if let Ok(key) = PublicKey::from_str(&text) {
        assert_eq!(key.to_string(), text.to_lowercase());
    }
}

/// What these files look like.
pub(super) fn access_files() -> Vec<Vec<u8>> {
    let (public, secret) = (client_key(1).public(), client_key(2).to_text());
    let secret = secret.as_str();
    let rights = "publish = [\"orders.*\"]\nsubscribe = [\"*\"]\ncreate = []\ntrim = [\"fills\"]\n";
    let access = format!(
        "[[identity]]\nname = \"desk\"\nkeys = [\"{public}\"]\npsk = \"{secret}\"\n{rights}\
         producers = [\"desk\"]\nadmin = false\n\n[plain]\n{rights}"
    );
    let credentials = format!(
        "identity = \"desk\"\nserver = \"bus.example:9310\"\nserver_key = \"{public}\"\n\
         secret = \"{secret}\"\npsk = \"{secret}\"\n"
    );
    vec![access.into_bytes(), credentials.into_bytes(), public.to_string().into_bytes()]
}

const EPHEMERAL: u8 = 9;

fn begin() -> (Asking, Init) {
    let mut init = Init::sealed(ConnId(7), [1; 16]);
    let (beginning, secret, ephemeral) = (*init.beginning(), client_key(1), client_key(EPHEMERAL));
    let end = End { secret: &secret, ephemeral: &ephemeral, beginning: &beginning };
    let hello = Hello::new(1, 1472, 5).offering(SUITE_AES_GCM);
    let says: [u8; ASK_BYTES] = zerocopy::transmute!(hello);
    let message = init.message_mut();
    let asking = Asking::begin(&end, &server_key().public(), None, &says, message);
    (asking.expect("the key of the server is somebody's"), init)
}

fn answered(init: &Init) -> Option<crate::session::handshake::Answer> {
    let entropy = Entropy::seeded(3);
    let mut handshaker = Handshaker::new(server_key(), everything().into(), entropy);
    let mut accept = Accept::refusal(1);
    (accept.suite, accept.datagram_bytes) = (SUITE_AES_GCM.into(), 1472.into());
    (accept.server_id, accept.shards) = (9.into(), 1.into());
    let peer = Peer::ip_only(SocketAddrV4::new([10, 0, 0, 1].into(), 9));
    handshaker.answer(&Request { peer, init: *init, accept }, 0)
}

/// Whatever says that it is an INIT, or a RESP, of a sealed session: only who knows the keys is answered, or believed.
pub(super) fn handshake(bytes: &[u8]) {
    let (mut asking, good) = begin();
    if let Ok(init) = Init::read_from_bytes(bytes) {
        let is_good = init.beginning() == good.beginning() && init.message() == good.message();
        let answer = answered(&init);
        assert_eq!(answer.is_some(), is_good, "{init:?}");
    }
    if let Ok(resp) = Resp::read_from_bytes(bytes) {
        let is_good =
            answered(&good).is_some_and(|true_one| true_one.resp.message() == resp.message());
        assert_eq!(asking.read(resp.message()).is_some(), is_good, "{resp:?}");
    }
}

/// What is said in one that goes well, and of somebody who is not known.
pub(super) fn handshakes() -> Vec<Vec<u8>> {
    let (_, init) = begin();
    let answer = answered(&init).expect("it is known");
    vec![init.as_bytes().to_vec(), answer.resp.as_bytes().to_vec()]
}
