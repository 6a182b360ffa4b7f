//! What really ran: every task appends its start and its end to a file that no part of the engine touches.

use anyhow::{Context, Result};
use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

/// Writes the start, works, fails as often as it is told, writes the end, and returns its own run as output.
pub const SCRIPT: &str = r#"
run=$(cat /proc/sys/kernel/random/uuid)
echo "start $ORCHESTR8_TASK_ID $run $EXECUTOR $KIND" >> "$LEDGER"
[ "$WORK_S" = 0 ] || sleep "$WORK_S"
if [ "$ORCHESTR8_ATTEMPT" -le "$FAILURES" ]; then
  echo "failed $ORCHESTR8_TASK_ID $run $EXECUTOR $KIND" >> "$LEDGER"
  exit 1
fi
echo "end $ORCHESTR8_TASK_ID $run $EXECUTOR $KIND" >> "$LEDGER"
printf '"%s"' "$run" > "$ORCHESTR8_OUTPUT"
"#;

/// The file's name.
pub const LEDGER: &str = "chaos-ledger";

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A run began.
    Start,
    /// A run ended well.
    End,
    /// A run ended as it was told to: badly.
    Failed,
}

/// A line.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What happened.
    pub mark: Mark,
    /// To which task.
    pub task: String,
    /// Drawn by the script.
    pub run: String,
    /// The executor's name.
    pub executor: String,
    /// As the load calls it.
    pub kind: String,
    /// When the line was read.
    pub seen: Instant,
    /// The same on the clock of the machine.
    pub at: SystemTime,
}

/// The file, read as it grows.
#[derive(Debug)]
pub struct Ledger {
    file: PathBuf,
    seen: Mutex<Seen>,
}

/// What was read so far, in the order of the file.
#[derive(Debug, Default)]
pub struct Seen {
    /// All lines.
    pub entries: Vec<Entry>,
    read_bytes: u64,
    starts: HashMap<String, Vec<Instant>>,
    open: HashMap<String, Entry>,
}

impl Ledger {
    /// An empty one in a folder that commands may write to.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(folder: &Path) -> Result<Self> {
        let file = folder.join(LEDGER);
        std::fs::write(&file, "").context("the ledger")?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666))?;
        Ok(Self { file, seen: Mutex::default() })
    }

    /// Where it is.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What was read so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what was added.
    ///
    /// # Errors
    /// When the file cannot be read or a line is none of ours.
    pub fn read(&self) -> Result<()> {
        let mut seen = self.seen();
        let mut file = std::fs::File::open(&self.file)?;
        file.seek(SeekFrom::Start(seen.read_bytes))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        seen.read_bytes += u64::try_from(whole)?;
        for line in text[..whole].lines() {
            let entry = entry(line).with_context(|| format!("no line of the ledger: {line:?}"))?;
            seen.add(entry);
        }
        Ok(())
    }
}

impl Seen {
    /// When the runs of a task began.
    #[must_use]
    pub fn starts_of(&self, task: &str) -> &[Instant] {
        self.starts.get(task).map_or(&[], Vec::as_slice)
    }

    /// Tasks whose run on this executor has begun and not ended. They are told once: afterwards the run counts as dead.
    pub fn take_open(&mut self, executor: &str) -> Vec<String> {
        let of_it: HashSet<String> = self.open.values().filter(|entry| entry.executor == executor).map(|entry| entry.run.clone()).collect();
        of_it.iter().filter_map(|run| self.open.remove(run)).filter(|entry| entry.kind != "once").map(|entry| entry.task).collect()
    }

    fn add(&mut self, entry: Entry) {
        match entry.mark {
            Mark::Start => {
                self.starts.entry(entry.task.clone()).or_default().push(entry.seen);
                self.open.insert(entry.run.clone(), entry.clone());
            }
            Mark::End | Mark::Failed => drop(self.open.remove(&entry.run)),
        }
        self.entries.push(entry);
    }
}

fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split(' ').map(str::to_owned);
    let mark = match words.next()?.as_str() {
        "start" => Mark::Start,
        "end" => Mark::End,
        "failed" => Mark::Failed,
        _ => return None,
    };
    let (task, run, executor, kind) = (words.next()?, words.next()?, words.next()?, words.next()?);
    Some(Entry { mark, task, run, executor, kind, seen: Instant::now(), at: SystemTime::now() })
}
