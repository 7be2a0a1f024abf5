//! Instances of a producer that live on though another one has come after: they go on publishing, and nothing of that is
//! stored. What they say may be late, their registration too.

use zerocopy::{FromZeros, IntoBytes};

use super::{SERVER, SimClient, World};
use crate::client::OfferError;
use crate::sim::oracle::Violation;
use crate::wire::DatagramWriter;
use crate::wire::Kind;
use crate::wire::control::{RegisterHead, Want};

/// What none of the journals holds.
const PAYLOAD: &[u8] = b"of an instance that another came after";

/// An instance of a publisher's producer, and another is the publisher now.
pub(super) struct Overtaken {
    client: SimClient,
    publisher: usize,
    /// The first of its messages that it has offered since the other was it.
    since: Option<u64>,
    /// It took the producer over itself, so its first registration would do so again.
    took_over: bool,
}

impl Overtaken {
    pub(super) fn new(client: SimClient, publisher: usize, took_over: bool) -> Self {
        Self { client, publisher, since: None, took_over }
    }
}

impl World {
    /// # Errors
    /// O1 when one is told that a message is stored of which the successor's is.
    pub(super) fn poll_overtaken(&mut self) -> Result<(), Violation> {
        for index in 0..self.others.overtaken.len() {
            let one = &mut self.others.overtaken[index];
            // It may be fenced at any moment, and is not heard any more then.
            let _ = one.client.poll(&mut |_| {});
            while let Some(done) = one.client.next_completion() {
                if one.since.is_some_and(|since| done.producer_seq >= since) {
                    let what = format!(
                        "message {} of an instance that another came after is acknowledged",
                        done.producer_seq
                    );
                    return Err(Violation { oracle: "O1", what });
                }
            }
            let successor = &self.publishers[one.publisher];
            let succeeded = successor.resumed && successor.client.is_some();
            if !succeeded || !self.random.one_of_thousand(20) {
                continue;
            }
            match one.client.offer(self.streams[0], PAYLOAD) {
                Ok(seq) => _ = one.since.get_or_insert(seq),
                Err(
                    OfferError::BackPressure(_)
                    | OfferError::NotConnected
                    | OfferError::TooLarge { .. }
                    | OfferError::NotAPublisher,
                ) => {}
            }
            if one.since.is_some() && std::mem::take(&mut one.took_over) {
                let register = registration(&one.client);
                self.net.inject(one.client.local(), SERVER, &register);
            }
        }
        Ok(())
    }
}

/// The registration of a client, once more in the session it had, under a number that it has not used.
fn registration(client: &SimClient) -> Vec<u8> {
    let mut register = RegisterHead::new_zeroed();
    register.request = u32::MAX.into();
    register.want = (Want::Known as u16).into();
    register.datagram_bytes = 1_472.into();
    register.producer_id = client.producer().0.0.into();
    let mut room = [0; 256];
    let mut writer = DatagramWriter::new(&mut room, client.session().1, 1 << 40);
    assert!(writer.frame(Kind::Register, register.as_bytes(), &[]), "a REGISTER fits");
    let len = writer.len();
    room[..len].to_vec()
}
