//! `buslane bench report`: interval logs as a page, a table or an object.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{CommandError, Out};
use crate::admin::voice;
use crate::cli::arguments::BenchReportArgs;
use crate::cli::{Globals, Output};
use crate::metrics::hlog::{self, Hlog, HlogError};
use crate::report::evidence::{Evidence, Source};
use crate::report::series::{self, SERIES_MAX, Series};
use crate::report::{self, BenchReport, SCHEMA_VERSION};

/// Files are read whole; an appliance begins another when one has 64 MiB.
const FILE_BYTES_MAX: u64 = 512 << 20;

pub(super) fn report(globals: &Globals, args: &BenchReportArgs) -> Result<(), CommandError> {
    let to_stdout = args.html.as_deref() == Some(Path::new("-"));
    let json = globals.output() == Output::Json;
    if to_stdout && json {
        let what = "--html - and -o json both want stdout: give the page a file";
        return Err(CommandError::Usage(what.to_owned()));
    }
    if args.run.is_some() && args.files.len() > 1 {
        let what = "--run is of one FILE: beside several, put each run's .json next to its .hlog";
        return Err(CommandError::Usage(what.to_owned()));
    }
    let evidence = gather(args)?;
    if !globals.quiet {
        for warning in evidence.warnings() {
            voice::say(&format!("warning: {warning}"));
        }
    }
    if let Some(path) = &args.html {
        let page = report::page(&evidence);
        let mut out = Out::file(path)?;
        out.bytes(page.as_bytes())?;
        out.finish()?;
        if !to_stdout && !globals.quiet {
            let kib = page.len().div_ceil(1024);
            voice::say(&format!("page: {}, {kib} KiB", path.display()));
        }
        if !json {
            return Ok(());
        }
    }
    let mut out = Out::stdout();
    if json {
        out.json(&evidence.object())?;
    } else {
        out.text(&evidence.text())?;
    }
    out.finish()
}

/// Reads the files one after the other; all of them together decide how many points each series may have.
fn gather(args: &BenchReportArgs) -> Result<Evidence, CommandError> {
    let texts: Vec<Vec<u8>> = args.files.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
    let mut logs: Vec<Hlog<'_>> = Vec::new();
    for (path, text) in args.files.iter().zip(&texts) {
        logs.push(hlog::parse(text).map_err(|error| wrong(path, &error))?);
    }
    let tags: usize = logs.iter().map(series::tags).sum();
    if tags > SERIES_MAX {
        return Err(CommandError::Failed(format!(
            "{}: {tags} tags, of {SERIES_MAX} that one report can hold; take some of them, as in \
             grep -E '^#|^Tag=shard0\\.' FILE",
            list(&args.files)
        )));
    }
    let points_max = series::points_max(tags);
    let names = names(&args.files);
    let mut evidence = Evidence { sources: Vec::new(), series: Vec::new() };
    for (index, (path, log)) in args.files.iter().zip(logs).enumerate() {
        let (series, grid) =
            series::read(&log, index, points_max).map_err(|error| wrong(path, &error))?;
        let mut warnings = log.warnings;
        let run = find_run(path, args.run.as_deref(), &mut warnings)?;
        if let Some(run) = &run {
            warnings.extend(mismatch(run, &series));
        }
        let path = path.display().to_string();
        let name = names[index].clone();
        evidence.sources.push(Source { name, path, grid, warnings, run });
        evidence.series.extend(series);
    }
    Ok(evidence)
}

fn wrong(path: &Path, error: &HlogError) -> CommandError {
    CommandError::Failed(format!("{}:{}: {}", path.display(), error.line, error.says))
}

fn list(files: &[PathBuf]) -> String {
    files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    let failed = |what: String| CommandError::Failed(format!("{}: {what}", path.display()));
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(format!(
            "larger than {} MiB; take a part of it, as in grep -E '^#|whole' FILE",
            FILE_BYTES_MAX >> 20
        )));
    }
    Ok(text)
}

/// What the files are called in the report: their stems, after the directory's name where stems are the
/// same, and numbered where even that does not tell them apart.
fn names(files: &[PathBuf]) -> Vec<String> {
    let part = |part: Option<&std::ffi::OsStr>| {
        part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let stems: Vec<String> = files.iter().map(|path| part(path.file_stem())).collect();
    let distinct = |names: &[String]| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let mut names = stems.clone();
    if !distinct(&names) {
        let parent = |path: &PathBuf| part(path.parent().and_then(Path::file_name));
        names = files
            .iter()
            .zip(&stems)
            .map(|(path, stem)| format!("{}/{stem}", parent(path)))
            .collect();
    }
    if !distinct(&names) {
        names = names.iter().enumerate().map(|(at, name)| format!("{name}#{}", at + 1)).collect();
    }
    names.iter().map(|name| series::shortened(name)).collect()
}

/// The run's report: the one asked for, or one of the same stem beside the log.
fn find_run(
    log: &Path,
    asked: Option<&Path>,
    warnings: &mut Vec<String>,
) -> Result<Option<BenchReport>, CommandError> {
    if let Some(path) = asked {
        return read_run(path)
            .map(Some)
            .map_err(|why| CommandError::Failed(format!("{}: {why}", path.display())));
    }
    let beside = log.with_extension("json");
    if !beside.exists() || beside == log {
        return Ok(None);
    }
    let run = read_run(&beside);
    Ok(run.map_err(|why| warnings.push(format!("{} is not used: {why}", beside.display()))).ok())
}

fn read_run(path: &Path) -> Result<BenchReport, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let run: BenchReport = serde_json::from_slice(&text)
        .map_err(|error| format!("not the run.json of `bench run`: {error}"))?;
    if run.schema_version != SCHEMA_VERSION {
        let version = run.schema_version;
        return Err(format!("schema_version is {version}, this binary knows {SCHEMA_VERSION}"));
    }
    Ok(run)
}

/// A run and a log that are not of each other.
fn mismatch(run: &BenchReport, series: &[Series]) -> Option<String> {
    let response = series.iter().find(|series| series.tag() == "response")?;
    (response.count != run.delivery.messages).then(|| {
        format!(
            "the log has {} responses and the run's report {} messages: they are not of one run",
            response.count, run.delivery.messages
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(paths: &[&str]) -> Vec<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn files_have_names_of_their_own() {
        assert_eq!(names(&paths(&["x/run.hlog"])), ["run"]);
        assert_eq!(names(&paths(&["a/one.hlog", "b/two.hlog"])), ["one", "two"]);
        assert_eq!(names(&paths(&["a/run.hlog", "b/run.hlog"])), ["a/run", "b/run"]);
        assert_eq!(names(&paths(&["run.hlog", "run.hlog"])), ["/run#1", "/run#2"]);
    }

    #[test]
    fn a_run_beside_the_log_is_found_and_one_that_is_none_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("run.hlog");
        let mut warnings = Vec::new();
        assert!(find_run(&log, None, &mut warnings).unwrap().is_none() && warnings.is_empty());
        fs::write(dir.path().join("run.json"), "{}").unwrap();
        assert!(find_run(&log, None, &mut warnings).unwrap().is_none());
        assert!(warnings[0].contains("run.json is not used: not the run.json"), "{warnings:?}");
        let error = find_run(&log, Some(&dir.path().join("other.json")), &mut warnings);
        assert!(error.unwrap_err().to_string().contains("other.json: No such file"));
    }
}
