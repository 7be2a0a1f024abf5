//! `buslane key`: keys made, shown, authorized and revoked.
//!
//! The appliance need not run: these change its `access.toml`, and it reads that again when it is told to.

use std::fs;
use std::io;
use std::net::SocketAddrV4;
use std::path::Path;

use serde::Serialize;

use super::{CommandError, Out, note};
use crate::access::edit::{self, Grant};
use crate::access::{
    Access, Credentials, Keyring, PublicKey, SecretKey, is_identity_name, write_secret,
};
use crate::cli::key::{KeyAuthorizeArgs, KeyCommand};
use crate::cli::{Globals, Output};
use crate::profile::{self, Profile};

/// How a change comes to count.
const APPLY: &str = "to apply it: systemctl reload buslane, or kill -HUP where there is no systemd";

/// The key that was made.
#[derive(Serialize)]
struct New<'a> {
    schema_version: u32,
    public: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

/// What an appliance is known by, and whom it knows.
#[derive(Serialize)]
struct Shown {
    schema_version: u32,
    address: String,
    server_key: String,
    keys: String,
    identities: Vec<ShownIdentity>,
}

#[derive(Serialize)]
struct ShownIdentity {
    name: String,
    keys: Vec<String>,
}

/// What was changed.
#[derive(Serialize)]
struct Changed {
    schema_version: u32,
    identity: String,
    key: Option<String>,
    file: Option<String>,
}

pub(super) fn key(globals: &Globals, command: &KeyCommand) -> Result<(), CommandError> {
    match command {
        KeyCommand::New { out } => new(globals, out.as_deref()),
        KeyCommand::Show => show(globals),
        KeyCommand::Authorize(args) => authorize(globals, args),
        KeyCommand::Revoke { who } => revoke(globals, who),
    }
}

fn new(globals: &Globals, out: Option<&Path>) -> Result<(), CommandError> {
    let secret = SecretKey::generate();
    let (public, text) = (secret.public(), secret.to_text());
    if let Some(path) = out {
        write_secret(path, &secret).map_err(|error| cannot_write(path, &error))?;
    }
    let shown = out.is_none().then_some(text.as_str());
    let mut to = Out::stdout();
    if globals.output() == Output::Json {
        let file = out.map(|path| path.display().to_string());
        to.json(&New { schema_version: 1, public: public.to_string(), secret: shown, file })?;
    } else {
        if let Some(secret) = shown {
            to.line(&format!("secret {secret}"))?;
        }
        to.line(&format!("public {public}"))?;
    }
    to.finish()
}

fn show(globals: &Globals) -> Result<(), CommandError> {
    let (profile, ring) = open(globals)?;
    let identity = |identity: &crate::access::Identity| ShownIdentity {
        name: identity.name.clone(),
        keys: identity.keys.iter().map(PublicKey::to_string).collect(),
    };
    let mut identities: Vec<_> = ring.access.identities().iter().map(identity).collect();
    identities.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    let shown = Shown {
        schema_version: 1,
        address: profile.port.address.to_string(),
        server_key: ring.secret.public().to_string(),
        keys: ring.dir().display().to_string(),
        identities,
    };
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        out.json(&shown)?;
        return out.finish();
    }
    out.line(&format!("address    {}", shown.address))?;
    out.line(&format!("server key {}", shown.server_key))?;
    out.line(&format!("keys       {}", shown.keys))?;
    for ShownIdentity { name, keys } in &shown.identities {
        out.line(format!("{name:<40} {}", keys.join(" ")).trim_end())?;
    }
    out.finish()
}

fn authorize(globals: &Globals, args: &KeyAuthorizeArgs) -> Result<(), CommandError> {
    let grant = grant(args)?;
    let given = args.key.as_deref().map(public_key).transpose()?;
    let (profile, ring) = open(globals)?;
    let (key, file) = match given {
        Some(key) => (key, None),
        None => {
            let path = args.out.clone().unwrap_or_else(|| format!("{}.access", grant.name).into());
            let known = credentials(globals, &profile, &ring, &grant.name)?;
            // Before the change: a client with a file that nobody knows yet is better than one without its file.
            known.write_new(&path).map_err(|error| cannot_write(&path, &error))?;
            (known.secret.public(), Some(path))
        }
    };
    ring.edit(|text| edit::authorize(text, &grant, &key)).inspect_err(|_| {
        // It is of no use to anybody.
        if let Some(path) = &file {
            let _ = fs::remove_file(path);
        }
    })?;
    tell(globals, &grant.name, Some(&key), file.as_deref())?;
    if file.is_none() {
        let server_key = ring.secret.public();
        note("what its file of credentials says beside `secret`:");
        note(&format!("  identity = \"{}\"", grant.name));
        note(&format!("  server_key = \"{server_key}\""));
    }
    Ok(())
}

/// What is asked for, as far as it can be seen without the file.
fn grant(args: &KeyAuthorizeArgs) -> Result<Grant, CommandError> {
    // It may be a secret, in the wrong place: it is not repeated.
    if !is_identity_name(&args.name) {
        let what = "NAME: 1 to 40 letters, digits, `.`, `_` and `-`, not starting with `.` or `-`; keys stand behind it";
        return Err(CommandError::Usage(what.to_owned()));
    }
    Ok(Grant {
        name: args.name.clone(),
        publish: args.publish.clone(),
        subscribe: args.subscribe.clone(),
        create: args.create.clone(),
        trim: args.trim.clone(),
        producers: args.producers.clone(),
        admin: args.admin,
    })
}

/// Credentials with a new key.
fn credentials(
    globals: &Globals,
    profile: &Profile,
    ring: &Keyring,
    name: &str,
) -> Result<Credentials, CommandError> {
    let known = ring.reload()?;
    let of_name = |identity: &&crate::access::Identity| identity.name == name;
    let psk = known.identities().iter().find(of_name).and_then(|identity| identity.psk.clone());
    Ok(Credentials {
        server: server(globals, profile.port.address),
        server_key: ring.secret.public(),
        secret: SecretKey::generate(),
        psk,
        identity: name.to_owned(),
    })
}

/// Where the client finds the appliance: as it was said, or where it listens.
fn server(globals: &Globals, listens: SocketAddrV4) -> Option<String> {
    if let Some(server) = &globals.server {
        return Some(server.with_port(listens.port()));
    }
    if listens.ip().is_unspecified() || listens.port() == 0 {
        let what = "the file does not say where the appliance is, since it has no address of its own in the profile; \
                    --server HOST:PORT would";
        note(what);
        return None;
    }
    Some(listens.to_string())
}

fn revoke(globals: &Globals, who: &str) -> Result<(), CommandError> {
    if is_identity_name(who) {
        let (_, ring) = open(globals)?;
        let left = ring.edit(|text| edit::revoke_name(text, who))?;
        tell(globals, who, None, None)?;
        warn_of_nobody(&left);
        return Ok(());
    }
    let key = public_key(who)?;
    let (_, ring) = open(globals)?;
    let mut name = String::new();
    let left = ring.edit(|text| {
        let (text, had) = edit::revoke_key(text, &key)?;
        name = had;
        Ok(text)
    })?;
    tell(globals, &name, Some(&key), None)?;
    warn_of_nobody(&left);
    Ok(())
}

/// Where nobody is left who may come.
fn warn_of_nobody(left: &Access) {
    if left.identities().iter().all(|identity| identity.keys.is_empty()) {
        note("no identity has a key any more: nobody can come");
    }
}

/// A public key of the command line, which is not repeated: it may be a secret one.
fn public_key(text: &str) -> Result<PublicKey, CommandError> {
    let wrong = |what: String| CommandError::Usage(format!("the key {what}"));
    let key: PublicKey = text.parse().map_err(|error| wrong(format!("{error}")))?;
    if !key.is_sound() {
        return Err(wrong("is none that anybody can have alone".to_owned()));
    }
    Ok(key)
}

/// The profile, and the keys of its appliance.
fn open(globals: &Globals) -> Result<(Profile, Keyring), CommandError> {
    let profile = profile::load(globals.profile_or_default(), &globals.set)?;
    let ring = Keyring::open(&profile.keys_dir())?;
    Ok((profile, ring))
}

/// Says what was changed, and what is to be done.
fn tell(
    globals: &Globals,
    identity: &str,
    key: Option<&PublicKey>,
    file: Option<&Path>,
) -> Result<(), CommandError> {
    let shown = |path: &Path| path.display().to_string();
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        let (identity, key) = (identity.to_owned(), key.map(PublicKey::to_string));
        out.json(&Changed { schema_version: 1, identity, key, file: file.map(shown) })?;
    } else {
        let key = key.map(|key| format!(" {key}")).unwrap_or_default();
        let file = file.map(|path| format!(" {}", shown(path))).unwrap_or_default();
        out.line(&format!("{identity}{key}{file}"))?;
    }
    out.finish()?;
    if globals.quiet {
        return Ok(());
    }
    if file.is_some() {
        note(
            "hand the file over on a way that nobody else reads, and remove it here: its secret is nowhere else",
        );
    }
    note(APPLY);
    Ok(())
}

fn cannot_write(path: &Path, error: &io::Error) -> CommandError {
    let path = path.display();
    CommandError::Failed(if error.kind() == io::ErrorKind::AlreadyExists {
        format!("{path}: there is a file already; move it away, or name another one with --out")
    } else {
        format!("{path}: cannot be written: {error}; name another file with --out")
    })
}
