//! Credentials that are written, read, found, and refused.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn credentials(seed: u8, server: Option<&str>) -> Credentials {
    Credentials {
        server: server.map(str::to_owned),
        server_key: SecretKey::from_bytes([200; 32]).public(),
        secret: SecretKey::from_bytes([seed; 32]),
        psk: (seed % 2 == 1).then(|| SecretKey::from_bytes([seed + 1; 32])),
        identity: format!("n{seed}"),
    }
}

fn write(path: &Path, known: &Credentials) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    known.write_new(path).unwrap();
}

#[test]
fn what_is_written_is_read_and_no_file_is_overwritten() {
    let place = tempfile::tempdir().unwrap();
    for (seed, server) in [(1, None), (2, Some("10.0.0.1:9310")), (3, Some("bus.example"))] {
        let path = place.path().join(format!("{seed}.access"));
        let known = credentials(seed, server);
        known.write_new(&path).unwrap();
        assert_eq!(Credentials::load(&path).unwrap(), known);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        let error = known.write_new(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        let shown = format!("{known:?}");
        assert!(!shown.contains(&known.secret.to_text()[4..]), "{shown}");
    }
    for (server, identity) in [("h\"\n:1", "n"), ("", "n"), ("h:1", "../n")] {
        let identity = identity.to_owned();
        let known = Credentials { identity, ..credentials(1, Some(server)) };
        let path = place.path().join("none");
        assert_eq!(known.write_new(&path).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(!path.exists());
    }
}

#[test]
fn what_cannot_be_is_refused_with_its_line_and_without_a_secret() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.access");
    credentials(1, Some("h:1")).write_new(&path).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    let secret = credentials(1, None).secret.to_text();
    let refused = |text: &str, says: &str| {
        fs::write(&path, text).unwrap();
        let said = Credentials::load(&path).unwrap_err().to_string();
        assert!(said.contains(says), "`{says}` is not in: {said}");
        assert!(!said.contains(&secret[4..20]) && !said.contains('\n'), "{said}");
    };
    let line = |key: &str| good.lines().find(|line| line.starts_with(key)).unwrap();
    refused("", "missing field `server_key`");
    refused(&good.replace(line("secret"), ""), "missing field `secret`");
    refused(&good.replace("psk", "pks"), "x.access:5: unknown field `pks`");
    refused(&format!("{good}{good}"), "x.access:6: duplicate key");
    refused(&good[..good.len() / 2], "x.access:");
    let swapped = good.replace(line("server_key"), &format!("server_key = \"{}\"", *secret));
    refused(&swapped, "x.access:3: the key is a secret key where a public one");
    let public = credentials(1, None).secret.public();
    let swapped = good.replace(line("secret"), &format!("secret = \"{public}\""));
    refused(&swapped, "x.access:4: the secret is a public key where a secret one");
    refused(&good.replace(line("secret"), &format!("secret = \"{}", *secret)), "x.access:4: ");
    let nobody =
        good.replace(line("server_key"), &format!("server_key = \"{}\"", PublicKey([0; 32])));
    refused(&nobody, "x.access:3: the server_key is no key");
    refused(&good.replace("n1", "../n1"), "x.access:1: identity: this cannot name one");
    refused(&good.replace("h:1", "h 1"), "x.access:2: server: write HOST:PORT");
    refused(&good.replace("h:1", ""), "x.access:2: server: write HOST:PORT");
    fs::write(&path, &good).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
    assert!(Credentials::load(&path).unwrap_err().to_string().contains("(mode 0604)"));
}

#[test]
fn a_secret_alone_is_the_beginning_of_a_file_of_credentials() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.access");
    let known = Credentials { server: None, psk: None, ..credentials(1, None) };
    write_secret(&path, &known.secret).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let said = Credentials::load(&path).unwrap_err().to_string();
    assert!(said.contains("missing field `server_key`"), "{said}");
    let mut text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(&format!("Give {} to", known.secret.public())), "{text}");
    text.push_str(&format!("identity = \"n1\"\nserver_key = \"{}\"\n", known.server_key));
    fs::write(&path, text).unwrap();
    assert_eq!(Credentials::load(&path).unwrap(), known);
    assert!(write_secret(&path, &known.secret).is_err());
}

/// Places where credentials are looked for.
struct Places {
    root: tempfile::TempDir,
    environment: BTreeMap<&'static str, PathBuf>,
}

const ADDRESS: &str = "127.0.0.1:9310";

impl Places {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let environment = ["HOME", "XDG_RUNTIME_DIR"].map(|name| (name, root.path().join(name)));
        runtime::make(root.path().join("XDG_RUNTIME_DIR").as_path()).unwrap();
        runtime::make(root.path().join("XDG_RUNTIME_DIR/buslane").as_path()).unwrap();
        Self { root, environment: environment.into() }
    }

    fn config(&self, name: &str) -> PathBuf {
        self.root.path().join("HOME/.config/buslane").join(name)
    }

    fn local(&self) -> PathBuf {
        self.root.path().join(LOCAL_HERE)
    }

    fn link(&self, address: &str, known: &Credentials) -> PathBuf {
        let target = self.root.path().join("elsewhere").join(&known.identity);
        write(&target, known);
        let link = self.root.path().join(format!("XDG_RUNTIME_DIR/buslane/{address}.access"));
        symlink(&target, &link).unwrap();
        target
    }

    fn find(&self, explicit: Option<&Path>, server: &str) -> Result<Option<String>, String> {
        let environment = |name: &str| self.environment.get(name).map(|path| path.clone().into());
        let found = find(explicit, server.parse().unwrap(), &environment, self.root.path());
        found.map(|found| found.map(|(_, known)| known.identity)).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn assert_found(&self, server: &str, identity: Option<&str>) {
        assert_eq!(self.find(None, server).unwrap().as_deref(), identity);
    }
}

/// From the last to the first, each before those that were there.
#[test]
fn credentials_are_looked_for_in_order() {
    let places = Places::new();
    places.assert_found(ADDRESS, None);
    write(&places.config("a.access"), &credentials(1, Some("10.0.0.9:9310")));
    fs::write(places.config("notes.txt"), "").unwrap();
    places.assert_found(ADDRESS, Some("n1"));
    write(&places.local(), &credentials(2, None));
    places.assert_found(ADDRESS, Some("n2"));
    places.assert_found("10.0.0.9:9310", Some("n1"));
    write(&places.config("b.access"), &credentials(3, Some(ADDRESS)));
    places.assert_found(ADDRESS, Some("n3"));
    places.link("0.0.0.0:9310", &credentials(4, None));
    places.assert_found(ADDRESS, Some("n4"));
    places.assert_found("127.0.0.1:9311", Some("n2"));
    places.assert_found("192.0.2.7:9310", Some("n2"));
    let target = places.link(ADDRESS, &credentials(5, None));
    places.assert_found(ADDRESS, Some("n5"));
    let explicit = places.root.path().join("mine");
    write(&explicit, &credentials(6, None));
    assert_eq!(places.find(Some(&explicit), ADDRESS).unwrap().as_deref(), Some("n6"));
    let none = places.find(Some(&places.config("none")), ADDRESS).unwrap_err();
    assert!(none.contains("is not there"), "{none}");
    fs::remove_file(target).unwrap();
    places.assert_found(ADDRESS, Some("n4"));
}

#[test]
fn a_runtime_directory_that_others_may_write_is_passed_over() {
    let places = Places::new();
    places.link(ADDRESS, &credentials(1, None));
    places.assert_found(ADDRESS, Some("n1"));
    let dir = places.root.path().join("XDG_RUNTIME_DIR/buslane");
    fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
    places.assert_found(ADDRESS, None);
}

#[test]
fn what_is_found_and_cannot_be_used_is_an_error() {
    let places = Places::new();
    write(&places.local(), &credentials(1, None));
    fs::set_permissions(places.local(), Permissions::from_mode(0o644)).unwrap();
    assert!(places.find(None, ADDRESS).unwrap_err().contains("(mode 0644)"));
    fs::remove_file(places.local()).unwrap();
    fs::create_dir(places.local()).unwrap();
    assert!(places.find(None, ADDRESS).unwrap_err().contains("no regular file"));
    fs::remove_dir(places.local()).unwrap();
    symlink("nowhere", places.local()).unwrap();
    places.assert_found(ADDRESS, None);
}

#[test]
fn of_several_files_the_one_counts_that_says_the_address() {
    let places = Places::new();
    write(&places.config("a.access"), &credentials(1, Some("10.0.0.1:1")));
    write(&places.config("b.access"), &credentials(2, Some("10.0.0.2:1")));
    places.assert_found("10.0.0.1:1", Some("n1"));
    places.assert_found("10.0.0.2:1", Some("n2"));
    let said = places.find(None, "10.0.0.3:1").unwrap_err();
    assert!(
        said.contains("there are 2 files of credentials and none says `server = \"10.0.0.3:1\"`")
    );
    fs::write(places.config("c.access"), "half").unwrap();
    places.assert_found("10.0.0.2:1", Some("n2"));
    let said = places.find(None, "10.0.0.3:1").unwrap_err();
    assert!(said.contains("c.access"), "{said}");
    fs::remove_file(places.config("c.access")).unwrap();
    write(&places.config("c.access"), &credentials(3, Some("10.0.0.1:1")));
    let said = places.find(None, "10.0.0.1:1").unwrap_err();
    assert!(said.contains("a.access: both it and") && said.contains("c.access are for"), "{said}");
    fs::remove_dir_all(places.config("")).unwrap();
    fs::write(places.root.path().join("HOME/.config/buslane"), "").unwrap();
    places.assert_found("10.0.0.1:1", None);
}

#[test]
fn no_more_files_are_looked_at_than_the_limit_says() {
    let places = Places::new();
    for number in 0..=CREDENTIALS_LOOKED_AT_MAX {
        let server = format!("10.0.0.1:{}", number + 1);
        write(&places.config(&format!("{number:03}.access")), &credentials(1, Some(&server)));
    }
    let last = CREDENTIALS_LOOKED_AT_MAX;
    places.assert_found(&format!("10.0.0.1:{last}"), Some("n1"));
    assert!(places.find(None, &format!("10.0.0.1:{}", last + 1)).is_err());
}
