//! The wire: bytes of a datagram.

pub mod record;
