//! Whether the user of a unit comes to the paths that it uses: what stands in the way, and what mends it.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Permission to pass a directory, and to read a file, as the bits of others.
const PASS: u32 = 0o1;
const READ: u32 = 0o4;

/// The user whom no mode keeps out.
const ROOT: u32 = 0;

/// A user as the kernel sees it. One that is to be made yet owns nothing.
#[derive(Debug)]
struct Login {
    uid: Option<u32>,
    gids: Vec<u32>,
}

impl Login {
    fn of(user: &str) -> Self {
        let table = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self::find(user, &table("/etc/passwd"), &table("/etc/group"))
    }

    fn find(user: &str, users: &str, groups: &str) -> Self {
        let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let own = users.lines().map(fields).find(|fields| fields[0] == user);
        let number = |at: usize| own.as_ref()?.get(at)?.parse().ok();
        let is_member = |fields: &Vec<String>| {
            fields.get(3).is_some_and(|all| all.split(',').any(|m| m == user))
        };
        let groups = groups.lines().map(fields).filter(is_member);
        let gids = groups.filter_map(|fields| fields[2].parse().ok()).chain(number(3));
        Self { uid: number(2), gids: gids.collect() }
    }

    fn may(&self, facts: &Metadata, permission: u32) -> bool {
        if self.uid == Some(ROOT) {
            return true;
        }
        let shift = if self.uid == Some(facts.uid()) {
            6
        } else if self.gids.contains(&facts.gid()) {
            3
        } else {
            0
        };
        facts.mode() & (permission << shift) != 0
    }
}

/// For each of `paths` that is whole, what keeps `user` from it. What is not there yet is in nobody's way.
pub(crate) fn closed(user: &str, paths: &[String]) -> Vec<String> {
    let login = Login::of(user);
    let mut found: Vec<String> = Vec::new();
    for path in paths.iter().map(Path::new).filter(|path| path.is_absolute()) {
        found.extend(way_to(&login, user, path));
    }
    found.dedup();
    found
}

fn way_to(login: &Login, user: &str, path: &Path) -> Option<String> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    for directory in above {
        let facts = fs::metadata(directory).ok()?;
        if !login.may(&facts, PASS) {
            return Some(format!(
                "user {user} does not come to {}: {} lets it not pass (mode {:04o}); chmod o+x there, or take another \
                 place",
                path.display(),
                directory.display(),
                facts.mode() & 0o7777
            ));
        }
    }
    let facts = fs::metadata(path).ok().filter(Metadata::is_file)?;
    let mode = facts.mode() & 0o7777;
    (!login.may(&facts, READ)).then(|| {
        format!("user {user} may not read {} (mode {mode:04o}); chmod o+r there", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_that_is_closed_above_a_path_is_named() {
        let place = tempfile::tempdir().unwrap();
        // Made for its owner alone.
        mode(place.path(), 0o755);
        let (home, log) = (place.path().join("home"), place.path().join("home/data/log"));
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, "").unwrap();
        let nobody = Login { uid: None, gids: Vec::new() };
        let way = || way_to(&nobody, "x", &log);
        mode(&home, 0o711);
        mode(&log, 0o644);
        assert_eq!(way(), None);
        mode(&log, 0o600);
        assert_eq!(
            way().unwrap(),
            format!("user x may not read {} (mode 0600); chmod o+r there", log.display())
        );
        mode(&home, 0o700);
        assert!(
            way().unwrap().contains(&format!("{} lets it not pass (mode 0700)", home.display()))
        );
        let facts = fs::metadata(&home).unwrap();
        let owner = Login { uid: Some(facts.uid()), gids: Vec::new() };
        assert_eq!(way_to(&owner, "x", &log), None);
        mode(&home, 0o750);
        let group = Login { uid: None, gids: vec![facts.gid()] };
        mode(&log, 0o640);
        assert_eq!(way_to(&group, "x", &log), None);
        assert_eq!(way_to(&nobody, "x", &place.path().join("not/there")), None);
        mode(&home, 0o000);
        let root = Login { uid: Some(ROOT), gids: Vec::new() };
        assert_eq!(way_to(&root, "x", &log), None);
    }

    #[test]
    fn a_user_has_the_numbers_of_the_tables() {
        let users = "root:x:0:0::/root:/bin/sh\nbuslane:x:990:991::/:/bin/false\nshort\n";
        let groups = "root:x:0:\nbuslane:x:991:\nio:x:5:root,buslane\nshort\n";
        let login = Login::find("buslane", users, groups);
        assert_eq!((login.uid, login.gids), (Some(990), vec![5, 991]));
        let none = Login::find("new", users, groups);
        assert_eq!((none.uid, none.gids), (None, Vec::new()));
    }
}
