//! The files a run leaves: its report, its percentiles, and its histograms over time.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{CommandError, Floors, Out};
use crate::measure::load::LoadResult;
use crate::metrics::latency::{hlog_lines, write_hlog_header};
use crate::report::BenchReport;

/// Writes `run.json`, `run.hgrm` and `run.hlog` to a directory, which is made if need be.
pub(super) fn write(
    dir: &Path,
    started: SystemTime,
    report: &BenchReport,
    load: &LoadResult,
    floors: Option<&Floors>,
) -> Result<(), CommandError> {
    let failed =
        |error: std::io::Error| CommandError::Failed(format!("{}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(failed)?;
    let mut json = Out::file(&dir.join("run.json"))?;
    json.json(report)?;
    json.finish()?;
    let mut hgrm = File::create(dir.join("run.hgrm")).map_err(failed)?;
    load.latencies.response.write_hgrm(&mut hgrm).map_err(failed)?;
    let hlog = File::create(dir.join("run.hlog")).map_err(failed)?;
    write_intervals(BufWriter::new(hlog), started, load, floors).map_err(failed)
}

/// A line a tag and interval; a floor is one interval of the whole run.
fn write_intervals(
    mut out: impl Write,
    started: SystemTime,
    load: &LoadResult,
    floors: Option<&Floors>,
) -> io::Result<()> {
    write_hlog_header(&mut out, started)?;
    for interval in &load.intervals {
        let start = SystemTime::UNIX_EPOCH + Duration::from_nanos(interval.start_unix_ns);
        let took = Duration::from_nanos(interval.duration_ns);
        // With the empty ones: a second without an acknowledgement has to be seen.
        let tagged = interval.latencies.named();
        out.write_all(&hlog_lines(start, took, &tagged)?)?;
    }
    if let Some(floors) = floors {
        let took = Duration::from_nanos(load.elapsed_ns);
        out.write_all(&hlog_lines(started, took, &floors.tagged())?)?;
    }
    out.flush()
}
