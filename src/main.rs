//! The `buslane` binary: parse, run one command, exit code.

fn main() {}
