//! The configuration reference: `docs/configuration.md` is what the flags say of themselves, and this test keeps it so.
//!
//! `ORCHESTR8_WRITE_DOCS=1 cargo test -p orchestr8-cli reference` writes it.

use clap::{Arg, Command, CommandFactory};
use std::path::PathBuf;

/// Set: the document is written instead of compared.
const WRITE_VARIABLE: &str = "ORCHESTR8_WRITE_DOCS";
/// The heading of the flags that every client command has.
const CLIENT_HEADING: &str = "Connection and output";

const PREFACE: &str = "# Configuration

Generated from the program's flags; a test compares. `orchestr8 coordinator --help` says the same.

- A flag wins over the environment, that over the file of `--config`: YAML, one mapping, its keys the long flags without dashes in front. A list in the file is the flag given several times. What is unknown or does not fit in the file or in a variable is refused by name with exit code 64, a word of the command line itself with the usage and 2.
- Durations are written as `500ms`, `30s`, `5m`, `2h` or `3d`.
- Secrets belong in files of mode 0600 or in the environment: a command line is for everyone to read. URLs with passwords are never logged as a whole.

Variables without a flag:

| environment | used by | effect |
|---|---|---|
| `ORCHESTR8_TOKEN` | coordinator, client commands | the API's bearer token, where no `--token-file` is given |
| `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` | coordinator, executor | whose the spans are; else `orchestr8-coordinator` and `orchestr8-executor` |
| `OTEL_EXPORTER_OTLP_HEADERS` | coordinator, executor | headers for the collector, such as its credentials |
| `OTEL_BSP_SCHEDULE_DELAY`, `OTEL_BSP_MAX_QUEUE_SIZE`, `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` | coordinator, executor | spans are sent this often in milliseconds (5000), wait in a queue of this length (2048), and travel so many at a time (512) |

Only the base of the protocol's times can be set, not the times themselves, so that they always fit each other: see *Times* in [ARCHITECTURE.md](../ARCHITECTURE.md#times).
";

/// The whole document.
fn document() -> String {
    let cli = crate::Cli::command();
    let of = |name: &str| cli.find_subcommand(name).expect("a sub-command of ours");
    let own = |arg: &&Arg| arg.get_help_heading() != Some(CLIENT_HEADING);
    let client = |arg: &&Arg| arg.get_help_heading() == Some(CLIENT_HEADING);
    let mut text = PREFACE.to_owned();
    text += &section("orchestr8 coordinator", of("coordinator"), File::Takes, &own);
    text += &section("orchestr8 executor", of("executor"), File::Takes, &own);
    text += &section("orchestr8 dev", of("dev"), File::None, &own);
    text += &section("Client commands", of("list"), File::None, &client);
    text
}

/// Whether the command reads a configuration file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum File {
    Takes,
    None,
}

fn section(title: &str, command: &Command, file: File, wanted: &dyn Fn(&&Arg) -> bool) -> String {
    let shown = |arg: &&Arg| !arg.is_hide_set() && arg.get_long().is_some_and(|long| !["help", "version"].contains(&long));
    let rows = command.get_arguments().filter(wanted).filter(shown).map(|arg| row(arg, file));
    let (head, line) = match file {
        File::Takes => ("| flag | environment | file key | unit | default | effect |", "|---|---|---|---|---|---|"),
        File::None => ("| flag | environment | unit | default | effect |", "|---|---|---|---|---|"),
    };
    format!("\n## {title}\n\n{head}\n{line}\n{}", rows.collect::<String>())
}

fn row(arg: &Arg, file: File) -> String {
    let long = arg.get_long().expect("it was filtered by it");
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let (effect, said) = default_in(&help);
    let given: Vec<String> = arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    let is_switch = !arg.get_action().takes_values();
    let default = match said {
        Some(said) => said,
        None if is_switch || given.is_empty() => "none".to_owned(),
        None => given.join(", "),
    };
    let environment = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
    // The file cannot name itself.
    let key = if long == "config" { String::new() } else { format!("`{long}`") };
    let mut cells = vec![format!("`--{long}`"), environment];
    cells.extend((file == File::Takes).then_some(key));
    cells.extend([if is_switch { "switch".to_owned() } else { unit(arg) }, default, effect]);
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// The help without its `[default: …]`, and what that says.
fn default_in(help: &str) -> (String, Option<String>) {
    let Some((before, rest)) = help.split_once("[default: ") else { return (help.to_owned(), None) };
    let Some((default, after)) = rest.rsplit_once(']') else { return (help.to_owned(), None) };
    (format!("{}{after}", before.trim_end()), Some(default.to_owned()))
}

/// What the value is, by the name that the help gives it.
fn unit(arg: &Arg) -> String {
    let names: Vec<&str> = arg.get_value_names().unwrap_or_default().iter().map(clap::builder::Str::as_str).collect();
    let words = match names.as_slice() {
        ["BYTES"] => "bytes",
        ["DURATION"] => "duration",
        ["N"] => "number",
        ["FILE"] => "path of a file",
        ["DIR"] => "path of a folder",
        ["PORT"] => "port",
        ["FORMAT"] => "`text` or `json`",
        // The name says what to write.
        [name] => return (*name).to_owned(),
        [] | [_, _, ..] => "text",
    };
    words.to_owned()
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md")
}

#[test]
fn the_reference_says_what_the_flags_say() {
    let document = document();
    if std::env::var_os(WRITE_VARIABLE).is_some() {
        std::fs::write(path(), &document).expect("docs/ is there");
    }
    let written = std::fs::read_to_string(path()).expect("docs/configuration.md");
    let differs = written.lines().zip(document.lines()).find(|(written, generated)| written != generated);
    assert_eq!(differs, None, "write it anew: {WRITE_VARIABLE}=1 cargo test -p orchestr8-cli reference");
    assert_eq!(written.len(), document.len(), "write it anew: {WRITE_VARIABLE}=1 cargo test -p orchestr8-cli reference");
}

#[test]
fn every_flag_of_the_servers_has_its_row() {
    let document = document();
    let cli = crate::Cli::command();
    for name in ["coordinator", "executor", "dev"] {
        let command = cli.find_subcommand(name).expect("a sub-command of ours");
        for flag in command.get_arguments().filter(|flag| !flag.is_hide_set()).filter_map(Arg::get_long).filter(|flag| *flag != "help") {
            assert!(document.contains(&format!("| `--{flag}` |")), "{name} --{flag}");
        }
    }
    assert!(document.contains("| `--cache-bytes` |  | `cache-bytes` | bytes | `268435456` |"), "{document}");
}

/// The rows of the table in `docs/commands.md`, by their commands.
#[test]
fn every_command_has_its_row_and_no_other_has_one() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
    let document = std::fs::read_to_string(path).expect("docs/commands.md");
    let first_cells = document.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let mut written: Vec<String> = first_cells.flat_map(commands_in).collect();
    let cli = crate::Cli::command();
    let of = |command: &Command| {
        let name = command.get_name().to_owned();
        let inner: Vec<String> = command.get_subcommands().map(|inner| format!("{name} {}", inner.get_name())).collect();
        if inner.is_empty() { vec![name] } else { inner }
    };
    let mut known: Vec<String> = cli.get_subcommands().filter(|command| command.get_name() != "help").flat_map(of).collect();
    written.sort();
    known.sort();
    assert_eq!(written, known);
}

/// The commands of one row: "queues list`, `pause`" are `queues list` and `queues pause`, "coordinator`, `executor`" two of their own.
fn commands_in(cell: &str) -> Vec<String> {
    let names: Vec<&str> = cell.split(", ").map(|name| name.trim_matches('`')).collect();
    let group = names[0].split_once(' ').map(|(group, _)| group);
    let named = |(place, name): (usize, &&str)| match group {
        Some(group) if place > 0 => format!("{group} {name}"),
        Some(_) | None => (*name).to_owned(),
    };
    names.iter().enumerate().map(named).collect()
}
