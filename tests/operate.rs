//! The commands of docs/operate.md and of README's tour, run as they stand there. A block that is marked `sh` is run; one
//! marked `console` is not, because it takes minutes or changes the machine. Without root: paths are below a directory
//! of the test, and what the page asks of systemd a thread does.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
#![allow(clippy::disallowed_methods, reason = "these tests drive real processes in real time")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use common::{BUSLANE, PATIENCE, Running, free_ports, itch_messages, signal, text, tied, wait};

fn page(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Blocks of a page with a mark, each with the heading it is below.
fn blocks(page: &str, mark: &str) -> Vec<(String, String)> {
    let (mut heading, mut found, mut block) = (String::new(), Vec::new(), None::<(bool, String)>);
    for line in page.lines() {
        match &mut block {
            None if line.starts_with("```") => block = Some((&line[3..] == mark, String::new())),
            None => {
                if let Some(title) = line.strip_prefix("## ") {
                    title.clone_into(&mut heading);
                }
            }
            Some((is_wanted, text)) if line == "```" => {
                if *is_wanted {
                    found.push((heading.clone(), std::mem::take(text)));
                }
                block = None;
            }
            Some((_, text)) => *text += &format!("{line}\n"),
        }
    }
    found
}

/// A command with the page's directories below `root`.
fn below(root: &Path, command: &str) -> String {
    let tops = ["/etc/", "/var/lib/", "/mnt/", "/usr/bin/", "/tmp/"];
    let mut moved = String::new();
    for (at, c) in command.char_indices() {
        let is_within = moved.ends_with(|c: char| c.is_alphanumeric() || "._-/".contains(c));
        if c == '/' && !is_within && tops.iter().any(|top| command[at..].starts_with(top)) {
            moved += &root.display().to_string();
        }
        moved.push(c);
    }
    moved
}

/// A machine with an appliance that is installed, as far as the page takes it for granted.
struct Machine {
    root: PathBuf,
    server: String,
    systemd: Option<thread::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = dir.path().to_owned();
        let dirs =
            ["etc/buslane", "etc/systemd/system", "var/lib/buslane", "mnt/backup", "mnt/larger"];
        for path in dirs.iter().chain(&["usr/bin", "tmp", "run"]) {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["usr/bin/buslane", "tmp/buslane-new"] {
            fs::copy(BUSLANE, root.join(path)).unwrap();
        }
        let server = format!("127.0.0.1:{}", free_ports(1));
        let log = root.join("var/lib/buslane/orders.log");
        let profile = format!(
            "[shard]\ncore = \"none\"\n[port]\naddress = \"{server}\"\n[disk]\npath = \"{}\"\nsize = \"64MiB\"\n\
             segment = \"1MiB\"\n[metrics]\nhttp = \"off\"\n",
            log.display()
        );
        fs::write(root.join("etc/buslane/orders.toml"), profile).unwrap();
        let fifos = ["asked", "done"].map(|name| root.join(name));
        assert!(Command::new("mkfifo").args(&fifos).status().unwrap().success());
        let systemctl = root.join("usr/bin/systemctl");
        let script = format!(
            "#!/bin/sh\necho \"$@\" >'{}'\nread -r code <'{}'\nexit \"$code\"\n",
            fifos[0].display(),
            fifos[1].display()
        );
        fs::write(&systemctl, script).unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let of = root.clone();
        let systemd = Some(thread::spawn(move || serve_systemctl(&of)));
        Self { root, server, systemd, _dir: dir }
    }

    fn command(&self, script: &str) -> Command {
        let path = format!("{}/usr/bin:{}", self.root.display(), std::env::var("PATH").unwrap());
        let mut shell = tied("bash");
        shell.args(["-euo", "pipefail", "-c", script]).current_dir(&self.root);
        shell.env("PATH", path).env("BUSLANE_SERVER", &self.server);
        shell.env("XDG_RUNTIME_DIR", self.root.join("run"));
        shell
    }

    /// Runs a script of the page; it has to succeed.
    fn run(&self, script: &str) -> String {
        let script = below(&self.root, script);
        let output = self.command(&script).output().unwrap();
        assert!(output.status.success(), "{script}\n{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Messages that a stream keeps.
    fn kept(&self, stream: &str) -> usize {
        self.run(&format!("buslane consume {stream} --from start")).lines().count()
    }

    fn publish(&self, messages: usize) {
        self.run(&format!("seq {messages} | buslane publish orders --lines - -q"));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            // What serves is tied to its thread, and that to this process.
            return;
        }
        self.run("systemctl exit");
        self.systemd.take().unwrap().join().unwrap();
    }
}

/// What systemd does for the unit, as far as the page needs it.
fn serve_systemctl(root: &Path) {
    let mut served: Option<Child> = None;
    loop {
        let asked = fs::read_to_string(root.join("asked")).unwrap();
        let is_ours = |verb: &str| asked == format!("{verb} buslane\n");
        let was_known = match asked.as_str() {
            "daemon-reload\n" => root.join("etc/systemd/system/buslane.service").exists(),
            "exit\n" => true,
            _ => ["enable --now", "start", "stop", "restart", "reload"].iter().any(|v| is_ours(v)),
        };
        if ["exit\n", "stop buslane\n", "restart buslane\n"].contains(&asked.as_str())
            && let Some(mut child) = served.take()
        {
            signal(&child, "TERM");
            assert!(wait(&mut child, PATIENCE).success());
        }
        if is_ours("enable --now") || is_ours("start") || is_ours("restart") {
            served = Some(start(root));
        }
        if is_ours("reload") {
            signal(served.as_ref().unwrap(), "HUP");
        }
        fs::write(root.join("done"), if was_known { "0\n" } else { "1\n" }).unwrap();
        if asked == "exit\n" {
            return;
        }
    }
}

/// Starts the appliance, and returns once it is ready, as the unit does.
fn start(root: &Path) -> Child {
    let mut command = tied(root.join("usr/bin/buslane"));
    command.args(["serve", "--profile"]).arg(root.join("etc/buslane/orders.toml"));
    command.env("XDG_RUNTIME_DIR", root.join("run")).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.lines().last().is_some_and(|line| line.starts_with("ready")) {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "it ended: {said}");
    }
    thread::spawn(move || stderr.lines().count());
    child
}

/// The same by hand, in one shell: what it starts ends with it. The log is where the page has moved it to.
fn without_systemd(machine: &Machine, blocks: &[(String, String)]) {
    let scripts: Vec<String> = blocks
        .iter()
        .map(|(_, script)| script.replace("/var/lib/buslane/orders.log", "/mnt/larger/orders.log"))
        .collect();
    let [start, stop, upgrade, restore] = scripts.as_slice() else { panic!("{blocks:?}") };
    let nohup = "nohup() { tie='setpriv --pdeathsig KILL --'; $tie true 2>/dev/null || tie=; exec $tie \"$@\"; }";
    let is_served = "test \"$(buslane consume orders --from start | wc -l)\" = 500\n";
    let is_stopped = "wait $pid\n";
    let served = format!("{start}{is_served}{stop}{is_stopped}");
    machine.run("systemctl stop buslane");
    let said = machine.run(&format!("{nohup}\n{served}{upgrade}{served}{restore}{served}"));
    assert_eq!(said.matches("all whole").count(), 4, "three stops, one copy: {said}");
    machine.run("systemctl start buslane");
}

/// The firewall is one that nftables takes.
#[test]
fn the_rules_of_docs_operate_are_taken() {
    let rules = blocks(&page("docs/operate.md"), "nft");
    let [(_, rules)] = rules.as_slice() else { panic!("one block: {rules:?}") };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("rules");
    fs::write(&path, rules).unwrap();
    let check = |path: &Path| {
        let mut nft = Command::new("unshare");
        nft.args(["-rn", "nft", "-c", "-f"]).arg(path).output()
    };
    fs::write(dir.path().join("none"), "").unwrap();
    if !check(&dir.path().join("none")).is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: there is no nft, or no namespace to try it in");
        return;
    }
    let output = check(&path).unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// Each block of the page, in the page's order, on one machine.
#[test]
fn what_docs_operate_says_is_done_as_it_says() {
    let page = page("docs/operate.md");
    let machine = Machine::new();
    let (mut headings, mut copied) = (Vec::new(), String::new());
    let is_alone = |(heading, _): &(String, String)| heading == "Without systemd";
    let (alone, with_systemd): (Vec<_>, _) = blocks(&page, "sh").into_iter().partition(is_alone);
    for (heading, script) in with_systemd {
        // A page's disk is larger than a test's.
        let said = machine.run(&script.replace("512GiB", "96MiB"));
        match heading.as_str() {
            "Start at boot" => {
                machine.publish(500);
                // A shard reports for the first time after a second.
                machine.run("until buslane stat | grep serving; do sleep 0.1; done");
            }
            "Is it well?" => {
                assert!(said.contains("serving") && said.contains("orders"), "{said}");
            }
            "Backup" if copied.is_empty() => copied = said,
            "Backup" => {
                let whole = said.lines().find(|line| line.ends_with("all whole")).unwrap();
                assert!(
                    copied.contains(whole),
                    "what is verified is what was copied: {copied}{said}"
                );
            }
            "Restore" | "A larger disk" | "Profile changes" => {
                assert_eq!(machine.kept("orders"), 500, "after: {script}");
            }
            "Upgrade and rollback of the binary" => {
                assert!(machine.root.join("usr/bin/buslane").exists());
                assert_eq!(machine.kept("orders"), 500);
            }
            "Moving a stream" => assert_eq!(machine.kept("orders-moved"), 500),
            "When the log is full" => {
                assert_eq!(machine.kept("orders"), 500, "it keeps as many as there are");
            }
            other => panic!("what is right after a block of `{other}`?"),
        }
        headings.push(heading);
    }
    assert_eq!(headings.len(), 11, "{headings:?}");
    assert!(machine.root.join("mnt/larger/orders.log").metadata().unwrap().len() > 90 << 20);
    assert!(!machine.root.join("var/lib/buslane/orders.log").exists(), "moved");
    assert_eq!(blocks(&page, "console").len(), 0, "every command of this page is run");
    without_systemd(&machine, &alone);
}

/// `buslane` as it is called in the tour: appliances have a port and a log of this test, and end with its shell.
fn wrapper(dir: &Path) {
    let port = free_ports(1);
    let script = format!(
        "#!/bin/sh\nexport BUSLANE_SERVER=127.0.0.1:{port} BUSLANE_CONNECT_TIMEOUT=1m\n\
         [ \"$1\" = serve ] || exec {BUSLANE} \"$@\"\nshift\ntie='setpriv --pdeathsig KILL --'\n\
         $tie true 2>/dev/null || tie=\n\
         exec $tie {BUSLANE} serve --set port.address=127.0.0.1:{port} --set metrics.http=off \
         --set metrics.socket=off --set disk.size=64MiB --set disk.segment=1MiB --set shard.core=none \"$@\"\n"
    );
    let path = dir.join("buslane");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The second appliance of the tour goes on behind its last line, and holds what the shell's output went to: so that is a
/// file, and nobody waits for its end.
#[test]
fn the_tour_of_the_readme_goes_as_it_says() {
    let page = page("README.md");
    let tours = blocks(&page, "sh");
    let [(heading, tour)] = tours.as_slice() else { panic!("one block is to be run: {tours:?}") };
    assert_eq!((heading.as_str(), tour.lines().count()), ("A tour in eleven lines", 11));
    let build = "cargo build --release && export PATH=$PWD/target/release:$PATH\n";
    let tour = tour.strip_prefix(build).expect("what is under test is built already");
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::create_dir(dir.path().join("bin")).unwrap();
    wrapper(&dir.path().join("bin"));
    let path = format!("{}/bin:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let file = |name: &str| fs::File::create(dir.path().join(name)).unwrap();
    let said = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let mut shell = tied("bash");
    shell.args(["-euo", "pipefail", "-c", tour]).current_dir(dir.path()).env("PATH", path);
    shell.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
    let mut shell = Running(shell.spawn().unwrap());
    let status = wait(&mut shell.0, PATIENCE);
    let (printed, told) = (said("stdout"), said("stderr"));
    assert!(status.success(), "{status}\n{printed}\n{told}");

    let orders = itch_messages(&dir.path().join("orders.itch50"));
    assert_eq!(orders.len(), 10_000);
    let published = "10,000 messages published to orders, 10,000 acknowledged";
    assert!(printed.contains(published), "{printed}");
    let is_message = |line: &&str| line.split(' ').nth(1).is_some_and(|word| word.starts_with('@'));
    assert_eq!(printed.lines().filter(is_message).count(), 3, "{printed}");
    fs::write(dir.path().join("all"), orders.concat()).unwrap();
    let all = fs::File::open(dir.path().join("all")).unwrap();
    let sum = Command::new("cksum").stdin(all).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert!(printed.contains(&sum), "every order, once, in order: {sum} is not in\n{printed}");
    let row = printed.lines().last().unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(row[..5], ["orders", "0", "1", "9,001", "10,001"], "{printed}");
    assert_eq!(told.matches("ready on").count(), 2, "two appliances: {told}");
}
