//! Sessions: the reliable conversation between a client and a shard, over datagrams that may be lost,
//! doubled, reordered or damaged. Sans-I/O: facts and the time go in, decisions and frames come out.
//!
//! # Words
//!
//! * *accepted*: appended to the log, in producer order, exactly once; `received_to` is the highest.
//! * *durable*: accepted and on media; `durable_to` is the highest. Only this is promised.
//! * *held*: arrived behind a gap; kept until the gap is filled, so that only what is lost is sent again.
//! * *run*: messages contiguous in producer number and in sequence, in one batch; the unit of receipts.
//! * *credit*: absolute limits up to which a publisher may send; saying them twice changes nothing.
//!
//! Numbers come from the other side. The wire module lets only those through that are far from overflow
//! ([`crate::limits::NUMBER_MAX`]), and what is counted with them here saturates all the same: whatever is said,
//! nobody is stopped by arithmetic.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod entry;
pub(crate) mod gate;
mod line;
pub(crate) mod handshake;
pub(crate) mod last_word;
pub(crate) mod replay;
pub(crate) mod receive;
pub(crate) mod receipts;
pub(crate) mod table;
pub(crate) mod send;
pub(crate) mod consume;
