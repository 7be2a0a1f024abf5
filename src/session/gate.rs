//! What a server says to those it has no session with. It keeps nothing of them: whoever asks is given a cookie that
//! belongs to its address, and only who gives it back, and so receives there, is let through.

use std::net::SocketAddrV4;

use zerocopy::IntoBytes;

use crate::access::key::PublicKey;
use crate::ids::ConnId;
use crate::limits::{INITS_A_TURN, RESETS_A_TURN, RESETS_MAX};
use crate::wire::datagram::{Init, Reset, Retry, Tag, Versions};
use crate::wire::mac::{MacKey, is_same};

/// For so long cookies are made with one key; those of the key before are good as well.
const COOKIE_NS: u64 = 120_000_000_000;

/// In so long as many RESETs are said as may be.
const RESETS_NS: u64 = 1_000_000_000;

/// What an INIT is answered with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    /// Nothing.
    Drop,
    /// A cookie to come back with.
    Retry(Retry),
    /// It receives where it says it is.
    Admit,
}

/// The keys of a server's shard that follow from its secret.
#[derive(Debug)]
pub(crate) struct Gate {
    secret: [u8; 32],
    shard: u16,
    /// Who asks in the clear, if that is let in, and who asks for a sealed session.
    plain: Option<MacKey>,
    sealed: Option<MacKey>,
    reset: MacKey,
    /// Of this period and of the one before.
    cookies: [MacKey; 2],
    period: u64,
    inits_left: usize,
    resets_left: usize,
    /// RESETs left until then, and when there are as many as may be again.
    resets_of_second: usize,
    second_ends_ns: u64,
}

impl Gate {
    /// That of a shard of a server that alone knows its secret.
    pub(crate) fn new(secret: &[u8; 32], shard: u16) -> Self {
        let of_shard = [secret.as_slice(), &shard.to_le_bytes()].concat();
        let secret = blake3::derive_key("buslane v1 shard", &of_shard);
        let reset = derive(&secret, b"reset", 0);
        let cookies = [derive(&secret, b"cookie", 0), derive(&secret, b"cookie", 0)];
        Self {
            secret,
            shard,
            plain: Some(MacKey::of_server(&[0; 32])),
            sealed: None,
            reset,
            cookies,
            period: 0,
            inits_left: INITS_A_TURN,
            resets_left: RESETS_A_TURN,
            resets_of_second: RESETS_MAX,
            second_ends_ns: 0,
        }
    }

    /// Who knows this key of the appliance is let in; who asks in the clear only where that is taken.
    pub(crate) fn seal(&mut self, key: &PublicKey, takes_plain: bool) {
        self.sealed = Some(MacKey::of_server(&key.0));
        self.plain = self.plain.filter(|_| takes_plain);
    }

    /// A turn begins.
    pub(crate) fn begin_turn(&mut self) {
        (self.inits_left, self.resets_left) = (INITS_A_TURN, RESETS_A_TURN);
    }

    fn cookie(&self, key: MacKey, from: SocketAddrV4) -> Tag {
        let (address, port) = (from.ip().to_ipv6_mapped().octets(), from.port().to_le_bytes());
        key.tag(&[&address, &port, &self.shard.to_le_bytes()])
    }

    /// A cookie for an address, as of this time.
    pub(crate) fn cookie_for(&mut self, from: SocketAddrV4, unix_ns: u64) -> Tag {
        self.follow(unix_ns);
        self.cookie(self.cookies[0], from)
    }

    fn follow(&mut self, unix_ns: u64) {
        let period = unix_ns / COOKIE_NS;
        if period != self.period {
            let before = derive(&self.secret, b"cookie", period.wrapping_sub(1));
            self.cookies = [derive(&self.secret, b"cookie", period), before];
            self.period = period;
        }
    }

    /// What becomes of an INIT from an address.
    pub(crate) fn judge(&mut self, from: SocketAddrV4, init: &Init, unix_ns: u64) -> Verdict {
        // Before anything else: whoever does not know the key takes nobody's turn.
        let mac = if init.is_plain() { self.plain } else { self.sealed };
        let Some(mac) = mac.filter(|mac| init.has_mac(mac)) else { return Verdict::Drop };
        let Some(left) = self.inits_left.checked_sub(1) else { return Verdict::Drop };
        self.inits_left = left;
        self.follow(unix_ns);
        let is_good = |key: &MacKey| is_same(&init.cookie, &self.cookie(*key, from));
        if self.cookies.iter().any(is_good) {
            return Verdict::Admit;
        }
        let retry = Retry::new(ConnId(init.client_id.get()), self.cookie(self.cookies[0], from));
        Verdict::Retry(retry.with_mac(&mac))
    }

    /// What an INIT of another version is answered with.
    pub(crate) fn versions(&mut self, init: &Init) -> Option<Versions> {
        let macs = [self.plain, self.sealed];
        let mac = macs.iter().flatten().find(|mac| init.has_mac(mac))?;
        self.inits_left = self.inits_left.checked_sub(1)?;
        Some(Versions::new(init.client_id.get()).with_mac(mac))
    }

    /// What RESET will say of a session, so that its client knows that it is this server's.
    pub(crate) fn reset_token(&self, conn_id: ConnId) -> Tag {
        self.reset.tag(&[conn_id.0.as_bytes()])
    }

    /// That there is no such session, unless that was said too often.
    pub(crate) fn reset(&mut self, conn_id: ConnId, now_ns: u64) -> Option<Reset> {
        if now_ns >= self.second_ends_ns {
            self.second_ends_ns = now_ns.saturating_add(RESETS_NS);
            self.resets_of_second = RESETS_MAX;
        }
        self.resets_left = self.resets_left.checked_sub(1)?;
        self.resets_of_second = self.resets_of_second.checked_sub(1)?;
        Some(Reset::new(conn_id, self.reset_token(conn_id)))
    }
}

/// A key for a purpose. Nobody but this server ever makes or checks what is made with it.
fn derive(secret: &[u8; 32], purpose: &[u8], number: u64) -> MacKey {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(purpose).update(&number.to_le_bytes());
    let hash = hasher.finalize();
    let (key, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    MacKey::new(*key)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::wire::datagram::Hello;

    const HOUR_NS: u64 = 3_600_000_000_000;

    fn at(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
    }

    fn init(cookie: Tag) -> Init {
        let init = Init::plain(ConnId(7), cookie, Hello::new(5, 1472, 9));
        init.with_mac(&MacKey::of_server(&[0; 32]))
    }

    fn cookie(gate: &mut Gate, from: SocketAddrV4, unix_ns: u64) -> Tag {
        match gate.judge(from, &init([0; 16]), unix_ns) {
            Verdict::Retry(retry) => retry.cookie,
            other @ (Verdict::Drop | Verdict::Admit) => panic!("{other:?}"),
        }
    }

    fn admits(gate: &mut Gate, from: SocketAddrV4, cookie: Tag, unix_ns: u64) -> bool {
        gate.begin_turn();
        matches!(gate.judge(from, &init(cookie), unix_ns), Verdict::Admit)
    }

    #[test]
    fn a_cookie_lets_its_address_in_at_its_shard_for_two_to_four_minutes() {
        let mut gate = Gate::new(&[1; 32], 0);
        let given = cookie(&mut gate, at(1), HOUR_NS);
        assert!(admits(&mut gate, at(1), given, HOUR_NS));
        assert!(!admits(&mut gate, at(2), given, HOUR_NS), "another port");
        let other = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 1);
        assert!(!admits(&mut gate, other, given, HOUR_NS), "another address");
        assert!(admits(&mut gate, at(1), given, HOUR_NS + COOKIE_NS));
        assert!(!admits(&mut gate, at(1), given, HOUR_NS + 2 * COOKIE_NS), "too old");
        assert!(!admits(&mut gate, at(1), given, HOUR_NS - COOKIE_NS), "the clock was set back");
        for (secret, shard) in [([1; 32], 1), ([2; 32], 0)] {
            assert!(!admits(&mut Gate::new(&secret, shard), at(1), given, HOUR_NS));
        }
        // After a restart it is good as before.
        assert!(admits(&mut Gate::new(&[1; 32], 0), at(1), given, HOUR_NS));
    }

    #[test]
    fn who_does_not_know_whom_it_asks_is_not_answered_and_nobody_more_often_than_so() {
        let mut gate = Gate::new(&[1; 32], 0);
        let mut wrong = init([0; 16]);
        wrong.mac[0] ^= 1;
        assert!(matches!(gate.judge(at(1), &wrong, 0), Verdict::Drop));
        gate.begin_turn();
        let asks =
            |gate: &mut Gate| matches!(gate.judge(at(1), &init([0; 16]), 0), Verdict::Retry(_));
        assert_eq!((0..100).filter(|_| asks(&mut gate)).count(), INITS_A_TURN);
        gate.begin_turn();
        assert!(asks(&mut gate), "and in the next turn again");
        assert_eq!(
            (0..100).filter(|_| gate.versions(&init([0; 16])).is_some()).count(),
            INITS_A_TURN - 1
        );
    }

    #[test]
    fn resets_are_few_and_known_by_their_token() {
        let mut gate = Gate::new(&[1; 32], 0);
        let token = gate.reset_token(ConnId(9));
        let reset = gate.reset(ConnId(9), 0).unwrap();
        assert_eq!((reset.conn_id.get(), reset.token), (9, token));
        assert_ne!(token, gate.reset_token(ConnId(10)));
        assert_ne!(token, Gate::new(&[1; 32], 1).reset_token(ConnId(9)), "of another shard");
        assert_eq!(
            (0..100).filter(|_| gate.reset(ConnId(9), 0).is_some()).count(),
            RESETS_A_TURN - 1
        );
        let mut said = RESETS_A_TURN;
        while said < 2 * RESETS_MAX {
            gate.begin_turn();
            let now = (0..RESETS_A_TURN).filter(|_| gate.reset(ConnId(9), 1).is_some()).count();
            if now == 0 {
                break;
            }
            said += now;
        }
        assert_eq!(said, RESETS_MAX);
        gate.begin_turn();
        assert!(gate.reset(ConnId(9), RESETS_NS).is_some(), "in the next second again");
    }
}
