//! `buslane key`: keys made, handed out and revoked, by processes at once, killed ones, and with files that are not what
//! they should be.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "drives real processes in real time"
)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::thread;
use std::time::Duration;

use buslane::access::{Access, Credentials, IdentityId, Keyring, Rights, SecretKey};

use common::{buslane, text};

/// The keys of an appliance, and a directory to work in.
struct Keys {
    place: tempfile::TempDir,
    ring: Keyring,
}

impl Keys {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let (ring, is_made) = Keyring::open_or_make(&place.path().join("keys")).unwrap();
        assert!(is_made);
        Self { place, ring }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = buslane();
        command.current_dir(self.place.path()).args(["--set", "security.keys=keys", "key"]);
        command.args(args).stdin(Stdio::null());
        command.env_remove("BUSLANE_SERVER");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn done(&self, args: &[&str]) -> (String, String) {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        let words = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (words(output.stdout), words(output.stderr))
    }

    #[track_caller]
    fn refused(&self, args: &[&str], code: i32, says: &str) {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
        assert!(stderr.contains(says), "`{says}` is not in: {stderr}");
    }

    fn access(&self) -> Access {
        self.ring.reload().unwrap()
    }

    fn rights(&self, name: &str) -> Rights {
        self.access().rights(IdentityId::of(name)).unwrap().clone()
    }

    /// What `access.toml` says, as text.
    fn file(&self) -> String {
        fs::read_to_string(self.path("keys/access.toml")).unwrap()
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_new_key_is_printed_or_written_for_its_owner_alone() {
    let keys = Keys::new();
    let (out, _) = keys.done(&["new"]);
    let line = |word: &str| out.lines().find_map(|line| line.strip_prefix(word)).unwrap().trim();
    let secret = SecretKey::from_text(line("secret")).unwrap();
    assert_eq!(line("public").parse(), Ok(secret.public()));
    let (json, _) = keys.done(&["new", "-o", "json", "--out", "x"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json.get("secret").is_none(), "{json}");
    assert_eq!(mode(&keys.path("x")), 0o600);
    let written = fs::read_to_string(keys.path("x")).unwrap();
    let secret = written.lines().find_map(|line| line.strip_prefix("secret = ")).unwrap();
    let secret = SecretKey::from_text(secret.trim_matches('"')).unwrap();
    assert_eq!(json["public"].as_str().unwrap(), secret.public().to_string());
    keys.refused(&["new", "--out", "x"], 1, "x: there is a file already");
    symlink("nowhere", keys.path("link")).unwrap();
    keys.refused(&["new", "--out", "link"], 1, "link: there is a file already");
    keys.refused(&["new", "--out", "no/x"], 1, "no/x: cannot be written");
    keys.refused(&["new", "--out", "/proc/x"], 1, "/proc/x: cannot be written");
    assert_eq!(fs::read_to_string(keys.path("x")).unwrap(), written);
}

#[test]
fn a_gateway_is_let_in_with_one_file_and_shut_out_again() {
    let keys = Keys::new();
    let rights = ["--publish", "orders.*,x", "--subscribe", "fills", "--create", "orders.*"];
    let args = [&["authorize", "gateway-7"], &rights[..]].concat();
    let (out, err) = keys.done(&args);
    assert!(err.contains("systemctl reload buslane"), "{err}");
    let known = Credentials::load(&keys.path("gateway-7.access")).unwrap();
    assert_eq!(out, format!("gateway-7 {} gateway-7.access\n", known.secret.public()));
    assert_eq!(known.server_key, keys.ring.secret.public());
    assert_eq!(known.server.as_deref(), Some("127.0.0.1:9310"));
    assert_eq!(known.identity, "gateway-7");
    let access = keys.access();
    assert_eq!(access.by_key(&known.secret.public()).unwrap().name, "gateway-7");
    let rights = keys.rights("gateway-7");
    assert!(rights.publish.matches("orders.eu") && rights.publish.matches("x"));
    assert!(rights.subscribe.matches("fills") && rights.trim.is_empty() && !rights.admin);
    assert!(rights.producers.matches("gateway-7") && !rights.producers.matches("gateway-8"));
    assert!(keys.file().contains("# Who may do what here."), "comments stay");

    // A key more, and then not the old one any more.
    keys.refused(&["authorize", "gateway-7"], 1, "gateway-7.access: there is a file already");
    keys.done(&["authorize", "gateway-7", "--out", "new.access", "-s", "bus1.example"]);
    let new = Credentials::load(&keys.path("new.access")).unwrap();
    assert_eq!(new.server.as_deref(), Some("bus1.example:9310"));
    assert_eq!(keys.rights("gateway-7"), rights);
    let old = known.secret.public().to_string();
    assert_eq!(keys.done(&["revoke", &old]).0, format!("gateway-7 {old}\n"));
    let access = keys.access();
    assert!(access.by_key(&known.secret.public()).is_none());
    assert!(access.by_key(&new.secret.public()).is_some());
    keys.refused(&["revoke", &old], 1, "is a key of nobody");
    keys.done(&["revoke", "gateway-7"]);
    assert!(keys.access().by_key(&new.secret.public()).is_none());
    keys.refused(&["revoke", "gateway-7"], 1, "there is no identity gateway-7; there are local");
    let (_, err) = keys.done(&["revoke", "local"]);
    assert!(err.contains("nobody can come"), "{err}");
}

#[test]
fn a_client_that_made_its_own_key_gives_only_the_public_half() {
    let keys = Keys::new();
    let secret = SecretKey::generate();
    let public = secret.public().to_string();
    let (_, err) = keys.done(&["authorize", "desk", &public, "--subscribe", "*"]);
    let server_key = format!("server_key = \"{}\"", keys.ring.secret.public());
    assert!(err.contains("identity = \"desk\"") && err.contains(&server_key), "{err}");
    assert!(!keys.path("desk.access").exists());
    assert_eq!(keys.access().by_key(&secret.public()).unwrap().name, "desk");
    keys.refused(
        &["authorize", "other", &public, "--admin"],
        1,
        "is a key of desk and again one of other",
    );
    let (out, _) = keys.done(&["show"]);
    for word in [&public, "127.0.0.1:9310", "desk", "local", &keys.ring.secret.public().to_string()]
    {
        assert!(out.contains(word), "`{word}` is not in: {out}");
    }
    let json = keys.done(&["show", "-o", "json"]).0;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["identities"][0]["name"], "desk");
}

#[test]
fn what_is_asked_the_wrong_way_changes_nothing() {
    let keys = Keys::new();
    let before = keys.file();
    for name in ["../x", "a/b", "..", ".x", "", "a b", &"x".repeat(41)] {
        keys.refused(&["authorize", name, "--admin"], 2, "NAME: 1 to 40 letters");
    }
    keys.refused(&["authorize", "a"], 1, "say what it may do");
    keys.refused(&["authorize", "local", "--admin"], 1, "there is an identity local already");
    keys.refused(&["authorize", "a", "--publish", "a*b"], 1, "`a*b`: a `*` stands at the end");
    keys.refused(&["authorize", "a", "blp1x", "--admin"], 2, "the key has 5 characters");
    let nobodys = buslane::access::PublicKey([0; 32]).to_string();
    keys.refused(&["authorize", "a", &nobodys, "--admin"], 2, "is none that anybody can have");
    keys.refused(&["authorize", "a", "--admin", "--out", "no/x"], 1, "no/x: cannot be written");
    keys.refused(&["revoke", "a b"], 2, "the key does not begin with blp1");
    assert_eq!(keys.file(), before);
    let names = fs::read_dir(keys.place.path()).unwrap().count();
    assert_eq!(names, 1, "no file of credentials is left that nobody knows");
}

/// Wherever it is written by mistake.
#[test]
fn a_secret_is_not_repeated() {
    let keys = Keys::new();
    let secret = SecretKey::generate().to_text();
    for args in [
        &["authorize", &secret, "--admin"] as &[&str],
        &["authorize", "a", &secret, "--admin"],
        &["authorize", "a", "--publish", &format!("{}*x", *secret)],
        &["revoke", &secret],
    ] {
        let output = keys.run(args);
        assert!(!output.status.success(), "{}", text(&output));
        assert!(!text(&output).contains(&secret[4..]), "{}", text(&output));
    }
    let server = keys.ring.secret.to_text();
    for args in [&["show"] as &[&str], &["authorize", "a", "--admin"], &["revoke", "a"]] {
        let output = keys.run(args);
        assert!(output.status.success() && !text(&output).contains(&server[4..]));
    }
}

#[test]
fn keys_that_are_not_there_or_not_private_are_said() {
    let keys = Keys::new();
    let dir = keys.path("keys");
    let file = dir.join("access.toml");
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    keys.refused(&["show"], 1, "others than its owner may read or write it (mode 0640)");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
    keys.refused(&["revoke", "local"], 1, "others than its owner may enter it (mode 0755)");
    fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
    let whole = keys.file();
    let half = whole.find("[[identity]]").unwrap() + 9;
    fs::write(&file, &whole[..half]).unwrap();
    keys.refused(&["authorize", "a", "--admin"], 1, "access.toml:");
    fs::remove_file(&file).unwrap();
    keys.refused(&["show"], 1, "access.toml: is not there, though the directory is");
    let pipe = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&file).status();
    assert!(pipe.unwrap().success());
    keys.refused(&["show"], 1, "is no regular file");
    fs::remove_dir_all(&dir).unwrap();
    keys.refused(&["show"], 1, "keys: there are no keys; `buslane serve` makes them");
    fs::write(&dir, "").unwrap();
    keys.refused(&["show"], 1, "is no directory");
}

#[test]
fn changes_of_processes_at_once_lose_nothing() {
    let keys = Keys::new();
    let all: Vec<_> = (0..12)
        .map(|number| {
            let args = ["authorize", &format!("n{number}"), "--publish", "x"];
            keys.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in all {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(keys.access().identities().len(), 13);
}

/// Whenever it is killed, the file of rights is the old one or the new one, and the next change goes well.
#[test]
fn a_change_that_is_killed_is_whole_or_none() {
    let keys = Keys::new();
    for number in 0..40 {
        let args = ["authorize", &format!("n{number}"), "--publish", "x"];
        let mut child =
            keys.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_micros(number * 300));
        let _ = child.kill();
        child.wait().unwrap();
        let known = keys.access().by_id(IdentityId::of(&format!("n{number}"))).is_some();
        assert!(!known || keys.path(&format!("n{number}.access")).exists(), "n{number}");
    }
    keys.done(&["authorize", "last", "--publish", "x"]);
    let left = fs::read_dir(keys.path("keys")).unwrap().count();
    assert_eq!(left, 3, "no draft is left");
}

/// As on a host where the appliance runs as a user of its own.
#[test]
fn root_changes_the_keys_of_another_user_and_leaves_them_his() {
    let keys = Keys::new();
    if keys.place.path().metadata().unwrap().uid() != 0 {
        return;
    }
    let dir = keys.path("keys");
    let files = ["server.key", "access.toml", "local.access"].map(|name| dir.join(name));
    for path in files.iter().chain([&dir]) {
        chown(path, Some(65534), Some(65534)).unwrap();
    }
    keys.done(&["authorize", "a", "--publish", "x"]);
    for path in &files {
        assert_eq!((path.metadata().unwrap().uid(), mode(path)), (65534, 0o600));
    }
    assert_eq!(keys.path("a.access").metadata().unwrap().uid(), 0, "whoever made it hands it over");
    chown(&files[0], Some(1), None).unwrap();
    keys.refused(&["show"], 1, "server.key: belongs to user 1");
}
