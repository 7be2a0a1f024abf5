//! The handshake: `Noise_IKpsk2_25519_AESGCM_SHA256`, by `snow`, computed by aws-lc-rs.
//!
//! The asking end knows the key of the other; its own is told only to that. What both ends hold then is known to nobody
//! who learns their keys later.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::digest::{Context, SHA256};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error, HandshakeState};
use zeroize::{Zeroize, Zeroizing};

use super::SEAL_BYTES;
use crate::access::key::{PublicKey, SecretKey};

const PATTERN: &str = "Noise_IKpsk2_25519_AESGCM_SHA256";

/// First bytes of what both ends have to agree on before anything.
const PROTOCOL: &[u8; 8] = b"buslane1";

/// Where the key that both ends may share beside their own comes in.
const PSK: u8 = 2;

/// Bytes of a datagram's beginning that both ends have to agree on.
pub(crate) const BEGINNING_BYTES: usize = 16;

/// What an asking end says of itself, and the message that carries it.
pub(crate) const ASK_BYTES: usize = 48;
pub(crate) const ASK_MESSAGE_BYTES: usize = 32 + 48 + ASK_BYTES + SEAL_BYTES;

/// What an answering end says, and the message that carries it.
pub(crate) const ANSWER_BYTES: usize = 80;
pub(crate) const ANSWER_MESSAGE_BYTES: usize = 32 + ANSWER_BYTES + SEAL_BYTES;

/// The secrets of a session's two directions.
pub(crate) struct Secrets {
    asking: Zeroizing<[u8; 32]>,
    answering: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(..)")
    }
}

impl Secrets {
    fn of(state: &mut HandshakeState) -> Self {
        let (asking, answering) = state.dangerously_get_raw_split();
        Self { asking: asking.into(), answering: answering.into() }
    }

    #[cfg(test)]
    pub(crate) fn for_tests(asking: [u8; 32], answering: [u8; 32]) -> Self {
        Self { asking: asking.into(), answering: answering.into() }
    }

    /// Of what the asking end sends.
    pub(crate) fn of_asking(&self) -> &[u8; 32] {
        &self.asking
    }

    /// Of what the answering end sends.
    pub(crate) fn of_answering(&self) -> &[u8; 32] {
        &self.answering
    }
}

/// An end of a handshake: its own key, one for this handshake only, and what both ends know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    /// Its own.
    pub(crate) secret: &'a SecretKey,
    /// Random, used once.
    pub(crate) ephemeral: &'a SecretKey,
    /// First bytes of the datagram that asks.
    pub(crate) beginning: &'a [u8; BEGINNING_BYTES],
}

/// The key that both ends may share beside their own.
fn shared(psk: Option<&SecretKey>) -> Zeroizing<[u8; 32]> {
    psk.map_or([0; 32], |psk| *psk.bytes()).into()
}

fn builder<'a>(end: &End<'a>, prologue: &'a [u8]) -> Builder<'a> {
    let params = PATTERN.parse().expect("a pattern that there is");
    let resolver = AwsLc { ephemeral: end.ephemeral.clone() };
    let builder = Builder::with_resolver(params, Box::new(resolver));
    let builder = builder.local_private_key(end.secret.bytes()).expect("it is said once");
    builder.prologue(prologue).expect("it is said once")
}

fn prologue(beginning: &[u8; BEGINNING_BYTES]) -> Vec<u8> {
    [PROTOCOL.as_slice(), beginning].concat()
}

/// The end that asks.
#[derive(Debug)]
pub(crate) struct Asking(HandshakeState);

impl Asking {
    /// Asks the owner of a key; the message goes into `message`. `None` where that cannot be anybody's key.
    pub(crate) fn begin(
        end: &End<'_>,
        of: &PublicKey,
        psk: Option<&SecretKey>,
        says: &[u8; ASK_BYTES],
        message: &mut [u8; ASK_MESSAGE_BYTES],
    ) -> Option<Self> {
        let (prologue, shared) = (prologue(end.beginning), shared(psk));
        let builder = builder(end, &prologue).remote_public_key(&of.0).ok()?;
        let builder = builder.psk(PSK, &shared).ok()?;
        let mut state = builder.build_initiator().ok()?;
        let len = state.write_message(says, message).ok()?;
        (len == ASK_MESSAGE_BYTES).then_some(Self(state))
    }

    /// What the other end answers; `None` where it is not the other end's answer to this, and another may follow.
    pub(crate) fn read(
        &mut self,
        message: &[u8; ANSWER_MESSAGE_BYTES],
    ) -> Option<([u8; ANSWER_BYTES], Secrets)> {
        // A little more than it says: there the library works.
        let mut room = [0; ANSWER_MESSAGE_BYTES];
        let len = self.0.read_message(message, &mut room).ok()?;
        let (says, _) = room.split_first_chunk().filter(|_| len == ANSWER_BYTES)?;
        Some((*says, Secrets::of(&mut self.0)))
    }
}

/// The end that answers.
#[derive(Debug)]
pub(crate) struct Answering(HandshakeState);

impl Answering {
    /// Who asks, and what it says; `None` where it does not know this end's key, or anything was changed.
    pub(crate) fn read(
        end: &End<'_>,
        message: &[u8; ASK_MESSAGE_BYTES],
    ) -> Option<(Self, PublicKey, [u8; ASK_BYTES])> {
        let prologue = prologue(end.beginning);
        let mut state = builder(end, &prologue).build_responder().ok()?;
        let mut room = [0; ASK_MESSAGE_BYTES];
        let len = state.read_message(message, &mut room).ok()?;
        let (says, _) = room.split_first_chunk().filter(|_| len == ASK_BYTES)?;
        let who = PublicKey(state.get_remote_static()?.try_into().ok()?);
        Some((Self(state), who, *says))
    }

    /// Answers; both ends hold the same secrets then.
    pub(crate) fn answer(
        mut self,
        psk: Option<&SecretKey>,
        says: &[u8; ANSWER_BYTES],
    ) -> Option<([u8; ANSWER_MESSAGE_BYTES], Secrets)> {
        let mut message = [0; ANSWER_MESSAGE_BYTES];
        self.0.set_psk(usize::from(PSK), &*shared(psk)).ok()?;
        let len = self.0.write_message(says, &mut message).ok()?;
        (len == ANSWER_MESSAGE_BYTES).then(|| (message, Secrets::of(&mut self.0)))
    }
}

/// What the handshake computes with.
struct AwsLc {
    ephemeral: SecretKey,
}

impl CryptoResolver for AwsLc {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(Curve::default()) as _)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        let hash = || Box::new(Sha256(Context::new(&SHA256))) as _;
        matches!(choice, HashChoice::SHA256).then(hash)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::AESGCM).then(|| Box::new(AesGcm(None)) as _)
    }
}

/// Random bytes that were made before: those of one key.
struct Once(Option<SecretKey>);

impl Random for Once {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        let key = self.0.take().filter(|_| dest.len() == 32).ok_or(Error::Rng)?;
        dest.copy_from_slice(key.bytes());
        Ok(())
    }
}

#[derive(Default)]
struct Curve {
    secret: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl Dh for Curve {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, secret: &[u8]) {
        self.secret.copy_from_slice(secret);
        self.public = SecretKey::from_bytes(*self.secret).public().0;
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), Error> {
        let mut secret = Zeroizing::new([0; 32]);
        random.try_fill_bytes(&mut *secret)?;
        self.set(&*secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.secret
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        // It may stand before others.
        let public = public.get(..32).ok_or(Error::Dh)?;
        let secret = PrivateKey::from_private_key(&X25519, &*self.secret).map_err(|_| Error::Dh)?;
        // A key of small order is refused here.
        agree(&secret, UnparsedPublicKey::new(&X25519, public), Error::Dh, |agreed| {
            out.get_mut(..32).ok_or(Error::Dh)?.copy_from_slice(agreed);
            Ok(())
        })
    }
}

struct AesGcm(Option<LessSafeKey>);

impl AesGcm {
    fn key(&self) -> Result<&LessSafeKey, Error> {
        self.0.as_ref().ok_or(Error::Decrypt)
    }
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&u64_be(number));
    Nonce::assume_unique_for_key(nonce)
}

/// Noise writes the number of this cipher the other way round.
fn u64_be(number: u64) -> [u8; 8] {
    let mut bytes = number.to_le_bytes();
    bytes.reverse();
    bytes
}

impl Cipher for AesGcm {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, key: &[u8; 32]) {
        let unbound = UnboundKey::new(&AES_256_GCM, key).expect("32 bytes");
        self.0 = Some(LessSafeKey::new(unbound));
    }

    fn encrypt(&self, number: u64, aad: &[u8], says: &[u8], out: &mut [u8]) -> usize {
        let (sealed, behind) = out.split_at_mut(says.len());
        sealed.copy_from_slice(says);
        let key = self.key().expect("a key is set before");
        let tag = key.seal_in_place_separate_tag(nonce(number), Aad::from(aad), sealed);
        behind[..SEAL_BYTES].copy_from_slice(tag.expect("a message is short enough").as_ref());
        says.len().saturating_add(SEAL_BYTES)
    }

    fn decrypt(
        &self,
        number: u64,
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let mut room = Zeroizing::new(sealed.to_vec());
        let opened = self.key()?.open_in_place(nonce(number), Aad::from(aad), &mut room);
        let opened = opened.map_err(|_| Error::Decrypt)?;
        out.get_mut(..opened.len()).ok_or(Error::Decrypt)?.copy_from_slice(opened);
        let len = opened.len();
        room.zeroize();
        Ok(len)
    }
}

struct Sha256(Context);

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Context::new(&SHA256);
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let context = std::mem::replace(&mut self.0, Context::new(&SHA256));
        out[..32].copy_from_slice(context.finish().as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes([seed; 32])
    }

    const BEGINNING: [u8; 16] = [3; 16];

    fn ask(of: &PublicKey, psk: Option<&SecretKey>) -> (Asking, [u8; ASK_MESSAGE_BYTES]) {
        let mut message = [0; ASK_MESSAGE_BYTES];
        let (secret, ephemeral) = (key(1), key(2));
        let end = End { secret: &secret, ephemeral: &ephemeral, beginning: &BEGINNING };
        (Asking::begin(&end, of, psk, &[7; 48], &mut message).unwrap(), message)
    }

    fn read(
        message: &[u8; ASK_MESSAGE_BYTES],
        beginning: &[u8; 16],
    ) -> Option<(Answering, PublicKey, [u8; ASK_BYTES])> {
        let (secret, ephemeral) = (key(3), key(4));
        Answering::read(&End { secret: &secret, ephemeral: &ephemeral, beginning }, message)
    }

    #[test]
    fn both_ends_know_each_other_and_hold_the_same_secrets() {
        for psk in [None, Some(&key(9))] {
            let (mut asking, message) = ask(&key(3).public(), psk);
            let (answering, who, says) = read(&message, &BEGINNING).unwrap();
            assert_eq!((who, says), (key(1).public(), [7; 48]));
            let (message, answered) = answering.answer(psk, &[8; 80]).unwrap();
            let (says, asked) = asking.read(&message).unwrap();
            assert_eq!(says, [8; 80]);
            assert_eq!(asked.of_asking(), answered.of_asking());
            assert_eq!(asked.of_answering(), answered.of_answering());
            assert_ne!(asked.of_asking(), asked.of_answering());
        }
    }

    #[test]
    fn a_changed_byte_another_key_and_another_beginning_are_noticed() {
        let (_, message) = ask(&key(3).public(), None);
        for at in 0..message.len() {
            let mut changed = message;
            changed[at] ^= 1;
            // The highest bit of a key on the curve says nothing.
            changed[31] &= 0x7f;
            assert!(changed == message || read(&changed, &BEGINNING).is_none(), "byte {at}");
        }
        assert!(read(&message, &[4; 16]).is_none(), "another beginning");
        let (_, message) = ask(&key(5).public(), None);
        assert!(read(&message, &BEGINNING).is_none(), "it asks somebody else");
    }

    /// Whoever sends a false answer first does not keep the true one from being heard.
    #[test]
    fn a_false_answer_is_passed_over() {
        let (mut asking, message) = ask(&key(3).public(), None);
        let answer = |psk| read(&message, &BEGINNING).unwrap().0.answer(psk, &[8; 80]).unwrap().0;
        let good = answer(None);
        assert!(asking.read(&[0; ANSWER_MESSAGE_BYTES]).is_none());
        assert!(asking.read(&answer(Some(&key(9)))).is_none(), "another shared key");
        for at in 0..good.len() {
            let mut changed = good;
            changed[at] ^= 0x40;
            assert!(asking.read(&changed).is_none(), "byte {at}");
        }
        assert!(asking.read(&good).is_some());
    }

    #[test]
    fn a_key_of_small_order_is_nobodys() {
        let mut message = [0; ASK_MESSAGE_BYTES];
        let (secret, ephemeral) = (key(1), key(2));
        let end = End { secret: &secret, ephemeral: &ephemeral, beginning: &BEGINNING };
        for of in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            assert!(Asking::begin(&end, &PublicKey(of), None, &[7; 48], &mut message).is_none());
        }
    }
}
