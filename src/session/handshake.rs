//! Handshakes: who asks for a sealed session is known here, and gets its keys.
//!
//! It takes a tenth of a millisecond, so it is not done by the shard, which sees to it that only those are let through
//! who know the appliance's key and receive at their address. What is asked and what is told goes over rings. A shard
//! neither makes nor drops keys: they come over the one ring, and go back over the other.

use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};

use super::table::SessionPlace;
use crate::access::key::{PublicKey, SecretKey};
use crate::access::{Access, IdentityId};
use crate::ids::{ConnId, Peer};
use crate::limits::{
    ANSWERS_KEPT, HANDSHAKES_A_LOOK, HANDSHAKES_WAITING_MAX, KEYS_A_LOOK, KEYS_WAITING_MAX,
    SOURCES_MAX,
};
use crate::seal::entropy::Entropy;
use crate::seal::generation::{Chain, Generation};
use crate::seal::keys::{Direction, Rotation, SessionKeys};
use crate::seal::noise::{Answering, End};
use crate::wire::control::ErrorCode;
use crate::wire::datagram::{Accept, Hello, Init, Resp};
use crate::wire::mac::MacKey;

/// For so long an answer is given again to who did not hear it.
const ANSWERED_NS: u64 = 2_000_000_000;

/// Handshakes a second from one source, and at once after a rest.
const SOURCE: Pace = Pace { every_ns: 1_000_000_000 / 512, at_once: 1024 };

/// The same of one identity.
const IDENTITY: Pace = Pace { every_ns: 1_000_000_000 / 1024, at_once: 4096 };

/// A wish for a session that its shard has let through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// Who asks.
    pub(crate) peer: Peer,
    /// With what.
    pub(crate) init: Init,
    /// What the shard answers to somebody who may come.
    pub(crate) accept: Accept,
}

/// What a shard wants done beside that.
#[derive(Debug)]
pub(crate) enum Ask {
    /// The next generation of a session's direction is to be made.
    Make(SessionPlace, Direction, Chain),
    /// What it does not need any more is to be dropped.
    Drop(Spent),
}

/// What a shard does not need any more.
#[derive(Debug)]
#[expect(dead_code, reason = "it is dropped, and nobody looks at it")]
pub(crate) enum Spent {
    /// A generation of keys.
    Generation(Box<Generation>),
    /// All keys of a session.
    Keys(Box<SessionKeys>),
    /// Who had access before.
    Access(Arc<Access>),
}

/// A session whose client has shown who it is.
#[derive(Debug)]
pub(crate) struct Established {
    /// Who, and by which key.
    pub(crate) identity: IdentityId,
    pub(crate) key: PublicKey,
    /// How its client numbers it.
    pub(crate) client_id: ConnId,
    /// As its server does.
    pub(crate) conn_id: ConnId,
    /// What its client says of itself.
    pub(crate) hello: Hello,
    /// Its keys.
    pub(crate) keys: Box<SessionKeys>,
}

/// The answer to a handshake.
#[derive(Debug)]
pub(crate) struct Answer {
    /// To whom.
    pub(crate) peer: Peer,
    /// What it is told.
    pub(crate) resp: Resp,
    /// The session that it is told of, where that is a new one.
    pub(crate) established: Option<Established>,
}

/// What a shard is told beside that.
#[derive(Debug)]
pub(crate) enum Told {
    /// The next generation of a session's direction.
    Made(SessionPlace, Direction, Box<Generation>),
    /// Who has access from now on.
    Access(Arc<Access>),
}

/// The shard's end.
#[derive(Debug)]
pub struct ShardEnd {
    requests: Producer<Request>,
    pub(crate) answers: Consumer<Answer>,
    pub(crate) asks: Producer<Ask>,
    pub(crate) told: Consumer<Told>,
}

/// The other end.
#[derive(Debug)]
pub struct HandshakerEnd {
    requests: Consumer<Request>,
    answers: Producer<Answer>,
    asks: Consumer<Ask>,
    told: Producer<Told>,
    /// What the shard was told last.
    access: Arc<Access>,
}

/// The rings between a shard, which knows who has access, and the handshaker.
#[must_use]
pub fn rings(access: Arc<Access>) -> (ShardEnd, HandshakerEnd) {
    let (requests_in, requests) = RingBuffer::new(HANDSHAKES_WAITING_MAX);
    let (answers, answers_out) = RingBuffer::new(HANDSHAKES_WAITING_MAX);
    let (asks_in, asks) = RingBuffer::new(KEYS_WAITING_MAX);
    let (told, told_out) = RingBuffer::new(KEYS_WAITING_MAX);
    let shard =
        ShardEnd { requests: requests_in, answers: answers_out, asks: asks_in, told: told_out };
    (shard, HandshakerEnd { requests, answers, asks, told, access })
}

impl ShardEnd {
    /// Hands over what is not needed any more. Only where nobody has looked for long is it dropped here.
    pub(crate) fn drop_elsewhere(&mut self, spent: Spent) {
        let _ = self.asks.push(Ask::Drop(spent));
    }

    /// Asks for an answer to a handshake; `false` where there are as many waiting as may be.
    pub(crate) fn ask(&mut self, request: &Request) -> bool {
        self.requests.push(*request).is_ok()
    }
}

/// How often something may be.
#[derive(Clone, Copy, Debug)]
struct Pace {
    every_ns: u64,
    at_once: u64,
}

/// Who comes how often: by a hash, so that a place is shared by chance only, and nobody can choose whose it shares.
#[derive(Debug)]
struct Paces {
    key: MacKey,
    pace: Pace,
    /// When each would be at rest.
    rests_ns: Box<[u64]>,
}

impl Paces {
    fn new(pace: Pace, entropy: &mut Entropy) -> Self {
        let random = entropy.key();
        let (key, _) = random.bytes().split_first_chunk().expect("32 bytes");
        Self { key: MacKey::new(*key), pace, rests_ns: vec![0; SOURCES_MAX].into_boxed_slice() }
    }

    /// Whether somebody may once more.
    fn takes(&mut self, who: &[u8], now_ns: u64) -> bool {
        let [low, high, ..] = self.key.tag(&[who]);
        const LAST: usize = SOURCES_MAX - 1;
        let place = usize::from(u16::from_le_bytes([low, high])) & LAST;
        let rest_ns = self.rests_ns[place].max(now_ns).saturating_add(self.pace.every_ns);
        let most_ns = self.pace.every_ns.saturating_mul(self.pace.at_once);
        let takes = rest_ns.saturating_sub(now_ns) <= most_ns;
        if takes {
            self.rests_ns[place] = rest_ns;
        }
        takes
    }
}

/// An answer, for when it is asked for again.
#[derive(Clone, Copy, Debug)]
struct Answered {
    message: [u8; 32],
    peer: Peer,
    resp: Resp,
    at_ns: u64,
}

/// Answers handshakes, for all shards of an appliance.
#[derive(Debug)]
pub struct Handshaker {
    secret: SecretKey,
    access: Arc<Access>,
    entropy: Entropy,
    rotation: Rotation,
    sources: Paces,
    identities: Paces,
    answered: Box<[Option<Answered>]>,
}

impl Handshaker {
    /// That of an appliance with this key.
    #[must_use]
    pub fn new(secret: SecretKey, access: Arc<Access>, mut entropy: Entropy) -> Self {
        Self {
            secret,
            access,
            rotation: Rotation::DEFAULT,
            sources: Paces::new(SOURCE, &mut entropy),
            identities: Paces::new(IDENTITY, &mut entropy),
            entropy,
            answered: vec![None; ANSWERS_KEPT].into_boxed_slice(),
        }
    }

    /// The same that goes on to other keys as often as this says.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub(crate) fn with_rotation(self, rotation: Rotation) -> Self {
        Self { rotation, ..self }
    }

    /// These have access from now on; shards are told at their next turn.
    pub fn set_access(&mut self, access: Arc<Access>) {
        self.access = access;
    }

    /// Does some of what a shard wants done; how much that was.
    pub fn turn(&mut self, end: &mut HandshakerEnd, now_ns: u64) -> usize {
        let mut done = 0_usize;
        if !Arc::ptr_eq(&end.access, &self.access)
            && end.told.push(Told::Access(Arc::clone(&self.access))).is_ok()
        {
            end.access = Arc::clone(&self.access);
            done = 1;
        }
        // Keys first: sessions that there are wait for them; but not for ever, for others wait, too.
        for _ in 0..KEYS_A_LOOK {
            if end.told.is_full() {
                break;
            }
            let Ok(ask) = end.asks.pop() else { break };
            done = done.saturating_add(1);
            match ask {
                Ask::Make(of, direction, chain) => {
                    let made = Told::Made(of, direction, Generation::of(&chain));
                    end.told.push(made).expect("there was room");
                }
                Ask::Drop(spent) => drop(spent),
            }
        }
        for _ in 0..HANDSHAKES_A_LOOK {
            if end.answers.is_full() {
                break;
            }
            let Ok(request) = end.requests.pop() else { break };
            done = done.saturating_add(1);
            if let Some(answer) = self.answer(&request, now_ns) {
                end.answers.push(answer).expect("there was room");
            }
        }
        done
    }

    /// The answer to who asks, if there is one.
    pub(crate) fn answer(&mut self, request: &Request, now_ns: u64) -> Option<Answer> {
        let Request { peer, init, .. } = request;
        if let Some(resp) = self.answered_before(request, now_ns) {
            return Some(Answer { peer: *peer, resp, established: None });
        }
        if !self.sources.takes(&peer.addr.ip().octets(), now_ns) {
            return None;
        }
        let ephemeral = self.entropy.key();
        let beginning = init.beginning();
        let end = End { secret: &self.secret, ephemeral: &ephemeral, beginning };
        let (answering, who, says) = Answering::read(&end, init.message())?;
        let hello: Hello = zerocopy::transmute!(says);
        let identity = self.access.by_key(&who);
        let (id, psk) = identity
            .map_or((IdentityId::NOBODY, None), |identity| (identity.id, identity.psk.as_ref()));
        let code = if !hello.in_range(init.suites.get()) {
            Some(ErrorCode::Protocol)
        } else if identity.is_none() {
            Some(ErrorCode::NotAuthorized)
        } else if !self.identities.takes(&id.0.to_le_bytes(), now_ns) {
            return None;
        } else {
            None
        };
        let accept = code.map_or(request.accept, |code| request.accept.refused(code));
        let (message, secrets) = answering.answer(psk, zerocopy::transmute_ref!(&accept))?;
        let client_id = ConnId(init.client_id.get());
        let resp = Resp::sealed(client_id, &message);
        self.keep_answer(request, resp, now_ns);
        let established = (accept.status.get() == 0).then(|| Established {
            identity: id,
            key: who,
            client_id,
            conn_id: ConnId(accept.server_id.get()),
            hello,
            keys: Box::new(SessionKeys::new(&secrets, false, self.rotation, now_ns)),
        });
        Some(Answer { peer: *peer, resp, established })
    }

    fn answered_before(&self, request: &Request, now_ns: u64) -> Option<Resp> {
        let ephemeral = ephemeral(&request.init);
        let kept = self.answered[usize::from(ephemeral[0]) % ANSWERS_KEPT].as_ref()?;
        let is_same = kept.message == *ephemeral
            && kept.peer == request.peer
            && kept.resp.client_id == request.init.client_id;
        (is_same && now_ns.saturating_sub(kept.at_ns) < ANSWERED_NS).then_some(kept.resp)
    }

    fn keep_answer(&mut self, request: &Request, resp: Resp, now_ns: u64) {
        let message = *ephemeral(&request.init);
        let answered = Answered { message, peer: request.peer, resp, at_ns: now_ns };
        self.answered[usize::from(message[0]) % ANSWERS_KEPT] = Some(answered);
    }
}

/// The key of a client for one handshake.
fn ephemeral(init: &Init) -> &[u8; 32] {
    init.message().first_chunk().expect("it begins with it")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use super::*;
    use crate::access::{Identity, PublicKey, Rights};
    use crate::position::SessionSlot;
    use crate::seal::noise::{ASK_BYTES, Asking, Secrets};
    use crate::testing::sealed::{client_key, identity, server_key};
    use crate::wire::datagram::SUITE_AES_GCM;

    const PSK: u8 = 50;

    fn handshaker() -> Handshaker {
        let gateway = identity("gateway", 1, Rights::all());
        let psk = Some(client_key(PSK));
        let keys = vec![client_key(2).public()];
        let careful = Identity::new("careful", keys, psk, Rights::all());
        let access = Access::new(vec![gateway, careful], Rights::none()).unwrap();
        Handshaker::new(server_key(), Arc::new(access), Entropy::seeded(7))
    }

    fn accept() -> Accept {
        let mut accept = Accept::refusal(1);
        (accept.suite, accept.datagram_bytes) = (SUITE_AES_GCM.into(), 1472.into());
        (accept.server_id, accept.shards) = (9.into(), 1.into());
        accept
    }

    fn peer(port: u16) -> Peer {
        Peer::ip_only(SocketAddrV4::new([10, 0, 0, 1].into(), port))
    }

    /// What somebody asks, and what it needs to understand the answer.
    fn ask(number: u8, psk: Option<u8>, ephemeral: u8, hello: Hello) -> (Asking, Request) {
        let mut init = Init::sealed(ConnId(7), [1; 16]);
        let (beginning, secret, ephemeral) =
            (*init.beginning(), client_key(number), client_key(ephemeral));
        let end = End { secret: &secret, ephemeral: &ephemeral, beginning: &beginning };
        let says: [u8; ASK_BYTES] = zerocopy::transmute!(hello);
        let psk = psk.map(client_key);
        let message = init.message_mut();
        let asking = Asking::begin(&end, &server_key().public(), psk.as_ref(), &says, message);
        (asking.unwrap(), Request { peer: peer(1), init, accept: accept() })
    }

    fn hello() -> Hello {
        Hello::new(1, 1472, 5).offering(SUITE_AES_GCM)
    }

    fn told(asking: &mut Asking, answer: &Answer) -> (Accept, Secrets) {
        let (says, secrets) = asking.read(answer.resp.message()).expect("it is to this");
        (zerocopy::transmute!(says), secrets)
    }

    #[test]
    fn who_is_known_has_a_session_and_others_are_told_why_not() {
        let mut handshaker = handshaker();
        let (mut asking, request) = ask(1, None, 60, hello());
        let answer = handshaker.answer(&request, 0).unwrap();
        let established = answer.established.as_ref().unwrap();
        assert_eq!(established.identity, IdentityId::of("gateway"));
        assert_eq!((established.client_id, established.conn_id), (ConnId(7), ConnId(9)));
        assert_eq!(told(&mut asking, &answer).0.server_id.get(), 9);

        let refused = |handshaker: &mut Handshaker, number, ephemeral, hello| {
            let (mut asking, request) = ask(number, None, ephemeral, hello);
            let answer = handshaker.answer(&request, 0).unwrap();
            assert!(answer.established.is_none());
            told(&mut asking, &answer).0.status.get()
        };
        let code = refused(&mut handshaker, 3, 61, hello());
        assert_eq!(code, ErrorCode::NotAuthorized.code(), "nobody's key");
        // As if it had offered other suites: somebody on the way took one out.
        let code = refused(&mut handshaker, 1, 62, Hello::new(1, 1472, 5).offering(3));
        assert_eq!(code, ErrorCode::Protocol.code());
        let code = refused(&mut handshaker, 1, 63, Hello::new(1, 575, 5).offering(1));
        assert_eq!(code, ErrorCode::Protocol.code());
    }

    #[test]
    fn a_shared_key_is_needed_where_there_is_one() {
        let mut handshaker = handshaker();
        for (psk, ephemeral) in [(None, 60), (Some(PSK + 1), 61)] {
            let (mut asking, request) = ask(2, psk, ephemeral, hello());
            let answer = handshaker.answer(&request, 0).unwrap();
            assert!(asking.read(answer.resp.message()).is_none(), "it understands nothing");
        }
        let (mut asking, request) = ask(2, Some(PSK), 62, hello());
        let answer = handshaker.answer(&request, 0).unwrap();
        assert_eq!(told(&mut asking, &answer).0.status.get(), 0);
    }

    #[test]
    fn an_answer_is_given_again_for_a_while_and_makes_one_session() {
        let mut handshaker = handshaker();
        let (_, request) = ask(1, None, 60, hello());
        let first = handshaker.answer(&request, 0).unwrap();
        let again = handshaker.answer(&request, ANSWERED_NS - 1).unwrap();
        assert_eq!(first.resp.message(), again.resp.message());
        assert!(first.established.is_some() && again.established.is_none());
        // To nobody else, and not for ever.
        let elsewhere = Request { peer: peer(2), ..request };
        assert!(handshaker.answer(&elsewhere, 1).unwrap().established.is_some());
        assert!(handshaker.answer(&request, 0).unwrap().established.is_some(), "one a key");
        assert!(handshaker.answer(&request, 2 * ANSWERED_NS).unwrap().established.is_some());
        assert_eq!(handshaker.answered.len(), ANSWERS_KEPT);
    }

    #[test]
    fn who_comes_too_often_waits_and_others_do_not() {
        let mut entropy = Entropy::seeded(1);
        let pace = Pace { every_ns: 10, at_once: 3 };
        let mut paces = Paces::new(pace, &mut entropy);
        let taken = (0..9).filter(|_| paces.takes(b"one", 1_000)).count();
        assert_eq!(taken, 3);
        assert!(paces.takes(b"other", 1_000));
        assert!(!paces.takes(b"one", 1_009) && paces.takes(b"one", 1_010));
        assert!(!paces.takes(b"one", 1_010));
        let late = (0..9).filter(|_| paces.takes(b"one", 1_000_000)).count();
        assert_eq!(late, 3, "what was not used is not saved up");
        // Sources are many more than places: some share one, by chance.
        let all = (0..4 * SOURCES_MAX as u64).map(|source| source.to_le_bytes());
        let taken = all.filter(|source| paces.takes(source, 2_000_000)).count();
        assert!((2 * SOURCES_MAX..=3 * SOURCES_MAX).contains(&taken), "{taken}");
    }

    #[test]
    fn what_waits_is_bounded_and_nothing_is_lost_of_keys() {
        let mut handshaker = handshaker();
        let (mut shard, mut end) = rings(Arc::clone(&handshaker.access));
        let (_, request) = ask(1, None, 60, hello());
        let asked = (0..1_000).filter(|_| shard.ask(&request)).count();
        assert_eq!(asked, HANDSHAKES_WAITING_MAX);
        let place = SessionPlace { slot: SessionSlot::FIRST, conn_id: ConnId(1) };
        let chain = || Chain::begin(&[1; 32]);
        let make = |shard: &mut ShardEnd| {
            shard.asks.push(Ask::Make(place, Direction::Sent, chain())).is_ok()
        };
        let asked = (0..2 * KEYS_WAITING_MAX).filter(|_| make(&mut shard)).count();
        assert_eq!(asked, KEYS_WAITING_MAX);
        // There is no room to give anything back: it is dropped on the spot.
        shard.drop_elsewhere(Spent::Generation(Generation::of(&chain())));
        let done = handshaker.turn(&mut end, 0);
        assert_eq!(done, KEYS_A_LOOK + HANDSHAKES_A_LOOK, "so much a look, and both of it");
        while handshaker.turn(&mut end, 0) > 0 {}
        assert_eq!(shard.told.slots(), KEYS_WAITING_MAX);
        assert_eq!(shard.answers.slots(), HANDSHAKES_WAITING_MAX);
        // Nobody takes what was answered: nothing more is.
        assert!(shard.ask(&request) && make(&mut shard));
        assert_eq!(handshaker.turn(&mut end, 0), 0);
    }

    #[test]
    fn who_has_access_is_told_once() {
        let mut handshaker = handshaker();
        let (mut shard, mut end) = rings(Arc::clone(&handshaker.access));
        assert_eq!(handshaker.turn(&mut end, 0), 0);
        let keys: Vec<PublicKey> = vec![client_key(9).public()];
        let other = Identity::new("other", keys, None, Rights::none());
        handshaker.set_access(Arc::new(Access::new(vec![other], Rights::none()).unwrap()));
        assert_eq!((handshaker.turn(&mut end, 0), handshaker.turn(&mut end, 0)), (1, 0));
        assert!(
            matches!(shard.told.pop(), Ok(Told::Access(access)) if access.identities().len() == 1)
        );
        assert!(shard.told.pop().is_err());
    }
}
