//! What a polled client was told, until its owner asks for it.

use std::collections::VecDeque;

use crate::client::{ClientError, Event};
use crate::ids::StreamId;

/// Events that wait for the owner, and why the client can go on no more.
#[derive(Debug)]
pub(super) struct Events {
    waiting: VecDeque<Event>,
    failed: Option<ClientError>,
    dropped: u64,
}

impl Events {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::with_capacity(64), failed: None, dropped: 0 }
    }

    /// Notes an event. Of those that say how things stand, the newest of a kind is kept.
    pub(super) fn note(&mut self, event: Event) {
        match &event {
            Event::Connected { .. } => {
                self.waiting.retain(|other| !matches!(other, Event::Connected { .. }));
            }
            Event::Subscribed { stream, .. } => self.forget_start(*stream),
            Event::Stream { .. }
            | Event::ListEnd { .. }
            | Event::Refused { .. }
            | Event::Redirected { .. }
            | Event::Trimmed { .. }
            | Event::TooLarge { .. }
            | Event::DataLoss { .. } => {}
        }
        self.waiting.push_back(event);
    }

    fn forget_start(&mut self, of: StreamId) {
        self.waiting
            .retain(|other| !matches!(other, Event::Subscribed { stream, .. } if *stream == of));
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        self.waiting.pop_front()
    }

    /// The first reason stays.
    pub(super) fn fail(&mut self, error: ClientError) {
        self.failed = self.failed.or(Some(error));
    }

    pub(super) fn failed(&self) -> Option<ClientError> {
        self.failed
    }

    /// A datagram, or a frame of one, was not the server's, or made no sense.
    pub(super) fn drop_one(&mut self) {
        self.dropped = self.dropped.saturating_add(1);
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}
