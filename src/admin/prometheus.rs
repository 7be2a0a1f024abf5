//! The state in OpenMetrics text, made at each scrape from the newest snapshots.

use std::fmt::Error;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::state::{LostView, SessionView, SessionsView, State, SubscriptionView};
use crate::metrics::Counter;
use crate::metrics::latency::LatencyHistogram;
use crate::metrics::snapshot::Snapshot;
use crate::metrics::stages::{Stage, Stages};

/// Upper bounds of the buckets of a latency, in nanoseconds.
const BOUNDS_NS: [u64; 22] = [
    250,
    500,
    1_000,
    2_000,
    3_000,
    5_000,
    7_500,
    10_000,
    15_000,
    20_000,
    30_000,
    50_000,
    75_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
];

/// What [`Snapshot::port`] counts.
const PORT: [(&str, &str); 5] = [
    ("port_received", "Datagrams given to the shard"),
    ("port_transmitted", "Datagrams the device took"),
    ("port_receive_dropped", "Frames dropped on arrival: damaged, cut short or not for this port"),
    ("port_transmit_dropped", "Datagrams that could not be sent"),
    ("port_handed_over", "Frames for another shard that came to this one, and were passed on"),
];

/// The text of a scrape.
pub(super) fn text(state: &Arc<Mutex<State>>) -> String {
    let mut registry = Registry::with_prefix("buslane");
    registry.register_collector(Box::new(Scrape(Arc::clone(state))));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => text,
        // A String takes everything.
        Err(Error) => String::new(),
    }
}

#[derive(Debug)]
struct Scrape(Arc<Mutex<State>>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shards: Vec<_> = state.newest().collect();
        for &counter in Counter::ALL {
            let value = |snapshot: &Snapshot| snapshot.counters.get(counter);
            count(&mut encoder, &shards, name(counter), counter.help(), value)?;
        }
        for (index, (name, help)) in PORT.into_iter().enumerate() {
            count(&mut encoder, &shards, name, help, |snapshot| snapshot.port[index])?;
        }
        let (name, help) = ("turn_stalls", "Turns that took longer than limits.turn_us");
        count(&mut encoder, &shards, name, help, |snapshot| snapshot.stalls.count())?;
        gauges(&mut encoder, &shards)?;
        room(&mut encoder, &state, &shards)?;
        lag(&mut encoder, &state)?;
        silence(&mut encoder, &state)?;
        stages(&mut encoder, &shards)
    }
}

/// A counter's name without its prefix and `_total`; a unit stands last.
fn name(counter: Counter) -> &'static str {
    if counter == Counter::BytesDurable { "durable_bytes" } else { counter.name() }
}

type Shards<'a> = [(usize, &'a Snapshot, &'a Stages)];

fn count(
    encoder: &mut DescriptorEncoder<'_>,
    shards: &Shards<'_>,
    name: &str,
    help: &str,
    value: impl Fn(&Snapshot) -> u64,
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (shard, snapshot, _) in shards {
        let labels = [("shard", shard.to_string())];
        ConstCounter::new(value(snapshot)).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauges(encoder: &mut DescriptorEncoder<'_>, shards: &Shards<'_>) -> Result<(), Error> {
    type Gauge = (&'static str, &'static str, Option<Unit>, fn(&Snapshot) -> usize);
    let gauges: [Gauge; 8] = [
        ("serving", "1 while publishers are served", None, |snapshot| {
            usize::from(snapshot.condition == "serving")
        }),
        ("takes_plain", "1 while sessions in the clear are taken", None, |snapshot| {
            usize::from(snapshot.takes_plain)
        }),
        ("sessions", "Sessions", None, |snapshot| snapshot.sessions.as_slice().len()),
        ("streams", "Streams", None, |snapshot| snapshot.streams.as_slice().len()),
        ("segments_used", "Segments that hold something", None, |snapshot| {
            snapshot.log.segments_used
        }),
        ("segments_free", "Segments that hold nothing", None, |snapshot| {
            snapshot.log.segments_free
        }),
        (
            "log_room",
            "What messages may still take, without what is reserved",
            Some(Unit::Bytes),
            |snapshot| usize::try_from(snapshot.log.room_bytes).unwrap_or(usize::MAX),
        ),
        ("in_flight", "Given to the disk and not durable", Some(Unit::Bytes), |snapshot| {
            snapshot.log.in_flight_bytes
        }),
    ];
    for (name, help, unit, value) in gauges {
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (shard, snapshot, _) in shards {
            let labels = [("shard", shard.to_string())];
            let value = i64::try_from(value(snapshot)).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Infinite while nothing is written, so that a rule compares it as it is.
fn room(
    encoder: &mut DescriptorEncoder<'_>,
    state: &State,
    shards: &Shards<'_>,
) -> Result<(), Error> {
    let help = "How long that does at the rate of the last minute";
    let unit = Unit::Seconds;
    let mut family = encoder.encode_descriptor("log_room", help, Some(&unit), MetricType::Gauge)?;
    for (shard, _, _) in shards {
        let labels = [("shard", shard.to_string())];
        let seconds = state.room_s(*shard).unwrap_or(f64::INFINITY);
        ConstGauge::new(seconds).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// A subscription as its labels name it, how it stands, and how long its consumer said nothing.
struct Subscribed {
    shard: usize,
    peer: String,
    connection: u32,
    view: SubscriptionView,
    silent_ns: u64,
}

impl Subscribed {
    fn labels(&self) -> [(&'static str, String); 4] {
        [
            ("shard", self.shard.to_string()),
            ("peer", self.peer.clone()),
            ("connection", self.connection.to_string()),
            ("stream", self.view.stream.clone()),
        ]
    }
}

/// Every subscription, also of a consumer that was lost: its series goes on, so that it is alerted on.
fn subscriptions(state: &State) -> Vec<Subscribed> {
    let SessionsView { sessions, lost, .. } = state.sessions();
    let mut all = Vec::new();
    for SessionView { shard, connection, peer, subscribed, silent_ns, .. } in sessions {
        // One session has a stream once.
        all.extend(subscribed.into_iter().map(|view| {
            let peer = peer.clone();
            Subscribed { shard, peer, connection, view, silent_ns }
        }));
    }
    for LostView { shard, connection, peer, subscription: view, silent_ns } in lost {
        all.push(Subscribed { shard, peer, connection, view, silent_ns });
    }
    all
}

fn lag(encoder: &mut DescriptorEncoder<'_>, state: &State) -> Result<(), Error> {
    let all = subscriptions(state);
    type Lag = (&'static str, &'static str, Option<Unit>, fn(&Subscribed) -> f64);
    #[allow(clippy::cast_precision_loss, reason = "below 2^53")]
    let lags: [Lag; 4] = [
        ("subscription_next_sequence", "The sequence it is sent next", None, |one| {
            one.view.next as f64
        }),
        (
            "subscription_lag_messages",
            "Durable messages that it has not said have arrived",
            None,
            |one| one.view.lag_messages as f64,
        ),
        (
            "subscription_lag",
            "How long the oldest of them is durable",
            Some(Unit::Seconds),
            |one| one.view.lag_s,
        ),
        (
            "subscription_silent",
            "How long its consumer said nothing, also after its session was dropped",
            Some(Unit::Seconds),
            |one| one.silent_ns as f64 / 1e9,
        ),
    ];
    for (name, help, unit, value) in lags {
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for one in &all {
            ConstGauge::new(value(one)).encode(family.encode_family(&one.labels())?)?;
        }
    }
    let (name, help) = ("stream_subscriptions", "Sessions that have subscribed to a stream");
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for stream in state.streams().streams {
        let labels = [("shard", stream.shard.to_string()), ("stream", stream.name)];
        let count = i64::try_from(stream.subscriptions).unwrap_or(i64::MAX);
        ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn silence(encoder: &mut DescriptorEncoder<'_>, state: &State) -> Result<(), Error> {
    let help = "How long the shard has made no turn although it should";
    let unit = Unit::Seconds;
    let mut family = encoder.encode_descriptor("silent", help, Some(&unit), MetricType::Gauge)?;
    for (shard, silent_ms) in state.silent_ms() {
        let labels = [("shard", shard.to_string())];
        #[allow(clippy::cast_precision_loss, reason = "below 2^53")]
        let seconds = silent_ms as f64 / 1e3;
        ConstGauge::new(seconds).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn stages(encoder: &mut DescriptorEncoder<'_>, shards: &Shards<'_>) -> Result<(), Error> {
    let help = "Time of a message in the shard, by stage";
    let unit = Unit::Seconds;
    let mut family =
        encoder.encode_descriptor("stage", help, Some(&unit), MetricType::Histogram)?;
    for (shard, _, total) in shards {
        for stage in Stage::ALL {
            let histogram = total.get(stage);
            let labels = [("shard", shard.to_string()), ("stage", stage.name().to_owned())];
            let mut metric = family.encode_family(&labels)?;
            let (sum, buckets) = (histogram.sum() / 1e9, buckets(histogram));
            metric.encode_histogram::<NoLabelSet>(sum, histogram.count(), &buckets, None)?;
        }
    }
    Ok(())
}

/// Upper bounds in seconds, and how many are in each bucket alone.
fn buckets(histogram: &LatencyHistogram) -> Vec<(f64, u64)> {
    let mut below = 0;
    let bounds = BOUNDS_NS.iter().map(|&bound| {
        #[allow(clippy::cast_precision_loss, reason = "below 2^53")]
        let seconds = bound as f64 / 1e9;
        seconds
    });
    let to = histogram.counts_to(&BOUNDS_NS).into_iter().chain([histogram.count()]);
    bounds
        .chain([f64::INFINITY])
        .zip(to)
        .map(|(bound, to)| {
            let own = to.saturating_sub(below);
            below = to.max(below);
            (bound, own)
        })
        .collect()
}

/// OpenMetrics text as the format 0.0.4 that came before it: there a counter's family has the name of its
/// samples, and neither units nor an end are said.
pub(super) fn classic(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        let mut words = line.split(' ');
        let (hash, what, family) = (words.next(), words.next(), words.next());
        let is_counter = |line: &str| family.is_some_and(|family| is_type(line, family, "counter"));
        let total = match (hash, what) {
            (Some("#"), Some("EOF" | "UNIT")) => continue,
            (Some("#"), Some("HELP")) => lines.peek().is_some_and(|next| is_counter(next)),
            (Some("#"), Some("TYPE")) => is_counter(line),
            _ => false,
        };
        match family.filter(|_| total) {
            Some(family) => text.push_str(&line.replacen(family, &format!("{family}_total"), 1)),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

fn is_type(line: &str, family: &str, kind: &str) -> bool {
    line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) == Some((family, kind))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::metrics::stages::BatchTimes;

    fn scrape() -> String {
        let mut state = State::new(1);
        let mut snapshot = Box::new(Snapshot::new());
        snapshot.counters.add(Counter::MessagesAccepted, 7);
        let batch = BatchTimes { messages: 2, durable_ns: 900, ..BatchTimes::default() };
        snapshot.stages.record(&batch, 1_800);
        state.take_in(0, snapshot);
        text(&Arc::new(Mutex::new(state)))
    }

    #[test]
    fn a_scrape_has_what_was_counted() {
        let text = scrape();
        for line in [
            "buslane_messages_accepted_total{shard=\"0\"} 7",
            "buslane_durable_bytes_total{shard=\"0\"} 0",
            "buslane_serving{shard=\"0\"} 1",
            "buslane_silent_seconds{shard=\"0\"} 0.0",
            "buslane_stage_seconds_count{shard=\"0\",stage=\"whole\"} 2",
            "buslane_stage_seconds_bucket{le=\"0.000001\",shard=\"0\",stage=\"submit_durable\"} 2",
            "buslane_stage_seconds_bucket{le=\"+Inf\",shard=\"0\",stage=\"whole\"} 2",
            "# TYPE buslane_messages_accepted counter",
            "# UNIT buslane_stage_seconds seconds",
            "# EOF",
        ] {
            assert!(text.lines().any(|said| said == line), "{line} is not in\n{text}");
        }
    }

    /// The names of all samples there can be.
    fn samples() -> BTreeSet<String> {
        let text = scrape();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        types
            .flat_map(|(family, kind)| {
                let ends: &[&str] = match kind {
                    "counter" => &["_total"],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                ends.iter().map(move |end| format!("{family}{end}"))
            })
            .collect()
    }

    /// Every name of a metric in a text.
    fn named(text: &str) -> BTreeSet<&str> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| word.starts_with("buslane_")).collect()
    }

    #[test]
    fn every_metric_that_is_named_exists_and_every_one_is_described() {
        let samples = samples();
        let described = include_str!("../../docs/observe.md");
        for (file, text) in [
            ("alerts.yml", include_str!("../../docs/alerts.yml")),
            ("alerts-test.yml", include_str!("../../docs/alerts-test.yml")),
            ("dashboard.json", include_str!("../../docs/dashboard.json")),
            ("observe.md", described),
        ] {
            let named = named(text);
            assert!(named.len() > 3, "{file} names none");
            for name in named {
                // A histogram goes by the name of its family in the list.
                let is_one = samples.contains(name) || samples.contains(&format!("{name}_sum"));
                assert!(is_one, "{file}: there is no metric {name}");
            }
        }
        for sample in samples {
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| sample.strip_suffix(end))
                .unwrap_or(&sample);
            assert!(described.contains(&format!("| `{family}`")), "{family} is not in observe.md");
        }
        let dashboard = include_str!("../../docs/dashboard.json");
        let parsed: serde_json::Value = serde_json::from_str(dashboard).expect("JSON");
        assert!(parsed["panels"].as_array().is_some_and(|panels| panels.len() > 9));
    }

    #[test]
    fn the_older_format_names_counters_as_their_samples() {
        let text = classic(&scrape());
        for line in [
            "# HELP buslane_messages_accepted_total Messages appended to the log",
            "# TYPE buslane_messages_accepted_total counter",
            "buslane_messages_accepted_total{shard=\"0\"} 7",
            "# TYPE buslane_sessions gauge",
            "# TYPE buslane_stage_seconds histogram",
            "buslane_stage_seconds_bucket{le=\"+Inf\",shard=\"0\",stage=\"whole\"} 2",
        ] {
            assert!(text.lines().any(|said| said == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"), "{text}");
    }
}
