//! Files of rights that are read, and those that are refused.

use proptest::prelude::*;

use super::*;
use crate::access::IdentityId;
use crate::limits::{IDENTITIES_MAX, PATTERNS_A_LIST_MAX};

fn secret(seed: u8) -> SecretKey {
    SecretKey::from_bytes([seed; 32])
}

fn public(seed: u8) -> String {
    secret(seed).public().to_string()
}

fn read(text: &str) -> Result<Access, String> {
    parse(Path::new("access.toml"), text).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(text: &str, says: &str) {
    let said = read(text).unwrap_err();
    assert!(said.contains(says), "`{says}` is not in: {said}");
    assert!(!said.contains('\n'), "{said}");
}

#[test]
fn what_is_said_is_allowed_and_what_is_not_said_is_denied() {
    let text = format!(
        "[[identity]]\nname = \"gateway-7\"\nkeys = [\"{}\", \"{}\"]\npsk = \"{}\"\npublish = [\"orders.*\"]\n\
         [[identity]]\nname = \"desk\"\nkeys = []\nsubscribe = [\"*\"]\nproducers = []\nadmin = true\n",
        public(1),
        public(2),
        *secret(3).to_text()
    );
    let access = read(&text).unwrap();
    let gateway = access.by_key(&secret(2).public()).unwrap();
    assert_eq!((gateway.name.as_str(), gateway.keys.len()), ("gateway-7", 2));
    assert_eq!(gateway.psk, Some(secret(3)));
    let rights = &gateway.rights;
    assert!(rights.publish.matches("orders.eu") && !rights.publish.matches("trades"));
    assert!(rights.subscribe.is_empty() && rights.create.is_empty() && rights.trim.is_empty());
    assert!(rights.producers.matches("gateway-7") && !rights.producers.matches("gateway-8"));
    assert!(!rights.admin);
    let desk = access.rights(IdentityId::of("desk")).unwrap();
    assert!(desk.admin && desk.subscribe.matches("x") && desk.producers.is_empty());
}

#[test]
fn who_comes_in_the_clear_may_do_what_a_table_says_and_nothing_else() {
    let rights = |text: &str| read(text).unwrap().rights(IdentityId::NOBODY).unwrap().clone();
    assert_eq!(rights(""), Rights::none());
    assert_eq!(rights("[plain]\n"), Rights::none());
    let some = rights("[plain]\nsubscribe = [\"prices.*\"]\n");
    assert!(some.subscribe.matches("prices.eu") && some.publish.is_empty() && !some.admin);
}

#[test]
fn what_cannot_be_is_refused_with_its_line() {
    refused("identity = 7\n", "access.toml:1: ");
    refused("[[identity]]\nname = 7\n", "access.toml:2: ");
    refused("\n[[identity]]\n", "missing field `name`");
    refused("[[identity]]\nname = \"a\"\nadmn = true\n", "access.toml:3: unknown field `admn`");
    refused("[plain]\nkeys = []\n", "access.toml:2: unknown field `keys`");
    refused("[identities]\n", "access.toml:1: unknown field `identities`");
    refused("[[identity]\n", "access.toml:1: ");
    refused("name = \"half", "access.toml:1: ");
    refused("[[identity]]\nname = \"a\"\nname = \"b\"\n", "access.toml:3: duplicate key");
    refused("[[identity]]\nname = \"../a\"\n", "access.toml:2: `../a` cannot name an identity");
    refused("[[identity]]\nname = \"\"\n", "access.toml:2: `` cannot name an identity");
    let one = "[[identity]]\nname = \"a\"\n";
    refused(&format!("{one}{one}"), "access.toml:4: there are two identities a");
    refused(&format!("{one}publish = [\"x\",\n\"a*b\"]\n"), "access.toml:4: publish: `a*b`");
    refused(&format!("{one}trim = [\".x\"]\n"), "access.toml:3: trim: `.x`: no stream");
    let long = "x".repeat(41);
    refused(&format!("{one}producers = [\"{long}\"]\n"), "no producer can be named so");
    refused(&format!("{one}keys = [\"{}x\"]\n", public(1)), "has 60 characters");
    let nothing = PublicKey([0; 32]);
    refused(&format!("{one}keys = [\"{nothing}\"]\n"), "access.toml:2: ");
    let key = public(1);
    let two = format!("{one}keys = [\"{key}\"]\n[[identity]]\nname = \"b\"\nkeys = [\"{key}\"]\n");
    refused(&two, "access.toml:5: ");
    refused(&two, "is a key of a and again one of b");
}

#[test]
fn there_are_no_more_than_the_limits_say() {
    let many = |count: usize| -> String {
        (0..count).map(|number| format!("[[identity]]\nname = \"n{number}\"\n")).collect()
    };
    assert_eq!(read(&many(IDENTITIES_MAX)).unwrap().identities().len(), IDENTITIES_MAX);
    refused(&many(IDENTITIES_MAX + 1), "access.toml:514: there are more than 256 identities");
    let list = vec!["\"s\""; PATTERNS_A_LIST_MAX + 1].join(", ");
    refused(&format!("[plain]\ntrim = [{list}]\n"), "access.toml:2: trim: there are more than 64");
}

/// Wherever a secret was written by mistake.
#[test]
fn a_secret_is_in_no_message() {
    let text = secret(3).to_text();
    let one = "[[identity]]\nname = \"a\"\n";
    for wrong in [
        format!("[[identity]]\nname = \"{}\"\n", *text),
        format!("{one}keys = [\"{}\"]\n", *text),
        format!("{one}keys = \"{}\"\n", *text),
        format!("{one}keys = [\"{}.\"]\n", *text),
        format!("{one}psk = \"{}x\"\n", *text),
        format!("{one}psk = \"{}\n", *text),
        format!("{one}psk = {}\n", *text),
        format!("{one}admin = \"{}\"\n", *text),
        format!("{one}admin = \"{}\"\n", &text[4..]),
        format!("{one}{} = 1\n", *text),
        format!("{one}publish = [\"{}*x\"]\n", *text),
        format!("{one}publish = \"{}\\\"\"\n", &text[4..]),
        format!("{}\n", *text),
        format!("psk = \"{}\"\n", *text),
    ] {
        let said = read(&wrong).unwrap_err();
        assert!(!said.contains(&text[4..20]), "{said}");
    }
}

#[test]
fn values_are_cut_out_of_what_the_parser_says() {
    assert_eq!(without_values("string \"x\ny\", expected a\nb"), "string \"..\", expected a, b");
    assert_eq!(without_values("nothing"), "nothing");
    assert_eq!(without_values("cut \"off"), "cut \"..");
}

proptest! {
    /// Whatever is in the file, it is read or refused, in one line.
    #[test]
    fn a_damaged_file_is_read_or_refused(
        at in 0usize..400,
        cut in 0usize..400,
        put in "[\\[\\]\"=#\n a-zäb1]{0,8}",
    ) {
        let whole = format!(
            "[[identity]]\nname = \"a\"\nkeys = [\"{}\"]\npsk = \"{}\"\npublish = [\"x*\"]\n[plain]\n",
            public(1),
            *secret(3).to_text()
        );
        let (at, cut) = (at.min(whole.len()), cut.min(whole.len()));
        let damaged = format!("{}{put}{}", &whole[..at], &whole[cut..]);
        if let Err(said) = read(&damaged) {
            prop_assert!(!said.contains('\n') && said.starts_with("access.toml"), "{}", said);
            prop_assert!(!said.contains(&secret(3).to_text()[20..40]), "{}", said);
        }
    }
}
