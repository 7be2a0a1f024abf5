//! `buslane host` on captured trees: the tables, tuning and putting back, profiles and units; and on the
//! machine the tests run on, whatever it is.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "drives real processes in real time"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use common::{BUSLANE, free_port, signal, text};

const TREES: [&str; 3] = ["bare-metal-tuned", "bare-metal-untuned", "cloud-vm"];

fn directory(tree: &str) -> PathBuf {
    Path::new("tests/host").join(tree)
}

/// Runs `buslane host ...` on a tree, with its profile where it has one.
fn host(tree: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(BUSLANE);
    command.arg("host").args(args).arg("--root").arg(tree);
    let profile = tree.join("profile.toml");
    if profile.exists() {
        command.arg("--profile").arg(profile);
    }
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn captured_trees_have_the_expected_tables() {
    for (tree, code) in TREES.into_iter().zip([0, 1, 1]) {
        let output = host(&directory(tree), &["check"]);
        assert_eq!(output.status.code(), Some(code), "{tree}: {}", text(&output));
        let (found, path) = (stdout(&output), directory(tree).join("expected.txt"));
        if std::env::var_os("BUSLANE_BLESS").is_some() {
            fs::write(&path, &found).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap();
        for (at, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
            assert_eq!(found, expected, "{}:{}", path.display(), at + 1);
        }
        assert_eq!(found, expected, "{tree}");
    }
}

#[test]
fn the_object_says_what_the_table_says() {
    for tree in TREES {
        let output = host(&directory(tree), &["check", "-o", "json"]);
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["schema_version"], 1);
        let checks = object["checks"].as_array().unwrap();
        let expected = fs::read_to_string(directory(tree).join("expected.txt")).unwrap();
        for check in checks {
            let (id, status) = (check["id"].as_str().unwrap(), check["status"].as_str().unwrap());
            let line = expected.lines().find(|line| {
                line.split_whitespace().next().is_some_and(|word| word.trim_end_matches('*') == id)
            });
            let line = line.unwrap_or_else(|| panic!("{tree}: {id} is not in the table"));
            assert_eq!(line.split_whitespace().nth(1), Some(status), "{tree}: {line}");
            for field in ["severity", "where", "wanted", "found", "mend", "why"] {
                assert!(check[field].is_string(), "{tree}: {id} has no {field}");
            }
            if status == "FAIL" || status == "WARN" {
                assert_ne!(check["mend"], "", "{tree}: {id} says what mends it");
            }
        }
        let sum: u64 =
            object["summary"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(sum, checks.len() as u64);
    }
}

#[test]
fn exit_codes_tell_failures_from_warnings() {
    let vm = directory("cloud-vm");
    assert_eq!(host(&vm, &["check", "--only", "thp"]).status.code(), Some(0));
    assert_eq!(host(&vm, &["check", "--only", "thp", "--strict"]).status.code(), Some(4));
    assert_eq!(host(&vm, &["check", "--only", "cpu.isolated,thp"]).status.code(), Some(1));
    let output = host(&vm, &["check", "--only", "cpu.isolatd"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert_eq!(host(Path::new("tests/common"), &["check"]).status.code(), Some(2), "no tree");
}

/// A core that is not there, and a device far from its core, on a captured tree.
#[test]
fn what_the_host_does_not_have_is_named() {
    let tree = directory("bare-metal-untuned");
    let said = |setting: &str| {
        let output = host(&tree, &["check", "--only", "thp", "--set", setting]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert_eq!(
        said("shard.core=64"),
        "error: --set shard.core=64: shard.core is 64, but this process may use core 0, 1, 2, 3, 4, 5, \
         6, 7; choose one of them, or \"last\"\n"
    );
    assert_eq!(
        said("shard.core=1"),
        "error: tests/host/bare-metal-untuned/profile.toml:14: port.dpdk.device is 0000:b1:00.0 on NUMA \
         node 1, but shard.core is core 1 on node 0; choose one of cores 2-3,6-7, or a device of node 0\n"
    );
}

/// A machine that shows nothing at all: no crash, and nothing passes that cannot be seen.
#[test]
fn what_cannot_be_seen_is_unknown() {
    let empty = tempfile::tempdir().unwrap();
    fs::create_dir(empty.path().join("proc")).unwrap();
    for tree in TREES.into_iter().filter(|tree| tree.starts_with("bare")) {
        fs::copy(directory(tree).join("profile.toml"), empty.path().join("profile.toml")).unwrap();
        let output = host(empty.path(), &["check", "-o", "json"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for check in object["checks"].as_array().unwrap() {
            let status = check["status"].as_str().unwrap();
            assert!(["UNKNOWN", "N-A"].contains(&status), "{check}");
        }
    }
}

#[test]
fn the_machine_the_tests_run_on_is_checked() {
    for profile in ["loopback", "memif-ram"] {
        let mut command = Command::new(BUSLANE);
        let output = command
            .args(["host", "check", "-o", "json", "--measure", "20ms", "--profile", profile])
            .output()
            .unwrap();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", text(&output));
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let check = |id: &str| {
            let checks = object["checks"].as_array().unwrap();
            checks.iter().find(|check| check["id"] == id).unwrap().clone()
        };
        assert_ne!(check("kernel.version")["status"], "UNKNOWN");
        // Another test may serve on the core just now.
        let jitter = check("jitter");
        let served = jitter["found"].as_str().unwrap().contains("an appliance serves");
        assert!(served || jitter["status"] != "UNKNOWN", "it was measured: {jitter}");
    }
    for command in [&["topology"][..], &["tune"], &["generate", "tuned"], &["profile", "new"]] {
        let output = host(Path::new("/"), command);
        assert!(output.status.success(), "{command:?}: {}", text(&output));
    }
}

/// Copies a tree, links as links.
fn copied(tree: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let status =
        Command::new("cp").arg("-a").arg(directory(tree).join(".")).arg(copy.path()).status();
    assert!(status.unwrap().success());
    copy
}

/// Every file of a tree and what is in it.
fn contents(tree: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() {
                let bytes = fs::read(&path).unwrap();
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_tune_applies_it_reverts() {
    for tree in ["bare-metal-untuned", "cloud-vm"] {
        let copy = copied(tree);
        let root = copy.path();
        let before = contents(root);
        let output = host(root, &["tune", "--apply"]);
        assert!(output.status.success(), "{}", text(&output));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("with a restart: ") && said.contains("isolcpus=managed_irq,domain,"),
            "{said}"
        );
        assert_eq!(fs::read_to_string(root.join("proc/cmdline")).unwrap(), {
            fs::read_to_string(directory(tree).join("proc/cmdline")).unwrap()
        });
        let state = root.join("var/lib/buslane/host-tune.json");
        assert!(state.exists());
        let thp = fs::read_to_string(root.join("sys/kernel/mm/transparent_hugepage/enabled"));
        assert_eq!(thp.unwrap(), "never\n");
        // What was wrong and could be mended passes now.
        let output = host(root, &["check", "--only", "thp,watchdogs,workqueue", "--strict"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let again = host(root, &["tune", "--apply"]);
        assert!(again.status.success(), "{}", text(&again));

        let output = host(root, &["tune", "--revert"]);
        assert!(output.status.success(), "{}", text(&output));
        assert!(!state.exists());
        for ((path, before), (_, after)) in before.iter().zip(contents(root)) {
            let (before, after) =
                (String::from_utf8_lossy(before), String::from_utf8_lossy(&after));
            // Lists of words come back as the chosen word, which is what the kernel takes.
            let chosen = before.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
            let wanted = chosen.map_or_else(|| before.trim(), |(word, _)| word);
            let same = after.trim() == wanted || after == before;
            assert!(same, "{}: {before} became {after}", path.display());
        }
        assert_eq!(host(root, &["tune", "--revert"]).status.code(), Some(1), "nothing is left");
    }
}

#[test]
fn the_script_is_a_script() {
    for tree in TREES {
        let output = host(&directory(tree), &["tune"]);
        assert!(output.status.success(), "{}", text(&output));
        let script = tempfile::NamedTempFile::new().unwrap();
        fs::write(script.path(), &output.stdout).unwrap();
        let status = Command::new("sh").arg("-n").arg(script.path()).status().unwrap();
        assert!(status.success(), "{}", stdout(&output));
        for line in stdout(&output).lines().filter(|line| line.contains("isolcpus")) {
            assert!(line.starts_with('#'), "boot parameters are only proposed: {line}");
        }
    }
}

#[test]
fn topology_proposes_cores_near_the_devices() {
    let output = host(&directory("bare-metal-untuned"), &["topology"]);
    let said = stdout(&output);
    for line in [
        "6     yes     0      1      1      2          no",
        "eno1         0000:04:00.0  0     tg3            1000 Mbit/s, link up",
        "ens1f0       0000:b1:00.0  1     ice            100000 Mbit/s, link up",
        "nvme0        0000:65:00.0  0     nvme           SAMSUNG MZQL21T9HCJR-00A07 firmware GDC5602Q",
    ] {
        assert!(said.lines().any(|one| one == line), "{line} is not in\n{said}");
    }
    let output = host(&directory("bare-metal-tuned"), &["topology", "-o", "json"]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["proposed"]["shards"], "2-3");
    assert_eq!(object["proposed"]["housekeeping"], "0-1");
    assert_eq!(object["nics"][1]["driver"], "vfio-pci");
}

#[test]
fn a_new_profile_is_one_that_can_be_used() {
    let place = tempfile::tempdir().unwrap();
    for tree in TREES {
        let path = place.path().join(format!("{tree}.toml"));
        let path = path.to_str().unwrap();
        let new = ["profile", "new", "--name", tree, "--out", path];
        let output = host(&directory(tree), &new);
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(host(&directory(tree), &new).status.code(), Some(1), "it is there already");
        // Whatever it requires passes on the host it was made for.
        let output = Command::new(BUSLANE)
            .args(["host", "check", "-o", "json", "--profile", path, "--root"])
            .arg(directory(tree))
            .output()
            .unwrap();
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = object["checks"].as_array().unwrap();
        let required: Vec<_> = checks.iter().filter(|check| check["required"] == true).collect();
        assert!(!required.is_empty());
        for check in required {
            assert_eq!(check["status"], "PASS", "{check}");
        }
    }
}

/// What a new profile proposes in comments for a device on vfio-pci works when it is taken.
#[test]
fn the_dpdk_port_a_new_profile_proposes_is_one() {
    let tree = directory("bare-metal-tuned");
    let output = host(&tree, &["profile", "new"]);
    let mut edited = String::new();
    let mut in_proposal = false;
    for line in stdout(&output).lines() {
        in_proposal = (in_proposal && line.starts_with("# ")) || line == "# driver = \"dpdk\"";
        let replaced = line == "driver = \"udp\"" || line == "address = \"127.0.0.1:9310\"";
        if !replaced {
            edited.push_str(if in_proposal { &line[2..] } else { line });
            edited.push('\n');
        }
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.toml");
    fs::write(&path, &edited).unwrap();
    let output = Command::new(BUSLANE)
        .args(["host", "check", "--strict", "--only", "pci.bound,pci.numa,iommu,vfio,hugepages"])
        .arg("--root")
        .arg(&tree)
        .arg("--profile")
        .arg(&path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{edited}\n{}", text(&output));
    assert!(stdout(&output).contains("5 checks: 5 pass"), "{}", stdout(&output));
}

#[test]
fn the_unit_is_one_systemd_takes() {
    let output =
        host(&directory("bare-metal-tuned"), &["generate", "systemd", "--binary", "/bin/true"]);
    let unit = stdout(&output);
    for line in ["Type=notify", "WatchdogSec=5s", "NUMAMask=1", "DeviceAllow=char-vfio rw"] {
        assert!(unit.lines().any(|one| one == line), "{line} is not in\n{unit}");
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("buslane.service");
    fs::write(&path, &unit).unwrap();
    let Ok(verified) = Command::new("systemd-analyze").arg("verify").arg(&path).output() else {
        println!("SKIPPED: systemd-analyze is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("buslane.service")).collect();
    assert!(ours.is_empty(), "{said}");
}

/// A unit that is there already is worth more than half of a new one.
#[test]
fn a_file_is_generated_whole_or_not_at_all_and_says_of_which_profile() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (profile, unit) = (place.path().join("orders.toml"), place.path().join("buslane.service"));
    let closed = place.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let disk = format!("[disk]\npath = \"{}/data/log\"\n", closed.display());
    fs::write(&profile, format!("[shard]\ncore = \"last\"\n{disk}")).unwrap();
    let generate = |what: &str, more: &[&str]| {
        let mut command = Command::new(BUSLANE);
        command.args(["host", "generate", what, "--profile"]).arg(&profile);
        command.arg("--out").arg(&unit).args(more).output().unwrap()
    };
    for what in ["tuned", "systemd"] {
        let _ = fs::remove_file(&unit);
        assert!(!generate(what, &["--set", "disk.sice=1"]).status.success());
        assert!(!unit.exists(), "nothing is left of {what}");
        assert!(generate(what, &[]).status.success());
        let made = fs::read_to_string(&unit).unwrap();
        let name = fs::canonicalize(&profile).unwrap();
        assert!(
            made.lines().next().unwrap().ends_with(&format!("for profile {}.", name.display())),
            "{made}"
        );
        assert!(made.contains("profile orders"), "it is called as its file: {made}");
        let again = generate(what, &[]);
        assert!(text(&again).contains("overwrite it with --yes"), "{}", text(&again));
        assert!(!generate(what, &["--yes", "--set", "disk.sice=1"]).status.success());
        assert_eq!(fs::read_to_string(&unit).unwrap(), made, "what was there stays");
        assert!(generate(what, &["--yes", "--set", "shard.core=first"]).status.success());
    }
    let none = generate("tuned", &["--yes", "--set", "shard.core=none"]);
    assert!(text(&none).contains("pins no shard to a core, so there is none"), "{}", text(&none));
    // Nobody but its owner comes through a directory of mode 0700.
    let said = generate("systemd", &["--yes", "--user", "buslane-of-no-host"]);
    let line =
        format!("user buslane-of-no-host does not come to {}", closed.join("data").display());
    assert!(text(&said).contains(&format!("warning: {line}: ")), "{}", text(&said));
    let made = fs::read_to_string(&unit).unwrap();
    assert!(made.contains(&format!("# Mend:     {line}: ")), "{made}");
}

fn serve(settings: &[&str]) -> Command {
    let mut command = Command::new(BUSLANE);
    command.args(["serve", "--set", &format!("port.address=127.0.0.1:{}", free_port())]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command
}

#[test]
fn serve_refuses_a_host_that_lacks_what_is_required() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let profile = place.path().join("x.toml");
    // The log's disk and the cores are those of any machine; no kernel has this boot parameter.
    let lines = "name = \"x\"\n[disk]\npath = \"none.log\"\n[host]\n\
                 require = [\"kernel.version\", \"cpu.cmdline\"]\ncmdline = [\"no.such=1\"]\n";
    fs::write(&profile, lines).unwrap();
    let output = Command::new(BUSLANE)
        .args(["serve", "--profile", "x.toml"])
        .current_dir(place.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: x.toml:5: required check cpu.cmdline is WARN: /proc/cmdline: wanted no.such=1, found \
         without no.such=1; mend: boot with: no.such=1\n"
    );
    assert!(!place.path().join("none.log").exists(), "nothing was opened");

    let output = serve(&["host.require=[\"thq\"]"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("there is no check thq; did you mean thp?"), "{said}");
}

#[test]
fn the_service_manager_is_told() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let socket = place.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let log = format!("disk.path={}", place.path().join("x.log").display());
    let child = serve(&[&log, "disk.size=16MiB", "disk.segment=1MiB"])
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "100000")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = KilledAtLast(child);
    let heard = || {
        let mut bytes = [0; 64];
        loop {
            match manager.recv(&mut bytes) {
                Ok(n) => return String::from_utf8_lossy(&bytes[..n]).into_owned(),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("the service manager heard nothing: {error}"),
            }
        }
    };
    let mut all = Vec::new();
    while !all.contains(&"READY=1".to_owned()) {
        all.push(heard());
    }
    let (first, second) = (heard(), heard());
    assert_eq!((first.as_str(), second.as_str()), ("WATCHDOG=1", "WATCHDOG=1"));
    signal(&child.0, "TERM");
    while all.last().is_none_or(|last| last != "STOPPING=1") {
        all.push(heard());
    }
    assert!(child.0.wait().unwrap().success());
}

/// A process that does not outlive its test.
struct KilledAtLast(Child);

impl Drop for KilledAtLast {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
