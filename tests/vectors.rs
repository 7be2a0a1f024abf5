//! The protocol, as somebody else reads it: golden vectors checked, and an appliance talked to, by programs in Python that
//! were written from docs/protocol.md, with the packages noiseprotocol and cryptography.
//!
//! Python is that of `target/venv`, which `scripts/setup --check` makes, or any with these packages.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "drives real processes in real time"
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{Appliance, PATIENCE, Running, text, tied, wait};

/// One of the programs; `None`, said aloud, without what it needs.
fn program(name: &str) -> Option<Command> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let venv = root.join("target/venv/bin/python");
    let python = if venv.exists() { venv } else { PathBuf::from("python3") };
    let imports = "import tomllib, cryptography, noise.connection";
    let found = Command::new(&python).args(["-c", imports]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        println!(
            "SKIPPED: no Python 3.11 with the packages noiseprotocol and cryptography (scripts/setup --check installs them)"
        );
        return None;
    }
    let mut command = tied(python);
    // No files of compiled code in the tree.
    command.arg("-B").arg(root.join("tests/vectors").join(name));
    Some(command)
}

/// The client, with these credentials.
fn client(appliance: &Appliance, credentials: &Path, stream: &str, count: u32) -> Option<Command> {
    let mut command = program("client.py")?;
    command.arg(credentials).args([&appliance.address, stream, &count.to_string()]);
    // However busy the machine is.
    command.env("PATIENCE_S", "60");
    Some(command)
}

fn local(appliance: &Appliance) -> PathBuf {
    appliance.dir.path().join("keys/local.access")
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn every_vector_is_what_the_page_says() {
    let Some(mut check) = program("check.py") else { return };
    let said = said(&check.output().unwrap());
    let checks: u32 = said.trim_end().strip_suffix(" checks").unwrap().parse().unwrap();
    assert!(checks > 700, "{said}");
}

#[test]
fn a_client_in_python_publishes_and_reads_back_and_so_do_ours() {
    let appliance = Appliance::start(&[]);
    let credentials = local(&appliance);
    let Some(mut first) = client(&appliance, &credentials, "orders", 2_000) else { return };
    assert!(said(&first.output().unwrap()).ends_with("2000 read back\n"));
    let found = appliance.run(&["consume", "orders", "-o", "raw"]);
    let expected: Vec<u8> = (0..2_000_usize)
        .flat_map(|number| format!("message {number}").repeat(1 + number % 7).into_bytes())
        .collect();
    assert!(found == expected, "{} bytes, not {}", found.len(), expected.len());
    // Another one goes on behind them.
    let mut second = client(&appliance, &credentials, "orders", 7).unwrap();
    let said = said(&second.output().unwrap());
    assert!(said.starts_with("publishing from 2001 on"), "{said}");
}

/// Streams are on the shards by turns: whoever asks the first for one on the other is sent there.
#[test]
fn a_client_in_python_goes_where_its_stream_is() {
    let appliance = Appliance::start(&["shard.count=2"]);
    let credentials = local(&appliance);
    for stream in ["one", "two", "one"] {
        let Some(mut client) = client(&appliance, &credentials, stream, 50) else { return };
        assert!(said(&client.output().unwrap()).ends_with("50 read back\n"));
    }
    let streams = String::from_utf8(appliance.run(&["stream", "list", "-o", "json"])).unwrap();
    for shard in ["0", "1"] {
        assert!(streams.contains(&format!("\"shard\":{shard}")), "{streams}");
    }
}

#[test]
fn a_client_in_python_comes_back_to_an_appliance_that_was_killed() {
    let mut appliance = Appliance::start(&[]);
    let credentials = local(&appliance);
    let Some(mut client) = client(&appliance, &credentials, "orders", 20_000) else { return };
    let mut client = Running(client.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(client.0.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.starts_with("publishing"), "{first}");
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(200));
        appliance.kill();
        appliance.restart();
    }
    assert!(wait(&mut client.0, PATIENCE).success());
    let last = lines.map_while(Result::ok).last();
    assert_eq!(last.as_deref(), Some("20000 read back"));
    appliance.stop();
}

/// Whom the appliance does not know is told so, in an answer that only he can open.
#[test]
fn a_client_in_python_without_access_is_refused() {
    let appliance = Appliance::start(&[]);
    let good = fs::read_to_string(local(&appliance)).unwrap();
    let secret = buslane::access::SecretKey::generate();
    let lines = good.lines().map(|line| match line.split_once(' ') {
        Some(("secret", _)) => format!("secret = \"{}\"\n", *secret.to_text()),
        _ => format!("{line}\n"),
    });
    let stranger = appliance.dir.path().join("stranger.access");
    fs::write(&stranger, lines.collect::<String>()).unwrap();
    let Some(mut client) = client(&appliance, &stranger, "orders", 1) else { return };
    let output = client.output().unwrap();
    assert!(text(&output).contains("client.py: no session: code 15"), "{}", text(&output));
}

/// A secret that an identity shares with the appliance, beside its key.
#[test]
fn a_client_in_python_with_a_shared_secret_too_is_let_in_and_without_it_hears_nothing() {
    let mut appliance = Appliance::start(&[]);
    appliance.stop();
    let shared = format!("psk = \"{}\"\n", *buslane::access::SecretKey::generate().to_text());
    let (keys, credentials) = (appliance.dir.path().join("keys"), local(&appliance));
    let without = fs::read_to_string(&credentials).unwrap();
    let access = fs::read_to_string(keys.join("access.toml")).unwrap();
    let named = "name = \"local\"\n";
    assert!(access.contains(named), "{access}");
    fs::write(keys.join("access.toml"), access.replace(named, &format!("{named}{shared}")))
        .unwrap();
    fs::write(&credentials, format!("{without}{shared}")).unwrap();
    appliance.restart();
    let Some(mut with) = client(&appliance, &credentials, "orders", 3) else { return };
    assert!(said(&with.output().unwrap()).ends_with("3 read back\n"));
    fs::write(&credentials, without).unwrap();
    let mut without = client(&appliance, &credentials, "orders", 3).unwrap();
    let output = without.env("PATIENCE_S", "2").output().unwrap();
    assert!(text(&output).contains("gives no session"), "{}", text(&output));
}
