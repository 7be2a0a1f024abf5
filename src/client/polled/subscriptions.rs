//! What a polled client is subscribed to.

use super::requests::Requests;
use crate::history::History;
use crate::ids::StreamId;
use crate::limits::SUBSCRIPTIONS_MAX;
use crate::session::consume::{Damaged, Subscription};
use crate::wire::publish::Data;
use crate::wire::record::Record;

/// Subscriptions, and streams that the server is to stop sending.
#[derive(Debug)]
pub(super) struct Subscriptions {
    all: Vec<Subscription>,
    unsubscribe: Vec<StreamId>,
}

impl Subscriptions {
    pub(super) fn new() -> Self {
        Self { all: Vec::new(), unsubscribe: Vec::with_capacity(SUBSCRIPTIONS_MAX) }
    }

    pub(super) fn add(&mut self, subscription: Subscription) {
        self.all.push(subscription);
    }

    /// The owner ends one; whether there was one.
    pub(super) fn remove(&mut self, stream: StreamId) -> bool {
        self.unsubscribe.retain(|other| *other != stream);
        let before = self.all.len();
        self.all.retain(|subscription| subscription.stream != stream);
        self.all.len() < before
    }

    /// The server has ended one, and may forget it.
    pub(super) fn end(&mut self, stream: StreamId) {
        self.all.retain(|subscription| subscription.stream != stream);
        if !self.unsubscribe.contains(&stream) {
            self.unsubscribe.push(stream);
        }
    }

    pub(super) fn of(&self, stream: StreamId) -> Option<&Subscription> {
        self.all.iter().find(|subscription| subscription.stream == stream)
    }

    pub(super) fn of_mut(&mut self, stream: StreamId) -> Option<&mut Subscription> {
        self.all.iter_mut().find(|subscription| subscription.stream == stream)
    }

    pub(super) fn of_request(&self, request: u32) -> Option<&Subscription> {
        self.all.iter().find(|subscription| subscription.request() == request)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn nth(&mut self, index: usize) -> &mut Subscription {
        &mut self.all[index]
    }

    /// A session begins: all are asked for in it, from where they are.
    pub(super) fn begin(&mut self, requests: &mut Requests) {
        for subscription in &mut self.all {
            subscription.restart(requests.take_number());
        }
    }

    /// The server lost one: it is asked for again, from where it is.
    pub(super) fn restart(&mut self, stream: u64, request: u32) {
        let is_it = |sub: &&mut Subscription| u64::from(sub.stream.0) == stream && sub.is_open();
        if let Some(subscription) = self.all.iter_mut().find(is_it) {
            subscription.restart(request);
        }
    }

    /// Since when the longest of those waits for an answer that stood before, or not.
    pub(super) fn oldest_ns(&self) -> Option<u64> {
        self.all.iter().filter_map(Subscription::asked_since_ns).min()
    }

    /// The same of those that never stood.
    pub(super) fn oldest_new_ns(&self) -> Option<u64> {
        let never_stood = self.all.iter().filter(|sub| sub.expected() == 0);
        never_stood.filter_map(Subscription::asked_since_ns).min()
    }

    /// Messages came: those that are next go to `sink`, and are written down.
    pub(super) fn on_data(
        &mut self,
        data: &Data<'_>,
        history: &mut Option<Box<History>>,
        sink: &mut dyn FnMut(&Record<'_>),
    ) -> Result<(), Damaged> {
        let stream = StreamId(data.head.stream.get());
        let Some(subscription) = self.of_mut(stream) else { return Ok(()) };
        match history {
            None => subscription.on_data(data, sink),
            Some(history) => subscription.on_data(data, &mut |record| {
                history.delivered(record);
                sink(record);
            }),
        }
        .map(|_| ())
    }

    /// A stream the server is to stop sending.
    pub(super) fn take_unsubscribe(&mut self) -> Option<StreamId> {
        self.unsubscribe.pop()
    }

    /// It could not be told now.
    pub(super) fn put_back(&mut self, stream: StreamId) {
        self.unsubscribe.push(stream);
    }
}
