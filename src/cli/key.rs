//! What `buslane key` takes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `key`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key, and print its public half
    #[command(after_help = "\
For a client whose secret is not to leave its host: make it there with --out, give the public half
to whoever runs the appliance, and put the lines into the file that `buslane key authorize` prints
for it. Without --out the secret is printed, too.

EXAMPLES
  buslane key new --out gateway-7.access
  buslane key new -o json")]
    New {
        /// Write the secret into this new file, which only you may read
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show the appliance's address, its public key, where its keys are, and whom it knows
    #[command(after_help = "\
EXAMPLES
  buslane key show
  buslane key show --profile /etc/buslane/orders.toml -o json")]
    Show,
    /// Let somebody in, or give somebody a key more: writes NAME.access, the one file to hand over
    #[command(after_help = "\
A pattern is a name, or the beginning of names and a `*`; `*` alone is all. What is not said is
denied. Without a right on the command line NAME has to be there already, keeps its rights, and gets
a key more. The file of rights is changed whole or not at all, and what else is in it stays.

EXAMPLES
  buslane key authorize gateway-7 --publish 'orders.*' --subscribe fills
  buslane key authorize desk --subscribe '*' --server bus1.example:9310 --out /root/desk.access
  buslane key authorize gateway-7
  buslane key authorize gateway-8 blp1k7nuwnm7eoxf4fdojysreblharzckbrurqkqyfdvhugjgpie2qquzia --publish x")]
    Authorize(KeyAuthorizeArgs),
    /// Shut somebody out: an identity with all its keys, or one key
    #[command(after_help = "\
EXAMPLES
  buslane key revoke gateway-7
  buslane key revoke blp1k7nuwnm7eoxf4fdojysreblharzckbrurqkqyfdvhugjgpie2qquzia")]
    Revoke {
        /// Name of the identity, or the public key
        #[arg(value_name = "NAME|KEY")]
        who: String,
    },
}

/// `key authorize`.
#[derive(Debug, Args)]
pub struct KeyAuthorizeArgs {
    /// Name of the identity: 1 to 40 letters, digits, `.`, `_` and `-`
    pub name: String,
    /// Public key it comes with (blp1..) [default: a new one, whose secret is written to --out]
    pub key: Option<String>,
    /// Streams it may publish to
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub publish: Vec<String>,
    /// Streams it may consume
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub subscribe: Vec<String>,
    /// Streams it may create
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub create: Vec<String>,
    /// Streams whose oldest messages it may remove
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub trim: Vec<String>,
    /// Producers it may publish as [default: the one of its own name]
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub producers: Vec<String>,
    /// It may also do what is about the whole appliance
    #[arg(long)]
    pub admin: bool,
    /// File to write for the client, which must not be there yet [default: NAME.access]
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    pub out: Option<PathBuf>,
}
