//! What is given to a blocking client, checked where it enters.

use super::Error;
use crate::client::ClientOptions;
use crate::limits::{DATAGRAM_BYTES_MIN, NUMBER_MAX};
use crate::port::Port;
use crate::wire::control::is_stream_name;

pub(super) fn check_options<P: Port>(port: &P, options: &ClientOptions) -> Result<(), Error> {
    let what = if !options.window_messages.is_power_of_two() {
        format!("window_messages of {}: it has to be a power of two", options.window_messages)
    } else if options.window_bytes == 0 {
        "window_bytes of 0: it has to hold a message".to_owned()
    } else if port.datagram_bytes() < DATAGRAM_BYTES_MIN {
        let bytes = port.datagram_bytes();
        format!("a port with datagrams of {bytes} bytes: {DATAGRAM_BYTES_MIN} are needed")
    } else {
        return Ok(());
    };
    Err(Error::Argument { what })
}

pub(super) fn check_name(name: &str) -> Result<(), Error> {
    if is_stream_name(name) {
        return Ok(());
    }
    let what = format!(
        "`{}` cannot name a stream: 1 to 64 letters, digits, `.`, `_`, `-`, `/` or `:`, not starting with `.`",
        name.escape_debug()
    );
    Err(Error::Argument { what })
}

pub(super) fn check_number(what: &str, number: u64) -> Result<(), Error> {
    if number <= NUMBER_MAX {
        return Ok(());
    }
    Err(Error::Argument { what: format!("{what}, {number}: {NUMBER_MAX} is the largest there is") })
}
