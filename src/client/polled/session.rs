//! The conversation of a polled client with its server: whether it stands, who said what last, and why it does not stand.

use crate::fired::Timer;
use crate::ids::ConnId;
use crate::random::Random;
use crate::wire::DatagramWriter;
use crate::wire::control::ErrorCode;

/// Repetition of REGISTER: first, and at most.
const REGISTER_NS: (u64, u64) = (2_000_000, 200_000_000);

/// After so long without a word from us, a heartbeat.
const HEARTBEAT_NS: u64 = 1_000_000_000;

/// A session that is so young may answer what was asked in the one before.
const YOUNG_NS: u64 = 1_000_000_000;

/// How far the session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Registering { asked_ns: u64, wait_ns: u64 },
    Open,
}

/// That registrations are refused for a reason that may pass.
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

/// A session, or the wish for one.
#[derive(Debug)]
pub(super) struct Session {
    phase: Phase,
    nonce: u64,
    conn_id: ConnId,
    packet_no: u64,
    /// When the server last said something that belongs to the session, or opened it.
    last_received_ns: u64,
    opened_ns: u64,
    /// When it was last asked to open one.
    asked_ns: u64,
    /// Something came from it that opened none.
    speaks: bool,
    last_sent_ns: u64,
    /// Nothing was said in this session yet: whatever is first proves that we are where its answer was sent to.
    is_mute: bool,
    refused: Option<Refusal>,
}

impl Session {
    pub(super) fn new(nonce: u64, now_ns: u64) -> Self {
        Self {
            phase: Phase::Registering { asked_ns: 0, wait_ns: 0 },
            nonce,
            conn_id: ConnId(0),
            packet_no: 0,
            last_received_ns: now_ns,
            opened_ns: 0,
            asked_ns: 0,
            speaks: false,
            last_sent_ns: 0,
            is_mute: false,
            refused: None,
        }
    }

    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub(super) fn conn_id(&self) -> ConnId {
        self.conn_id
    }

    pub(super) fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Whether a datagram may be of it.
    pub(super) fn may_be_of(&self, conn_id: ConnId) -> bool {
        conn_id == self.conn_id || !self.is_open()
    }

    /// The server said something, to the session where one stands.
    pub(super) fn hears_something(&mut self) {
        self.speaks = true;
    }

    /// What it said belongs to the session, or to the one that is asked for.
    pub(super) fn hears(&mut self, now_ns: u64) {
        self.last_received_ns = now_ns;
    }

    /// Whether an answer is to what is asked now.
    pub(super) fn asked_with(&self, nonce: u64) -> bool {
        !self.is_open() && nonce == self.nonce
    }

    pub(super) fn open(&mut self, conn_id: ConnId, now_ns: u64) {
        (self.phase, self.conn_id, self.packet_no) = (Phase::Open, conn_id, 0);
        (self.last_received_ns, self.opened_ns) = (now_ns, now_ns);
        (self.speaks, self.is_mute, self.refused) = (false, true, None);
    }

    /// It is over: another is asked for.
    pub(super) fn ask_anew(&mut self) {
        // Another nonce: an answer to the old REGISTER that comes late must not be taken.
        self.nonce = Random::new(self.nonce).next_u64();
        // Not faster than a REGISTER is repeated, whatever made us.
        self.phase = Phase::Registering { asked_ns: self.asked_ns, wait_ns: REGISTER_NS.0 };
        self.speaks = false;
    }

    /// Whether it is asked for, and now again.
    pub(super) fn is_register_due(&self, now_ns: u64) -> bool {
        match self.phase {
            Phase::Registering { asked_ns, wait_ns } => now_ns.saturating_sub(asked_ns) >= wait_ns,
            Phase::Open => false,
        }
    }

    /// What is asked belongs to no session.
    pub(super) fn begin_register(&mut self) {
        self.conn_id = ConnId(0);
    }

    /// It was asked for.
    pub(super) fn registers(&mut self, now_ns: u64) {
        let Phase::Registering { wait_ns, .. } = self.phase else { return };
        if wait_ns > REGISTER_NS.0 {
            Timer::RegisterAgain.fired();
        }
        let wait_ns = wait_ns.saturating_mul(2).clamp(REGISTER_NS.0, REGISTER_NS.1);
        self.asked_ns = now_ns;
        self.phase = Phase::Registering { asked_ns: now_ns, wait_ns };
    }

    /// The server answers, but does not open one.
    pub(super) fn is_only_answered(&self) -> bool {
        self.speaks && !self.is_open()
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

    /// The next datagram of the session; [`Session::said`] when it goes.
    #[inline]
    pub(super) fn writer<'a>(&self, buffer: &'a mut [u8]) -> DatagramWriter<'a> {
        DatagramWriter::new(buffer, self.conn_id, self.next_packet_no())
    }

    #[inline]
    pub(super) fn next_packet_no(&self) -> u64 {
        self.packet_no.saturating_add(1)
    }

    #[inline]
    pub(super) fn said(&mut self, now_ns: u64) {
        self.packet_no = self.next_packet_no();
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
