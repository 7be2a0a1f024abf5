//! What whole-process tests share: an appliance in a directory of its own, and the clients' commands.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test uses its part, and ends where something fails"
)]
#![allow(clippy::disallowed_methods, reason = "these tests drive real processes in real time")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use buslane::client::{ClientOptions, Publisher, Security};

/// The binary under test.
pub(crate) const BUSLANE: &str = env!("CARGO_BIN_EXE_buslane");

/// How long a test waits for what has no limit of its own: it ends a test that hangs, and tests nothing. A machine that
/// builds beside it may take a hundred times as long as one that does not.
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);

/// A command whose process ends with the thread of the test that starts it, however that ends: by its end, a panic, or
/// a signal to the whole test. Where util-linux has no `setpriv`, guards that run on a panic have to do.
pub(crate) fn tied(program: impl AsRef<OsStr>) -> Command {
    static CAN: OnceLock<bool> = OnceLock::new();
    let tie = ["--pdeathsig", "KILL", "--"];
    let works =
        || Command::new("setpriv").args(tie).arg("true").status().is_ok_and(|s| s.success());
    if !*CAN.get_or_init(works) {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(tie).arg(program);
    command
}

/// The binary under test, tied to the test, and not deaf to the signals that whoever runs the tests is deaf to (a test
/// run under `nohup` hears no SIGHUP).
pub(crate) fn buslane() -> Command {
    let mut command = tied("env");
    command.args(["--default-signal=HUP,INT,QUIT", BUSLANE]);
    // However busy the machine is. What a test says of clients that give up, it sets itself.
    command.env("BUSLANE_CONNECT_TIMEOUT", "1m");
    command
}

/// An appliance on kernel UDP, that can be killed and started again.
pub(crate) struct Appliance {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) address: String,
    profile: &'static str,
    /// `disk.path`; a file in `dir` unless another was named.
    disk: Option<String>,
    settings: Vec<String>,
    child: Option<Child>,
    /// Reads what it says until it ends, so that it never waits for a reader.
    said: Option<thread::JoinHandle<String>>,
}

impl Appliance {
    /// Starts one with a fresh log in a file; `settings` are `key=value` for `--set`.
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::start_on("loopback", None, settings)
    }

    /// Starts one of another profile with the log on `disk`, formatted.
    pub(crate) fn start_on(profile: &'static str, disk: Option<String>, settings: &[&str]) -> Self {
        let shards = settings.iter().find_map(|setting| setting.strip_prefix("shard.count="));
        let shards = shards.map_or(1, |count| count.parse().unwrap());
        let address = format!("127.0.0.1:{}", free_ports(shards));
        Self::start_with(profile, disk, &address, settings)
    }

    /// Starts one that listens on `address`.
    pub(crate) fn start_with(
        profile: &'static str,
        disk: Option<String>,
        address: &str,
        settings: &[&str],
    ) -> Self {
        let mut appliance = Self::new(profile, disk, address, settings);
        appliance.restart();
        appliance
    }

    /// Starts one that does not come up, and returns what it says.
    pub(crate) fn refused(profile: &'static str, address: &str, settings: &[&str]) -> String {
        let output = Self::new(profile, None, address, settings).serve_command().output().unwrap();
        assert!(!output.status.success(), "{}", text(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    fn new(profile: &'static str, disk: Option<String>, address: &str, settings: &[&str]) -> Self {
        // Not under /tmp: that may be memory, which takes no direct I/O.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let address = address.to_owned();
        let settings = settings.iter().map(ToString::to_string).collect();
        Self { dir, address, profile, disk, settings, child: None, said: None }
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.path().join("test.log")
    }

    /// The command that serves, with all settings.
    pub(crate) fn serve_command(&self) -> Command {
        let mut command = buslane();
        command.args(["serve", "--profile", self.profile]);
        command.args(["--set", &format!("port.address={}", self.address)]);
        let disk = self.disk.clone().unwrap_or_else(|| self.log_path().display().to_string());
        command.args(["--set", &format!("disk.path={disk}")]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command
    }

    /// Starts it (again) and waits until it says that it is ready.
    pub(crate) fn restart(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let mut child = self.serve_command().stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        loop {
            let mut line = String::new();
            let n = stderr.read_line(&mut line).unwrap();
            said.push_str(&line);
            assert!(n > 0, "the appliance ended before it was ready:\n{said}");
            if line.starts_with("ready") {
                break;
            }
        }
        self.child = Some(child);
        self.said = Some(thread::spawn(move || {
            let mut said = String::new();
            while stderr.read_line(&mut said).is_ok_and(|count| count > 0) {}
            said
        }));
    }

    /// SIGKILL, at once.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; returns the exit code and what was said on stderr since it was ready.
    pub(crate) fn stop(&mut self) -> (i32, String) {
        signal(self.child.as_ref().expect("it runs"), "TERM");
        self.ended()
    }

    /// Waits until it has ended; returns the same.
    pub(crate) fn ended(&mut self) -> (i32, String) {
        let mut child = self.child.take().expect("it runs");
        let status = wait(&mut child, PATIENCE);
        let said = self.said.take().unwrap().join().unwrap();
        (status.code().expect("it exits by itself"), said)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// A client's command that reaches it at another address, to be given arguments.
    pub(crate) fn through(&self, address: &str) -> Command {
        let mut command = buslane();
        let access = self.dir.path().join("keys/local.access");
        command.args(["--server", address]).arg("--access").arg(access);
        command
    }

    /// A client's command, to be given arguments.
    pub(crate) fn client(&self, args: &[&str]) -> Command {
        let mut command = buslane();
        command.args(["--server", &self.address]).args(args);
        command
    }

    /// Runs a client's command to its end; it has to succeed.
    pub(crate) fn run(&self, args: &[&str]) -> Vec<u8> {
        let output = self.client(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        output.stdout
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How a client of an appliance of these tests behaves.
pub(crate) fn options(server: SocketAddrV4, publisher: Publisher) -> ClientOptions {
    ClientOptions::new(publisher, Security::find(server).unwrap())
}

/// A child that does not outlive a test that fails.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Orders published all the while, whether the appliance is up or not.
pub(crate) struct Feed {
    stream: &'static str,
    messages: Vec<Vec<u8>>,
    publisher: Running,
    stop: Arc<AtomicBool>,
    feeder: thread::JoinHandle<usize>,
}

impl Feed {
    /// Starts it on a stream of its own, `orders`: two thousand a second.
    pub(crate) fn start(appliance: &Appliance) -> Self {
        Self::start_on(appliance, "orders")
    }

    /// Starts it on a stream that it creates.
    pub(crate) fn start_on(appliance: &Appliance, stream: &'static str) -> Self {
        let messages = itch_messages(&order_flow(appliance.dir.path()));
        appliance.run(&["stream", "create", stream]);
        let mut publisher = appliance
            .client(&["publish", stream, "--itch", "-", "-q", "--history"])
            .arg(appliance.dir.path().join(format!("{stream}-published")))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = publisher.stdin.take().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let orders = messages.clone();
        let feeder = thread::spawn(move || {
            let mut count = 0;
            for message in orders.iter().cycle() {
                // Only a flag: it orders nothing but itself.
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let [high, low] = [message.len() >> 8, message.len() & 0xff];
                let prefix = [u8::try_from(high).unwrap(), u8::try_from(low).unwrap()];
                input.write_all(&[&prefix, message.as_slice()].concat()).unwrap();
                count += 1;
                thread::sleep(Duration::from_micros(500));
            }
            count
        });
        Self { stream, messages, publisher: Running(publisher), stop, feeder }
    }

    /// Stops it; everything it published is acknowledged and is there, once and in order. Returns how many.
    pub(crate) fn finish(mut self, appliance: &Appliance) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let count = self.feeder.join().unwrap();
        let status = wait(&mut self.publisher.0, PATIENCE);
        assert!(status.success(), "the publisher: {status}");
        let histories = ["published", "consumed"]
            .map(|role| appliance.dir.path().join(format!("{}-{role}", self.stream)));
        let [published, consumed] = histories.each_ref().map(|path| path.to_str().unwrap());
        let stream = self.stream;
        let all = appliance.run(&["consume", stream, "-o", "raw", "--history", consumed]);
        let expected = self.messages.iter().cycle().take(count).flatten().copied();
        assert!(all.iter().copied().eq(expected), "{} bytes", all.len());
        appliance.run(&["verify-history", published, consumed]);
        count
    }
}

/// What `{runtime}` is in a profile of the tests.
pub(crate) fn runtime() -> PathBuf {
    let output = Command::new("id").arg("-u").output().unwrap();
    let user = String::from_utf8(output.stdout).unwrap();
    std::env::var_os("XDG_RUNTIME_DIR").map_or_else(
        || PathBuf::from(format!("/tmp/buslane-{}", user.trim())),
        |dir| Path::new(&dir).join("buslane"),
    )
}

/// Held by a test whose processes spin on every core, so that they do it one after the other.
pub(crate) fn turn() -> std::fs::File {
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/spinning.lock");
    let turn = std::fs::File::create(path).unwrap();
    turn.lock().unwrap();
    turn
}

/// Sends a signal to a child of ours.
pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Status and both outputs, for a failed assertion.
pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A UDP port nobody uses at the moment.
pub(crate) fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The first of so many UDP ports in a row that nobody uses at the moment.
pub(crate) fn free_ports(count: u16) -> u16 {
    loop {
        let first = free_port();
        let is_free = |offset| UdpSocket::bind(("127.0.0.1", first + offset)).is_ok();
        if first < u16::MAX - count && (1..count).all(is_free) {
            return first;
        }
    }
}

/// What a child says on standard error until it is ready or ends, and which of both.
pub(crate) fn heard(child: &mut Child) -> (String, bool) {
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut said = String::new();
    for line in lines {
        said.push_str(&line);
        said.push('\n');
        if line.starts_with("ready") {
            return (said, true);
        }
    }
    (said, false)
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Passes datagrams of so many bytes at most on between whoever asks at a port and a server, until the process ends.
pub(crate) fn relay(at: UdpSocket, server: SocketAddrV4, bytes_max: usize) {
    let back = at.try_clone().unwrap();
    let to = UdpSocket::bind("127.0.0.1:0").unwrap();
    let from = to.try_clone().unwrap();
    // The port of the newest asker: the commands ask one after the other.
    let asker = Arc::new(AtomicU16::new(0));
    let answers = Arc::clone(&asker);
    thread::spawn(move || {
        let mut bytes = [0; 2_048];
        while let Ok((count, peer)) = at.recv_from(&mut bytes) {
            asker.store(peer.port(), Ordering::Release);
            if count <= bytes_max {
                to.send_to(&bytes[..count], server).unwrap();
            }
        }
    });
    thread::spawn(move || {
        let mut bytes = [0; 2_048];
        while let Ok((count, _)) = from.recv_from(&mut bytes) {
            let peer = ("127.0.0.1", answers.load(Ordering::Acquire));
            if count <= bytes_max {
                back.send_to(&bytes[..count], peer).unwrap();
            }
        }
    });
}

/// Waits for a child to end, at most so long.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> std::process::ExitStatus {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "a child did not end within {limit:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// An order flow: the shared sample where it is there, one of our own making elsewhere.
pub(crate) fn order_flow(dir: &Path) -> PathBuf {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/orders.itch50");
    if shared.exists() {
        return shared;
    }
    let path = dir.join("orders.itch50");
    let status = Command::new(BUSLANE)
        .args(["sample", "orders", "--count", "12012", "--out"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    path
}

/// The messages of an ITCH file, without their length prefixes.
pub(crate) fn itch_messages(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let mut messages = Vec::new();
    while let [high, low, after @ ..] = rest {
        let len = usize::from(*high) << 8 | usize::from(*low);
        if len == 0 {
            break;
        }
        messages.push(after[..len].to_vec());
        rest = &after[len..];
    }
    messages
}
