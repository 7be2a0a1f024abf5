//! Reading interval logs: HdrHistogram's text format, versions 1.2 and 1.3, as `bench run` and a serving
//! appliance write it, and as other tools do.
//!
//! A line is an interval of one tag. Lines are looked at one by one, so that what is wrong has a number;
//! the histograms in them are decoded when they are asked for, one at a time. Nothing a line says is
//! believed before it is checked: a histogram that claims gigabytes gets none.

use std::io::Read;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

use super::latency::LatencyHistogram;

/// What a line without a tag is called.
pub(crate) const NO_TAG: &str = "untagged";

/// What the comment of our files says about their numbers.
const NANOSECONDS: &[u8] = b"latencies in nanoseconds";

/// A histogram that unpacks to more than this is none of ours, nor of anybody who measures latency.
const HISTOGRAM_BYTES_MAX: u64 = 16 << 20;

/// How an encoded histogram begins that is deflated (version 2).
const DEFLATED: [u8; 4] = [0x1c, 0x84, 0x93, 0x14];

/// Measurements of one line at most: more than anybody makes, and the sum of all lines of a file is a number.
const COUNT_MAX: u64 = 1 << 40;

/// Bytes of an encoded histogram before its counts.
const HEAD_BYTES: usize = 40;

/// Starts of intervals that lie this far before the file's start time count from it (as in Java's reader).
const YEAR_NS: u64 = 365 * 24 * 3600 * 1_000_000_000;

/// line {line}: {says}
#[derive(Clone, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
#[ignore_extra_doc_attributes]
pub(crate) struct HlogError {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong, and what to do.
    pub says: String,
}

fn wrong<T>(line: usize, says: impl Into<String>) -> Result<T, HlogError> {
    Err(HlogError { line, says: says.into() })
}

/// One line: what one tag did in one interval.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval<'a> {
    /// Its tag; [`NO_TAG`] without one.
    pub tag: &'a str,
    /// Unix time of its start, in nanoseconds, if the file says what its times count from.
    pub start_ns: u64,
    /// How long it was.
    pub duration_ns: u64,
    /// Number of its line, from 1.
    pub line: usize,
    encoded: &'a str,
}

impl Interval<'_> {
    /// When it ended.
    #[must_use]
    pub(crate) fn end_ns(&self) -> u64 {
        self.start_ns.saturating_add(self.duration_ns)
    }

    /// Where it is when it has to be in one place.
    #[must_use]
    pub(crate) fn middle_ns(&self) -> u64 {
        self.start_ns.saturating_add(self.duration_ns / 2)
    }

    /// Its histogram.
    ///
    /// # Errors
    /// When the line does not hold one.
    pub(crate) fn histogram(&self) -> Result<LatencyHistogram, HlogError> {
        let says = |what: &str| HlogError {
            line: self.line,
            says: format!(
                "its histogram cannot be read: {what}; leave the line out, or write the file again"
            ),
        };
        let packed = STANDARD.decode(self.encoded).map_err(|error| says(&error.to_string()))?;
        let bytes = unpack(packed).map_err(says)?;
        let histogram: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| says(&error.to_string()))?;
        Ok(LatencyHistogram::from_histogram(histogram))
    }
}

/// Inflates an encoded histogram, if it is deflated, and checks what its reader takes on trust.
fn unpack(packed: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    let mut bytes = packed;
    check_encoding(&bytes)?;
    if bytes.starts_with(&DEFLATED) {
        let mut unpacked = Vec::new();
        let deflated = bytes.get(8..).unwrap_or_default();
        let read = ZlibDecoder::new(deflated)
            .take(HISTOGRAM_BYTES_MAX + 1)
            .read_to_end(&mut unpacked)
            .map_err(|_| "it is cut off or damaged")?;
        if read as u64 > HISTOGRAM_BYTES_MAX {
            return Err("it unpacks to more than 16 MiB");
        }
        bytes = unpacked;
        check_encoding(&bytes)?;
    }
    let Some((head, counts)) = bytes.split_at_checked(HEAD_BYTES) else {
        return Err("it is shorter than its head");
    };
    let claimed = head[4..8].iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
    if claimed > counts.len() {
        return Err("it has fewer counts than it says");
    }
    check_counts(&counts[..claimed])?;
    Ok(bytes)
}

/// The encoding stands in the first four bytes, beside the width of its numbers.
fn check_encoding(bytes: &[u8]) -> Result<(), &'static str> {
    let Some(cookie) = bytes.first_chunk::<4>() else { return Err("it is shorter than its head") };
    match [cookie[0], cookie[1], cookie[2], cookie[3] & 0x0f] {
        [0x1c, 0x84, 0x93, 0x03 | 0x04] => Ok(()),
        [0x1c, 0x84, 0x93, 0x01 | 0x02] => {
            Err("its encoding is V1, and V2 is wanted: log with HdrHistogram 2.1.10 or later")
        }
        [0x1c, 0x84, 0x93, 0x08 | 0x09] => {
            Err("its encoding is V0, and V2 is wanted: log with HdrHistogram 2.1.10 or later")
        }
        _ => Err("its encoding is none of HdrHistogram's"),
    }
}

/// Counts are ZigZag numbers of seven bits a byte, eight in the ninth; a negative one is a run of zeros. Their
/// reader takes them on trust, and their sum too.
fn check_counts(mut counts: &[u8]) -> Result<(), &'static str> {
    let mut sum = 0u64;
    while !counts.is_empty() {
        let mut number = 0u64;
        let mut length = 0;
        loop {
            let Some(byte) = counts.get(length) else { return Err("it is cut off or damaged") };
            let is_last = length == 8 || byte & 0x80 == 0;
            let bits = if length == 8 { *byte } else { byte & 0x7f };
            number |= u64::from(bits) << (7 * length);
            length += 1;
            if is_last {
                break;
            }
        }
        counts = &counts[length..];
        let size = number >> 1;
        if number & 1 == 1 {
            if size > HISTOGRAM_BYTES_MAX {
                return Err("a run of zeros is out of range");
            }
            continue;
        }
        sum = sum.saturating_add(size);
        if sum > COUNT_MAX {
            return Err("its counts add up to more than anybody measures");
        }
    }
    Ok(())
}

/// The lines of a file.
#[derive(Debug)]
pub(crate) struct Hlog<'a> {
    /// In the order of their middles; those of one in the order of the file.
    pub intervals: Vec<Interval<'a>>,
    /// What was left out or assumed, a sentence each.
    pub warnings: Vec<String>,
}

/// What was read of a file so far.
struct Reader<'a> {
    intervals: Vec<Interval<'a>>,
    warnings: Vec<String>,
    start_time_ns: Option<u64>,
    base_time_ns: Option<u64>,
    untagged: usize,
    nanoseconds: bool,
}

/// Reads the lines of a file; histograms are decoded later.
///
/// # Errors
/// When it is no interval log, or a line of it cannot be read. A last line without an end that cannot be
/// read is left out with a warning: that is how a killed process leaves its file.
pub(crate) fn parse(text: &[u8]) -> Result<Hlog<'_>, HlogError> {
    let mut reader = Reader {
        intervals: Vec::new(),
        warnings: Vec::new(),
        start_time_ns: None,
        base_time_ns: None,
        untagged: 0,
        nanoseconds: false,
    };
    check_kind(text)?;
    let mut rest = text;
    let mut line = 0;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        line += 1;
        reader.take(line, &rest[..=end])?;
        rest = &rest[end + 1..];
    }
    if !rest.is_empty() {
        reader.cut_off(line + 1);
    }
    reader.finish(line)
}

/// What is given for an interval log by mistake has a name.
fn check_kind(text: &[u8]) -> Result<(), HlogError> {
    let first = text.trim_ascii_start();
    if first.is_empty() {
        return wrong(1, "the file is empty; give one that `bench run` or an appliance wrote");
    }
    if first.starts_with(b"Value ") {
        return wrong(1, "a percentile distribution (.hgrm); give the .hlog beside it");
    }
    if first.starts_with(b"{") || first.starts_with(b"[") {
        return wrong(1, "JSON; give the .hlog, and this one with --run");
    }
    Ok(())
}

impl<'a> Reader<'a> {
    fn take(&mut self, line: usize, text: &'a [u8]) -> Result<(), HlogError> {
        if text.trim_ascii().is_empty() {
            return Ok(());
        }
        if text.starts_with(b"#") {
            self.nanoseconds |= text.windows(NANOSECONDS.len()).any(|window| window == NANOSECONDS);
        }
        match IntervalLogIterator::new(text).next() {
            None => Ok(()),
            Some(Ok(LogEntry::StartTime(time))) => {
                self.start_time_ns = Some(nanos(line, time)?);
                Ok(())
            }
            Some(Ok(LogEntry::BaseTime(time))) => {
                self.base_time_ns = Some(nanos(line, time)?);
                Ok(())
            }
            Some(Ok(LogEntry::Interval(interval))) => {
                let tag = interval.tag().map(|tag| tag.as_str());
                self.untagged += usize::from(tag.is_none());
                let start_ns = nanos(line, interval.start_timestamp())?;
                self.intervals.push(Interval {
                    tag: tag.filter(|tag| !tag.is_empty()).unwrap_or(NO_TAG),
                    start_ns: start_ns.saturating_add(self.base_ns(start_ns)),
                    duration_ns: nanos(line, interval.duration())?,
                    line,
                    encoded: interval.encoded_histogram(),
                });
                Ok(())
            }
            Some(Err(_)) if self.intervals.is_empty() => wrong(
                line,
                "not an HdrHistogram interval log, whose lines begin with # or Tag=; give a .hlog that \
                 `bench run` or an appliance with metrics.dir wrote",
            ),
            Some(Err(_)) => wrong(
                line,
                "not a line of an interval log: wanted [Tag=NAME,]START,LENGTH,MAX,HISTOGRAM; leave it \
                 out, or write the file again",
            ),
        }
    }

    /// What the start of an interval counts from.
    fn base_ns(&self, start_ns: u64) -> u64 {
        self.base_time_ns.unwrap_or_else(|| {
            let start_time_ns = self.start_time_ns.unwrap_or(0);
            if start_ns.saturating_add(YEAR_NS) < start_time_ns { start_time_ns } else { 0 }
        })
    }

    /// A last line without an end says nothing that can be trusted.
    fn cut_off(&mut self, line: usize) {
        self.warnings.push(format!(
            "line {line} is cut off, as when a process is killed while it writes; it is left out"
        ));
    }

    fn finish(mut self, lines: usize) -> Result<Hlog<'a>, HlogError> {
        if self.intervals.is_empty() {
            return wrong(
                lines.max(1),
                "the file ends without an interval: nothing was measured, or it was copied too early",
            );
        }
        if self.untagged > 0 {
            let untagged = self.untagged;
            self.warnings.push(format!("{untagged} intervals have no tag; shown as `{NO_TAG}`"));
        }
        if !self.nanoseconds {
            self.warnings
                .push("no comment says what its numbers are; taken for nanoseconds".into());
        }
        self.intervals.sort_by_key(Interval::middle_ns);
        Ok(Hlog { intervals: self.intervals, warnings: self.warnings })
    }
}

fn nanos(line: usize, time: Duration) -> Result<u64, HlogError> {
    u64::try_from(time.as_nanos())
        .or_else(|_| wrong(line, "a time that is centuries away; leave the line out"))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;
    use crate::metrics::latency::{hlog_lines, write_hlog, write_hlog_header};

    const SECOND: Duration = Duration::from_secs(1);

    fn log() -> Vec<u8> {
        let mut histogram = LatencyHistogram::new();
        (1..=1_000).for_each(|us| histogram.record(us * 1_000));
        let start = UNIX_EPOCH + SECOND * 1_700_000_000;
        let mut text = Vec::new();
        write_hlog(&mut text, start, SECOND, &[("a", &histogram), ("b", &histogram)]).unwrap();
        text.extend(hlog_lines(start + SECOND, SECOND, &[("a", &histogram)]).unwrap());
        text
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = log();
        let hlog = parse(&text).unwrap();
        assert_eq!(hlog.warnings, [""; 0]);
        let tags: Vec<_> = hlog.intervals.iter().map(|interval| interval.tag).collect();
        assert_eq!(tags, ["a", "b", "a"]);
        let last = hlog.intervals[2];
        assert_eq!(last.start_ns, 1_700_000_001_000_000_000);
        assert_eq!(
            (last.duration_ns, last.end_ns() - last.start_ns),
            (1_000_000_000, 1_000_000_000)
        );
        let histogram = last.histogram().unwrap();
        assert_eq!(histogram.count(), 1_000);
        let mut wanted = LatencyHistogram::new();
        (1..=1_000).for_each(|us| wanted.record(us * 1_000));
        assert_eq!(histogram.percentiles(), wanted.percentiles());
    }

    #[test]
    fn a_line_cut_off_by_a_kill_is_left_out_and_said() {
        let text = log();
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        for cut in [1, 2, 20, 60] {
            let hlog = parse(&text[..text.len() - cut]).unwrap();
            assert_eq!(hlog.intervals.len(), 2);
            let says = format!("line {lines} is cut off");
            assert!(hlog.warnings[0].starts_with(&says), "{:?}", hlog.warnings);
        }
    }

    #[test]
    fn what_is_no_log_is_named_with_its_line() {
        let mut header = Vec::new();
        write_hlog_header(&mut header, UNIX_EPOCH).unwrap();
        let garbage_inside = [&header, b"Tag=a,1.0,1.0,2.0,HIST\nwhat?\n".as_slice()].concat();
        let cases: [(&[u8], usize, &str); 7] = [
            (b"", 1, "empty"),
            (b"\n\n", 1, "empty"),
            (b"       Value     Percentile\n", 1, ".hgrm"),
            (b"{\"a\": 1}\n", 1, "--run"),
            (b"#x\nhello\n", 2, "not an HdrHistogram interval log"),
            (&header, 4, "without an interval"),
            (&garbage_inside, 6, "not a line of an interval log"),
        ];
        for (text, line, says) in cases {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, line, "{error}");
            assert!(error.says.contains(says), "{error}");
        }
    }

    #[test]
    fn histograms_that_lie_are_refused() {
        let mut huge = vec![0x1c, 0x84, 0x93, 0x13, 0xff, 0xff, 0xff, 0xff];
        huge.resize(60, 0);
        let mut negative = vec![0x1c, 0x84, 0x93, 0x13, 0, 0, 0, 9];
        negative.resize(HEAD_BYTES, 0);
        negative.extend([0xff; 9]);
        // Three times the largest number there is.
        let mut overflowing = vec![0x1c, 0x84, 0x93, 0x13, 0, 0, 0, 27];
        overflowing.resize(HEAD_BYTES, 0);
        let largest = [[0xfe].as_slice(), &[0xff; 8]].concat();
        overflowing.extend([largest.clone(), largest.clone(), largest].concat());
        for (bytes, says) in [
            (huge, "fewer counts"),
            (negative, "out of range"),
            (overflowing, "add up to more"),
            (vec![0x1c, 0x84, 0x93, 0x02, 0, 0, 0, 0], "its encoding is V1"),
            (vec![0x1c, 0x84, 0x93, 0x88, 0, 0, 0, 0], "its encoding is V0"),
            (vec![1, 2, 3, 4], "none of HdrHistogram's"),
            (vec![1, 2, 3], "shorter than its head"),
            (vec![0x1c, 0x84, 0x93, 0x14, 0, 0, 0, 4, 1, 2, 3, 4], "cut off or damaged"),
        ] {
            let line = format!("Tag=a,1.0,1.0,2.0,{}\n", STANDARD.encode(bytes));
            let hlog = parse(line.as_bytes()).unwrap();
            let error = hlog.intervals[0].histogram().unwrap_err();
            assert!(error.line == 1 && error.says.contains(says), "{error}");
        }
    }

    #[test]
    fn times_may_count_from_the_start_time_or_from_a_base() {
        for (head, start_ns) in [
            ("#[StartTime: 1700000000.000 (seconds since epoch), x]\n", 1_700_000_001_000_000_000),
            ("#[BaseTime: 50.000 (seconds since epoch)]\n", 51_000_000_000),
            ("", 1_000_000_000),
        ] {
            let text = format!("{head}1.000,1.000,2.0,HIST\n");
            let hlog = parse(text.as_bytes()).unwrap();
            assert_eq!(hlog.intervals[0].start_ns, start_ns);
            assert_eq!((hlog.intervals[0].tag, hlog.warnings.len()), (NO_TAG, 2));
        }
    }

    proptest! {
        /// Whatever is done to a file, it is read or refused.
        #[test]
        fn damage_never_panics(at in 0..1_000_usize, byte: u8, cut in 0..2_000_usize) {
            let mut text = log();
            let place = at * text.len() / 1_000;
            text[place] = byte;
            text.truncate(cut * text.len() / 1_000);
            if let Ok(hlog) = parse(&text) {
                for interval in hlog.intervals {
                    let _ = interval.histogram();
                }
            }
        }
    }
}
