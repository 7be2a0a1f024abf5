//! The operator of a run: trims streams, and looks at what comes of it.

use super::World;
use crate::client::{ClientError, Event, Publisher, Request};
use crate::sim::oracle::Violation;
use crate::wire::control::ErrorCode;

impl World {
    /// Trims a stream somewhere up to its durable end.
    pub(super) fn trim(&mut self) {
        let Some(shard) = &self.server.shard else { return };
        let streams = shard.log().streams().count() as u64;
        if streams == 0 {
            return;
        }
        let nth = usize::try_from(self.random.below(streams)).expect("few streams");
        let facts = shard.log().streams().nth(nth).expect("counted above");
        let (id, first, next) = (facts.id, facts.first_sequence, facts.durable_next);
        let first = match self.random.below(4) {
            0 => next,
            _ => first + self.random.below(next - first + 1),
        };
        if self.operator.is_none() {
            self.operator = Some(self.client(Publisher::No));
        }
        self.oracle.trim_asked(id, first);
        self.server.hits.trims += 1;
        self.trace.note("trim", u64::from(id.0), first);
        if let Some(operator) = &mut self.operator {
            operator.request(Request::TrimStream(id, first));
        }
    }

    pub(super) fn poll_operator(&mut self) -> Result<(), Violation> {
        let Some(operator) = &mut self.operator else { return Ok(()) };
        let polled = operator.poll(&mut |_| {});
        while let Some(event) = operator.next_event() {
            match event {
                Event::Stream { info, .. } => self.oracle.told_begin(info.id, info.log_start)?,
                Event::Refused {
                    code: ErrorCode::UnknownStream | ErrorCode::BadRequest, ..
                } => {
                    let what = "a trim of durable messages was refused".into();
                    return Err(Violation { oracle: "O1", what });
                }
                Event::Connected { .. }
                | Event::Subscribed { .. }
                | Event::ListEnd { .. }
                | Event::Refused { .. }
                | Event::Redirected { .. }
                | Event::Trimmed { .. }
                | Event::TooLarge { .. }
                | Event::DataLoss { .. } => {}
            }
        }
        match polled {
            Ok(_) | Err(ClientError::Unreachable { .. }) => Ok(()),
            Err(_) => {
                self.operator = None;
                Ok(())
            }
        }
    }
}
