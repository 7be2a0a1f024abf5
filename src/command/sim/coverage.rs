//! What runs of the simulator count, what of it has to happen, and what cannot.

use crate::fired::Timer;
use crate::log::recovery::Reason;
use crate::metrics::Counters;
use crate::port::memory::FrameHits;
use crate::sim::{EDGES, Outcome};
use crate::wire::control::ErrorCode;
use crate::wire::{Kind, Side};

/// What cannot happen in the simulator, and why.
const CANNOT: [(&str, &str); 12] = [
    ("Redirect by the server", "there is one shard"),
    ("Pad by the server", "nothing it says has to be longer"),
    ("error Protocol", "every client is honest"),
    ("error UnknownStream", "every client has the streams from the server"),
    ("error BadRequest", "every client is honest"),
    ("error NotAuthorized", "everybody may do everything"),
    ("error Revoked", "nobody is shut out"),
    ("error WrongLog", "there is one log"),
    ("error Diverged", "the log is never replaced by a copy"),
    ("error ProducerHeld", "no producer has a name"),
    ("error Starting", "nobody answers while a log is opened"),
    ("timer GivesUpSubscribe", "who is given a session is answered for its subscriptions"),
];

/// What too few runs see to be demanded of some hundred.
const RARE: [&str; 5] = [
    // To a REGISTER of one that was killed, which arrives when its producer has ended.
    "error UnknownProducer",
    // The table is full, the clock is set forward, and a producer is away for longer than a minute.
    "timer ForgetIdle",
    // A publisher is new, or all sessions are taken, for longer than it has patience.
    "timer GivesUpRefused",
    // The device stands still for longer than a client has patience.
    "timer GivesUpRequest",
    "timer GivesUpPublish",
];

/// What should have happened in many runs and did not, and what happened that is said to be impossible.
pub(super) fn unseen(coverage: &[(String, u64)]) -> Vec<String> {
    let counters = Counters::default();
    let is_counter = |name: &str| {
        let counter = name.strip_prefix("server ");
        counter.is_some_and(|name| counters.iter().any(|(counter, _)| counter == name))
    };
    let mut wrong = Vec::new();
    for (name, count) in coverage.iter().filter(|(name, _)| !is_counter(name)) {
        match CANNOT.iter().find(|(what, _)| what == name) {
            None if *count == 0 && !RARE.contains(&name.as_str()) => {
                wrong.push(format!("never hit: {name}"))
            }
            Some((_, why)) if *count > 0 => wrong.push(format!("hit: {name}, though {why}")),
            None | Some(_) => {}
        }
    }
    wrong
}

/// Everything a run counts, named as people would.
pub(super) fn coverage(outcome: &Outcome) -> Vec<(String, u64)> {
    let (net, disk, server) = (&outcome.net, &outcome.disk, &outcome.server);
    let mut all: Vec<(String, u64)> = [
        ("datagrams lost", net.lost),
        ("datagrams doubled", net.doubled),
        ("datagrams overtaken", net.held),
        ("datagrams late by more than a second", net.late),
        ("datagrams damaged", net.damaged),
        ("datagrams cut off", net.cut),
        ("payloads changed in memory", net.flipped),
        ("writes out of order", disk.out_of_order),
        ("writes slow", disk.slow),
        ("writes failed", disk.errors),
        ("writes failed and stored", disk.errors_stored),
        ("writes hung", disk.hangs),
        ("writes that arrived late", disk.late),
        ("writes dropped by a kill", disk.dropped),
        ("writes torn by a power cut", disk.torn),
        ("reads failed", disk.read_errors),
        ("reads of wrong bytes", disk.bad_reads),
        ("bits rotten", disk.rotten),
        ("blocks lost, stale or misplaced", disk.lost),
        ("server kills", server.kills),
        ("power cuts", server.power_cuts),
        ("orderly stops", server.stops),
        ("pauses", server.pauses),
        ("failures latched", server.failures),
        ("logs full", server.full),
        ("openings", server.open.all),
        ("openings after a clean stop", server.open.clean),
        ("openings that cut a tail", server.open.cuts),
        ("openings that halted", server.open.halts),
        ("openings without a superblock", server.open.no_quorum),
        ("openings the device failed", server.open.failed),
        ("client kills", server.client.kills),
        ("old instances that lived on", server.client.zombies),
        ("producers that ended for good", server.client.retired),
        ("producers that published nothing", server.client.visits),
        ("datagrams of strangers", server.client.strangers),
        ("partitions", server.client.partitions),
        ("wall clocks set", server.clock_steps),
        ("messages too large for a consumer", server.client.too_large),
        ("acknowledgements of an old epoch", server.client.zombie_acks),
        ("trims asked for", server.client.trims),
        ("consumers overtaken by a trim", server.client.trimmed),
        ("full logs that take messages again", server.roomy_again),
    ]
    .into_iter()
    .map(|(name, count)| (name.to_owned(), count))
    .collect();
    let rows = Reason::ALL.iter().zip(server.open.rows);
    all.extend(rows.map(|(reason, count)| (format!("halts because {reason}"), count)));
    all.extend(said(&net.frames));
    let timers = Timer::ALL.iter().zip(outcome.fired);
    all.extend(timers.map(|(timer, count)| (format!("timer {timer:?}"), count)));
    let edges = EDGES.iter().zip(server.edges);
    all.extend(edges.map(|((from, to), count)| (format!("from {from} to {to}"), count)));
    all.extend(outcome.counters.iter().map(|(name, count)| (format!("server {name}"), count)));
    all
}

/// What went over the network: datagrams, frames by direction, errors.
fn said(frames: &FrameHits) -> Vec<(String, u64)> {
    let of_no_session = [("INIT", 1), ("RETRY", 2), ("RESP", 3), ("RESET", 4)];
    let mut all: Vec<_> = of_no_session
        .map(|(name, kind)| (name.to_owned(), frames.of_no_session[kind]))
        .into_iter()
        .collect();
    let by = |side| Kind::ALL.iter().filter(move |kind| kind.is_said_by(side));
    let kinds = by(Side::Client).map(|kind| (*kind, "to", &frames.to_server));
    let kinds = kinds.chain(by(Side::Server).map(|kind| (*kind, "by", &frames.by_server)));
    all.extend(kinds.map(|(kind, way, counts)| {
        (format!("{kind:?} {way} the server"), counts[usize::from(kind as u8)])
    }));
    let errors = ErrorCode::ALL.iter();
    all.extend(
        errors.map(|code| (format!("error {code:?}"), frames.errors[usize::from(code.code())])),
    );
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_is_told_and_what_cannot_happen_is_not_missed() {
        let count = |name: &str, count| (name.to_owned(), count);
        let seen = [
            count("power cuts", 0),
            count("server kills", 3),
            count("Redirect by the server", 0),
            count("error Starting", 1),
        ];
        let wrong = unseen(&seen);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert_eq!(wrong[0], "never hit: power cuts");
        assert!(wrong[1].starts_with("hit: error Starting, though"), "{wrong:?}");
    }

    #[test]
    fn what_cannot_happen_is_among_what_is_counted() {
        let mut plan = crate::sim::Plan::quiet();
        plan.turns = 1;
        let outcome = crate::sim::run_plan(&plan);
        let names: Vec<String> = coverage(&outcome).into_iter().map(|(name, _)| name).collect();
        for what in CANNOT.map(|(what, _)| what).into_iter().chain(RARE) {
            assert!(names.iter().any(|name| name == what), "{what}");
        }
    }
}
