//! The parameters of a database's URL: what none is known by is refused, since ignoring it would run without what it asks for;
//! so is a file that cannot be read, which no waiting for the server would mend.

use orchestr8_core::definition::nearest_key;
use percent_encoding::percent_decode_str;
use std::fs::File;

/// What the client understands; `options[NAME]` too.
const KNOWN: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "statement-cache-capacity",
];

/// Those of [`KNOWN`] that name a file.
const FILES: [&str; 7] = ["sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key"];

/// Whether the client understands every parameter of `url`, and can read the files that they name.
///
/// # Errors
/// One line that names the parameter, its value unless that may be a password, and the remedy.
pub(crate) fn check(url: &str) -> Result<(), String> {
    let Some((_, query)) = url.split_once('?') else { return Ok(()) };
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    match pairs.clone().find(|(name, _)| !is_known(name)) {
        None => pairs.filter(|(name, _)| FILES.contains(name)).try_for_each(|(name, value)| readable(name, value)),
        // What stands behind the question mark may be the end of a password.
        Some(_) if query.contains('@') => {
            Err("what follows its `?` has an unknown parameter and an `@`: write `%3F` for a `?` and `%40` for an `@` that belong to a password or a value".to_owned())
        }
        Some((name, value)) => Err(unknown(name, value)),
    }
}

fn is_known(name: &str) -> bool {
    KNOWN.contains(&name) || name.starts_with("options[") || name.to_ascii_lowercase().starts_with("options%5b")
}

/// A certificate or key may stand in the URL itself instead.
fn readable(name: &str, value: &str) -> Result<(), String> {
    let value = value.replace('+', " ");
    let file = percent_decode_str(&value).decode_utf8_lossy();
    if file.trim_start().starts_with("-----BEGIN") {
        return Ok(());
    }
    // What stands in place of a key's file may be the key.
    let shown = if name.ends_with("key") { name.to_owned() } else { format!("{name}={file}") };
    File::open(&*file).map(drop).map_err(|error| format!("its parameter `{shown}` names a file that cannot be read ({error})"))
}

fn unknown(name: &str, value: &str) -> String {
    let meant = nearest_key(name, &KNOWN);
    let is_secret = name.to_ascii_lowercase().contains("pass") || meant.as_deref() == Some("password");
    let shown = if is_secret { name.to_owned() } else { format!("{name}={value}") };
    let hint = meant.map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default();
    format!("its parameter `{shown}` is not known{hint}; known are {}", KNOWN.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_passes() {
        for query in [
            "",
            "?",
            "?sslmode=verify-full&sslrootcert=/dev/null",
            "?sslcert=-----BEGIN%20CERTIFICATE",
            "?options[search_path]=x",
            "?options%5Bjit%5D=off",
            "?user=a@b",
        ] {
            assert_eq!(check(&format!("postgres://u:p@h/d{query}")), Ok(()), "{query}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let refused = check("postgres://h/d?sslmode=verify-full&ssl-ca=/no%20where").expect_err("no file");
        assert!(refused.starts_with("its parameter `ssl-ca=/no where` names a file that cannot be read (No such file"), "{refused}");
        let key = check("postgres://h/d?sslkey=MIIEvQIBADANBg").expect_err("a key without its frame");
        assert!(key.starts_with("its parameter `sslkey` names a file that cannot be read") && !key.contains("MIIE"), "{key}");
    }

    #[test]
    fn what_is_not_known_is_named_without_a_password() {
        let refused = |query: &str| check(&format!("postgres://u:p@h/d?{query}")).expect_err(query);
        let mistyped = refused("user=x&sslmod=verify-full");
        assert!(mistyped.starts_with("its parameter `sslmod=verify-full` is not known (did you mean `sslmode`?); known are sslmode,"));
        assert!(refused("foo=bar").starts_with("its parameter `foo=bar` is not known; known are"));
        for query in ["pasword=hunter2", "passphrase=hunter2", "PASSWORD=hunter2", "foo=hunter2@x"] {
            let refused = refused(query);
            assert!(!refused.contains("hunter2"), "{refused}");
        }
        let open = check(&["postgres://u", ":12?hunter2@h/d"].concat()).expect_err("a password with a question mark");
        assert!(!open.contains("hunter2") && open.contains("%3F"), "{open}");
    }
}
