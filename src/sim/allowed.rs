//! Which errors a client may be told: those that follow from what was injected in this run, and no other.

use super::oracle::Violation;
use crate::client::ClientError;
use crate::wire::control::{CodedError, ErrorCode};

/// What has happened in a run so far that a client may hear of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Injected {
    /// A write failed.
    pub(super) write_failed: bool,
    /// A read failed or brought other bytes, or media changed what they held.
    pub(super) data_spoilt: bool,
    /// The log was full.
    pub(super) full: bool,
    /// The server was told to stop.
    pub(super) stopped: bool,
    /// Tables of the server are small, or strangers fill them.
    pub(super) limited: bool,
    /// Something was lost or late, or the server was away or stuck.
    pub(super) silent: bool,
    /// What a client said before it was killed may arrive after its successor has come.
    pub(super) stragglers: bool,
    /// The client that is told does not wait for ever.
    pub(super) impatient: bool,
}

/// When somebody may be told of an error.
#[derive(Clone, Copy, Debug)]
enum When {
    /// Whatever was injected: whoever is told asks again.
    Always,
    /// Where this was injected.
    If(fn(&Injected) -> bool),
    /// In no run: the promise that is broken.
    Never(&'static str),
}

const fn of_code(code: ErrorCode) -> When {
    match code {
        ErrorCode::Busy => When::Always,
        ErrorCode::DiskFailed => When::If(|injected| injected.write_failed),
        ErrorCode::DataLoss => When::If(|injected| injected.data_spoilt),
        ErrorCode::NoSpace => When::If(|injected| injected.full),
        ErrorCode::Draining => When::If(|injected| injected.stopped),
        // What was acknowledged is gone: a producer, a stream, or what it held when it was trimmed.
        ErrorCode::UnknownProducer | ErrorCode::UnknownStream | ErrorCode::BadRequest => {
            When::Never("O1")
        }
        ErrorCode::SessionsFull
        | ErrorCode::ProducersFull
        | ErrorCode::StreamsFull
        | ErrorCode::SubscriptionsFull => When::If(|injected| injected.limited),
        // The last word of the instance before, which is no more, was late.
        ErrorCode::Fenced => When::If(|injected| injected.stragglers),
        // Everybody in a run may do everything.
        ErrorCode::NotAuthorized | ErrorCode::Revoked => When::Never("O15"),
        // The log is not the one that acknowledged.
        ErrorCode::WrongLog | ErrorCode::Diverged => When::Never("O1"),
        // A client asks again by itself, nobody sends what is too large, and nobody answers while a log is opened.
        ErrorCode::Protocol
        | ErrorCode::UnknownSubscription
        | ErrorCode::MessageTooLarge
        | ErrorCode::ProducerHeld
        | ErrorCode::Starting => When::Never("O15"),
    }
}

const fn of_error(error: &ClientError) -> When {
    match error {
        ClientError::Refused(CodedError { code, .. }) => of_code(*code),
        // The log is not the one that acknowledged, or not all of it.
        ClientError::OtherLog { .. }
        | ClientError::OtherHistory { .. }
        | ClientError::Behind { .. }
        | ClientError::OtherProducer { .. } => When::Never("O1"),
        ClientError::DamagedMessage { .. } => When::Never("O2"),
        ClientError::Unreachable { .. } | ClientError::Unanswered { .. } => {
            When::If(|injected| injected.impatient && injected.silent)
        }
        // There is one shard, of this protocol, and its datagrams stay as they are.
        ClientError::ShardUnreachable { .. }
        | ClientError::UnknownKey { .. }
        | ClientError::OtherVersion { .. }
        | ClientError::TooLarge { .. }
        | ClientError::Nonsense { .. } => When::Never("O15"),
    }
}

impl When {
    fn judge(
        self,
        injected: &Injected,
        who: &str,
        error: &dyn std::fmt::Display,
    ) -> Result<(), Violation> {
        let oracle = match self {
            Self::Always => return Ok(()),
            Self::If(holds) if holds(injected) => return Ok(()),
            Self::If(_) => "O15",
            Self::Never(oracle) => oracle,
        };
        Err(Violation { oracle, what: format!("{who} was told: {error}") })
    }
}

impl Injected {
    /// A request of a client that lives on was refused.
    ///
    /// # Errors
    /// The promise that is broken where nothing of what was injected allows that.
    pub(super) fn allows_refusal(&self, who: &str, code: ErrorCode) -> Result<(), Violation> {
        of_code(code).judge(self, who, &code)
    }

    /// A client ended with an error.
    ///
    /// # Errors
    /// The promise that is broken where nothing of what was injected allows that.
    pub(super) fn allows_end(&self, who: &str, error: &ClientError) -> Result<(), Violation> {
        of_error(error).judge(self, who, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Injected = Injected {
        write_failed: false,
        data_spoilt: false,
        full: false,
        stopped: false,
        limited: false,
        silent: false,
        stragglers: false,
        impatient: false,
    };

    #[test]
    fn an_error_is_allowed_by_what_it_follows_from_alone() {
        let rows = [
            (ErrorCode::DiskFailed, Injected { write_failed: true, ..NOTHING }),
            (ErrorCode::DataLoss, Injected { data_spoilt: true, ..NOTHING }),
            (ErrorCode::NoSpace, Injected { full: true, ..NOTHING }),
            (ErrorCode::Draining, Injected { stopped: true, ..NOTHING }),
            (ErrorCode::SessionsFull, Injected { limited: true, ..NOTHING }),
            (ErrorCode::Fenced, Injected { stragglers: true, ..NOTHING }),
        ];
        for (code, of_it) in rows {
            for (_, injected) in rows {
                let allowed = injected.allows_refusal("somebody", code).is_ok();
                assert_eq!(allowed, injected == of_it, "{code:?} after {injected:?}");
                let ends = injected.allows_end("somebody", &ClientError::Refused(code.with(0)));
                assert_eq!(ends.is_ok(), allowed, "{code:?} after {injected:?}");
            }
            assert!(NOTHING.allows_refusal("somebody", code).is_err(), "{code:?} after nothing");
        }
    }

    #[test]
    fn what_nothing_allows_breaks_a_promise_whatever_was_injected() {
        let all = Injected {
            write_failed: true,
            data_spoilt: true,
            full: true,
            stopped: true,
            limited: true,
            silent: true,
            stragglers: true,
            impatient: true,
        };
        let server = "127.0.0.1:1".parse().unwrap();
        for (error, oracle) in [
            (ClientError::Refused(ErrorCode::UnknownProducer.with(0)), "O1"),
            (ClientError::OtherLog { server, begun: 1, found: 2 }, "O1"),
            (ClientError::Nonsense { server }, "O15"),
            (ClientError::Refused(ErrorCode::MessageTooLarge.with(0)), "O15"),
        ] {
            assert_eq!(all.allows_end("somebody", &error).unwrap_err().oracle, oracle, "{error}");
        }
        all.allows_refusal("somebody", ErrorCode::Busy).unwrap();
        let gives_up = ClientError::Unreachable { server };
        all.allows_end("somebody", &gives_up).unwrap();
        for injected in [Injected { impatient: false, ..all }, Injected { silent: false, ..all }] {
            assert_eq!(injected.allows_end("somebody", &gives_up).unwrap_err().oracle, "O15");
        }
        NOTHING.allows_refusal("somebody", ErrorCode::Busy).unwrap();
    }
}
