//! `buslane host check`.

use serde::Serialize;

use crate::cli::host::HostCheckArgs;
use crate::cli::{Globals, Output};
use crate::command::{CommandError, Out};
use crate::host::{CATALOGUE, Finding, Severity, Status, Summary, Topology, check_some, measure};

/// The version of the object; it changes when a field goes or changes its meaning.
const SCHEMA_VERSION: u32 = 1;

#[derive(Serialize)]
struct Report<'a> {
    schema_version: u32,
    profile: &'a str,
    root: String,
    /// Cores of shards.
    cores: Vec<usize>,
    /// What is wrong with where shards and devices are, if anything is.
    misplaced: Option<String>,
    summary: Summary,
    checks: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    status: Status,
    severity: Severity,
    required: bool,
    #[serde(rename = "where")]
    place: &'a str,
    wanted: &'a str,
    found: &'a str,
    mend: &'a str,
    boot: &'a [String],
    why: &'a str,
}

pub(super) fn check(globals: &Globals, args: &HostCheckArgs) -> Result<(), CommandError> {
    super::check_names(&args.only)?;
    let tree = super::tree(&args.host)?;
    let (profile, needs) = super::needs(globals, &tree)?;
    let place = |key: &str| profile.source.place(key);
    let misplaced = needs.check_placement(&Topology::read(&tree), &place).err();
    let wanted = |id: &str| args.only.is_empty() || args.only.iter().any(|name| name == id);
    let measures = measure::CHECKS.iter().any(|id| wanted(id));
    let measured = measures.then(|| measure::measure(&tree, &needs, args.measure)).flatten();
    let findings = check_some(&tree, &needs, measured, &wanted);
    let summary = Summary::of(&findings);
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        out.json(&Report {
            schema_version: SCHEMA_VERSION,
            profile: &needs.profile,
            root: tree.root().display().to_string(),
            cores: needs.cores().iter().collect(),
            misplaced: misplaced.as_ref().map(ToString::to_string),
            summary,
            checks: findings.iter().map(row).collect(),
        })?;
    } else {
        let cores = needs.cores().to_string();
        let cores =
            if cores.is_empty() { "no core pinned".into() } else { format!("core {cores}") };
        out.line(&format!("profile {}, {cores}", needs.profile))?;
        out.text(&table(&findings))?;
        out.line(&format!(
            "{} checks: {} pass, {} warn, {} fail, {} unknown, {} not applicable",
            findings.len(),
            summary.pass,
            summary.warn,
            summary.fail,
            summary.unknown,
            summary.not_applicable
        ))?;
    }
    out.finish()?;
    if let Some(misplaced) = misplaced {
        return Err(misplaced.into());
    }
    if summary.fail > 0 {
        return Err(CommandError::Failed(format!(
            "host checks failed: {}",
            ids(&findings, Status::Fail)
        )));
    }
    if args.strict && summary.warn > 0 {
        let warned = ids(&findings, Status::Warn);
        return Err(CommandError::Warnings(format!("host checks warned: {warned}")));
    }
    Ok(())
}

fn ids(findings: &[Finding], status: Status) -> String {
    let found = findings.iter().filter(|finding| finding.status == status);
    found.map(|finding| finding.id).collect::<Vec<_>>().join(", ")
}

fn row(finding: &Finding) -> Row<'_> {
    Row {
        id: finding.id,
        status: finding.status,
        severity: finding.severity,
        required: finding.required,
        place: finding.place,
        wanted: &finding.wanted,
        found: &finding.found,
        mend: &finding.mend.command,
        boot: &finding.mend.boot,
        why: CATALOGUE.iter().find(|item| item.id == finding.id).map_or("", |item| item.why),
    }
}

/// A row for each finding; what mends it, on a line of its own below.
fn table(findings: &[Finding]) -> String {
    let width = |of: &dyn Fn(&Finding) -> usize| findings.iter().map(of).max().unwrap_or(0);
    let id_width = width(&|finding| finding.id.len() + usize::from(finding.required)).max(5);
    let wanted_width = width(&|finding| finding.wanted.chars().count()).clamp(6, 40);
    let mut text =
        format!("{:<id_width$} {:<7} {:<wanted_width$} FOUND\n", "CHECK", "STATUS", "WANTED");
    for finding in findings {
        let id = format!("{}{}", finding.id, if finding.required { "*" } else { "" });
        let (status, wanted) = (finding.status.word(), &finding.wanted);
        // What does not fit its column gets a line of its own.
        let between = if wanted.chars().count() > wanted_width {
            format!("\n{:<id_width$} {:<7} {:<wanted_width$}", "", "", "")
        } else {
            String::new()
        };
        let line = format!(
            "{id:<id_width$} {status:<7} {wanted:<wanted_width$}{between} {}",
            finding.found
        );
        text.push_str(line.trim_end());
        text.push('\n');
        if !finding.mend.command.is_empty() {
            text.push_str(&format!("{:<id_width$} mend:   {}\n", "", finding.mend.command));
        }
    }
    if findings.iter().any(|finding| finding.required) {
        text.push_str("* required by the profile\n");
    }
    text
}
