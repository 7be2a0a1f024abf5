//! `buslane version`: which release, and what it was built with.

use serde::Serialize;

use super::{CommandError, Out};
use crate::cli::{Globals, Output};

#[derive(Serialize)]
struct Version {
    schema_version: u32,
    version: &'static str,
    commit: &'static str,
    features: Vec<&'static str>,
    profiles: Vec<&'static str>,
}

/// Prints the version, the features and the shipped profiles.
pub(super) fn version(globals: &Globals) -> Result<(), CommandError> {
    let features = [("dpdk", cfg!(feature = "dpdk")), ("spdk", cfg!(feature = "spdk"))];
    let version = Version {
        schema_version: 1,
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("BUSLANE_COMMIT"),
        features: features.iter().filter(|(_, built)| *built).map(|(name, _)| *name).collect(),
        profiles: crate::profile::SHIPPED.map(|(name, _)| name).to_vec(),
    };
    let mut out = Out::stdout();
    match globals.output() {
        Output::Json => out.json(&version)?,
        Output::Text | Output::Raw | Output::Framed => {
            let none = "none".to_owned();
            let features =
                if version.features.is_empty() { none } else { version.features.join(", ") };
            out.line(&format!("buslane {}", crate::cli::VERSION))?;
            out.line(&format!("features: {features}"))?;
            out.line(&format!("profiles: {}", version.profiles.join(", ")))?;
        }
    }
    out.finish()
}
