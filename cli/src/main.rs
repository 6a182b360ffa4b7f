//! The one binary `orchestr8`: the servers, the client commands, and the shim under which commands run.
//!
//! - [`commands`]: what asks a coordinator, and [`client`], the HTTP client behind it
//! - [`tree`], [`text`]: what people see
//! - [`service`]: `coordinator` and `executor`; [`dev`]: everything on one machine
//! - [`exit`]: exit codes

// Documentation comments are clap's help texts here, where `[default: …]` is no link.
#![allow(rustdoc::broken_intra_doc_links)]

mod client;
mod commands;
mod dev;
mod exit;
mod service;
mod text;
mod tree;

use clap::{CommandFactory, Parser, Subcommand};
use commands::CommandError;
use exit::{EXIT_CODES_HELP, Exit};
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs work that takes longer than anyone wants to wait.
///
/// Submit a workflow or a task, get its id at once, and leave: it survives every process that touches it.
/// stdout is data, stderr is talk. `orchestr8 dev` starts everything on this machine.
#[derive(Debug, Parser)]
#[command(name = "orchestr8", version, after_long_help = EXIT_CODES_HELP, after_help = EXIT_CODES_HELP, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::DevArgs),
    Coordinator(Box<service::coordinator::CoordinatorArgs>),
    Executor(Box<service::executor::ExecutorArgs>),
    Run(commands::run::RunArgs),
    Task(Box<commands::task::TaskArgs>),
    Status(commands::show::StatusArgs),
    Result(commands::show::ResultArgs),
    Logs(commands::logs::LogsArgs),
    Wait(commands::wait::WaitArgs),
    List(commands::list::ListArgs),
    Cancel(commands::cancel::CancelArgs),
    Validate(commands::definition::ValidateArgs),
    Graph(commands::definition::GraphArgs),
    Definitions(commands::definition::DefinitionsArgs),
    Why(commands::why::WhyArgs),
    Queues(commands::queues::QueuesArgs),
    Executors(commands::executors::ExecutorsArgs),
    Shards(commands::shards::ShardsArgs),
    Doctor(commands::doctor::DoctorArgs),
    LogLevel(commands::log_level::LogLevelArgs),
    Quarantine(commands::quarantine::QuarantineArgs),
    NatsAccounts(commands::nats_accounts::NatsAccountsArgs),
}

/// Batches make and drop many small values; a fifth of the coordinator's time went into the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Without `orchestr8-shim` this is started for every command of a task: it must stay small, without threads and without a parser.
    if std::env::args_os().nth(1).is_some_and(|first| first == "shim") {
        return orchestr8_executor::shim::run_shim();
    }
    match Cli::try_parse().unwrap_or_else(|error| refuse(&error)).command {
        Command::Dev(args) => dev::run(&args).unwrap_or_else(|error| {
            eprintln!("error: {error}");
            error.exit().into()
        }),
        Command::Coordinator(_) => service::start::<service::coordinator::CoordinatorArgs>(Cli::command()),
        Command::Executor(_) => service::start::<service::executor::ExecutorArgs>(Cli::command()),
        command => run_command(&command).into(),
    }
}

/// Ends the process over a command line that does not fit, or over a variable that stands for one of its flags.
fn refuse(error: &clap::Error) -> ! {
    let words: Vec<OsString> = std::env::args_os().collect();
    let Some(reason) = service::wrong_variable(error, &Cli::command(), &words) else { error.exit() };
    eprintln!("orchestr8 {}: {reason}", words.get(1).map(|word| word.to_string_lossy()).unwrap_or_default());
    std::process::exit(i32::from(Exit::Configuration.code()));
}

/// Runs a client command on one thread: it only waits.
fn run_command(command: &Command) -> Exit {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("the system gives one thread its timers and sockets");
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = ask(command) => ended,
            // Whatever was submitted goes on.
            _ = tokio::signal::ctrl_c() => std::process::exit(i32::from(Exit::Interrupted.code())),
        }
    });
    ended.unwrap_or_else(|error: CommandError| {
        error.tell();
        error.exit()
    })
}

async fn ask(command: &Command) -> Result<Exit, CommandError> {
    match command {
        Command::Run(args) => commands::run::run(args).await,
        Command::Task(args) => commands::task::task(args).await,
        Command::Status(args) => commands::show::status(args).await,
        Command::Result(args) => commands::show::result(args).await,
        Command::Logs(args) => commands::logs::logs(args).await,
        Command::Wait(args) => commands::wait::wait(args).await,
        Command::List(args) => commands::list::list(args).await,
        Command::Cancel(args) => commands::cancel::cancel(args).await,
        Command::Validate(args) => commands::definition::validate(args),
        Command::Graph(args) => commands::definition::graph(args),
        Command::Definitions(args) => commands::definition::definitions(args).await,
        Command::Why(args) => commands::why::why(args).await,
        Command::Queues(args) => commands::queues::queues(args).await,
        Command::Executors(args) => commands::executors::executors(args).await,
        Command::Shards(args) => commands::shards::shards(args).await,
        Command::Doctor(args) => commands::doctor::doctor(args).await,
        Command::LogLevel(args) => commands::log_level::log_level(args).await,
        Command::Quarantine(args) => commands::quarantine::quarantine(args).await,
        Command::NatsAccounts(args) => commands::nats_accounts::nats_accounts(args),
        Command::Dev(_) | Command::Coordinator(_) | Command::Executor(_) => unreachable!("servers are started by `main`"),
    }
}
