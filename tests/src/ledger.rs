//! What really ran: tasks append a line at their start and at their end to a file that no part of the engine touches.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Writes the start, waits until the gate is open (if it has one), writes the end, and returns its own run as output.
const SCRIPT: &str = r#"
run=$(cat /proc/sys/kernel/random/uuid)
echo "start $ORCHESTR8_TASK_ID $ORCHESTR8_ATTEMPT $run $$" >> "$LEDGER"
while [ -n "$GATE" ] && [ ! -e "$GATE" ]; do sleep 0.05; done
echo "end $ORCHESTR8_TASK_ID $ORCHESTR8_ATTEMPT $run $$" >> "$LEDGER"
printf '"%s"' "$run" > "$ORCHESTR8_OUTPUT"
"#;

/// A start or an end that really happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose.
    pub task: String,
    /// As the task was told.
    pub attempt: u32,
    /// Drawn by the script.
    pub run: String,
    /// Of the script's shell.
    pub pid: i32,
}

/// The file.
#[derive(Debug, Clone)]
pub struct Ledger {
    folder: PathBuf,
}

impl Ledger {
    /// An empty one in a folder that commands may write to.
    pub fn new(folder: &Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let ledger = Self { folder: folder.to_path_buf() };
        std::fs::write(ledger.file(), "")?;
        std::fs::set_permissions(ledger.file(), std::fs::Permissions::from_mode(0o666))?;
        Ok(ledger)
    }

    /// A task that ends at once.
    pub fn task(&self) -> Value {
        json!({"run": SCRIPT, "env": {"LEDGER": self.file(), "GATE": ""}})
    }

    /// A task that runs until its gate is opened.
    pub fn gated(&self, gate: &str) -> Value {
        json!({"run": SCRIPT, "env": {"LEDGER": self.file(), "GATE": self.gate(gate)}})
    }

    /// The same as a task of a definition, with more keys.
    pub fn named(&self, name: &str, gate: &str, more: &Value) -> Value {
        let mut task = if gate.is_empty() { self.task() } else { self.gated(gate) };
        task["name"] = json!(name);
        let nothing = Map::new();
        for (key, value) in more.as_object().unwrap_or(&nothing) {
            task[key] = value.clone();
        }
        task
    }

    /// Lets the tasks of this gate end.
    pub fn open(&self, gate: &str) -> Result<()> {
        std::fs::write(self.gate(gate), "").context("the gate")
    }

    /// The starts so far.
    pub fn starts(&self) -> Result<Vec<Entry>> {
        self.entries("start")
    }

    /// The ends so far.
    pub fn ends(&self) -> Result<Vec<Entry>> {
        self.entries("end")
    }

    /// The starts of one task.
    pub fn starts_of(&self, task: &str) -> Result<Vec<Entry>> {
        Ok(self.starts()?.into_iter().filter(|entry| entry.task == task).collect())
    }

    fn file(&self) -> PathBuf {
        self.folder.join("ledger")
    }

    fn gate(&self, name: &str) -> PathBuf {
        self.folder.join(format!("gate-{name}"))
    }

    fn entries(&self, kind: &str) -> Result<Vec<Entry>> {
        let text = std::fs::read_to_string(self.file())?;
        let lines = text.lines().filter_map(|line| line.strip_prefix(kind));
        lines.map(|line| entry(line).with_context(|| format!("not an entry: {line:?}"))).collect()
    }
}

fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split_whitespace().map(str::to_owned);
    let (task, attempt, run, pid) = (words.next()?, words.next()?, words.next()?, words.next()?);
    Some(Entry { task, attempt: attempt.parse().ok()?, run, pid: pid.parse().ok()? })
}
