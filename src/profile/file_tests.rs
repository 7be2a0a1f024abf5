//! Profiles that are refused, and what is said about them.

use std::collections::BTreeSet;

use super::*;
use crate::limits::SHARDS_MAX;
use crate::profile::{Core, DiskDriver, PortDriver};

fn said(text: &str, settings: &[&str]) -> String {
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    read("x.toml", text, &settings).unwrap_err().to_string()
}

fn with(settings: &[&str]) -> Result<Profile, ProfileError> {
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    read("x.toml", "", &settings)
}

#[test]
fn shipped_profiles_are_read_and_named_as_their_files() {
    for (name, text) in SHIPPED {
        let profile = read(name, text, &[]).unwrap();
        assert_eq!(profile.name, name);
        assert!(!profile.description.is_empty());
    }
    let loopback = load("loopback", &["disk.size=256MiB".to_owned()]).unwrap();
    assert_eq!(loopback.disk.size, 256 << 20);
    loopback.check_serve(&[0]).unwrap();
    loopback.check_client(&[0]).unwrap();
}

#[test]
fn placeholders_are_replaced() {
    let memif = load("memif", &["instance=two".to_owned()]).unwrap();
    let eal = memif.port.dpdk.unwrap().eal.join(" ");
    assert!(eal.contains("--file-prefix=buslane-two-server"), "{eal}");
    assert!(eal.contains("/memif-two.sock,"), "{eal}");
    assert!(!eal.contains('{'), "{eal}");
    let client = memif.client.port.dpdk.unwrap().eal.join(" ");
    assert!(client.contains("buslane-two-client"), "{client}");
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_one() {
    assert_eq!(
        said("\n[shard]\ncoer = 1\n", &[]),
        "x.toml:3: unknown key shard.coer; did you mean shard.core?"
    );
    assert_eq!(
        said("[shrad]\ncore = 1\n", &[]),
        "x.toml:1: unknown key shrad; did you mean shard?"
    );
    assert_eq!(
        said("[port]\nqueue_depth = 1\n", &[]),
        "x.toml:2: unknown key port.queue_depth; did you mean disk.queue_depth?"
    );
    assert_eq!(
        said("", &["disk.sise=1GiB"]),
        "--set disk.sise=1GiB: unknown key disk.sise; did you mean disk.size?"
    );
    let far = said("[quux]\n", &[]);
    assert_eq!(far, "x.toml:1: unknown key quux; hw-profiles/README.md describes every key");
}

#[test]
fn an_unknown_check_is_named_with_the_nearest_one() {
    assert_eq!(
        said("[host]\nrequire = [\"thp\", \"cpu.isolatd\"]\n", &[]),
        "x.toml:2: host.require: there is no check cpu.isolatd; did you mean cpu.isolated?"
    );
    let far = said("", &["host.require=[\"quux\"]"]);
    assert!(
        far.ends_with("there is no check quux; `buslane host check` lists every check"),
        "{far}"
    );
    let profile = with(&["host.require=[\"thp\", \"memlock\"]"]).unwrap();
    assert_eq!(profile.host.require, ["thp", "memlock"]);
}

#[test]
fn a_value_of_the_wrong_kind_is_named_with_its_place() {
    for (text, settings, place) in [
        ("\n[disk]\nqueue_depth = \"many\"\n", &[][..], "x.toml:3: disk.queue_depth: "),
        ("[disk]\nsize = \"1XB\"\n", &[], "x.toml:2: disk.size: `1XB` is not a size"),
        ("[port]\ndriver = \"rdma\"\n", &[], "x.toml:2: port.driver: "),
        ("[shard]\ncore = \"fast\"\n", &[], "x.toml:2: shard.core: `fast` is no core"),
        ("[port]\naddress = \"localhost\"\n", &[], "x.toml:2: port.address: "),
        (
            "",
            &["port.address=here"],
            "--set port.address=here: port.address: write an IPv4 address and",
        ),
        ("disk = 1\n", &[], "x.toml:1: disk: "),
        ("", &["disk=1"], "--set disk=1: this is a section"),
        ("", &["disk.size"], "--set disk.size: write key=value"),
        ("a = = 1", &[], "x.toml:1: not TOML: "),
        ("\nname = \"a\"\nname = \"b\"", &[], "x.toml:3: not TOML: "),
        (
            "[port]\ndatagram_bytes = 8E972",
            &[],
            "x.toml:2: not TOML: floating-point number overflowed",
        ),
    ] {
        let said = said(text, settings);
        assert!(said.starts_with(place), "{said}");
        assert!(!said.contains('\n'), "one line: {said}");
    }
}

#[test]
fn values_out_of_range_are_refused_with_the_range() {
    for (settings, part) in [
        (&["disk.size=4MiB", "disk.segment=1MiB"][..], "8 segments of 1MiB, 8MiB in all"),
        (&["disk.segment=64KiB"], "from 1MiB to 1GiB"),
        (&["disk.segment=1048577"], "a multiple of 4KiB"),
        (&["disk.ring=1MiB"], "from 2MiB"),
        (&["disk.queue_depth=65"], "wanted 1 to 64"),
        (&["disk.path="], "name a file"),
        (&["port.datagram_bytes=100"], "wanted 576 to 8972"),
        (&["client.port.datagram_bytes=65000"], "wanted 576 to 8972"),
        (&["limits.window_messages=0"], "wanted 1 to 16384"),
        (&["instance=../x"], "part of file names"),
        (&["port.driver=dpdk"], "add a [port.dpdk]"),
        (&["port.dpdk.prefix_len=33"], "wanted 0 to 32"),
        (&["port.dpdk.mac=ff:ff:ff:ff:ff:ff"], "address of one device"),
        (&["port.dpdk.rx_descriptors=1"], "wanted 64 to 32768"),
        (&["port.driver=dpdk", "port.dpdk.mbufs=0"], "needs a device"),
        (&["client.port.driver=dpdk", "client.port.dpdk.device=x"], "no address but this one"),
    ] {
        let error = with(settings).unwrap_err();
        assert!(error.is_usage(), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(with(&[&format!("shard.count={SHARDS_MAX}"), "disk.size=1TiB"]).map(|_| ()), Ok(()));
    let error = with(&[&format!("shard.count={}", SHARDS_MAX + 1)]).unwrap_err().to_string();
    assert!(error.contains("wanted 1 to 64"), "{error}");
    let long = format!("port.dpdk.eal=[\"--vdev=net_memif0,socket=/{}\"]", "x".repeat(107));
    assert!(with(&[&long]).unwrap_err().to_string().contains("107 bytes at most"));
}

#[test]
fn what_the_host_or_the_binary_has_not_is_refused_before_serving() {
    let said = |profile: &Profile, cores: &[usize]| profile.check_serve(cores).unwrap_err();
    let error = said(&with(&["shard.core=64"]).unwrap(), &[0, 1]);
    assert!(!error.is_usage());
    assert_eq!(
        error.to_string(),
        "--set shard.core=64: shard.core is 64, but this process may use core 0, 1; choose one of \
         them, or \"last\""
    );
    let error = said(&with(&["disk.driver=ram"]).unwrap(), &[0]).to_string();
    assert!(error.contains("disk.accept_volatile = true"), "{error}");
    with(&["disk.driver=ram", "disk.accept_volatile=true"]).unwrap().check_serve(&[0]).unwrap();
    let error = with(&["disk.driver=spdk"]).unwrap_err().to_string();
    assert!(error.contains("a transport id"), "{error}");
    let id = "disk.path=trtype:PCIe traddr:0000:81:00.0";
    let served = with(&["disk.driver=spdk", id]).unwrap().check_serve(&[0]);
    if cfg!(feature = "spdk") {
        served.unwrap();
    } else {
        assert!(served.unwrap_err().to_string().contains("--features spdk"));
    }
    let memif = read("memif", SHIPPED[1].1, &[]).unwrap();
    let client = memif.check_client(&[0]);
    if cfg!(feature = "dpdk") {
        client.unwrap();
    } else {
        assert!(client.unwrap_err().to_string().contains("--features dpdk"));
    }
}

#[test]
fn settings_are_toml_or_plain_text() {
    let profile = with(&[
        "instance=7",
        "disk.path=/dev/disk/by id",
        "shard.core=3",
        "client.core=none",
        "port.dpdk.eal=[\"-m64\", \"--no-pci\"]",
        "disk.size=\"2GiB\"",
        "disk.driver=ram",
        "port.driver=udp",
    ])
    .unwrap();
    assert_eq!(profile.instance, "7");
    assert_eq!(profile.disk.path, "/dev/disk/by id");
    assert_eq!((profile.shard.core, profile.client.core), (Core::Number(3), Core::None));
    assert_eq!(profile.disk.size, 2 << 30);
    assert_eq!(profile.disk.driver, DiskDriver::Ram);
    assert_eq!(profile.port.driver, PortDriver::Udp);
    assert_eq!(profile.port.dpdk.unwrap().eal, ["-m64", "--no-pci"]);
    assert!(with(&["disk.path=a\ndisk.size=1"]).is_ok_and(|p| p.disk.path.contains('\n')));
}

#[test]
fn a_profile_that_is_not_there_is_told_which_are() {
    let error = load("no-such-profile", &[]).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "loopback, memif, memif-ram, veth, vfio-user, nvme-tcp, mlx5-p5800x, e810-pm9a3"
        ),
        "{error}"
    );
}

/// The keys in the table of this module, those of the structs and those of the README are the same.
#[test]
fn every_key_is_known_and_described() {
    let mut full = Profile::default();
    let dpdk = crate::profile::DpdkProfile::default();
    full.port.dpdk = Some(dpdk.clone());
    full.client.port.dpdk = Some(dpdk);
    let mut keys = BTreeSet::new();
    flatten(&serde_json::to_value(&full).unwrap(), "", &mut keys);
    assert_eq!(keys, known_keys().into_iter().collect());
    let readme = include_str!("../../hw-profiles/README.md");
    for key in keys {
        let row = readme.lines().find_map(|line| line.strip_prefix(&format!("| `{key}` |")));
        let described = row.is_some();
        let default = row.and_then(|row| row.split('|').next()).map(str::trim);
        assert_ne!(default, Some(""), "hw-profiles/README.md does not say the default of {key}");
        assert!(
            described
                || readme.contains(&format!("[{key}]"))
                || key == "client.port"
                || key == "client.port.dpdk",
            "hw-profiles/README.md does not describe {key}"
        );
    }
}

fn flatten(value: &serde_json::Value, above: &str, keys: &mut BTreeSet<String>) {
    for (name, inner) in value.as_object().into_iter().flatten() {
        let key = join(above, name);
        flatten(inner, &key, keys);
        keys.insert(key);
    }
}

/// Advice that names a key has to name one that there is.
#[test]
fn every_key_a_message_names_exists() {
    let known = known_keys();
    let checks: Vec<_> = crate::host::CATALOGUE.iter().map(|item| item.id).collect();
    let mut files = Vec::new();
    let mut directories =
        vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.to_string_lossy().into_owned();
            if path.is_dir() {
                directories.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                files.push((name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    let (mut seen, mut wrong) = (0, Vec::new());
    for (name, text) in &files {
        for key in keys_named(text) {
            seen += 1;
            if !known.contains(&key) && !checks.contains(&key.as_str()) {
                wrong.push(format!("{name}: {key}"));
            }
        }
    }
    assert!(seen > 100, "only {seen} were found");
    assert!(wrong.is_empty(), "no such keys:\n{}", wrong.join("\n"));
    assert_eq!(keys_named("f(\"set disk.direct = false\");"), ["disk.direct"]);
    assert_eq!(
        keys_named("disk.poll(\"x\", disk.read, \"no/disk.path or host.rs.\")"),
        ["host.rs"]
    );
}

/// Words in string literals that look like keys of a profile, outside comments and test modules.
fn keys_named(text: &str) -> Vec<String> {
    let text = &text[..text.find("#[cfg(test)]\nmod ").unwrap_or(text.len())];
    let code: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n").replace("\\\"", "'").replace("'\"'", "");
    let mut keys = Vec::new();
    for literal in code.split('"').skip(1).step_by(2) {
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/');
        for word in literal.split(|c| !part(c)) {
            let word = word.trim_end_matches('.');
            let table = word.split('.').next().unwrap_or("");
            let tables = ["shard", "port", "client", "disk", "limits", "metrics", "host"];
            if word.contains('.') && !word.contains('/') && tables.contains(&table) {
                keys.push(word.to_owned());
            }
        }
    }
    keys
}

#[test]
fn a_profile_without_a_name_is_called_as_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let called = |file: &str, text: &str| {
        let path = dir.path().join(file);
        std::fs::write(&path, text).unwrap();
        load(path.to_str().unwrap(), &[]).unwrap().name
    };
    assert_eq!(called("orders.toml", ""), "orders");
    assert_eq!(called("orders.toml", "name = \"own\""), "own");
    assert_eq!(called("of today, \u{e9}.v2.toml", ""), "of-today---.v2");
    assert_eq!(called(&"x".repeat(40), "").len(), 32);
    assert_eq!(load("loopback", &[]).unwrap().name, "loopback");
}
