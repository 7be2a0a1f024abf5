//! The arguments of DPDK's environment (EAL): defaults, guards, and the socket of a memif server.
//!
//! EAL may end the process for some arguments and starts once a process, so what can be checked is
//! checked here, before it is started.

use std::ffi::CString;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::port::PortError;

/// Longest name of a socket of the Unix domain.
const SOCKET_BYTES_MAX: usize = 107;

/// Largest buffer of a memif ring: the driver keeps its size in 16 bits, and a mbuf adds 128 bytes.
pub(crate) const MEMIF_BUFFER_BYTES_MAX: usize = 32 << 10;

/// Where a memif server is called, and where its driver listens: a gate of ours stands between, since the driver
/// trusts whoever calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gate {
    /// What the arguments name: a file, or an abstract name.
    pub address: String,
    /// Whether it is a name.
    pub is_abstract: bool,
    /// A file that is there while EAL starts, for nobody else.
    pub behind: String,
}

/// The gate of `device`, or of the first memif server where a number names the device.
#[must_use]
pub(crate) fn gate(given: &[String], device: &str) -> Option<Gate> {
    let of = |argument: &&String| {
        let name = argument.trim_start_matches("--vdev=").split(',').next();
        is_memif_server(argument) && (name == Some(device) || device.parse::<u16>().is_ok())
    };
    let argument = given.iter().find(of)?;
    let address = value(argument, "socket").unwrap_or("/run/memif.sock").to_owned();
    let is_abstract = is_abstract(argument);
    let place = if is_abstract { "/tmp/buslane-memif" } else { &address };
    let behind = format!("{place}.{}", std::process::id());
    Some(Gate { address, is_abstract, behind })
}

/// Completes the caller's arguments: a program name; `--lcores` that leaves all threads on the cores the
/// process has, so that EAL starts no worker threads and pins nothing; no telemetry socket; for a
/// memif device that says no `bsize`, one that holds `frame_bytes`; and the memif server `device` behind its gate.
///
/// # Errors
/// `PortError::Device` for arguments that would end the process, do not fit, or cannot be passed.
pub(crate) fn complete(
    given: &[String],
    device: &str,
    frame_bytes: usize,
) -> Result<Vec<CString>, PortError> {
    let mut gate = gate(given, device);
    let mut arguments = vec!["buslane".to_owned()];
    for argument in given {
        refuse_fatal(argument)?;
        let mut argument = with_buffer_size(argument, frame_bytes)?;
        if is_memif_server(&argument)
            && let Some(gate) = gate.take()
        {
            argument = behind(&argument, &gate)?;
        }
        arguments.push(argument);
    }
    if !given.iter().any(|argument| says_cores(argument)) {
        arguments.push(format!("--lcores=0@({})", cores()));
    }
    if !given.iter().any(|argument| argument.contains("telemetry")) {
        arguments.push("--no-telemetry".to_owned());
    }
    arguments
        .into_iter()
        .map(|argument| {
            CString::new(argument.clone())
                .map_err(|_| wrong(&argument, "holds a zero byte", "remove it"))
        })
        .collect()
}

/// The `bsize` of the first memif device among `arguments`.
#[must_use]
pub(crate) fn memif_buffer_bytes(arguments: &[CString]) -> Option<usize> {
    arguments
        .iter()
        .filter_map(|argument| argument.to_str().ok())
        .find(|argument| is_memif(argument))
        .and_then(|argument| value(argument, "bsize")?.parse().ok())
}

/// The argument with the server behind its gate.
fn behind(argument: &str, gate: &Gate) -> Result<String, PortError> {
    let longest = gate.address.len().max(gate.behind.len());
    if longest > SOCKET_BYTES_MAX {
        return Err(wrong(
            &gate.address,
            &format!(
                "the name of the memif socket is {} bytes too long",
                longest - SOCKET_BYTES_MAX
            ),
            "name a shorter `socket=`",
        ));
    }
    let is_other =
        |part: &&str| !part.starts_with("socket=") && !part.starts_with("socket-abstract=");
    let others: Vec<&str> = argument.split(',').filter(is_other).collect();
    Ok(format!("{},socket={},socket-abstract=no", others.join(","), gate.behind))
}

/// Removes the socket files that a memif server left when it was killed: they would find their
/// address in use. One that somebody listens on is left alone.
///
/// # Errors
/// `PortError::Device` when another process serves on it, or its place is not fit for a socket.
pub(crate) fn clear_stale_sockets(
    arguments: &[String],
    gate: Option<&Gate>,
) -> Result<(), PortError> {
    if let Some(gate) = gate {
        clear_stale_socket(Path::new(&gate.behind))?;
    }
    for argument in arguments.iter().filter(|argument| is_memif(argument)) {
        let Some(socket) = value(argument, "socket") else {
            continue;
        };
        if is_abstract(argument) {
            continue;
        }
        let path = Path::new(socket);
        if !path.parent().is_some_and(Path::is_dir) {
            return Err(wrong(
                socket,
                "its directory does not exist",
                "create it, or name another `socket=` (an absolute path)",
            ));
        }
        if is_memif_server(argument) {
            clear_stale_socket(path)?;
        }
    }
    Ok(())
}

fn clear_stale_socket(path: &Path) -> Result<(), PortError> {
    let what = path.display().to_string();
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        let why = "a file that is no socket is in the way of a memif server";
        return Err(wrong(&what, why, "name another `socket=`"));
    }
    // Nobody listens: refused. Somebody does: our kind of socket does not fit theirs, which is all we
    // want to know and does not disturb them.
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .map_err(|error| {
                wrong(&what, &format!("a stale socket cannot be removed: {error}"), "remove it")
            }),
        Ok(_) | Err(_) => Err(wrong(
            &what,
            "another process serves on this memif socket",
            "stop it, or name another `socket=`",
        )),
    }
}

/// Options that print something and end the process.
fn refuse_fatal(argument: &str) -> Result<(), PortError> {
    let long = |name: &str, least: usize| argument.len() >= least && name.starts_with(argument);
    let short = argument == "-h" || argument == "-v" || argument == "-hv" || argument == "-vh";
    if short || long("--help", 4) || long("--version", 5) {
        let mend = "remove it from `eal`";
        return Err(wrong(argument, "this EAL argument would end the process", mend));
    }
    Ok(())
}

fn with_buffer_size(argument: &str, frame_bytes: usize) -> Result<String, PortError> {
    if !is_memif(argument) {
        return Ok(argument.to_owned());
    }
    let Some(given) = value(argument, "bsize") else {
        // Rings of whole cache lines, and at least what the driver's own default is.
        return Ok(format!("{argument},bsize={}", frame_bytes.next_multiple_of(256).max(2048)));
    };
    match given.parse::<usize>() {
        Ok(bytes) if (frame_bytes..=MEMIF_BUFFER_BYTES_MAX).contains(&bytes) => {
            Ok(argument.to_owned())
        }
        Ok(_) | Err(_) => Err(wrong(
            argument,
            &format!(
                "`bsize={given}` is not from {frame_bytes} (one frame) to {MEMIF_BUFFER_BYTES_MAX}"
            ),
            "leave `bsize` out: it is then chosen to fit; both ends must have the same",
        )),
    }
}

fn is_memif(argument: &str) -> bool {
    argument.trim_start_matches("--vdev=").starts_with("net_memif")
}

fn is_memif_server(argument: &str) -> bool {
    is_memif(argument)
        && value(argument, "role").is_some_and(|role| role == "server" || role == "master")
}

/// Whether its socket is a name and no file, as it is unless said otherwise.
fn is_abstract(argument: &str) -> bool {
    value(argument, "socket-abstract").is_none_or(|value| value == "yes")
}

fn value<'a>(argument: &'a str, key: &str) -> Option<&'a str> {
    argument.split(',').find_map(|part| part.strip_prefix(key)?.strip_prefix('='))
}

fn says_cores(argument: &str) -> bool {
    argument.starts_with("--lcores")
        || (!argument.starts_with("--")
            && (argument.starts_with("-l") || argument.starts_with("-c")))
}

/// The cores this process may use, as EAL writes a list.
fn cores() -> String {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let list: Vec<String> = cores.iter().map(|core| core.id.to_string()).collect();
    if list.is_empty() { "0".to_owned() } else { list.join(",") }
}

fn wrong(what: &str, why: &str, mend: &str) -> PortError {
    PortError::Device { what: what.to_owned(), why: why.to_owned(), mend: mend.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn strings(arguments: &[&str]) -> Vec<String> {
        arguments.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_are_added_only_where_nothing_was_said() {
        let completed =
            complete(&strings(&["--no-huge", "--vdev=net_memif0,role=client"]), "x", 1514);
        let completed: Vec<String> =
            completed.unwrap().into_iter().map(|c| c.into_string().unwrap()).collect();
        assert_eq!(completed[2], "--vdev=net_memif0,role=client,bsize=2048");
        assert!(completed[3].starts_with("--lcores=0@("), "{completed:?}");
        assert_eq!(completed[4], "--no-telemetry");
        let said = strings(&["-l", "1", "--telemetry", "--vdev", "net_memif0,bsize=9216"]);
        let completed = complete(&said, "x", 9018).unwrap();
        assert_eq!(completed.len(), 1 + said.len());
        assert_eq!(memif_buffer_bytes(&completed), Some(9216));
    }

    #[test]
    fn arguments_that_end_the_process_or_do_not_fit_are_refused() {
        for bad in ["-h", "--help", "--hel", "--version", "--vdev=net_memif0,bsize=100", "a\0b"] {
            assert!(complete(&strings(&[bad]), "x", 1514).is_err(), "{bad}");
        }
        for good in ["--huge-dir=/x", "--vdev=net_null0", "-v1"] {
            assert!(complete(&strings(&[good]), "x", 1514).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_server_is_put_behind_its_gate_and_a_client_is_not() {
        let pid = std::process::id();
        let given = strings(&[
            "--vdev=net_memif1,role=client,socket=/run/a,socket-abstract=no",
            "--vdev=net_memif0,role=server,socket=/run/b,socket-abstract=no,bsize=2048",
        ]);
        assert_eq!(gate(&given, "net_memif1"), None);
        let found = gate(&given, "net_memif0").unwrap();
        assert_eq!((found.address.as_str(), found.is_abstract), ("/run/b", false));
        let completed = complete(&given, "net_memif0", 1514).unwrap();
        let completed: Vec<_> = completed.iter().map(|text| text.to_str().unwrap()).collect();
        assert_eq!(completed[1], format!("{},bsize=2048", given[0]));
        let server = "--vdev=net_memif0,role=server,bsize=2048";
        assert_eq!(completed[2], format!("{server},socket=/run/b.{pid},socket-abstract=no"));
        // DPDK's defaults.
        let short = strings(&["--vdev=net_memif0,role=master"]);
        let found = gate(&short, "0").unwrap();
        assert_eq!((found.address.as_str(), found.is_abstract), ("/run/memif.sock", true));
        assert!(complete(&short, "net_memif0", 1514).is_ok());
        let long = format!("--vdev=net_memif0,role=server,socket=/{},bsize=2048", "x".repeat(120));
        assert!(complete(&strings(&[&long]), "net_memif0", 1514).is_err());
    }

    #[test]
    fn a_stale_socket_is_removed_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memif.sock");
        let server = strings(&[&format!(
            "--vdev=net_memif0,role=server,socket={},socket-abstract=no",
            path.display()
        )]);
        clear_stale_sockets(&server, None).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let error = clear_stale_sockets(&server, None).unwrap_err().to_string();
        assert!(error.contains("another process serves"), "{error}");
        drop(listener);
        clear_stale_sockets(&server, None).unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "not a socket").unwrap();
        assert!(clear_stale_sockets(&server, None).is_err());
        assert!(path.exists());
        let nowhere = "--vdev=net_memif0,socket=/nowhere/at/all/x,socket-abstract=no";
        assert!(clear_stale_sockets(&strings(&[nowhere]), None).is_err());
    }
}
