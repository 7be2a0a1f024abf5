//! Answers to what a polled client has asked: streams, the ends of lists, and where to ask instead.

use super::Link;
use super::requests::Listed;
use crate::client::{ClientError, Event, StreamDescription};
use crate::clock::Clock;
use crate::ids::StreamId;
use crate::wire::control::{ListEnd, Redirect, StreamInfo};

impl<C: Clock> Link<C> {
    pub(super) fn on_stream_info(&mut self, info: &StreamInfo<'_>) {
        let (request, id) = (info.head.request.get(), info.head.stream.get());
        let Some(listed) = self.requests.on_stream(request, id, self.now_ns) else { return };
        self.route.answered();
        match listed {
            Listed::New => {}
            Listed::Repeated => return,
            Listed::TooMany => {
                self.events.fail(ClientError::Nonsense { server: self.route.server() });
                return;
            }
        }
        let info = StreamDescription {
            id: StreamId(id),
            name: info.name.to_owned(),
            log_start: info.head.log_start.get(),
            durable_next: info.head.durable_next.get(),
            created_ns: info.head.created_ns.get(),
            bytes: info.head.bytes.get(),
            shard: info.head.shard.get(),
        };
        self.events.note(Event::Stream { request, info });
    }

    pub(super) fn on_list_end(&mut self, end: &ListEnd) {
        let request = end.request.get();
        if self.requests.on_list_end(request, end.after.get(), self.now_ns) {
            self.events.note(Event::ListEnd { request });
        }
    }

    /// The stream is on another shard: goes there, if there is nothing to be left behind here.
    pub(super) fn on_redirect(&mut self, redirect: &Redirect) {
        let (request, shard) = (redirect.request.get(), redirect.shard.get());
        if !self.requests.waits_for(request) {
            return;
        }
        // Not what the appliance takes for its address: between here and there ports may be mapped.
        let Some(server) = self.terms.shards().address_of(shard) else {
            self.events.drop_one();
            return;
        };
        let is_free = self.publishing.is_free() && self.subscriptions.is_empty();
        if !is_free || self.requests.len() > 1 || !self.route.may_follow() {
            self.requests.end(request);
            self.events.note(Event::Redirected { request, shard, server });
            return;
        }
        self.route.follow(shard, server, self.session.goodbye());
        self.session.forget_cookie();
        self.publishing.forget_producer();
        self.terms.forget_log();
        self.register_again();
    }
}
