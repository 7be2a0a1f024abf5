//! `buslane man`: the help texts as manual pages, for packages.

use std::fs;
use std::path::Path;

use clap::CommandFactory;

use super::CommandError;
use crate::cli::Cli;

/// Writes a page for every command that is shown: `buslane.1`, `buslane-log-copy.1` ...
pub(super) fn man(dir: &Path) -> Result<(), CommandError> {
    let failed = |path: &Path, error: std::io::Error| {
        CommandError::Failed(format!("{}: {error}", path.display()))
    };
    fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut commands = vec![root];
    while let Some(command) = commands.pop() {
        let mut page = Vec::new();
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
        let path = dir.join(format!("{name}.1"));
        clap_mangen::Man::new(command.clone())
            .render(&mut page)
            .and_then(|()| fs::write(&path, page))
            .map_err(|error| failed(&path, error))?;
        commands.extend(command.get_subcommands().filter(|one| !one.is_hide_set()).cloned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_shown_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        man(dir.path()).unwrap();
        let page = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(page("buslane.1").contains("buslane\\-serve(1)"), "{}", page("buslane.1"));
        let copy = page("buslane-log-copy.1");
        assert!(copy.contains(".SH OPTIONS") && copy.contains("EXAMPLES"), "{copy}");
        let hidden = dir.path().join("buslane-man.1");
        assert!(!hidden.exists(), "what is hidden has none");
        assert!(fs::read_dir(dir.path()).unwrap().count() > 25);
    }
}
