//! The conversation of a polled client with its server: whether it stands, who said what last, and why it does not stand.

use crate::client::Security;
use crate::fired::Timer;
use crate::ids::ConnId;
use crate::seal::entropy::Entropy;
use crate::seal::keys::{Rotation, SessionKeys};
use crate::seal::noise::{Asking, End};
use crate::session::last_word::LastWord;
use crate::session::replay::ReplayWindow;
use crate::wire::DatagramWriter;
use crate::wire::control::ErrorCode;
use crate::wire::datagram::{
    Accept, Hello, Init, PACKET_NO_LAST, Resp, Retry, SUITE_AES_GCM, Tag, Versions,
};
use crate::wire::mac::{MacKey, is_same};

/// Repetition of INIT and of REGISTER: first, and at most.
const ASK_NS: (u64, u64) = (2_000_000, 200_000_000);

/// After so long an INIT is sent under another number: what answers the one before is not waited for any more.
const INIT_NS: u64 = 1_000_000_000;

/// Cookies that one INIT is sent with at once, at most: who gives more leads it in a circle.
const RETRIES_MAX: u32 = 3;

/// After so long without a word from us, a heartbeat.
const HEARTBEAT_NS: u64 = 1_000_000_000;

/// A session that is so young may answer what was asked in the one before.
const YOUNG_NS: u64 = 1_000_000_000;

/// How far the session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// INIT is not answered.
    Asking {
        /// Since when under this number.
        since_ns: u64,
    },
    /// REGISTER is not answered.
    Registering,
    Open,
}

/// That there is no session for a reason that may pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    /// Since when, for whatever reason.
    pub(super) since_ns: u64,
    /// The newest reason.
    pub(super) code: ErrorCode,
    /// Since when for this one.
    pub(super) code_since_ns: u64,
    /// Belongs to the reason.
    pub(super) detail: u64,
}

/// When something was last asked for, and how long before it is asked for again.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at_ns: u64,
    wait_ns: u64,
}

impl Asked {
    fn is_due(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.at_ns) >= self.wait_ns
    }

    /// It is asked for; whether that is a repetition.
    fn again(&mut self, now_ns: u64) -> bool {
        let is_again = self.wait_ns > ASK_NS.0;
        self.at_ns = now_ns;
        self.wait_ns = self.wait_ns.saturating_mul(2).clamp(ASK_NS.0, ASK_NS.1);
        is_again
    }
}

/// An INIT that is asked with, and where it is sealed the handshake that it begins.
#[derive(Debug)]
struct Wish {
    init: Init,
    handshake: Option<Asking>,
}

/// A session, or the wish for one.
#[derive(Debug)]
pub(super) struct Session {
    phase: Phase,
    security: Security,
    entropy: Entropy,
    /// `None` until it is asked for under this number.
    wish: Option<Wish>,
    /// Of a sealed session that there is.
    keys: Option<Box<SessionKeys>>,
    /// The lowest and highest that somebody said the server speaks, since there was a session.
    other_versions: Option<(u16, u16)>,
    /// The same over the life of the client.
    instance: u128,
    /// As this side numbers it, and as the server does; 0 before it has.
    client_id: ConnId,
    server_id: ConnId,
    /// What RESET says of it.
    reset_token: Tag,
    /// What the server gave to this address; zeros before it has.
    cookie: Tag,
    retries: u32,
    mac: MacKey,
    asked: Asked,
    /// Of the REGISTER.
    request: u32,
    came: ReplayWindow,
    packet_no: u64,
    /// When the server last said something that belongs to the session, or opened it.
    last_received_ns: u64,
    opened_ns: u64,
    /// When there was one, to be registered with.
    accepted_ns: u64,
    /// How long was waited before the last one that did not open was asked for.
    fruitless_ns: u64,
    /// Something came from it that opened none.
    speaks: bool,
    last_sent_ns: u64,
    /// Nothing was said in this session yet: whatever is first shows that we know that it is open.
    is_mute: bool,
    refused: Option<Refusal>,
}

impl Session {
    pub(super) fn new(security: Security, mut entropy: Entropy, now_ns: u64) -> Self {
        let instance = entropy.key();
        let (instance, _) = instance.bytes().split_first_chunk().expect("32 bytes");
        let server = match &security {
            Security::Plain => [0; 32],
            Security::Sealed(keys) => keys.server.0,
        };
        let mut session = Self {
            phase: Phase::Asking { since_ns: now_ns },
            security,
            entropy,
            wish: None,
            keys: None,
            other_versions: None,
            instance: u128::from_le_bytes(*instance).max(1),
            client_id: ConnId(0),
            server_id: ConnId(0),
            reset_token: [0; 16],
            cookie: [0; 16],
            retries: 0,
            mac: MacKey::of_server(&server),
            asked: Asked { at_ns: 0, wait_ns: 0 },
            request: 0,
            came: ReplayWindow::new(),
            packet_no: 0,
            last_received_ns: now_ns,
            opened_ns: 0,
            accepted_ns: 0,
            fruitless_ns: 0,
            speaks: false,
            last_sent_ns: 0,
            is_mute: false,
            refused: None,
        };
        session.begin(now_ns);
        session
    }

    /// Another session is asked for, under another number.
    fn begin(&mut self, now_ns: u64) {
        let random = self.entropy.key();
        let (id, _) = random.bytes().split_first_chunk().expect("32 bytes");
        self.client_id = ConnId(u64::from_le_bytes(*id).max(1));
        (self.wish, self.keys) = (None, None);
        self.server_id = ConnId(0);
        self.phase = Phase::Asking { since_ns: now_ns };
        (self.packet_no, self.retries) = (0, 0);
        self.came.reset();
    }

    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether nobody but the server can have said what is heard.
    pub(super) fn is_sealed(&self) -> bool {
        self.keys.is_some()
    }

    /// As this side numbers it.
    pub(super) fn client_id(&self) -> ConnId {
        self.client_id
    }

    /// As the server numbers it; 0 where it does not yet.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn server_id(&self) -> ConnId {
        self.server_id
    }

    /// Takes a datagram of it in the clear in; `false` where it came before, or it is to be sealed: also while there
    /// are no keys yet, for everybody on the way knows its number.
    #[inline]
    pub(super) fn accepts(&mut self, packet_no: u64) -> bool {
        matches!(self.security, Security::Plain) && self.came.accept(packet_no)
    }

    /// Opens a sealed datagram where it is, and takes it in; `false` where it is not of this session, or came before.
    #[inline]
    pub(super) fn opens(
        &mut self,
        packet_no: u64,
        phase: u8,
        bytes: &mut [u8],
        now_ns: u64,
    ) -> bool {
        let Some(keys) = &mut self.keys else { return false };
        self.came.is_new(packet_no)
            && keys.open(phase, packet_no, bytes, now_ns)
            && self.came.accept(packet_no)
    }

    /// The server said something that opens no session.
    pub(super) fn hears_something(&mut self) {
        self.speaks = true;
    }

    /// What it said belongs to the session, or to the one that is asked for.
    pub(super) fn hears(&mut self, now_ns: u64) {
        self.last_received_ns = now_ns;
    }

    fn asks_as(&self, client_id: u64) -> bool {
        matches!(self.phase, Phase::Asking { .. }) && client_id == self.client_id.0
    }

    /// The server wants its cookie back; the INIT is due with it.
    pub(super) fn on_retry(&mut self, retry: &Retry) -> bool {
        let is_good = self.asks_as(retry.client_id.get()) && retry.has_mac(&self.mac);
        if is_good {
            self.cookie = retry.cookie;
            self.retries = self.retries.saturating_add(1);
            // Whoever gives more leads it in a circle, or is not the server: then it waits as it would without.
            if self.retries <= RETRIES_MAX {
                self.asked.wait_ns = 0;
            }
        }
        is_good
    }

    /// Who answers speaks other versions. Whoever knows the server's public key can say so, in its name: it counts where
    /// nothing else comes.
    pub(super) fn on_versions(&mut self, versions: &Versions) -> bool {
        let is_ours = self.asks_as(versions.client_id.get()) && versions.has_mac(&self.mac);
        if is_ours {
            self.other_versions = Some((versions.lowest.get(), versions.highest.get()));
        }
        is_ours
    }

    /// The versions of a server that was said to speak none of ours.
    pub(super) fn other_versions(&self) -> Option<(u16, u16)> {
        self.other_versions
    }

    /// What an answer says; `None` where it is not to the INIT that is asked now.
    pub(super) fn on_resp(&mut self, resp: &Resp, now_ns: u64) -> Option<Accept> {
        if !self.asks_as(resp.client_id.get()) {
            return None;
        }
        let Some(handshake) = &mut self.wish.as_mut()?.handshake else {
            return resp.is_plain().then_some(resp.accept);
        };
        if resp.is_plain() {
            return None;
        }
        let (says, secrets) = handshake.read(resp.message())?;
        // It cannot be answered twice: what is asked next is asked anew.
        self.wish = None;
        let accept: Accept = zerocopy::transmute!(says);
        let opens = Some(accept).filter(|accept| accept.in_range(SUITE_AES_GCM))?;
        let keys = || Box::new(SessionKeys::new(&secrets, true, Rotation::DEFAULT, now_ns));
        self.keys = (opens.status.get() == 0).then(keys);
        self.came.reset();
        Some(opens)
    }

    /// There is a session: REGISTER is due.
    pub(super) fn accepted(&mut self, accept: &Accept, request: u32, now_ns: u64) {
        if self.accepted_ns <= self.opened_ns {
            // The first since one was open: a server that gives sessions and registers nobody is given up.
            self.last_received_ns = now_ns;
        }
        (self.phase, self.accepted_ns) = (Phase::Registering, now_ns);
        self.server_id = ConnId(accept.server_id.get());
        (self.reset_token, self.cookie) = (accept.reset_token, accept.cookie);
        self.asked = Asked { at_ns: 0, wait_ns: 0 };
        self.request = request;
    }

    /// There is none, for a reason that may pass: it is asked for again then.
    pub(super) fn rejected(&mut self, retry_ms: u32, now_ns: u64) {
        if self.wish.is_none() {
            self.begin(now_ns);
        }
        let wait_ns = u64::from(retry_ms).saturating_mul(1_000_000).min(ASK_NS.1);
        self.asked.at_ns = now_ns;
        self.asked.wait_ns = self.asked.wait_ns.max(wait_ns).max(ASK_NS.0);
    }

    /// Whether the server has no such session any more, by its own word.
    pub(super) fn is_reset(&self, conn_id: ConnId, token: &Tag) -> bool {
        let is_named = self.server_id.0 != 0 && conn_id == self.server_id;
        is_named && is_same(&self.reset_token, token)
    }

    /// Whether REGISTER is not answered for so long that there may be no such session any more.
    pub(super) fn registers_since(&self, patience_ns: u64, now_ns: u64) -> bool {
        let since_ns = self.accepted_ns.max(self.last_received_ns);
        self.phase == Phase::Registering && now_ns.saturating_sub(since_ns) > patience_ns
    }

    /// Whether an answer is to the REGISTER that is asked now.
    pub(super) fn registers_with(&self, request: u32) -> bool {
        self.phase == Phase::Registering && request == self.request
    }

    /// REGISTER is asked again, with something else.
    pub(super) fn register_with(&mut self, request: u32) {
        self.request = request;
        self.asked = Asked { at_ns: 0, wait_ns: 0 };
    }

    pub(super) fn open(&mut self, now_ns: u64) {
        self.phase = Phase::Open;
        (self.last_received_ns, self.opened_ns) = (now_ns, now_ns);
        (self.speaks, self.is_mute, self.refused) = (false, true, None);
        self.other_versions = None;
    }

    /// It is over: another is asked for.
    pub(super) fn ask_anew(&mut self, now_ns: u64) {
        let was_open = self.is_open();
        self.begin(now_ns);
        // Not faster than what is asked is repeated, whatever made us; and the slower the more sessions did not open.
        let longer_ns = self.fruitless_ns.saturating_mul(2);
        self.fruitless_ns = if was_open { 0 } else { longer_ns }.clamp(ASK_NS.0, ASK_NS.1);
        self.asked.wait_ns = self.fruitless_ns;
        self.speaks = false;
    }

    /// Another server is asked, which has given no cookie.
    pub(super) fn forget_cookie(&mut self) {
        self.cookie = [0; 16];
    }

    /// The INIT that is due now, if one is.
    pub(super) fn init(&mut self, unix_ns: u64, datagram_bytes: u16, now_ns: u64) -> Option<Init> {
        let Phase::Asking { since_ns } = self.phase else { return None };
        if !self.asked.is_due(now_ns) {
            return None;
        }
        if now_ns.saturating_sub(since_ns) >= INIT_NS {
            self.begin(now_ns);
        }
        if self.asked.again(now_ns) {
            Timer::InitAgain.fired();
        }
        if self.wish.is_none() {
            self.wish = Some(self.wish(Hello::new(unix_ns, datagram_bytes, self.instance))?);
        }
        let mut init = self.wish.as_ref()?.init;
        init.cookie = self.cookie;
        Some(init.with_mac(&self.mac))
    }

    /// An INIT, and the handshake that it begins; `None` where the key of the server can be nobody's.
    fn wish(&mut self, hello: Hello) -> Option<Wish> {
        let Security::Sealed(keys) = &self.security else {
            let init = Init::plain(self.client_id, [0; 16], hello);
            return Some(Wish { init, handshake: None });
        };
        let mut init = Init::sealed(self.client_id, [0; 16]);
        let (beginning, ephemeral) = (*init.beginning(), self.entropy.key());
        let end = End { secret: &keys.secret, ephemeral: &ephemeral, beginning: &beginning };
        let says = zerocopy::transmute!(hello.offering(SUITE_AES_GCM));
        let message = init.message_mut();
        let handshake = Asking::begin(&end, &keys.server, keys.psk.as_ref(), &says, message)?;
        Some(Wish { init, handshake: Some(handshake) })
    }

    /// The request of the REGISTER that is due now, if one is.
    pub(super) fn register(&mut self, now_ns: u64) -> Option<u32> {
        if self.phase != Phase::Registering || !self.asked.is_due(now_ns) {
            return None;
        }
        if self.asked.again(now_ns) {
            Timer::RegisterAgain.fired();
        }
        Some(self.request)
    }

    /// The server answers, but does not open one.
    pub(super) fn is_only_answered(&self) -> bool {
        self.speaks && !self.is_open()
    }

    /// Whether its datagrams have used up their numbers.
    pub(super) fn is_spent(&self) -> bool {
        self.packet_no >= PACKET_NO_LAST
    }

    pub(super) fn silent_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.last_received_ns)
    }

    pub(super) fn is_young(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.opened_ns) < YOUNG_NS
    }

    /// Whether a word from us is due although there is nothing to say.
    pub(super) fn is_heartbeat_due(&self, now_ns: u64) -> bool {
        let rests = now_ns.saturating_sub(self.last_sent_ns) >= HEARTBEAT_NS;
        if rests {
            Timer::ClientHeartbeat.fired();
        }
        rests || self.is_mute
    }

    /// The next datagram of the session; [`Session::said`] when it goes. `None` until there is something to seal it with.
    #[inline]
    pub(super) fn writer<'a>(&'a self, buffer: &'a mut [u8]) -> Option<DatagramWriter<'a>> {
        let keys = self.keys.as_ref();
        if keys.is_some_and(|keys| keys.is_spent()) {
            return None;
        }
        let generation = keys.map(|keys| keys.sealing());
        let packet_no = self.next_packet_no();
        Some(DatagramWriter::sealed(buffer, self.server_id, packet_no, generation))
    }

    /// That it ends, as its client wishes, for a server that it goes away from.
    pub(super) fn goodbye(&self) -> LastWord {
        let generation = self.keys.as_ref().map(|keys| keys.sealing());
        LastWord::new(self.server_id, self.next_packet_no(), generation, 0)
    }

    /// Keys are changed in time.
    #[inline]
    pub(super) fn keep_keys(&mut self, now_ns: u64) {
        if let Some(keys) = &mut self.keys {
            keys.keep_all(now_ns);
        }
    }

    #[inline]
    fn next_packet_no(&self) -> u64 {
        self.packet_no.saturating_add(1)
    }

    #[inline]
    pub(super) fn said(&mut self, now_ns: u64) {
        self.packet_no = self.next_packet_no();
        if let Some(keys) = &mut self.keys {
            keys.sealed();
        }
        (self.last_sent_ns, self.is_mute) = (now_ns, false);
    }

    pub(super) fn refused(&self) -> Option<Refusal> {
        self.refused
    }

    /// Notes why a registration is refused now. Its patience begins anew where `is_new_kind`: the reason is one, or was
    /// one, that is waited for without limit.
    pub(super) fn refuse(
        &mut self,
        code: ErrorCode,
        detail: u64,
        now_ns: u64,
        is_new_kind: impl FnOnce(Refusal) -> bool,
    ) {
        let before = self.refused.filter(|before| !is_new_kind(*before));
        let since_ns = before.map_or(now_ns, |before| before.since_ns);
        let same = before.filter(|before| before.code == code);
        let code_since_ns = same.map_or(now_ns, |before| before.code_since_ns);
        self.refused = Some(Refusal { since_ns, code, code_since_ns, detail });
    }

    /// What another session was refused for says nothing of this one.
    pub(super) fn forget_refusal(&mut self) {
        self.refused = None;
    }
}
