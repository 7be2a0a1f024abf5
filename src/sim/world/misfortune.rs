//! What goes wrong in a run, beside what network and disk do by themselves.

use std::net::{Ipv4Addr, SocketAddrV4};

use zerocopy::{FromZeros, IntoBytes};

use super::{Overtaken, World};
use crate::client::Publisher;
use crate::clock::{Clock, Wall};
use crate::ids::ConnId;
use crate::sim::disk::Crash;
use crate::sim::oracle::Violation;
use crate::sim::server::SERVER;
use crate::wire::DatagramWriter;
use crate::wire::Kind;
use crate::wire::publish::AckHead;

/// The wall clock is set forward or back by up to 30 days.
const STEP_NS: u64 = 30 * 24 * 3_600_000_000_000;

impl World {
    /// What goes wrong in this turn, beside what network and disk do by themselves.
    pub(super) fn misfortune(&mut self) -> Result<(), Violation> {
        let (plan, now_ns) = (self.plan, self.clock.now_ns());
        self.server_misfortune()?;
        if self.chance(plan.chance.rot) {
            self.server.device.borrow_mut().rot();
        }
        if self.chance(plan.chance.client_kill) {
            self.kill_a_client();
        }
        if self.chance(plan.chance.partition) && !self.publishers.is_empty() {
            let port = 101 + self.random.below(u64::from(self.others.next_port - 100));
            let port = u16::try_from(port).expect("a port");
            let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
            let until = now_ns + self.lasting_ns();
            self.net.set_cut(address, true);
            self.outage.cut.push((address, until));
            self.server.hits.client.partitions += 1;
        }
        while let Some(index) = self.outage.cut.iter().position(|(_, until)| *until <= now_ns) {
            let (address, _) = self.outage.cut.swap_remove(index);
            self.net.set_cut(address, false);
        }
        if self.chance(plan.chance.clock_step) {
            let off_ns = self.random.below(2 * STEP_NS);
            let ahead_ns = off_ns.cast_signed() - STEP_NS.cast_signed();
            self.clock.set_wall(Wall { ahead_ns, ..self.clock.wall() });
            self.server.hits.clock_steps += 1;
            self.trace.note("wall clock set", off_ns, STEP_NS);
        }
        if self.chance(plan.chance.zombie_ack) {
            self.forge_ack();
        }
        if self.chance(plan.chance.trim) {
            self.trim();
        }
        if self.chance(plan.chance.stranger) {
            self.disturb();
        }
        if self.chance(plan.chance.visit) {
            self.visit();
        }
        if self.chance(plan.chance.retire) {
            self.begin_to_retire();
        }
        Ok(())
    }

    /// What goes wrong with the server.
    fn server_misfortune(&mut self) -> Result<(), Violation> {
        let (plan, now_ns) = (self.plan, self.clock.now_ns());
        if self.server.shard.is_some() {
            let crash = if self.chance(plan.chance.kill) {
                Some(Crash::Kill)
            } else if self.chance(plan.chance.power_cut) {
                Some(Crash::PowerCut)
            } else {
                None
            };
            if let Some(how) = crash {
                self.server.crash(how);
                self.outage.down_until = now_ns + self.lasting_ns();
            } else if self.chance(plan.chance.stop) {
                let stops = self.server.hits.stops;
                self.server.stop(&mut self.oracle)?;
                let stopped = self.server.hits.stops > stops;
                if stopped && !self.phase.rotted && plan.chance.rot_anywhere > 0 {
                    self.phase.rotted = true;
                    // The rarest to be told apart the most often.
                    let kind = self.random.below(6).saturating_sub(2);
                    self.server.device.borrow_mut().rot_segment(kind);
                }
                self.outage.down_until = now_ns + self.lasting_ns();
            }
            if self.chance(plan.chance.pause) {
                self.outage.paused_until = now_ns + self.lasting_ns();
                self.server.hits.pauses += 1;
                self.trace.note("pause", self.outage.paused_until - now_ns, 0);
                // Whoever looks on waits too.
                self.clock.advance_ns(self.random.below(200_000_000));
            }
        } else if !self.phase.rotted && self.chance(plan.chance.rot_anywhere * 10) {
            // Once: both copies of a header gone are more than one leg can tell (see docs/testing.md).
            self.phase.rotted = true;
            self.server.device.borrow_mut().rot_anywhere();
        }
        Ok(())
    }

    fn kill_a_client(&mut self) {
        self.server.hits.client.kills += 1;
        let all = (self.publishers.len() + self.consumers.len()) as u64;
        let index = usize::try_from(self.random.below(all)).expect("few clients");
        self.trace.note("client killed", index as u64, 0);
        let back_ns = self.clock.now_ns() + self.lasting_ns();
        if let Some(publisher) = self.publishers.get_mut(index) {
            let retires = publisher.retires;
            let Some(client) = publisher.client.take() else { return };
            publisher.back_ns = back_ns;
            // One that had not registered yet would rightly fence its successor.
            let lives_on = publisher.resumed && !retires && self.others.overtaken.len() < 4;
            let took_over = publisher.succeeds;
            if self.random.one_of_thousand(200) && lives_on {
                self.server.hits.client.zombies += 1;
                // That it is cut off is why another one comes.
                if self.random.one_of_thousand(500) {
                    let until_ns = back_ns + self.lasting_ns();
                    self.net.set_cut(client.local(), true);
                    self.outage.cut.push((client.local(), until_ns));
                }
                self.others.overtaken.push(Overtaken::new(client, index, took_over));
            } else {
                drop(client.abandon());
            }
            if retires {
                // It may have been heard.
                self.begin_anew(index);
            }
            return;
        }
        let index = index - self.publishers.len();
        let gear = self.consumers[index].gear;
        let client = self.client(Publisher::No, &gear);
        let forgets = self.random.one_of_thousand(500);
        let consumer = &mut self.consumers[index];
        drop(std::mem::replace(&mut consumer.client, client).abandon());
        consumer.subscribed = false;
        if forgets {
            consumer.expected.values_mut().for_each(|next| *next = 1);
            consumer.rows.clear();
        }
    }

    /// What a writer of an earlier epoch would say that does not know it was replaced, to the session it had.
    fn forge_ack(&mut self) {
        let index = usize::try_from(self.random.below(self.publishers.len() as u64)).expect("few");
        let Some(client) = &self.publishers[index].client else { return };
        if client.outstanding() == 0 {
            return;
        }
        // Not that of the session it has now.
        let conn_id = ConnId(client.session().0.0 ^ 1);
        let last = client.next_seq() - 1;
        let mut head = AckHead::new_zeroed();
        head.received_to = last.into();
        head.replicated_to = last.into();
        head.durable_to = last.into();
        head.max_seq_allowed = (last + 256).into();
        head.max_bytes_allowed = (1 << 20).into();
        head.receipts_from = (last + 1).into();
        head.copies = 1;
        let mut room = [0; 256];
        let mut writer = DatagramWriter::new(&mut room, conn_id, 1 << 40);
        assert!(writer.frame(Kind::Ack, head.as_bytes(), &[]), "an ACK fits");
        let len = writer.len();
        let to = client.local();
        self.net.inject(SERVER, to, &room[..len]);
        self.server.hits.client.zombie_acks += 1;
        self.trace.note("zombie ack", index as u64, last);
    }
}
