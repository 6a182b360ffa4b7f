//! `orchestr8 nats-accounts`: the accounts, users and rights of a nats-server, as a part of its configuration.

use super::CommandError;
use super::context::emit;
use crate::exit::Exit;
use orchestr8_proto::login::Login;
use orchestr8_proto::names::{self, check_queue_name};
use orchestr8_proto::rights::{self, Right, Rights};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The account of the coordinators, which has the streams.
const ACCOUNT: &str = "ORCHESTR8";
const TEXT: &str = "writing to text does not fail";

/// Print the accounts of a nats-server: one for coordinators and streams, one for each login of executors, with no right too many.
///
/// Write it into a file that the server's configuration includes. Passwords are variables of the server's environment, such as
/// `ORCHESTR8_NATS_PASSWORD_BUILDERS`, unless --nkey gives the public key of a login, or --certificate what its certificate says.
#[derive(Debug, clap::Args)]
pub struct NatsAccountsArgs {
    /// A login of executors and the queues that they serve. Executors of one login trust each other. Repeatable.
    #[arg(long, value_name = "LOGIN=QUEUE,…", value_parser = parse_executors, required = true)]
    executors: Vec<(Login, Vec<String>)>,
    /// The login of all coordinators.
    #[arg(long, value_name = "LOGIN", default_value = "coordinator")]
    coordinator: Login,
    /// The public NKEY of a login, instead of a password. Repeatable, also for one login: while its key is changed, both are good.
    #[arg(long, value_name = "LOGIN=PUBLIC_KEY", value_parser = parse_nkey)]
    nkey: Vec<(Login, String)>,
    /// The subject of a login's certificate, instead of a password; the server needs `verify_and_map: true` in its `tls`. Repeatable.
    #[arg(long, value_name = "LOGIN=SUBJECT", value_parser = parse_certificate)]
    certificate: Vec<(Login, String)>,
}

/// Prints the accounts.
///
/// # Errors
/// [`CommandError::Usage`] where logins do not fit together.
pub fn nats_accounts(args: &NatsAccountsArgs) -> Result<Exit, CommandError> {
    emit(&accounts(args).map_err(CommandError::Usage)?)?;
    Ok(Exit::Done)
}

fn accounts(args: &NatsAccountsArgs) -> Result<String, String> {
    let users = users_of(args)?;
    let names: Vec<String> = args.executors.iter().map(|(login, _)| account_of(login)).collect();
    let mut text = String::from("# Written by:\n#   orchestr8 nats-accounts");
    for (login, queues) in &args.executors {
        write!(text, " --executors {login}={}", queues.join(",")).expect(TEXT);
    }
    if args.coordinator.as_str() != "coordinator" {
        write!(text, " --coordinator {}", args.coordinator).expect(TEXT);
    }
    for (login, key) in &args.nkey {
        write!(text, " --nkey {login}={key}").expect(TEXT);
    }
    for (login, subject) in &args.certificate {
        write!(text, " --certificate \"{login}={subject}\"").expect(TEXT);
    }
    writeln!(text, "\naccounts {{\n  {ACCOUNT} {{\n    jetstream: enabled").expect(TEXT);
    write_users(&mut text, &users[&args.coordinator], &rights::of_coordinators(Some(&args.coordinator)));
    write_exports(&mut text, &names.join(", "));
    text.push_str("  }\n");
    for (login, queues) in &args.executors {
        let rights = rights::of_executors(Some(login), queues);
        writeln!(text, "  {} {{", account_of(login)).expect(TEXT);
        write_users(&mut text, &users[login], &rights);
        write_imports(&mut text, &rights);
        text.push_str("  }\n");
    }
    text.push_str("}\n");
    Ok(text)
}

/// How the server knows each login: by its keys and certificates, else by a password. Every login is named once, and so is its variable.
fn users_of(args: &NatsAccountsArgs) -> Result<BTreeMap<&Login, Vec<String>>, String> {
    let logins: Vec<&Login> = args.executors.iter().map(|(login, _)| login).chain([&args.coordinator]).collect();
    for (index, login) in logins.iter().enumerate() {
        if let Some(other) = logins[..index].iter().find(|other| variable_of(other) == variable_of(login)) {
            return Err(format!("the logins `{other}` and `{login}` are the same, or have the same variable {}", variable_of(login)));
        }
    }
    let mut users: BTreeMap<&Login, Vec<String>> = logins.into_iter().map(|login| (login, Vec::new())).collect();
    let keys = args.nkey.iter().map(|(login, key)| ("--nkey", login, format!("nkey: {key}")));
    let subjects = args.certificate.iter().map(|(login, subject)| ("--certificate", login, format!("user: \"{subject}\"")));
    for (flag, login, user) in keys.chain(subjects) {
        let stranger = || format!("{flag} names the login `{login}`, which is neither --coordinator nor one of --executors");
        users.get_mut(login).ok_or_else(stranger)?.push(user);
    }
    for (login, users) in users.iter_mut().filter(|(_, users)| users.is_empty()) {
        users.push(format!("user: {login}, password: ${}", variable_of(login)));
    }
    Ok(users)
}

/// A login is one user with a password, or one for each of its keys and certificates; all have the same rights.
fn write_users(text: &mut String, users: &[String], rights: &Rights) {
    text.push_str("    users: [\n");
    for user in users {
        writeln!(text, "      {{\n        {user}\n        permissions {{").expect(TEXT);
        for (verb, allowed) in [("publish", &rights.publish), ("subscribe", &rights.subscribe)] {
            writeln!(text, "          {verb} {{ allow: [").expect(TEXT);
            allowed.iter().for_each(|Right { subject, why }| writeln!(text, "            \"{subject}\" # {why}").expect(TEXT));
            text.push_str("          ] }\n");
        }
        text.push_str("        }\n      }\n");
    }
    text.push_str("    ]\n");
}

/// What executors may be given at all; what each of them is given, its own account names.
fn write_exports(text: &mut String, accounts: &str) {
    text.push_str("    exports: [\n");
    let fetches = names::next_subject("*");
    writeln!(text, "      {{ service: \"{fetches}\", response_type: stream, accounts: [{accounts}] }}").expect(TEXT);
    for service in [names::ack_subjects("*").as_str(), names::OUTCOME_SUBJECTS, names::CLAIM_SUBJECTS, names::BEAT_SUBJECTS] {
        writeln!(text, "      {{ service: \"{service}\", accounts: [{accounts}] }}").expect(TEXT);
    }
    for stream in [names::CONTROL_SUBJECTS, names::CONTROL_ALL, names::COORDINATOR_BEATS] {
        writeln!(text, "      {{ stream: \"{stream}\", accounts: [{accounts}] }}").expect(TEXT);
    }
    text.push_str("    ]\n");
}

/// Everything but the inbox and the question about its own rights, which stay in the account.
fn write_imports(text: &mut String, rights: &Rights) {
    text.push_str("    imports: [\n");
    for Right { subject, .. } in rights.publish.iter().filter(|right| right.subject != names::OWN_RIGHTS) {
        writeln!(text, "      {{ service: {{ account: {ACCOUNT}, subject: \"{subject}\" }} }}").expect(TEXT);
    }
    for Right { subject, .. } in rights.subscribe.iter().filter(|right| right.subject.starts_with("orchestr8.")) {
        writeln!(text, "      {{ stream: {{ account: {ACCOUNT}, subject: \"{subject}\" }} }}").expect(TEXT);
    }
    text.push_str("    ]\n");
}

fn account_of(login: &Login) -> String {
    format!("{ACCOUNT}_EXECUTORS_{login}")
}

/// The variable of the server's environment with the password.
fn variable_of(login: &Login) -> String {
    format!("ORCHESTR8_NATS_PASSWORD_{}", login.as_str().to_ascii_uppercase().replace('-', "_"))
}

fn parse_executors(text: &str) -> Result<(Login, Vec<String>), String> {
    let (login, queues) = text.split_once('=').ok_or("write LOGIN=QUEUE,QUEUE, such as builders=default,agents")?;
    let login = login.parse().map_err(|error: orchestr8_proto::login::LoginError| error.to_string())?;
    let queues: Vec<String> = queues.split(',').map(str::to_owned).collect();
    queues.iter().try_for_each(|queue| check_queue_name(queue)).map_err(|error| error.to_string())?;
    Ok((login, queues))
}

fn parse_nkey(text: &str) -> Result<(Login, String), String> {
    let (login, key) = text.split_once('=').ok_or("write LOGIN=PUBLIC_KEY")?;
    let login = login.parse().map_err(|error: orchestr8_proto::login::LoginError| error.to_string())?;
    let public = key.len() == 56 && key.starts_with('U') && key.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    // A seed starts with S: it must not get into a file that others read, nor into an error.
    if public { Ok((login, key.to_owned())) } else { Err("it is not the public key of a user: 56 characters that start with U".to_owned()) }
}

fn parse_certificate(text: &str) -> Result<(Login, String), String> {
    let (login, subject) = text.split_once('=').ok_or("write LOGIN=SUBJECT, such as builders=CN=builders")?;
    let login = login.parse().map_err(|error: orchestr8_proto::login::LoginError| error.to_string())?;
    let quotable = subject.chars().all(|char| !char.is_control() && char != '"' && char != '\\');
    let says = !subject.is_empty() && quotable;
    if says {
        Ok((login, subject.to_owned()))
    } else {
        Err("the subject is empty, or has a quote, a backslash or a control character".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        accounts: NatsAccountsArgs,
    }

    fn printed(words: &[&str]) -> Result<String, String> {
        let words = std::iter::once("x").chain(words.iter().copied());
        accounts(&Line::try_parse_from(words).map_err(|error| error.to_string())?.accounts)
    }

    #[test]
    fn the_files_in_the_repository_are_what_is_printed() {
        for file in ["nats/accounts.conf", "compose/accounts.conf"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
            let kept = std::fs::read_to_string(&path).expect(file);
            let words: Vec<&str> = kept.lines().nth(1).expect("the command").split_whitespace().skip(3).collect();
            assert_eq!(printed(&words).expect("fits"), kept, "{file}: write it anew by the command that it names");
        }
    }

    #[test]
    fn a_key_takes_the_place_of_a_password() {
        let key = format!("U{}", "A".repeat(55));
        let (old, new) = (format!("gpu={key}"), format!("gpu=U{}", "B".repeat(55)));
        let text = printed(&["--executors", "gpu=gpu", "--nkey", &old, "--nkey", &new]).expect("fits");
        assert_eq!(text.matches("nkey: U").count(), 2, "both are good while it is changed");
        assert!(
            text.contains(&format!("nkey: {key}"))
                && !text.contains("PASSWORD_GPU")
                && text.contains("$ORCHESTR8_NATS_PASSWORD_COORDINATOR")
        );
    }

    #[test]
    fn a_certificate_takes_the_place_of_a_password() {
        let text = printed(&["--executors", "gpu=gpu", "--certificate", "gpu=CN=gpu,O=ours"]).expect("fits");
        assert!(text.contains("        user: \"CN=gpu,O=ours\"\n") && !text.contains("PASSWORD_GPU"), "{text}");
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let seed = format!("gpu=S{}", "A".repeat(57));
        for (words, reason) in [
            (&["--executors", "a=x", "--executors", "a=y"][..], "are the same"),
            (&["--executors", "a-b=x", "--executors", "a_b=y"], "the same variable"),
            (&["--executors", "a=X"], "not a queue name"),
            (&["--executors", "a.b=x"], "not a login's name"),
            (&["--executors", "a=x", "--nkey", &format!("b=U{}", "A".repeat(55))], "neither"),
            (&["--executors", "gpu=x", "--nkey", &seed], "not the public key"),
            (&["--executors", "a=x", "--certificate", "b=CN=b"], "neither"),
            (&["--executors", "a=x", "--certificate", "a=CN=\"}"], "a quote"),
        ] {
            assert!(printed(words).expect_err(reason).contains(reason), "{words:?}");
        }
    }
}
